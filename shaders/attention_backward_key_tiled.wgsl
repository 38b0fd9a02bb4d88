// The same as attention_backward_key for GPUs and heads of whole vectors, with tiles in workgroup memory.
//!import attention_tiles_backward

const HEAD_DIM: u32 = 8u;

@group(0) @binding(4) var<storage, read> delta: array<f32>;
// The gradient of q, k and v.
@group(0) @binding(5) var<storage, read_write> results: array<vec4<f32>>;

// The gradient of the logits of one query.
fn d_logits_of(query: u32, logits: vec4<f32>, d_weights: vec4<f32>) -> vec4<f32> {
    return decayed_each(logits - logsumexp[query]) * (d_weights - delta[query]);
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = linear_workgroup(workgroup, workgroups);
    if !has_rows(index) {
        return;
    }
    let own = own_rows(index, lane);
    var sums = array<vec4<f32>, SUMS>();
    for (var first = 0u; first < params.tokens; first += 32u) {
        let queries = others(own, first);
        let is_query = queries < vec4<u32>(params.tokens);
        let at = of_queries(own, queries);
        let logits = products(own, K, Q, first) * params.scale;
        let d_weights = products(own, V, D_O, first);
        let d_logits = mat4x4<f32>(
            select(vec4<f32>(), d_logits_of(at.x, logits[0], d_weights[0]), is_query.x),
            select(vec4<f32>(), d_logits_of(at.y, logits[1], d_weights[1]), is_query.y),
            select(vec4<f32>(), d_logits_of(at.z, logits[2], d_weights[2]), is_query.z),
            select(vec4<f32>(), d_logits_of(at.w, logits[3], d_weights[3]), is_query.w),
        );
        workgroupBarrier();
        stage_weights(own, d_logits);
        add_weighted(own, Q, first, &sums);
    }
    store(own, own.q_start + own.width, 3u * own.width, &sums, vec4<f32>(params.scale));
}

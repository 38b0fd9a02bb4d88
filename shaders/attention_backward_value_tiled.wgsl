// The same as attention_backward_value for GPUs and heads of whole vectors, with tiles in workgroup memory.
//!import attention_tiles_backward

const HEAD_DIM: u32 = 8u;

// The gradient of q, k and v.
@group(0) @binding(4) var<storage, read_write> results: array<vec4<f32>>;

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
        let weights = mat4x4<f32>(
            select(vec4<f32>(), decayed_each(logits[0] - logsumexp[at.x]), is_query.x),
            select(vec4<f32>(), decayed_each(logits[1] - logsumexp[at.y]), is_query.y),
            select(vec4<f32>(), decayed_each(logits[2] - logsumexp[at.z]), is_query.z),
            select(vec4<f32>(), decayed_each(logits[3] - logsumexp[at.w]), is_query.w),
        );
        workgroupBarrier();
        stage_weights(own, weights);
        add_weighted(own, D_O, first, &sums);
    }
    store(own, own.q_start + 2u * own.width, 3u * own.width, &sums, vec4<f32>(1.0));
}

// The same as attention_backward_key_value for GPUs and heads of whole vectors, with tiles in workgroup memory.
//!import attention_tiles_backward

const HEAD_DIM: u32 = 8u;

@group(0) @binding(4) var<storage, read> delta: array<f32>;
// The gradient of q, k and v.
@group(0) @binding(5) var<storage, read_write> results: array<vec4<f32>>;

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
    var d_k = array<vec4<f32>, SUMS>();
    var d_v = array<vec4<f32>, SUMS>();
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
        let d_weights = products(own, V, D_O, first);
        workgroupBarrier();
        stage_weights(own, weights);
        add_weighted(own, D_O, first, &d_v);
        workgroupBarrier();
        stage_weights(own, mat4x4<f32>(
            weights[0] * (d_weights[0] - delta[at.x]),
            weights[1] * (d_weights[1] - delta[at.y]),
            weights[2] * (d_weights[2] - delta[at.z]),
            weights[3] * (d_weights[3] - delta[at.w]),
        ));
        add_weighted(own, Q, first, &d_k);
    }
    store(own, own.q_start + own.width, 3u * own.width, &d_k, vec4<f32>(params.scale));
    store(own, own.q_start + 2u * own.width, 3u * own.width, &d_v, vec4<f32>(1.0));
}

// The gradients of attention with respect to its keys and values, after attention_backward_query:
//   d_v_j = Σ_i p_ij d_o_i,  d_k_j = Σ_i ds_ij q_i / sqrt(d),
// with p and ds as defined there.
//
// Each invocation owns one key row of one head and walks the queries in increasing order.
//!import attention_row
//!import decayed

@group(0) @binding(2) var<storage, read> logsumexp: array<f32>;
@group(0) @binding(3) var<storage, read> d_o: array<Pack>;
@group(0) @binding(4) var<storage, read> delta: array<f32>;
// The gradient of q, k and v.
@group(0) @binding(5) var<storage, read_write> results: array<Pack>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let own = own_row(workgroup, workgroups, lane);
    if !own.is_any {
        return;
    }
    let k_start = own.q_start + (own.row * 3u + 1u) * own.width;
    var k: array<vec4<f32>, CHUNKS>;
    var v: array<vec4<f32>, CHUNKS>;
    var d_k: array<vec4<f32>, CHUNKS>;
    var d_v: array<vec4<f32>, CHUNKS>;
    for (var c = 0u; c < CHUNKS; c++) {
        k[c] = select(vec4<f32>(), load_qkv(k_start, c), inside(c));
        v[c] = select(vec4<f32>(), load_qkv(k_start + own.width, c), inside(c));
        d_k[c] = vec4<f32>();
        d_v[c] = vec4<f32>();
    }
    for (var query = 0u; query < params.tokens; query++) {
        var q: array<vec4<f32>, CHUNKS>;
        var g: array<vec4<f32>, CHUNKS>;
        var logits = vec4<f32>();
        var d_weights = vec4<f32>();
        for (var c = 0u; c < CHUNKS; c++) {
            // Scaled before the product, as in the other passes, so that the logits are the same.
            q[c] = load_qkv(own.q_start + query * 3u * own.width, c) * params.scale;
            g[c] = load_d_o(own.o_start + query * own.width, c);
            logits = fma(q[c], k[c], logits);
            d_weights = fma(g[c], v[c], d_weights);
        }
        let at = own.head_index * params.tokens + query;
        let weight = decayed(total(logits) - logsumexp[at]);
        let d_logit = weight * (total(d_weights) - delta[at]);
        for (var c = 0u; c < CHUNKS; c++) {
            d_k[c] = fma(vec4<f32>(d_logit), q[c], d_k[c]);
            d_v[c] = fma(vec4<f32>(weight), g[c], d_v[c]);
        }
    }

    for (var c = 0u; c < CHUNKS; c++) {
        store(k_start, c, d_k[c]);
        store(k_start + own.width, c, d_v[c]);
    }
}

// The gradient of attention with respect to its queries, and delta = Σ d_o·o of every query row, which the
// keys need too (FlashAttention, arXiv 2205.14135, appendix B.4). Probabilities are recomputed from the stored
// logsumexp:
//   p_ij = exp(s_ij - logsumexp_i),  ds_ij = p_ij (d_o_i·v_j - delta_i),  d_q_i = Σ_j ds_ij k_j / sqrt(d).
//
// Each invocation owns one query row of one head and walks the keys in increasing order.
//!import attention_row
//!import decayed

@group(0) @binding(2) var<storage, read> o: array<Pack>;
@group(0) @binding(3) var<storage, read> logsumexp: array<f32>;
@group(0) @binding(4) var<storage, read> d_o: array<Pack>;
// The gradient of q, k and v.
@group(0) @binding(5) var<storage, read_write> results: array<Pack>;
@group(0) @binding(6) var<storage, read_write> delta: array<f32>;

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
    let q_start = own.q_start + own.row * 3u * own.width;
    let o_start = own.o_start + own.row * own.width;
    var q: array<vec4<f32>, CHUNKS>;
    var g: array<vec4<f32>, CHUNKS>;
    var d_q: array<vec4<f32>, CHUNKS>;
    var products = vec4<f32>();
    for (var c = 0u; c < CHUNKS; c++) {
        q[c] = select(vec4<f32>(), load_qkv(q_start, c) * params.scale, inside(c));
        g[c] = select(vec4<f32>(), load_d_o(o_start, c), inside(c));
        d_q[c] = vec4<f32>();
        products = fma(g[c], load_o(o_start, c), products);
    }
    let row_delta = total(products);
    let index = own.head_index * params.tokens + own.row;
    let row_logsumexp = logsumexp[index];
    delta[index] = row_delta;

    for (var key = 0u; key < params.tokens; key++) {
        let k_start = own.q_start + (key * 3u + 1u) * own.width;
        var k: array<vec4<f32>, CHUNKS>;
        var logits = vec4<f32>();
        var d_weights = vec4<f32>();
        for (var c = 0u; c < CHUNKS; c++) {
            k[c] = load_qkv(k_start, c);
            logits = fma(q[c], k[c], logits);
            d_weights = fma(g[c], load_qkv(k_start + own.width, c), d_weights);
        }
        let weight = decayed(total(logits) - row_logsumexp);
        let d_logit = weight * (total(d_weights) - row_delta);
        for (var c = 0u; c < CHUNKS; c++) {
            d_q[c] = fma(vec4<f32>(d_logit), k[c], d_q[c]);
        }
    }

    for (var c = 0u; c < CHUNKS; c++) {
        store(q_start, c, d_q[c] * params.scale);
    }
}

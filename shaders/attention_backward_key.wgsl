// The keys' part of attention_backward_key_value, for GPUs and large heads of whole vectors: an invocation holds three heads
// in registers, not four.
//!import attention_row
//!import head_vec4
//!import head_backward_vec4
//!import decayed

const HEAD_DIM: u32 = 8u;

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
    for (var c = 0u; c < CHUNKS; c++) {
        k[c] = select(vec4<f32>(), load_qkv(k_start, c), inside(c));
        v[c] = select(vec4<f32>(), load_qkv(k_start + own.width, c), inside(c));
        d_k[c] = vec4<f32>();
    }
    // Where q of the query starts, for d_k: another variable than for the logits, so that compilers load q a second time
    // instead of keeping a fourth head in registers, which heads of 64 elements have no room for.
    var q_again = own.q_start;
    for (var query = 0u; query < params.tokens; query++) {
        var logits = vec4<f32>();
        var d_weights = vec4<f32>();
        for (var c = 0u; c < CHUNKS; c++) {
            // Scaled before the product, as in the other passes, so that the logits are the same.
            let q = load_qkv(own.q_start + query * 3u * own.width, c) * params.scale;
            logits = fma(q, k[c], logits);
            d_weights = fma(load_d_o(own.o_start + query * own.width, c), v[c], d_weights);
        }
        let at = own.head_index * params.tokens + query;
        let weight = decayed(total(logits) - logsumexp[at]);
        let d_logit = weight * (total(d_weights) - delta[at]);
        for (var c = 0u; c < CHUNKS; c++) {
            d_k[c] = fma(vec4<f32>(d_logit), load_qkv(q_again, c) * params.scale, d_k[c]);
        }
        q_again += 3u * own.width;
    }

    for (var c = 0u; c < CHUNKS; c++) {
        store(k_start, c, d_k[c]);
    }
}

// The values' part of attention_backward_key_value, for GPUs and large heads of whole vectors: an invocation holds two heads
// in registers.
//!import attention_row
//!import head_vec4
//!import head_backward_vec4
//!import decayed

const HEAD_DIM: u32 = 8u;

@group(0) @binding(2) var<storage, read> logsumexp: array<f32>;
@group(0) @binding(3) var<storage, read> d_o: array<Pack>;
// The gradient of q, k and v.
@group(0) @binding(4) var<storage, read_write> results: array<Pack>;

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
    var d_v: array<vec4<f32>, CHUNKS>;
    for (var c = 0u; c < CHUNKS; c++) {
        k[c] = select(vec4<f32>(), load_qkv(k_start, c), inside(c));
        d_v[c] = vec4<f32>();
    }
    for (var query = 0u; query < params.tokens; query++) {
        var logits = vec4<f32>();
        for (var c = 0u; c < CHUNKS; c++) {
            // Scaled before the product, as in the other passes, so that the logits are the same.
            logits = fma(load_qkv(own.q_start + query * 3u * own.width, c) * params.scale, k[c], logits);
        }
        let weight = decayed(total(logits) - logsumexp[own.head_index * params.tokens + query]);
        for (var c = 0u; c < CHUNKS; c++) {
            d_v[c] = fma(vec4<f32>(weight), load_d_o(own.o_start + query * own.width, c), d_v[c]);
        }
    }

    for (var c = 0u; c < CHUNKS; c++) {
        store(k_start + own.width, c, d_v[c]);
    }
}

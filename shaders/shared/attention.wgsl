// o (`results`) = softmax(q·kᵀ / sqrt(d))·v and the logarithm of each softmax's denominator, head by head, with the online
// softmax of Milakov and Gimelshein (arXiv 1805.02867) as in FlashAttention (arXiv 2205.14135). The matrix of
// probabilities is never stored.
//
// Each invocation owns one query row of one head and walks the keys in increasing order: a row's bits depend
// only on its own sample.
//!import attention_row
//!import decayed

@group(0) @binding(2) var<storage, read_write> results: array<Pack>;
@group(0) @binding(3) var<storage, read_write> logsumexp: array<f32>;

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
    var q: array<vec4<f32>, CHUNKS>;
    var sum: array<vec4<f32>, CHUNKS>;
    for (var c = 0u; c < CHUNKS; c++) {
        q[c] = select(vec4<f32>(), load_qkv(own.q_start + own.row * 3u * own.width, c) * params.scale, inside(c));
        sum[c] = vec4<f32>();
    }
    var largest = -3.0e38;
    var denominator = 0.0;
    for (var key = 0u; key < params.tokens; key++) {
        let k_start = own.q_start + (key * 3u + 1u) * own.width;
        var products = vec4<f32>();
        for (var c = 0u; c < CHUNKS; c++) {
            products = fma(q[c], load_qkv(k_start, c), products);
        }
        let logit = total(products);
        // Either the sum so far or the new term is scaled down; one exponential serves both.
        let smaller = decayed(-abs(logit - largest));
        let correction = select(1.0, smaller, logit > largest);
        let weight = select(smaller, 1.0, logit > largest);
        denominator = fma(denominator, correction, weight);
        largest = max(largest, logit);
        for (var c = 0u; c < CHUNKS; c++) {
            sum[c] = fma(vec4<f32>(weight), load_qkv(k_start + own.width, c), sum[c] * correction);
        }
    }

    logsumexp[own.head_index * params.tokens + own.row] = largest + log(denominator);
    for (var c = 0u; c < CHUNKS; c++) {
        store(own.o_start + own.row * own.width, c, sum[c] / denominator);
    }
}

// o = softmax(q·kᵀ / sqrt(d))·v and the logarithm of each softmax's denominator, head by head: the online
// softmax of Milakov and Gimelshein (arXiv 1805.02867) as in FlashAttention (arXiv 2205.14135). No matrix of
// probabilities is ever stored.
//
// Each invocation owns ROWS query rows of one head, so that every key and value that it loads serves them
// all. It walks the keys in increasing order: a row's bits depend on its own sample alone. Rows beyond the
// last one repeat it and are not stored.
//!import grid

const HEAD_DIM: u32 = 8u;
const ROWS: u32 = 4u;
// A head in registers, four elements at a time. Elements beyond HEAD_DIM repeat the last one; in q they are
// zero, in o they are not stored.
const CHUNKS: u32 = (HEAD_DIM + 3u) / 4u;

struct Params {
    batches: u32,
    tokens: u32,
    heads: u32,
    blocks: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;
@group(0) @binding(2) var<storage, read_write> o: array<f32>;
@group(0) @binding(3) var<storage, read_write> logsumexp: array<f32>;

fn load(start: u32, chunk: u32) -> vec4<f32> {
    let i = min(vec4<u32>(4u * chunk) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(HEAD_DIM - 1u));
    return vec4<f32>(qkv[start + i.x], qkv[start + i.y], qkv[start + i.z], qkv[start + i.w]);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = linear_workgroup(workgroup, workgroups) * 64u + lane;
    let head_index = index / params.blocks;
    let batch = head_index / params.heads;
    if batch >= params.batches {
        return;
    }
    let head = head_index % params.heads;
    let first = (index % params.blocks) * ROWS;
    let width = params.heads * HEAD_DIM;
    // Of token 0 of this sample: where q, k and v of this head start.
    let q_start = batch * params.tokens * 3u * width + head * HEAD_DIM;

    var q: array<array<vec4<f32>, CHUNKS>, ROWS>;
    var sum: array<array<vec4<f32>, CHUNKS>, ROWS>;
    var largest: array<f32, ROWS>;
    var total: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let start = q_start + min(first + r, params.tokens - 1u) * 3u * width;
        for (var c = 0u; c < CHUNKS; c++) {
            let inside = vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(HEAD_DIM);
            q[r][c] = select(vec4<f32>(), load(start, c) * params.scale, inside);
            sum[r][c] = vec4<f32>();
        }
        largest[r] = -3.0e38;
        total[r] = 0.0;
    }

    for (var key = 0u; key < params.tokens; key++) {
        let k_start = q_start + (key * 3u + 1u) * width;
        var logit: array<vec4<f32>, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            logit[r] = vec4<f32>();
        }
        for (var c = 0u; c < CHUNKS; c++) {
            let k = load(k_start, c);
            for (var r = 0u; r < ROWS; r++) {
                logit[r] = fma(q[r][c], k, logit[r]);
            }
        }
        var weight: array<f32, ROWS>;
        var correction: array<f32, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            let s = (logit[r].x + logit[r].y) + (logit[r].z + logit[r].w);
            let now = max(largest[r], s);
            correction[r] = exp(max(largest[r] - now, -87.0));
            weight[r] = exp(max(s - now, -87.0));
            total[r] = fma(total[r], correction[r], weight[r]);
            largest[r] = now;
        }
        for (var c = 0u; c < CHUNKS; c++) {
            let v = load(k_start + width, c);
            for (var r = 0u; r < ROWS; r++) {
                sum[r][c] = fma(vec4<f32>(weight[r]), v, sum[r][c] * correction[r]);
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        let row = first + r;
        if row < params.tokens {
            logsumexp[head_index * params.tokens + row] = largest[r] + log(total[r]);
            let start = (batch * params.tokens + row) * width + head * HEAD_DIM;
            for (var c = 0u; c < CHUNKS; c++) {
                let y = sum[r][c] / total[r];
                let i = 4u * c;
                o[start + i] = y.x;
                if i + 1u < HEAD_DIM {
                    o[start + i + 1u] = y.y;
                }
                if i + 2u < HEAD_DIM {
                    o[start + i + 2u] = y.z;
                }
                if i + 3u < HEAD_DIM {
                    o[start + i + 3u] = y.w;
                }
            }
        }
    }
}

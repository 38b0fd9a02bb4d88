// The gradient of attention with respect to its queries, and delta = Σ d_o·o of every query row, which the
// keys and values need too (FlashAttention, arXiv 2205.14135, appendix B.4). Probabilities are computed again
// from the stored logsumexp:
//   p_ij = exp(s_ij - logsumexp_i),  ds_ij = p_ij (d_o_i·v_j - delta_i),  d_q_i = Σ_j ds_ij k_j / sqrt(d).
//
// Each invocation owns ROWS query rows of one head and walks the keys in increasing order.
//!import grid

const HEAD_DIM: u32 = 8u;
const ROWS: u32 = 4u;
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
@group(0) @binding(2) var<storage, read> o: array<f32>;
@group(0) @binding(3) var<storage, read> logsumexp: array<f32>;
@group(0) @binding(4) var<storage, read> d_o: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_qkv: array<f32>;
@group(0) @binding(6) var<storage, read_write> delta: array<f32>;

fn elements(chunk: u32) -> vec4<u32> {
    return min(vec4<u32>(4u * chunk) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(HEAD_DIM - 1u));
}

// Zero beyond the head, for one factor of every product.
fn inside(chunk: u32) -> vec4<bool> {
    return vec4<u32>(4u * chunk) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(HEAD_DIM);
}

fn load_qkv(start: u32, chunk: u32) -> vec4<f32> {
    let i = elements(chunk);
    return vec4<f32>(qkv[start + i.x], qkv[start + i.y], qkv[start + i.z], qkv[start + i.w]);
}

fn load_o(start: u32, chunk: u32) -> vec4<f32> {
    let i = elements(chunk);
    return vec4<f32>(o[start + i.x], o[start + i.y], o[start + i.z], o[start + i.w]);
}

fn load_d_o(start: u32, chunk: u32) -> vec4<f32> {
    let i = elements(chunk);
    return vec4<f32>(d_o[start + i.x], d_o[start + i.y], d_o[start + i.z], d_o[start + i.w]);
}

fn total(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
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
    let q_start = batch * params.tokens * 3u * width + head * HEAD_DIM;
    let o_start = batch * params.tokens * width + head * HEAD_DIM;

    var q: array<array<vec4<f32>, CHUNKS>, ROWS>;
    var g: array<array<vec4<f32>, CHUNKS>, ROWS>;
    var d_q: array<array<vec4<f32>, CHUNKS>, ROWS>;
    var row_delta: array<f32, ROWS>;
    var row_logsumexp: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let row = min(first + r, params.tokens - 1u);
        var products = vec4<f32>();
        for (var c = 0u; c < CHUNKS; c++) {
            let y = load_o(o_start + row * width, c);
            q[r][c] = select(vec4<f32>(), load_qkv(q_start + row * 3u * width, c) * params.scale, inside(c));
            g[r][c] = select(vec4<f32>(), load_d_o(o_start + row * width, c), inside(c));
            d_q[r][c] = vec4<f32>();
            products = fma(g[r][c], y, products);
        }
        row_delta[r] = total(products);
        row_logsumexp[r] = logsumexp[head_index * params.tokens + row];
    }

    for (var key = 0u; key < params.tokens; key++) {
        let k_start = q_start + (key * 3u + 1u) * width;
        var k: array<vec4<f32>, CHUNKS>;
        var logit: array<vec4<f32>, ROWS>;
        var d_weight: array<vec4<f32>, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            logit[r] = vec4<f32>();
            d_weight[r] = vec4<f32>();
        }
        for (var c = 0u; c < CHUNKS; c++) {
            k[c] = load_qkv(k_start, c);
            let v = load_qkv(k_start + width, c);
            for (var r = 0u; r < ROWS; r++) {
                logit[r] = fma(q[r][c], k[c], logit[r]);
                d_weight[r] = fma(g[r][c], v, d_weight[r]);
            }
        }
        var d_logit: array<f32, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            let weight = exp(clamp(total(logit[r]) - row_logsumexp[r], -87.0, 0.0));
            d_logit[r] = weight * (total(d_weight[r]) - row_delta[r]);
        }
        for (var c = 0u; c < CHUNKS; c++) {
            for (var r = 0u; r < ROWS; r++) {
                d_q[r][c] = fma(vec4<f32>(d_logit[r]), k[c], d_q[r][c]);
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        let row = first + r;
        if row < params.tokens {
            delta[head_index * params.tokens + row] = row_delta[r];
            let start = q_start + row * 3u * width;
            for (var c = 0u; c < CHUNKS; c++) {
                let y = d_q[r][c] * params.scale;
                let i = 4u * c;
                d_qkv[start + i] = y.x;
                if i + 1u < HEAD_DIM {
                    d_qkv[start + i + 1u] = y.y;
                }
                if i + 2u < HEAD_DIM {
                    d_qkv[start + i + 2u] = y.z;
                }
                if i + 3u < HEAD_DIM {
                    d_qkv[start + i + 3u] = y.w;
                }
            }
        }
    }
}

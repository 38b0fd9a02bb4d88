// The gradients of attention with respect to its keys and values, after attention_backward_query:
//   d_v_j = Σ_i p_ij d_o_i,  d_k_j = Σ_i ds_ij q_i / sqrt(d),
// with p and ds as there.
//
// Each invocation owns ROWS key rows of one head and walks the queries in increasing order.
//!import grid

const HEAD_DIM: u32 = 8u;
const ROWS: u32 = 2u;
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
@group(0) @binding(2) var<storage, read> logsumexp: array<f32>;
@group(0) @binding(3) var<storage, read> d_o: array<f32>;
@group(0) @binding(4) var<storage, read> delta: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_qkv: array<f32>;

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

fn load_d_o(start: u32, chunk: u32) -> vec4<f32> {
    let i = elements(chunk);
    return vec4<f32>(d_o[start + i.x], d_o[start + i.y], d_o[start + i.z], d_o[start + i.w]);
}

fn total(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

fn store(start: u32, chunk: u32, y: vec4<f32>) {
    let i = 4u * chunk;
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

    var k: array<array<vec4<f32>, CHUNKS>, ROWS>;
    var v: array<array<vec4<f32>, CHUNKS>, ROWS>;
    var d_k: array<array<vec4<f32>, CHUNKS>, ROWS>;
    var d_v: array<array<vec4<f32>, CHUNKS>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let start = q_start + (min(first + r, params.tokens - 1u) * 3u + 1u) * width;
        for (var c = 0u; c < CHUNKS; c++) {
            k[r][c] = select(vec4<f32>(), load_qkv(start, c), inside(c));
            v[r][c] = select(vec4<f32>(), load_qkv(start + width, c), inside(c));
            d_k[r][c] = vec4<f32>();
            d_v[r][c] = vec4<f32>();
        }
    }

    for (var row = 0u; row < params.tokens; row++) {
        let at = head_index * params.tokens + row;
        var q: array<vec4<f32>, CHUNKS>;
        var g: array<vec4<f32>, CHUNKS>;
        var logit: array<vec4<f32>, ROWS>;
        var d_weight: array<vec4<f32>, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            logit[r] = vec4<f32>();
            d_weight[r] = vec4<f32>();
        }
        for (var c = 0u; c < CHUNKS; c++) {
            // Scaled before the product, as in the other passes: the same logits, bit for bit.
            q[c] = load_qkv(q_start + row * 3u * width, c) * params.scale;
            g[c] = load_d_o(o_start + row * width, c);
            for (var r = 0u; r < ROWS; r++) {
                logit[r] = fma(q[c], k[r][c], logit[r]);
                d_weight[r] = fma(g[c], v[r][c], d_weight[r]);
            }
        }
        let row_logsumexp = logsumexp[at];
        let row_delta = delta[at];
        var weight: array<f32, ROWS>;
        var d_logit: array<f32, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            weight[r] = exp(clamp(total(logit[r]) - row_logsumexp, -87.0, 0.0));
            d_logit[r] = weight[r] * (total(d_weight[r]) - row_delta);
        }
        for (var c = 0u; c < CHUNKS; c++) {
            for (var r = 0u; r < ROWS; r++) {
                d_k[r][c] = fma(vec4<f32>(d_logit[r]), q[c], d_k[r][c]);
                d_v[r][c] = fma(vec4<f32>(weight[r]), g[c], d_v[r][c]);
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        if first + r < params.tokens {
            let start = q_start + ((first + r) * 3u + 1u) * width;
            for (var c = 0u; c < CHUNKS; c++) {
                store(start, c, d_k[r][c]);
                store(start + width, c, d_v[r][c]);
            }
        }
    }
}

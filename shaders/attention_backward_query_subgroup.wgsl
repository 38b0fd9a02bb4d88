// The same as attention_backward_query, for drivers where loads dominate the cost: a workgroup of one subgroup
// owns ROWS query rows of a head, with its lanes across the head, so that every value is loaded once for all
// those rows. Rows beyond the last one repeat it and are not stored.
//!import decayed
//!import grid

const HEAD_DIM: u32 = 8u;
const SUBGROUP: u32 = 8u;
const ROWS: u32 = 4u;
// Registers of each lane per row.
const CHUNKS: u32 = (HEAD_DIM + SUBGROUP - 1u) / SUBGROUP;

struct AttentionSubgroupParams {
    batches: u32,
    tokens: u32,
    heads: u32,
    blocks: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: AttentionSubgroupParams;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;
@group(0) @binding(2) var<storage, read> o: array<f32>;
@group(0) @binding(3) var<storage, read> logsumexp: array<f32>;
@group(0) @binding(4) var<storage, read> d_o: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_qkv: array<f32>;
@group(0) @binding(6) var<storage, read_write> delta: array<f32>;

@compute @workgroup_size(SUBGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let index = linear_workgroup(workgroup, workgroups);
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
    // The lane's elements of the head; those past its end repeat the last one, and one factor of their
    // products is zero.
    var element: array<u32, CHUNKS>;
    var mask: array<f32, CHUNKS>;
    for (var c = 0u; c < CHUNKS; c++) {
        element[c] = min(c * SUBGROUP + lane, HEAD_DIM - 1u);
        mask[c] = select(0.0, 1.0, c * SUBGROUP + lane < HEAD_DIM);
    }

    var q: array<array<f32, CHUNKS>, ROWS>;
    var g: array<array<f32, CHUNKS>, ROWS>;
    var d_q: array<array<f32, CHUNKS>, ROWS>;
    var row_delta: array<f32, ROWS>;
    var row_logsumexp: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let row = min(first + r, params.tokens - 1u);
        var products = 0.0;
        for (var c = 0u; c < CHUNKS; c++) {
            q[r][c] = qkv[q_start + row * 3u * width + element[c]] * params.scale * mask[c];
            g[r][c] = d_o[o_start + row * width + element[c]] * mask[c];
            d_q[r][c] = 0.0;
            products = fma(g[r][c], o[o_start + row * width + element[c]], products);
        }
        row_delta[r] = subgroupAdd(products);
        row_logsumexp[r] = logsumexp[head_index * params.tokens + row];
    }
    for (var key = 0u; key < params.tokens; key++) {
        let k_start = q_start + (key * 3u + 1u) * width;
        var k: array<f32, CHUNKS>;
        var v: array<f32, CHUNKS>;
        for (var c = 0u; c < CHUNKS; c++) {
            k[c] = qkv[k_start + element[c]];
            v[c] = qkv[k_start + width + element[c]];
        }
        for (var r = 0u; r < ROWS; r++) {
            var logits = 0.0;
            var d_weights = 0.0;
            for (var c = 0u; c < CHUNKS; c++) {
                logits = fma(q[r][c], k[c], logits);
                d_weights = fma(g[r][c], v[c], d_weights);
            }
            let weight = decayed(subgroupAdd(logits) - row_logsumexp[r]);
            let d_logit = weight * (subgroupAdd(d_weights) - row_delta[r]);
            for (var c = 0u; c < CHUNKS; c++) {
                d_q[r][c] = fma(d_logit, k[c], d_q[r][c]);
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        let row = first + r;
        if row < params.tokens {
            if lane == 0u {
                delta[head_index * params.tokens + row] = row_delta[r];
            }
            for (var c = 0u; c < CHUNKS; c++) {
                if c * SUBGROUP + lane < HEAD_DIM {
                    d_qkv[q_start + row * 3u * width + c * SUBGROUP + lane] = d_q[r][c] * params.scale;
                }
            }
        }
    }
}

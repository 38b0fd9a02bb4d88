// The same as attention_backward_key_value, for drivers where loads dominate the cost: a workgroup of one
// subgroup owns ROWS key rows of a head, with its lanes across the head, so that every value is loaded once
// for all those rows. Rows beyond the last one repeat it and are not stored.
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
@group(0) @binding(2) var<storage, read> logsumexp: array<f32>;
@group(0) @binding(3) var<storage, read> d_o: array<f32>;
@group(0) @binding(4) var<storage, read> delta: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_qkv: array<f32>;

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

    var k: array<array<f32, CHUNKS>, ROWS>;
    var v: array<array<f32, CHUNKS>, ROWS>;
    var d_k: array<array<f32, CHUNKS>, ROWS>;
    var d_v: array<array<f32, CHUNKS>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let k_start = q_start + (min(first + r, params.tokens - 1u) * 3u + 1u) * width;
        for (var c = 0u; c < CHUNKS; c++) {
            k[r][c] = qkv[k_start + element[c]] * mask[c];
            v[r][c] = qkv[k_start + width + element[c]] * mask[c];
            d_k[r][c] = 0.0;
            d_v[r][c] = 0.0;
        }
    }
    for (var row = 0u; row < params.tokens; row++) {
        var q: array<f32, CHUNKS>;
        var g: array<f32, CHUNKS>;
        for (var c = 0u; c < CHUNKS; c++) {
            q[c] = qkv[q_start + row * 3u * width + element[c]] * params.scale;
            g[c] = d_o[o_start + row * width + element[c]];
        }
        let row_logsumexp = logsumexp[head_index * params.tokens + row];
        let row_delta = delta[head_index * params.tokens + row];
        for (var r = 0u; r < ROWS; r++) {
            var logits = 0.0;
            var d_weights = 0.0;
            for (var c = 0u; c < CHUNKS; c++) {
                logits = fma(q[c], k[r][c], logits);
                d_weights = fma(g[c], v[r][c], d_weights);
            }
            let weight = decayed(subgroupAdd(logits) - row_logsumexp);
            let d_logit = weight * (subgroupAdd(d_weights) - row_delta);
            for (var c = 0u; c < CHUNKS; c++) {
                d_k[r][c] = fma(d_logit, q[c], d_k[r][c]);
                d_v[r][c] = fma(weight, g[c], d_v[r][c]);
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        if first + r < params.tokens {
            let k_start = q_start + ((first + r) * 3u + 1u) * width;
            for (var c = 0u; c < CHUNKS; c++) {
                if c * SUBGROUP + lane < HEAD_DIM {
                    d_qkv[k_start + c * SUBGROUP + lane] = d_k[r][c];
                    d_qkv[k_start + width + c * SUBGROUP + lane] = d_v[r][c];
                }
            }
        }
    }
}

// The same as attention, for drivers where loads dominate the cost: a workgroup of one subgroup owns ROWS query
// rows of a head, with its lanes across the head, so that every value is loaded once for all those rows. Rows
// beyond the last one repeat it and are not stored.
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
@group(0) @binding(2) var<storage, read_write> o: array<f32>;
@group(0) @binding(3) var<storage, read_write> logsumexp: array<f32>;

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
    var sum: array<array<f32, CHUNKS>, ROWS>;
    var largest: array<f32, ROWS>;
    var denominator: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let start = q_start + min(first + r, params.tokens - 1u) * 3u * width;
        for (var c = 0u; c < CHUNKS; c++) {
            q[r][c] = qkv[start + element[c]] * params.scale * mask[c];
            sum[r][c] = 0.0;
        }
        largest[r] = -3.0e38;
        denominator[r] = 0.0;
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
            var products = 0.0;
            for (var c = 0u; c < CHUNKS; c++) {
                products = fma(q[r][c], k[c], products);
            }
            let logit = subgroupAdd(products);
            // Either the sum so far or the new term is scaled down; one exponential serves both.
            let smaller = decayed(-abs(logit - largest[r]));
            let correction = select(1.0, smaller, logit > largest[r]);
            let weight = select(smaller, 1.0, logit > largest[r]);
            denominator[r] = fma(denominator[r], correction, weight);
            largest[r] = max(largest[r], logit);
            for (var c = 0u; c < CHUNKS; c++) {
                sum[r][c] = fma(weight, v[c], sum[r][c] * correction);
            }
        }
    }

    for (var r = 0u; r < ROWS; r++) {
        let row = first + r;
        if row < params.tokens {
            if lane == 0u {
                logsumexp[head_index * params.tokens + row] = largest[r] + log(denominator[r]);
            }
            for (var c = 0u; c < CHUNKS; c++) {
                if c * SUBGROUP + lane < HEAD_DIM {
                    o[o_start + row * width + c * SUBGROUP + lane] = sum[r][c] / denominator[r];
                }
            }
        }
    }
}

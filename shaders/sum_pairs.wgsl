// Adds up the pairs of all chunks of a row: one workgroup per row.
//!import grid
//!import block_sum

struct SumPairsParams {
    rows: u32,
    chunks: u32,
}

@group(0) @binding(0) var<uniform> params: SumPairsParams;
// [rows, chunks]
@group(0) @binding(1) var<storage, read> partial_sums: array<vec2<f32>>;
// [rows]
@group(0) @binding(2) var<storage, read_write> totals: array<vec2<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = linear_workgroup(workgroup, workgroups);
    if row >= params.rows {
        return;
    }
    var sums = vec2<f32>();
    for (var chunk = lane; chunk < params.chunks; chunk += 64u) {
        sums += partial_sums[row * params.chunks + chunk];
    }
    sums = block_sum(lane, sums);
    if lane == 0u {
        totals[row] = sums;
    }
}

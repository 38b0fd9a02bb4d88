// S1 = sum of epsilon*delta and S2 = sum of delta^2 with delta = v_new - v_old: one workgroup per chunk of a row.
//!import grid
//!import block_sum

struct PolicyStatsParams {
    rows: u32,
    columns: u32,
    // Columns of a chunk, and the chunks of a row.
    chunk: u32,
    chunks: u32,
}

@group(0) @binding(0) var<uniform> params: PolicyStatsParams;
@group(0) @binding(1) var<storage, read> v_new: array<Pack>;
@group(0) @binding(2) var<storage, read> v_old: array<Pack>;
@group(0) @binding(3) var<storage, read> epsilon: array<Pack>;
// [rows, chunks]
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = linear_workgroup(workgroup, workgroups);
    if index >= params.rows * params.chunks {
        return;
    }
    let row = index / params.chunks;
    let first = (index % params.chunks) * params.chunk;
    let end = min(first + params.chunk, params.columns) / PACK;
    let start = row * (params.columns / PACK);
    var s1 = Pack();
    var s2 = Pack();
    for (var column = first / PACK + lane; column < end; column += 64u) {
        let i = start + column;
        let delta = v_new[i] - v_old[i];
        s1 += epsilon[i] * delta;
        s2 += delta * delta;
    }
    let sums = block_sum(lane, vec2<f32>(total(s1), total(s2)));
    if lane == 0u {
        stats[index] = sums;
    }
}

// S1 = sum of epsilon*delta and S2 = sum of delta^2 with delta = v_new - v_old: one workgroup per row.
//!import grid
//!import block_sum

struct Params {
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> v_new: array<f32>;
@group(0) @binding(2) var<storage, read> v_old: array<f32>;
@group(0) @binding(3) var<storage, read> epsilon: array<f32>;
@group(0) @binding(4) var<storage, read_write> stats: array<f32>;

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
    for (var column = lane; column < params.columns; column += 64u) {
        let i = row * params.columns + column;
        let delta = v_new[i] - v_old[i];
        sums += vec2<f32>(epsilon[i] * delta, delta * delta);
    }
    sums = block_sum(lane, sums);
    if lane == 0u {
        stats[row * 2u] = sums.x;
        stats[row * 2u + 1u] = sums.y;
    }
}

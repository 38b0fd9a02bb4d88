// Softmax of factor x over the columns of each row, a workgroup a row.
//!import block_max
//!import block_sum
//!import decayed
//!import grid

struct Params {
    rows: u32,
    columns: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

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
    let start = row * params.columns;
    var largest = -3.0e38;
    for (var i = lane; i < params.columns; i += 64u) {
        largest = max(largest, params.factor * x[start + i]);
    }
    largest = block_max(lane, largest);
    var sum = 0.0;
    for (var i = lane; i < params.columns; i += 64u) {
        sum += decayed(params.factor * x[start + i] - largest);
    }
    let denominator = block_sum(lane, vec2<f32>(sum, 0.0)).x;
    for (var i = lane; i < params.columns; i += 64u) {
        y[start + i] = decayed(params.factor * x[start + i] - largest) / denominator;
    }
}

// y = (x - mean) / sqrt(variance + epsilon) * weight + bias, one workgroup per row: neighbouring lanes read
// neighbouring elements, and sums have the order of a fixed tree. A row's bits depend only on the row.
//!import grid
//!import block_sum

struct AffineNormParams {
    rows: u32,
    columns: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: AffineNormParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

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
    var sum = 0.0;
    for (var i = lane; i < params.columns; i += 64u) {
        sum += x[start + i];
    }
    let mean = block_sum(lane, vec2<f32>(sum, 0.0)).x / f32(params.columns);
    var squares = 0.0;
    for (var i = lane; i < params.columns; i += 64u) {
        let centred = x[start + i] - mean;
        squares = fma(centred, centred, squares);
    }
    let variance = block_sum(lane, vec2<f32>(squares, 0.0)).x / f32(params.columns);
    let factor = inverseSqrt(variance + params.epsilon);
    for (var i = lane; i < params.columns; i += 64u) {
        y[start + i] = fma((x[start + i] - mean) * factor, weight[i], bias[i]);
    }
}

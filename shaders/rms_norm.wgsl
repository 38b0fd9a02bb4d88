// RMS norm (Zhang & Sennrich 2019): y = x / sqrt(mean(x²) + epsilon) · weight, weight [columns].
// One invocation per row, for rows as short as an attention head; the row's 1/rms is kept for the backward pass.
//!import grid

struct RmsNormParams {
    rows: u32,
    columns: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: RmsNormParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read_write> inverse_rms: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if row >= params.rows {
        return;
    }
    let start = row * params.columns;
    var squares = 0.0;
    for (var column = 0u; column < params.columns; column++) {
        squares = fma(x[start + column], x[start + column], squares);
    }
    let inverse = inverseSqrt(squares / f32(params.columns) + params.epsilon);
    for (var column = 0u; column < params.columns; column++) {
        y[start + column] = x[start + column] * inverse * weight[column];
    }
    inverse_rms[row] = inverse;
}

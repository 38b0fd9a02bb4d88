// Gradient of RMS norm with respect to x, one invocation per row:
// g = dy · weight, n = x / rms, dx = (g - n mean(g n)) / rms.
//!import grid
//!import rows_columns

@group(0) @binding(0) var<uniform> params: RowsColumnsParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> inverse_rms: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;

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
    let inverse = inverse_rms[row];
    var sum = 0.0;
    for (var column = 0u; column < params.columns; column++) {
        sum = fma(dy[start + column] * weight[column], x[start + column] * inverse, sum);
    }
    let mean = sum / f32(params.columns);
    for (var column = 0u; column < params.columns; column++) {
        let g = dy[start + column] * weight[column];
        dx[start + column] = inverse * (g - x[start + column] * inverse * mean);
    }
}

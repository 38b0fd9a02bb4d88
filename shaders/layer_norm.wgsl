// Layer norm without affine, then adaLN modulation (Peebles & Xie 2022):
// y = (x - mean) / sqrt(variance + 1e-6) * (1 + scale) + shift, scale and shift [batch, columns].
// One invocation per row; the row's mean and 1/std are kept for the backward pass.
//!import grid
//!import layer_norm_params

@group(0) @binding(0) var<uniform> params: LayerNormParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> shift: array<f32>;
@group(0) @binding(3) var<storage, read> scale: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read_write> stats: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i >= params.rows {
        return;
    }
    let start = i * params.columns;
    let modulation = (i / params.tokens) * params.columns;
    var sum = 0.0;
    for (var column = 0u; column < params.columns; column++) {
        sum += x[start + column];
    }
    let mean = sum / f32(params.columns);
    var squares = 0.0;
    for (var column = 0u; column < params.columns; column++) {
        let centred = x[start + column] - mean;
        squares = fma(centred, centred, squares);
    }
    let inverse_std = inverseSqrt(squares / f32(params.columns) + 1e-6);
    for (var column = 0u; column < params.columns; column++) {
        let normal = (x[start + column] - mean) * inverse_std;
        y[start + column] = fma(normal, 1.0 + scale[modulation + column], shift[modulation + column]);
    }
    stats[2u * i] = mean;
    stats[2u * i + 1u] = inverse_std;
}

// Gradient of layer norm + modulation with respect to x, one invocation per row:
// g = dy (1 + scale), n = (x - mean) / std, dx = (g - mean(g) - n mean(g n)) / std.
//!import grid
//!import layer_norm_params

@group(0) @binding(0) var<uniform> params: LayerNormParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;
@group(0) @binding(3) var<storage, read> stats: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;

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
    let mean = stats[2u * i];
    let inverse_std = stats[2u * i + 1u];
    var sum_g = 0.0;
    var sum_gn = 0.0;
    for (var column = 0u; column < params.columns; column++) {
        let g = dy[start + column] * (1.0 + scale[modulation + column]);
        let normal = (x[start + column] - mean) * inverse_std;
        sum_g += g;
        sum_gn = fma(g, normal, sum_gn);
    }
    let mean_g = sum_g / f32(params.columns);
    let mean_gn = sum_gn / f32(params.columns);
    for (var column = 0u; column < params.columns; column++) {
        let g = dy[start + column] * (1.0 + scale[modulation + column]);
        let normal = (x[start + column] - mean) * inverse_std;
        dx[start + column] = inverse_std * (g - mean_g - normal * mean_gn);
    }
}

// Gradient of layer norm + modulation with respect to shift and scale [batch, columns], one invocation per element:
// d_shift = sum of dy over tokens, d_scale = sum of dy n.
//!import grid

struct Params {
    rows: u32,
    tokens: u32,
    columns: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> stats: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> d_shift: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_scale: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i >= params.rows / params.tokens * params.columns {
        return;
    }
    let sample = i / params.columns;
    let column = i % params.columns;
    var sum = 0.0;
    var sum_n = 0.0;
    for (var token = 0u; token < params.tokens; token++) {
        let row = sample * params.tokens + token;
        let gradient = dy[row * params.columns + column];
        let normal = (x[row * params.columns + column] - stats[2u * row]) * stats[2u * row + 1u];
        sum += gradient;
        sum_n = fma(gradient, normal, sum_n);
    }
    d_shift[i] = sum;
    d_scale[i] = sum_n;
}

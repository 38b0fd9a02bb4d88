// The last pass of group norm: y = (x - mean) / std scale + bias, then SiLU if requested.
//!import grid
//!import sigmoid

struct GroupNormParams {
    elements: u32,
    // Elements of a group, and of a channel.
    size: u32,
    plane: u32,
    channels: u32,
    silu: u32,
}

@group(0) @binding(0) var<uniform> params: GroupNormParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> stats: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i >= params.elements {
        return;
    }
    let row = i / params.size;
    let channel = i / params.plane % params.channels;
    let value = fma((x[i] - stats[2u * row]) * stats[2u * row + 1u], scale[channel], bias[channel]);
    y[i] = select(value, value * sigmoid(value), params.silu == 1u);
}

// The last pass of group norm: y = (x - mean) / std scale + bias, then SiLU if requested.
//!import each
//!import sigmoid

// See each.wgsl.
const PACKED: u32 = 0u;

struct GroupNormParams {
    // Of the tensor, of a group, and of a channel.
    elements: u32,
    size: u32,
    plane: u32,
    channels: u32,
    silu: u32,
}

@group(0) @binding(0) var<uniform> params: GroupNormParams;
@group(0) @binding(1) var<storage, read> x: array<Pack>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> stats: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<Pack>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * LANES + lane;
    if i >= params.elements / PACK {
        return;
    }
    let row = i / (params.size / PACK);
    let channel = i / (params.plane / PACK) % params.channels;
    let normal = (x[i] - Pack(stats[2u * row])) * stats[2u * row + 1u];
    let value = fma(normal, Pack(scale[channel]), Pack(bias[channel]));
    if params.silu == 1u {
        y[i] = value * sigmoid(value);
    } else {
        y[i] = value;
    }
}

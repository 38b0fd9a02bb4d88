// x [images, channels, height, width] to patch vectors y [images, tokens, patch^2 vector_channels], times a factor.
// Channels that the image lacks are zero.
//!import grid
//!import patch_index
//!import patchify_params

@group(0) @binding(0) var<uniform> params: PatchifyParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    let area = params.height * params.width;
    let image = i / (params.vector_channels * area);
    if image >= params.images {
        return;
    }
    let channel = (i / area) % params.vector_channels;
    let row = (i / params.width) % params.height;
    let column = i % params.width;
    var value = 0.0;
    if channel < params.channels {
        let plane = (image * params.channels + channel) * params.height;
        value = params.factor * x[(plane + row) * params.width + column];
    }
    y[patch_index(image, channel, row, column)] = value;
}

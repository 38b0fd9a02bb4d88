// Shared by the kernels of conv2d: what they are given, and how a sum becomes an element of the result. Tiles extend past
// the last channel and the last pixel; what they have there is not stored.
struct Conv2dParams {
    batches: u32,
    in_channels: u32,
    // Of a picture as it is stored, and as the kernel slides over it: twice as large with `upsample`.
    width: u32,
    plane: u32,
    seen_height: u32,
    seen_width: u32,
    upsample: u32,
    out_channels: u32,
    out_width: u32,
    out_plane: u32,
    kernel: u32,
    stride: u32,
    padding: u32,
    relu: u32,
    has_residual: u32,
    channel_tiles: u32,
    pixel_tiles: u32,
}

@group(0) @binding(0) var<uniform> params: Conv2dParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
// [kernel row, kernel column, input channel, output channel / 4]
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

fn store(batch: u32, channel: u32, pixel: u32, sum: f32) {
    if channel >= params.out_channels || pixel >= params.out_plane {
        return;
    }
    let at = (batch * params.out_channels + channel) * params.out_plane + pixel;
    var value = sum + bias[channel];
    if params.has_residual == 1u {
        value += residual[at];
    }
    // Not max, so that NaN stays NaN.
    if params.relu == 1u {
        value = select(value, 0.0, value < 0.0);
    }
    y[at] = value;
}

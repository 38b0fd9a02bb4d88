// For GPUs and many channels: 64 channels of 128 pixels of a picture per workgroup, 16 input channels at one place of the
// kernel at a time through workgroup memory, 8x8 elements in the registers of each of 128 invocations. It is the matrix
// product of tiles_128 whose second operand is not stored anywhere: its rows are input channels at places of the kernel,
// its columns pixels. While a workgroup multiplies two tiles, the loads of the next two are under way.
//
// The steps of the sum have the order of conv2d.wgsl: 16 input channels for all places of the kernel before the next
// ones, so that the nine reads of a pixel in a 3x3 kernel are close enough in time to hit the nearest cache.
//
// Past an edge, elements of other channels or pixels are loaded, whose results are not stored; past the last input
// channel and outside the picture, x counts as zero. Every branch around a barrier is the same for the entire workgroup.
//!import grid
//!import conv2d
//!import add_products

const LANES: u32 = 128u;
// Input channels of a step.
const DEPTH: u32 = 16u;
// Vectors in a row of a tile in workgroup memory: of channels, and of pixels.
const CHANNELS: u32 = 16u;
const PIXELS: u32 = 32u;

// [input channel][output channel / 4]: four neighbouring channels.
var<workgroup> tile_weight: array<vec4<f32>, DEPTH * CHANNELS>;
// [input channel][pixel]: four pixels, PIXELS apart. So neighbouring invocations load, read and store neighbouring ones.
var<workgroup> tile_x: array<vec4<f32>, DEPTH * PIXELS>;

// Some input channels at one place of the kernel.
struct Step {
    first: u32,
    down: u32,
    right: u32,
}

fn next_step(step: Step) -> Step {
    if step.right + 1u < params.kernel {
        return Step(step.first, step.down, step.right + 1u);
    }
    if step.down + 1u < params.kernel {
        return Step(step.first, step.down + 1u, 0u);
    }
    return Step(step.first + DEPTH, 0u, 0u);
}

// The pixels that the kernel has at this place, if it is where `top` and `left` say in four places, as indices of the
// stored picture; and which of them are part of it.
struct Seen {
    at: vec4<u32>,
    inside: vec4<bool>,
}

fn seen(step: Step, top: vec4<u32>, left: vec4<u32>) -> Seen {
    let row = top + step.down;
    let column = left + step.right;
    // Above and to the left of the picture these have wrapped around, so they are also too large.
    let inside = (row < vec4<u32>(params.seen_height)) & (column < vec4<u32>(params.seen_width));
    let shift = vec4<u32>(params.upsample);
    return Seen(select(vec4<u32>(), (row >> shift) * params.width + (column >> shift), inside), inside);
}

fn load_x(batch: u32, channel: u32, at: vec4<u32>) -> vec4<f32> {
    let stored = batch * params.in_channels + min(channel, params.in_channels - 1u);
    let places = stored * params.plane + at;
    return vec4<f32>(x[places.x], x[places.y], x[places.z], x[places.w]);
}

// Four input channels, DEPTH / 4 apart.
fn load_four(batch: u32, channel: u32, at: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        load_x(batch, channel, at),
        load_x(batch, channel + DEPTH / 4u, at),
        load_x(batch, channel + DEPTH / 2u, at),
        load_x(batch, channel + 3u * DEPTH / 4u, at),
    );
}

fn load_weight(step: Step, channel: u32, vector: u32) -> vec4<f32> {
    let place = step.down * params.kernel + step.right;
    let row = place * params.in_channels + min(step.first + channel, params.in_channels - 1u);
    let vectors = (params.out_channels + 3u) / 4u;
    return weight[row * vectors + min(vector, vectors - 1u)];
}

// `rest` input channels are left.
fn stage_x(lane: u32, of_x: mat4x4<f32>, inside: vec4<bool>, rest: u32) {
    let channel = lane / PIXELS;
    tile_x[lane] = select(vec4<f32>(), of_x[0], inside & vec4<bool>(channel < rest));
    tile_x[lane + LANES] = select(vec4<f32>(), of_x[1], inside & vec4<bool>(channel + DEPTH / 4u < rest));
    tile_x[lane + 2u * LANES] = select(vec4<f32>(), of_x[2], inside & vec4<bool>(channel + DEPTH / 2u < rest));
    tile_x[lane + 3u * LANES] = select(vec4<f32>(), of_x[3], inside & vec4<bool>(channel + 3u * DEPTH / 4u < rest));
}

fn store_row(batch: u32, channel: u32, pixel: u32, left: vec4<f32>, right: vec4<f32>) {
    store(batch, channel, pixel, left.x);
    store(batch, channel, pixel + PIXELS / 2u, right.x);
    store(batch, channel, pixel + PIXELS, left.y);
    store(batch, channel, pixel + 3u * PIXELS / 2u, right.y);
    store(batch, channel, pixel + 2u * PIXELS, left.z);
    store(batch, channel, pixel + 5u * PIXELS / 2u, right.z);
    store(batch, channel, pixel + 3u * PIXELS, left.w);
    store(batch, channel, pixel + 7u * PIXELS / 2u, right.w);
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = linear_workgroup(workgroup, workgroups);
    let channel_tile = index % params.channel_tiles;
    let pixel_tile = index / params.channel_tiles % params.pixel_tiles;
    let batch = index / params.channel_tiles / params.pixel_tiles;
    if batch >= params.batches {
        return;
    }
    let first_channel = channel_tile * 4u * CHANNELS;
    let first_pixel = pixel_tile * 4u * PIXELS;

    // What it loads: four pixels of four input channels, and four output channels of two input channels.
    let pixels = first_pixel + lane % PIXELS + vec4<u32>(0u, 1u, 2u, 3u) * PIXELS;
    let last = vec4<u32>(params.out_plane - 1u);
    let top = min(pixels, last) / params.out_width * params.stride - params.padding;
    let left = min(pixels, last) % params.out_width * params.stride - params.padding;
    let x_channel = lane / PIXELS;
    let weight_channel = lane / CHANNELS;
    let vector = first_channel / 4u + lane % CHANNELS;

    var step = Step(0u, 0u, 0u);
    var source = seen(step, top, left);
    var of_x = load_four(batch, x_channel, source.at);
    var of_weight_0 = load_weight(step, weight_channel, vector);
    var of_weight_1 = load_weight(step, weight_channel + DEPTH / 2u, vector);

    let row = lane / 16u;
    let column = lane % 16u;
    var sums: array<vec4<f32>, 16>;
    while step.first < params.in_channels {
        stage_x(lane, of_x, source.inside, params.in_channels - step.first);
        tile_weight[lane] = of_weight_0;
        tile_weight[lane + LANES] = of_weight_1;
        workgroupBarrier();

        step = next_step(step);
        if step.first < params.in_channels {
            source = seen(step, top, left);
            of_x = load_four(batch, step.first + x_channel, source.at);
            of_weight_0 = load_weight(step, weight_channel, vector);
            of_weight_1 = load_weight(step, weight_channel + DEPTH / 2u, vector);
        }

        for (var k = 0u; k < DEPTH; k++) {
            let at_weight = k * CHANNELS + row;
            let at_x = k * PIXELS + column;
            let channels = array<vec4<f32>, 2>(tile_weight[at_weight], tile_weight[at_weight + CHANNELS / 2u]);
            add_products(&sums, channels, tile_x[at_x], tile_x[at_x + PIXELS / 2u]);
        }
        workgroupBarrier();
    }

    let channel = first_channel + row * 4u;
    let pixel = first_pixel + column;
    store_row(batch, channel, pixel, sums[0], sums[1]);
    store_row(batch, channel + 1u, pixel, sums[2], sums[3]);
    store_row(batch, channel + 2u, pixel, sums[4], sums[5]);
    store_row(batch, channel + 3u, pixel, sums[6], sums[7]);
    store_row(batch, channel + 32u, pixel, sums[8], sums[9]);
    store_row(batch, channel + 33u, pixel, sums[10], sums[11]);
    store_row(batch, channel + 34u, pixel, sums[12], sums[13]);
    store_row(batch, channel + 35u, pixel, sums[14], sums[15]);
}

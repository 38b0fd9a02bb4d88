// A convolution of channel-first images as an implicit matrix product: OUTPUTS channels of PIXELS pixels in the
// registers of each invocation, without workgroup memory, barriers or subgroups.
//
// The lanes of a workgroup have neighbouring pixels of one picture and the same channels, so loads of x are
// contiguous and those of the weight the same in all lanes. Caches serve both; a value of x is used OUTPUTS
// times, and a value of the weight PIXELS times.
//
// Loads past the last pixel repeat it, and their results are not stored.
//!import grid
//!import conv2d

const OUTPUTS: u32 = 16u;
const PIXELS: u32 = 4u;
const VECTORS: u32 = OUTPUTS / 4u;
const LANES: u32 = 64u;

// Input channels that are summed for all positions of the kernel before the next ones: the nine reads of a pixel in a
// 3x3 kernel are then close enough in time to hit the nearest cache.
const BLOCK: u32 = 16u;

@compute @workgroup_size(64)
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
    let first_pixel = pixel_tile * (LANES * PIXELS) + lane;
    let weight_row = params.channel_tiles * VECTORS;

    // The position of the kernel's corner in the padded picture, and the sums.
    var top: array<u32, PIXELS>;
    var left: array<u32, PIXELS>;
    var sums: array<array<vec4<f32>, VECTORS>, PIXELS>;
    for (var p = 0u; p < PIXELS; p++) {
        let pixel = min(first_pixel + p * LANES, params.out_plane - 1u);
        top[p] = pixel / params.out_width * params.stride - params.padding;
        left[p] = pixel % params.out_width * params.stride - params.padding;
        for (var v = 0u; v < VECTORS; v++) {
            sums[p][v] = vec4<f32>();
        }
    }

    for (var first = 0u; first < params.in_channels; first += BLOCK) {
        let end = min(first + BLOCK, params.in_channels);
        for (var place = 0u; place < params.kernel * params.kernel; place++) {
            let down = place / params.kernel;
            let right = place % params.kernel;
            var x_at: array<u32, PIXELS>;
            var inside: array<bool, PIXELS>;
            for (var p = 0u; p < PIXELS; p++) {
                // Above and to the left of the picture these have wrapped around, so they are also too large.
                let row = top[p] + down;
                let column = left[p] + right;
                inside[p] = row < params.seen_height && column < params.seen_width;
                let at = (row >> params.upsample) * params.width + (column >> params.upsample);
                x_at[p] = (batch * params.in_channels + first) * params.plane + select(0u, at, inside[p]);
            }
            var weight_at = (place * params.in_channels + first) * weight_row + channel_tile * VECTORS;
            for (var channel = first; channel < end; channel++) {
                var weights: array<vec4<f32>, VECTORS>;
                for (var v = 0u; v < VECTORS; v++) {
                    weights[v] = weight[weight_at + v];
                }
                for (var p = 0u; p < PIXELS; p++) {
                    let value = vec4<f32>(select(0.0, x[x_at[p]], inside[p]));
                    for (var v = 0u; v < VECTORS; v++) {
                        sums[p][v] = fma(value, weights[v], sums[p][v]);
                    }
                    x_at[p] += params.plane;
                }
                weight_at += weight_row;
            }
        }
    }

    for (var p = 0u; p < PIXELS; p++) {
        let pixel = first_pixel + p * LANES;
        for (var v = 0u; v < VECTORS; v++) {
            let channel = channel_tile * OUTPUTS + 4u * v;
            store(batch, channel, pixel, sums[p][v].x);
            store(batch, channel + 1u, pixel, sums[p][v].y);
            store(batch, channel + 2u, pixel, sums[p][v].z);
            store(batch, channel + 3u, pixel, sums[p][v].w);
        }
    }
}

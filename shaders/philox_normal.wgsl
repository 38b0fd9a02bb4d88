// Standard normals as a function of their place, or with RAW the random words behind them. Each invocation
// makes the four of one block.
//!import grid
//!import philox

const RAW: u32 = 0u;

struct Params {
    rows: u32,
    columns: u32,
    blocks: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// [rows, 5]: seed low, seed high, rollout, sample, step
@group(0) @binding(1) var<storage, read> keys: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

// The centre of one of 2^23 equal cells of (0, 1): exact, and never 0.
fn cell_centre(word: u32) -> f32 {
    return (f32(word >> 9u) + 0.5) * 0x1p-23f;
}

// Two independent normals from two words (Box and Muller, 1958). The angle is taken from -pi to pi, where
// WGSL bounds the error of sine and cosine, which turns both signs.
fn box_muller(w0: u32, w1: u32) -> vec2<f32> {
    let radius = sqrt(max(-2.0 * log(cell_centre(w0)), 0.0));
    let angle = 6.283185307179586 * (cell_centre(w1) - 0.5);
    return vec2<f32>(-radius * cos(angle), -radius * sin(angle));
}

fn store(row: u32, column: u32, word: u32) {
    if column < params.columns {
        y[row * params.columns + column] = word;
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    let row = i / params.blocks;
    let block = i % params.blocks;
    if row >= params.rows {
        return;
    }
    let key = row * 5u;
    let counter = vec4<u32>(block, keys[key + 4u], keys[key + 3u], keys[key + 2u]);
    var words = philox4x32_10(counter, vec2<u32>(keys[key], keys[key + 1u]));
    if RAW == 0u {
        let normals = vec4<f32>(box_muller(words.x, words.y), box_muller(words.z, words.w));
        words = bitcast<vec4<u32>>(normals);
    }
    store(row, block * 4u, words.x);
    store(row, block * 4u + 1u, words.y);
    store(row, block * 4u + 2u, words.z);
    store(row, block * 4u + 3u, words.w);
}

// Standard normals as a function of their position, or with RAW the random words that they are computed from. Each
// invocation computes the four of one block.
//!import cos_sin
//!import grid
//!import philox

const RAW: u32 = 0u;

struct PhiloxNormalParams {
    rows: u32,
    columns: u32,
    blocks: u32,
}

// Where noise is used: src/flow/noise.rs explains the members.
struct NoiseWords {
    seed_low: u32,
    seed_high: u32,
    rollout: u32,
    sample: u32,
    step: u32,
}

@group(0) @binding(0) var<uniform> params: PhiloxNormalParams;
@group(0) @binding(1) var<storage, read> keys: array<NoiseWords>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

// The centre of one of 2^23 equal cells of (0, 1): exact, and never 0.
fn cell_centre(word: u32) -> f32 {
    return (f32(word >> 9u) + 0.5) * 0x1p-23f;
}

// ln, with the mantissa scaled to between the square roots of 1/2 and 2, where five terms of 2*atanh are enough.
// Drivers' own functions make normals that differ by up to 1e-4; with these polynomials only rounding differs.
fn natural_log(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    var exponent = f32(bits >> 23u) - 127.0;
    var mantissa = bitcast<f32>((bits & 0x7fffffu) | 0x3f800000u);
    if mantissa > 1.4142135 {
        mantissa *= 0.5;
        exponent += 1.0;
    }
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let t2 = t * t;
    let series = 2.0 + t2 * (2.0 / 3.0 + t2 * (2.0 / 5.0 + t2 * (2.0 / 7.0 + t2 * (2.0 / 9.0))));
    return exponent * 0.6931472 + t * series;
}

// (cos, sin) of x full turns, with x from 0 to 1: the nearest quarter turn is exact.
fn cos_sin_turn(x: f32) -> vec2<f32> {
    let quarters = round(4.0 * x);
    return cos_sin((4.0 * x - quarters) * 1.5707964, quarters);
}

// Two independent normals from two words (Box and Muller, 1958).
fn box_muller(w0: u32, w1: u32) -> vec2<f32> {
    return sqrt(-2.0 * natural_log(cell_centre(w0))) * cos_sin_turn(cell_centre(w1));
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
    let key = keys[row];
    let counter = vec4<u32>(block, key.step, key.sample, key.rollout);
    var words = philox4x32_10(counter, vec2<u32>(key.seed_low, key.seed_high));
    if RAW == 0u {
        let normals = vec4<f32>(box_muller(words.x, words.y), box_muller(words.z, words.w));
        words = bitcast<vec4<u32>>(normals);
    }
    store(row, block * 4u, words.x);
    store(row, block * 4u + 1u, words.y);
    store(row, block * 4u + 2u, words.z);
    store(row, block * 4u + 3u, words.w);
}

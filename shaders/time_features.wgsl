// Sinusoidal features of a time: y [rows, 2 half] = [cos(time w_j) | sin(time w_j)].
//
// Times reach 1000, so the nearest quarter turns are subtracted first, with pi/2 in two parts (Cody & Waite).
//!import cos_sin
//!import grid

struct TimeFeaturesParams {
    rows: u32,
    half: u32,
}

@group(0) @binding(0) var<uniform> params: TimeFeaturesParams;
@group(0) @binding(1) var<storage, read> time: array<f32>;
@group(0) @binding(2) var<storage, read> frequencies: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const QUARTER_TURN_HIGH: f32 = 1.57079637050628662;
const QUARTER_TURN_LOW: f32 = -4.371139e-8;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i >= params.rows * params.half {
        return;
    }
    let row = i / params.half;
    let j = i % params.half;
    let product = time[row] * frequencies[j];
    let quarters = round(product * 0.63661977237);
    var angle = fma(-quarters, QUARTER_TURN_HIGH, product);
    angle = fma(-quarters, QUARTER_TURN_LOW, angle);
    let features = cos_sin(angle, quarters);
    y[row * 2u * params.half + j] = features.x;
    y[row * 2u * params.half + params.half + j] = features.y;
}

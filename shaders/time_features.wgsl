// Sinusoidal features of a time: y [rows, 2 half] = [cos(time w_j) | sin(time w_j)].
// 
// Drivers only promise sin and cos between -pi and pi, and times reach 1000: so the argument is reduced
// first, with 2 pi in two parts (Cody & Waite).
//!import grid

struct Params {
    rows: u32,
    half: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> time: array<f32>;
@group(0) @binding(2) var<storage, read> frequencies: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const TWO_PI_HIGH: f32 = 6.28318548202514648;
const TWO_PI_LOW: f32 = -1.7484555e-7;

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
    let turns = round(product * 0.15915494309);
    var angle = fma(-turns, TWO_PI_HIGH, product);
    angle = fma(-turns, TWO_PI_LOW, angle);
    y[row * 2u * params.half + j] = cos(angle);
    y[row * 2u * params.half + params.half + j] = sin(angle);
}

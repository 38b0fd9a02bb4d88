// Turns the pairs (k, k + half) of each head: x [batch, tokens, width], table [tokens, 2 half] of cosines, then sines.
// sign = -1 turns back.
//!import grid

struct RopeParams {
    pairs: u32,
    tokens: u32,
    width: u32,
    // Half the elements of a head.
    half: u32,
    sign: f32,
}

@group(0) @binding(0) var<uniform> params: RopeParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(workgroup, workgroups) * 64u + lane;
    if i >= params.pairs {
        return;
    }
    let half = params.half;
    let k = i % half;
    // Whole heads come before this one in all rows.
    let first = i / half * 2u * half + k;
    let token = first / params.width % params.tokens;
    let angle = token * 2u * half + k;
    let cos = table[angle];
    let sin = params.sign * table[angle + half];
    let a = x[first];
    let b = x[first + half];
    y[first] = a * cos - b * sin;
    y[first + half] = b * cos + a * sin;
}

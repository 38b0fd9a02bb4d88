// Unpacks the numbers that to_half packed.
//!import grid

struct Params {
    elements: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

fn from_bits(half: u32) -> f32 {
    let magnitude = half & 0x7fffu;
    // Below 2^-14 the values are multiples of 2^-24; above, only the exponent's bias differs. NaN stays NaN.
    var bits = bitcast<u32>(f32(magnitude) / 16777216.0);
    if magnitude >= 0x7c00u {
        bits = 0x7fc00000u;
    } else if magnitude >= 0x400u {
        bits = (magnitude << 13u) + 0x38000000u;
    }
    return bitcast<f32>(bits | ((half & 0x8000u) << 16u));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = 2u * (linear_workgroup(workgroup, workgroups) * 64u + lane);
    if first >= params.elements {
        return;
    }
    let word = words[first / 2u];
    y[first] = from_bits(word & 0xffffu);
    if first + 1u < params.elements {
        y[first + 1u] = from_bits(word >> 16u);
    }
}

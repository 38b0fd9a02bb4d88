// Packs two 16-bit numbers per word: x[2w] in the low half of words[w], x[2w + 1] in the high half.
//!import grid

struct Params {
    elements: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> words: array<u32>;

// IEEE 754 binary16 in integer arithmetic: the rounding of packing functions depends on the driver, and some
// software drivers lack them. Rounds to nearest, ties to even, at most 65504; non-finite values become NaN.
fn half_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude >= 0x7f800000u {
        return 0x7e00u;
    }
    if magnitude < 0x38800000u {
        // Below 2^-14: multiples of 2^-24.
        return sign | u32(round(bitcast<f32>(magnitude) * 16777216.0));
    }
    // The exponent's bias drops from 127 to 15, the fraction from 23 bits to 10.
    let rebased = min(magnitude, 0x477fe000u) - 0x38000000u;
    return sign | ((rebased + 0xfffu + ((rebased >> 13u) & 1u)) >> 13u);
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
    var word = half_bits(x[first]);
    if first + 1u < params.elements {
        word |= half_bits(x[first + 1u]) << 16u;
    }
    words[first / 2u] = word;
}

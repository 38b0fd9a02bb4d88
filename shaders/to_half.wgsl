// Packs two 16-bit numbers per word: x[2w] in the low half of words[w], x[2w + 1] in the high half.
//!import grid

struct ToHalfParams {
    elements: u32,
    slot: u32,
}

@group(0) @binding(0) var<uniform> params: ToHalfParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> words: array<u32>;
// For each packed tensor: how many finite elements did not fit, and the bits of the largest finite magnitude.
@group(0) @binding(3) var<storage, read_write> ranges: array<atomic<u32>>;

// From this on 16 bits would round up to infinity: the bits of 65520.
const BOUND: u32 = 0x477ff000u;
const INFINITY: u32 = 0x7f800000u;

// IEEE 754 binary16 by integer arithmetic: the rounding of packing functions depends on the driver, and some software
// drivers lack them. The nearest, ties to even; values that do not fit or are not finite become NaN.
fn half_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude >= BOUND {
        return 0x7e00u;
    }
    if magnitude < 0x38800000u {
        // Below 2^-14: multiples of 2^-24.
        return sign | u32(round(bitcast<f32>(magnitude) * 16777216.0));
    }
    // The exponent's bias falls from 127 to 15, the fraction from 23 bits to 10.
    let rebased = magnitude - 0x38000000u;
    return sign | ((rebased + 0xfffu + ((rebased >> 13u) & 1u)) >> 13u);
}

// Bits order magnitudes as their values do; a magnitude that is not finite counts as zero.
fn finite_magnitude(x: f32) -> u32 {
    let magnitude = bitcast<u32>(x) & 0x7fffffffu;
    return select(magnitude, 0u, magnitude >= INFINITY);
}

// Integer results do not depend on the order. Almost all invocations only read: the largest value is found early.
fn note_range(largest: u32, beyond: u32) {
    let at = 2u * params.slot;
    if beyond > 0u {
        atomicAdd(&ranges[at], beyond);
    }
    if largest > atomicLoad(&ranges[at + 1u]) {
        atomicMax(&ranges[at + 1u], largest);
    }
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
    var largest = finite_magnitude(x[first]);
    var beyond = u32(largest >= BOUND);
    if first + 1u < params.elements {
        word |= half_bits(x[first + 1u]) << 16u;
        let magnitude = finite_magnitude(x[first + 1u]);
        largest = max(largest, magnitude);
        beyond += u32(magnitude >= BOUND);
    }
    words[first / 2u] = word;
    note_range(largest, beyond);
}

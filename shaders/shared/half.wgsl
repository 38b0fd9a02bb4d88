// A number of 16 bits (IEEE 754 binary16), by integer arithmetic and one exact product: the rounding of unpacking
// functions depends on the driver, and some software drivers lack them.
fn half_value(half: u32) -> f32 {
    let magnitude = half & 0x7fffu;
    // Below 2^-14 there are multiples of 2^-24, above it only the exponent's bias differs, and NaN is NaN.
    var bits = bitcast<u32>(f32(magnitude) * 5.9604644775390625e-8);
    if magnitude >= 0x7c00u {
        bits = 0x7fc00000u;
    } else if magnitude >= 0x400u {
        bits = (magnitude << 13u) + 0x38000000u;
    }
    return bitcast<f32>(bits | ((half & 0x8000u) << 16u));
}

// The same for finite numbers, such as weights.
fn finite_half_value(half: u32) -> f32 {
    let magnitude = half & 0x7fffu;
    let large = bitcast<f32>((magnitude << 13u) + 0x38000000u);
    let value = select(large, f32(magnitude) * 5.9604644775390625e-8, magnitude < 0x400u);
    return bitcast<f32>(bitcast<u32>(value) | ((half & 0x8000u) << 16u));
}

// What elements of both operands are rounded to before they are multiplied: 16 bits, by integer arithmetic, for devices
// that cannot. The nearest of 11 significant bits (below 2^-14 a multiple of 2^-24), ties to even; from
// 65520 on infinity.
fn rounded(x: f32) -> f32 {
    return rounded_four(vec4<f32>(x)).x;
}

fn rounded_four(x: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(x);
    let magnitude = bits & vec4<u32>(0x7fffffffu);
    let even = (magnitude >> vec4<u32>(13u)) & vec4<u32>(1u);
    let normal = (magnitude + vec4<u32>(0xfffu) + even) & vec4<u32>(0xffffe000u);
    let tiny = bitcast<vec4<u32>>(round(bitcast<vec4<f32>>(magnitude) * 16777216.0) * 5.9604644775390625e-8);
    var result = select(normal, tiny, magnitude < vec4<u32>(0x38800000u));
    result = select(result, vec4<u32>(0x7f800000u), magnitude >= vec4<u32>(0x477ff000u));
    // NaN stays what it is.
    result = select(result, magnitude, magnitude > vec4<u32>(0x7f800000u));
    return bitcast<vec4<f32>>(result | (bits & vec4<u32>(0x80000000u)));
}

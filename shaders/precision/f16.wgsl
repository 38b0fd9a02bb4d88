// What elements of both operands are rounded to before they are multiplied: 16 bits, by the device. A conversion to f16
// and back would not do: some compilers leave such pairs out.
fn rounded(x: f32) -> f32 {
    return quantizeToF16(x);
}

fn rounded_four(x: vec4<f32>) -> vec4<f32> {
    return quantizeToF16(x);
}

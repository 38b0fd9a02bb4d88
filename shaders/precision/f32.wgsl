// What elements of both operands are rounded to before they are multiplied: nothing.
fn rounded(x: f32) -> f32 {
    return x;
}

fn rounded_four(x: vec4<f32>) -> vec4<f32> {
    return x;
}

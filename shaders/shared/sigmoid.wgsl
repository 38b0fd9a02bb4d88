// 1 / (1 + exp(-x)), with the exponent clamped to where exp is finite.
fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(min(-x, 88.0)));
}

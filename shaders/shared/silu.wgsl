// x sigmoid(x) and its gradient.
//!import sigmoid

fn silu(x: f32) -> f32 {
    return x * sigmoid(x);
}

// dy * d SiLU(x) / dx.
fn silu_gradient(x: f32, dy: f32) -> f32 {
    let s = sigmoid(x);
    return dy * s * (1.0 + x * (1.0 - s));
}

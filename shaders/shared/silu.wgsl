// x sigmoid(x) and its gradient.
//!import sigmoid

fn silu(x: Pack) -> Pack {
    return x * sigmoid(x);
}

// dy * d SiLU(x) / dx.
fn silu_gradient(x: Pack, dy: Pack) -> Pack {
    let s = sigmoid(x);
    return dy * s * (1.0 + x * (1.0 - s));
}

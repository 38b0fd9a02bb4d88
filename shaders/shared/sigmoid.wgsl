// 1 / (1 + exp(-x)), with the exponent clamped to where exp is finite.
fn sigmoid(x: Pack) -> Pack {
    return 1.0 / (1.0 + exp(min(-x, Pack(88.0))));
}

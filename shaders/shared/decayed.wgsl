// exp(x) for an x of at most 0, up to rounding. The result is at least exp(-87), which is not a denormal. NaN stays
// NaN: max, min and clamp may return the other operand for it, and comparisons are false.
fn decayed(x: f32) -> f32 {
    let negative = select(x, 0.0, x > 0.0);
    return exp(select(negative, -87.0, negative < -87.0));
}

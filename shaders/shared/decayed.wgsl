// exp(x) for an x that is 0 at most, but for rounding, and not smaller than exp(-87), which is no denormal. What is no
// number stays so: max, min and clamp may give the other operand for it, and comparisons are false.
fn decayed(x: f32) -> f32 {
    let negative = select(x, 0.0, x > 0.0);
    return exp(select(negative, -87.0, negative < -87.0));
}

// (cos, sin) of an angle from -pi/4 to pi/4 plus a whole number of quarter turns. Drivers guarantee their own
// functions only to 5e-4, and some are no better than 1e-4; these Taylor polynomials are accurate to f32
// everywhere.
fn cos_sin(angle: f32, quarters: f32) -> vec2<f32> {
    let a2 = angle * angle;
    let sin = angle * (1.0 + a2 * (-1.0 / 6.0 + a2 * (1.0 / 120.0 + a2 * (-1.0 / 5040.0 + a2 / 362880.0))));
    let cos = 1.0 + a2 * (-0.5 + a2 * (1.0 / 24.0 + a2 * (-1.0 / 720.0 + a2 * (1.0 / 40320.0 - a2 / 3628800.0))));
    let quarter = bitcast<u32>(i32(quarters));
    let turned = select(vec2<f32>(cos, sin), vec2<f32>(-sin, cos), (quarter & 1u) == 1u);
    return select(turned, -turned, (quarter & 2u) == 2u);
}

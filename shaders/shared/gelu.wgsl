// GELU in its tanh form (Hendrycks & Gimpel 2016): 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
const GELU_SLOPE: f32 = 0.7978845608;
const GELU_CUBIC: f32 = 0.044715;

// The argument is clamped: several drivers return NaN for tanh(100), and tanh(15) is 1 in f32.
fn gelu_tanh(x: Pack) -> Pack {
    return tanh(clamp(GELU_SLOPE * (x + GELU_CUBIC * x * x * x), Pack(-15.0), Pack(15.0)));
}

fn gelu(x: Pack) -> Pack {
    return 0.5 * x * (1.0 + gelu_tanh(x));
}

// d GELU(x) / dx. Beyond 6 the slope of tanh is below 1e-10, and a driver's rounding error in 1 - tanh^2 must not
// be amplified there.
fn gelu_slope(x: Pack) -> Pack {
    let t = gelu_tanh(x);
    let inner = GELU_SLOPE * (1.0 + 3.0 * GELU_CUBIC * x * x);
    let slope = select(0.5 * x * (1.0 - t * t) * inner, Pack(), abs(x) > Pack(6.0));
    return 0.5 * (1.0 + t) + slope;
}

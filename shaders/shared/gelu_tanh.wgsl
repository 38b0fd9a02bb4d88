// The tanh inside GELU. The argument is clamped: several drivers give NaN for tanh(100), and tanh(15) is 1
// in f32.
const GELU_SLOPE: f32 = 0.7978845608;
const GELU_CUBIC: f32 = 0.044715;

fn gelu_tanh(x: f32) -> f32 {
    return tanh(clamp(GELU_SLOPE * (x + GELU_CUBIC * x * x * x), -15.0, 15.0));
}

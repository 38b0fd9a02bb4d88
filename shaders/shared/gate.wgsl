// The function of a gate and its slope, for kernels with the constant ACTIVATION.
//!import gelu
//!import silu

const GATE_GELU: u32 = 0u;
const GATE_SILU: u32 = 1u;

fn gate_value(x: f32) -> f32 {
    if ACTIVATION == GATE_SILU {
        return silu(x);
    }
    return gelu(x);
}

fn gate_slope(x: f32) -> f32 {
    if ACTIVATION == GATE_SILU {
        return silu_slope(x);
    }
    return gelu_slope(x);
}

// The function of a gate and its gradient, for kernels with the constant ACTIVATION.
//!import gelu
//!import silu

const GATE_GELU: u32 = 0u;
const GATE_SILU: u32 = 1u;

fn gate_value(x: Pack) -> Pack {
    if ACTIVATION == GATE_SILU {
        return silu(x);
    }
    return gelu(x);
}

// dy * d act(x) / dx.
fn gate_gradient(x: Pack, dy: Pack) -> Pack {
    if ACTIVATION == GATE_SILU {
        return silu_gradient(x, dy);
    }
    return dy * gelu_slope(x);
}

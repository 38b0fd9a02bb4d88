//! GELU in its three forms, and SiLU.

use super::{ElementsParams, by_element, elements_and_columns};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// `y = f(x)`, element by element; shaders `gelu`, `gelu_erf`, `quick_gelu`, `silu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    Gelu,
    /// `x Phi(x)` with the normal distribution Phi: the exact GELU (Hendrycks & Gimpel 2016).
    GeluErf,
    /// `x sigmoid(1.702 x)`, as in OpenAI's CLIP.
    QuickGelu,
    /// `x sigmoid(x)`.
    Silu,
}

/// `dx = dy f'(x)`; the shaders are named after the functions, with the suffix `_backward`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ActivationBackward(Activation);

impl Activation {
    /// The op that computes its gradient.
    pub(super) fn backward(self) -> ActivationBackward {
        ActivationBackward(self)
    }

    /// Value and slope at `x`.
    pub(super) fn value_and_slope(self, x: f64) -> (f64, f64) {
        match self {
            Self::Gelu => {
                let root = (2.0 / std::f64::consts::PI).sqrt();
                let t = (root * (x + 0.044_715 * x.powi(3))).tanh();
                let inner = root * (1.0 + 3.0 * 0.044_715 * x * x);
                (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
            }
            Self::GeluErf => {
                let cdf = 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
                let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                (x * cdf, cdf + x * density)
            }
            Self::QuickGelu => {
                let s = 1.0 / (1.0 + (-1.702 * x).exp());
                (x * s, s * (1.0 + 1.702 * x * (1.0 - s)))
            }
            Self::Silu => {
                let s = 1.0 / (1.0 + (-x).exp());
                (x * s, s * (1.0 + x * (1.0 - s)))
            }
        }
    }
}

/// One pass over all elements of the output.
fn pass(shader: &'static str, reads: &[Binding], shapes: &Shapes<'_>) -> Dispatch<Binding> {
    let sizes = elements_and_columns(shapes.outputs[0]);
    let writes = [Binding::Output(0)];
    by_element(Kernel::new(shader), [reads, &writes], &ElementsParams::of(sizes[0]), sizes)
}

impl Op for Activation {
    fn name(&self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluErf => "gelu_erf",
            Self::QuickGelu => "quick_gelu",
            Self::Silu => "silu",
        }
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[0].to_vec()]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        inputs: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        _: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        vec![gradients[0].map(|dy| graph.apply(self.backward(), &[inputs[0], dy]))]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        vec![pass(self.name(), &[Binding::Input(0)], shapes)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        vec![inputs[0].iter().map(|x| self.value_and_slope(*x).0).collect()]
    }
}

impl Op for ActivationBackward {
    fn name(&self) -> &'static str {
        match self.0 {
            Activation::Gelu => "gelu_backward",
            Activation::GeluErf => "gelu_erf_backward",
            Activation::QuickGelu => "quick_gelu_backward",
            Activation::Silu => "silu_backward",
        }
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[0].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        vec![pass(self.name(), &[Binding::Input(0), Binding::Input(1)], shapes)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        vec![inputs[0].iter().zip(inputs[1]).map(|(x, dy)| dy * self.0.value_and_slope(*x).1).collect()]
    }
}

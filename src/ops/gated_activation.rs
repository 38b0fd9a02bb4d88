//! The gates of gated feed-forward layers.

use super::{Activation, ElementsParams, by_element, elements_and_columns, word};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// `y = act(gate) · x`, element by element (Shazeer, arXiv 2002.05202). Inputs `gate` and `x`, of the same shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatedActivation {
    /// GEGLU with GELU in its tanh form, as in T5 version 1.1.
    Gelu,
    /// SwiGLU.
    Silu,
}

/// `gate`, `x`, `dy` to `d_gate` and, if it is needed, `d_x`.
#[derive(Clone, Copy, Debug)]
struct GatedActivationBackward {
    gated: GatedActivation,
    with_x: bool,
}

shader_struct! {
    pub(super) struct GatedActivationBackwardParams {
        elements: u32,
        with_x: u32,
    }
}

impl GatedActivation {
    fn activation(self) -> Activation {
        match self {
            Self::Gelu => Activation::Gelu,
            Self::Silu => Activation::Silu,
        }
    }

    /// A kernel with this function; shaders/shared/gate.wgsl has the numbers.
    fn kernel(self, shader: &'static str) -> Kernel {
        let number = match self {
            Self::Gelu => 0,
            Self::Silu => 1,
        };
        Kernel::new(shader).with("ACTIVATION", number)
    }
}

impl Op for GatedActivation {
    fn name(&self) -> &'static str {
        "gated_activation"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(inputs[0], inputs[1], "the gate has a value for each element");
        vec![inputs[0].to_vec()]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        inputs: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        wanted: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        let Some(dy) = gradients[0] else { return vec![None; 2] };
        let [gate, x] = [inputs[0], inputs[1]];
        let [with_gate, with_x] = [0, 1].map(|index| wanted[index] != Wanted::No);
        if !with_gate {
            // y is linear in x.
            return vec![None, with_x.then(|| graph.apply(*self, &[gate, dy]))];
        }
        let found = graph.push(GatedActivationBackward { gated: *self, with_x }, &[gate, x, dy]);
        vec![Some(found[0]), found.get(1).copied()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let sizes = elements_and_columns(shapes.outputs[0]);
        let (reads, writes) = ([Binding::Input(0), Binding::Input(1)], [Binding::Output(0)]);
        let kernel = self.kernel("gated_activation");
        vec![by_element(kernel, [&reads, &writes], &ElementsParams::of(sizes[0]), sizes)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let activation = self.activation();
        vec![inputs[0].iter().zip(inputs[1]).map(|(gate, x)| activation.value_and_slope(*gate).0 * x).collect()]
    }
}

impl Op for GatedActivationBackward {
    fn name(&self) -> &'static str {
        "gated_activation_backward"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[0].to_vec(); 1 + usize::from(self.with_x)]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let sizes = elements_and_columns(shapes.outputs[0]);
        let params = GatedActivationBackwardParams { elements: word(sizes[0]), with_x: self.with_x.into() };
        let d_x = if self.with_x { Binding::Output(1) } else { Binding::Unused };
        let reads = [0, 1, 2].map(Binding::Input);
        let kernel = self.gated.kernel("gated_activation_backward");
        vec![by_element(kernel, [&reads, &[Binding::Output(0), d_x]], &params, sizes)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let activation = self.gated.activation();
        let gradients = |((gate, x), dy): ((&f64, &f64), &f64)| {
            let (value, slope) = activation.value_and_slope(*gate);
            (dy * x * slope, dy * value)
        };
        let (d_gate, d_x) = inputs[0].iter().zip(inputs[1]).zip(inputs[2]).map(gradients).unzip();
        [vec![d_gate], if self.with_x { vec![d_x] } else { Vec::new() }].concat()
    }
}

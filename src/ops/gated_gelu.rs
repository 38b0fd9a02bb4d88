//! The gate of T5's feed-forward layers: forward only.

use super::{Activation, ElementsParams, independent};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, DeviceProfile, Op, Shapes};

/// `y = GELU(gate) · x` with GELU in its tanh form, element by element (GEGLU, Shazeer, arXiv 2002.05202). Inputs
/// `gate` and `x`, of the same shape.
#[derive(Clone, Copy, Debug)]
pub struct GatedGelu;

impl Op for GatedGelu {
    fn name(&self) -> &'static str {
        "gated_gelu"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(inputs[0], inputs[1], "the gate has a value for each element");
        vec![inputs[0].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let elements = shapes.output_elements(0);
        let reads = [Binding::Input(0), Binding::Input(1)];
        let kernel = Kernel::new("gated_gelu");
        vec![independent(kernel, &reads, &[Binding::Output(0)], &ElementsParams::of(elements), elements)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let gelu = Activation::Gelu.reference(shapes, &inputs[..1]);
        vec![gelu[0].iter().zip(inputs[1]).map(|(gate, x)| gate * x).collect()]
    }
}

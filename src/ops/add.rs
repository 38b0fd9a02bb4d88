//! Sums of two tensors of the same shape, and adding to a stored tensor.

use super::{ElementsParams, by_element, elements_and_columns};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// `y = a + b`.
#[derive(Clone, Copy, Debug)]
pub struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(inputs[0], inputs[1], "both terms must have the same shape");
        vec![inputs[0].to_vec()]
    }

    fn vjp(
        &self,
        _: &mut Graph,
        _: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        _: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        vec![gradients[0]; 2]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let sizes = elements_and_columns(shapes.outputs[0]);
        let (reads, writes) = ([Binding::Input(0), Binding::Input(1)], [Binding::Output(0)]);
        vec![by_element(Kernel::new("add"), [&reads, &writes], &ElementsParams::of(sizes[0]), sizes)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        vec![inputs[0].iter().zip(inputs[1]).map(|(a, b)| a + b).collect()]
    }
}

/// `y += x`, for gradients of parameters whose op cannot accumulate on its own.
#[derive(Clone, Copy, Debug)]
pub struct Accumulate;

impl Op for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[0].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let sizes = elements_and_columns(shapes.outputs[0]);
        let (reads, writes) = ([Binding::Input(0)], [Binding::Output(0)]);
        vec![by_element(Kernel::new("accumulate"), [&reads, &writes], &ElementsParams::of(sizes[0]), sizes)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        vec![inputs[0].to_vec()]
    }

    fn accumulates(&self) -> bool {
        true
    }
}

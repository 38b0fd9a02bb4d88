//! Products with a constant.

use super::{by_element, elements_and_columns, word};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// `y = factor · x`.
#[derive(Clone, Copy, Debug)]
pub struct Scale(pub f32);

shader_struct! {
    pub(super) struct ScaleParams {
        elements: u32,
        factor: f32,
    }
}

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[0].to_vec()]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        _: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        _: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        vec![gradients[0].map(|dy| graph.apply(*self, &[dy]))]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let sizes = elements_and_columns(shapes.outputs[0]);
        let params = ScaleParams { elements: word(sizes[0]), factor: self.0 };
        let (reads, writes) = ([Binding::Input(0)], [Binding::Output(0)]);
        vec![by_element(Kernel::new("scale"), [&reads, &writes], &params, sizes)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        vec![inputs[0].iter().map(|x| f64::from(self.0) * x).collect()]
    }
}

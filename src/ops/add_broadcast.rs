//! Adds one tensor to every sample of another: positions.

use super::{SumRows, by_element, word};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// `y = x + term`, with the term (as many elements as a sample of `x`) repeated for every sample.
#[derive(Clone, Copy, Debug)]
pub struct AddBroadcast;

shader_struct! {
    pub(super) struct AddBroadcastParams {
        elements: u32,
        period: u32,
    }
}

impl Op for AddBroadcast {
    fn name(&self) -> &'static str {
        "add_broadcast"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let period: usize = inputs[1].iter().product();
        assert_eq!(inputs[0].iter().product::<usize>() % period, 0, "the term must fit into x a whole number of times");
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
        let columns = graph.elements(inputs[1]);
        let sum = SumRows { outer: 1, columns, accumulate: false };
        vec![Some(dy), sum.of(graph, dy, wanted[1])]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let sizes @ [elements, period] = [shapes.output_elements(0), shapes.input_elements(1)];
        let params = AddBroadcastParams { elements: word(elements), period: word(period) };
        let (reads, writes) = ([Binding::Input(0), Binding::Input(1)], [Binding::Output(0)]);
        vec![by_element(Kernel::new("add_broadcast"), [&reads, &writes], &params, sizes)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        vec![inputs[0].iter().zip(inputs[1].iter().cycle()).map(|(x, term)| x + term).collect()]
    }
}

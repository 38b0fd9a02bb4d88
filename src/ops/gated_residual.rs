//! Residual connections with adaLN gates.

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, Graph, Op, Profile, Shapes, Tensor, Wanted};

/// `y = x + gate · h`: `x`, `h [batch, tokens, columns]`, `gate [batch, columns]`.
#[derive(Clone, Copy, Debug)]
pub struct GatedResidual;

/// `h`, `gate`, `dy` to `dh`, `d_gate`.
#[derive(Clone, Copy, Debug)]
struct GatedResidualBackward;

fn params(x: &[usize]) -> Vec<u32> {
    assert_eq!(x.len(), 3, "[batch, tokens, columns]");
    x.iter().map(|size| word(*size)).collect()
}

impl Op for GatedResidual {
    fn name(&self) -> &'static str {
        "gated_residual"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(inputs[0], inputs[1], "x and h must have the same shape");
        assert_eq!(inputs[2], [inputs[0][0], inputs[0][2]], "the gate needs one value per sample and column");
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
        let Some(dy) = gradients[0] else { return vec![None; 3] };
        let found = graph.push(GatedResidualBackward, &[inputs[1], inputs[2], dy]);
        vec![Some(dy), Some(found[0]), Some(found[1])]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let reads = [Binding::Input(0), Binding::Input(1), Binding::Input(2)];
        let params = params(shapes.inputs[0]);
        let kernel = Kernel::new("gated_residual");
        vec![independent(kernel, &reads, &[Binding::Output(0)], params, shapes.output_elements(0))]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [tokens, columns] = [shapes.inputs[0][1], shapes.inputs[0][2]];
        let y = |(index, (x, h)): (usize, (&f64, &f64))| {
            x + inputs[2][index / (tokens * columns) * columns + index % columns] * h
        };
        vec![inputs[0].iter().zip(inputs[1]).enumerate().map(y).collect()]
    }
}

impl Op for GatedResidualBackward {
    fn name(&self) -> &'static str {
        "gated_residual_backward"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[0].to_vec(), inputs[1].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let params = params(shapes.inputs[0]);
        let [h, gate, dy] = [0, 1, 2].map(Binding::Input);
        let elements = shapes.output_elements(0);
        let of_h = Kernel::new("gated_residual_backward");
        let of_gate = Kernel::new("gated_residual_backward_gate");
        vec![
            independent(of_h, &[gate, dy], &[Binding::Output(0)], params.clone(), elements),
            independent(of_gate, &[h, dy], &[Binding::Output(1)], params, shapes.output_elements(1)),
        ]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [tokens, columns] = [shapes.inputs[0][1], shapes.inputs[0][2]];
        let [h, gate, dy] = [inputs[0], inputs[1], inputs[2]];
        let mut dh = Vec::with_capacity(h.len());
        let mut d_gate = vec![0.0; gate.len()];
        for (index, (h, dy)) in h.iter().zip(dy).enumerate() {
            let at = index / (tokens * columns) * columns + index % columns;
            dh.push(gate[at] * dy);
            d_gate[at] += h * dy;
        }
        vec![dh, d_gate]
    }
}

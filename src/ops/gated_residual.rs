//! Residual connections with adaLN gates.

use super::sum_rows::RowSums;
use super::{by_element, elements_and_columns, word};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// `y = x + gate · h`: `x`, `h [batch, tokens, columns]`, `gate [batch, columns]`.
#[derive(Clone, Copy, Debug)]
pub struct GatedResidual;

/// `gate`, `dy` to `dh`.
#[derive(Clone, Copy, Debug)]
struct GatedResidualBackward;

/// `h`, `dy` to `d_gate` and, as scratch, partial sums over tokens.
#[derive(Clone, Copy, Debug)]
struct GatedResidualBackwardGate;

shader_struct! {
    pub(super) struct GatedResidualParams {
        batch: u32,
        tokens: u32,
        columns: u32,
    }
}

fn params(x: &[usize]) -> GatedResidualParams {
    let [batch, tokens, columns] = *x else { panic!("[batch, tokens, columns], not {x:?}") };
    GatedResidualParams { batch: word(batch), tokens: word(tokens), columns: word(columns) }
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
        wanted: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        let Some(dy) = gradients[0] else { return vec![None; 3] };
        let [h, gate] = [inputs[1], inputs[2]];
        let dh = (wanted[1] != Wanted::No).then(|| graph.apply(GatedResidualBackward, &[gate, dy]));
        let d_gate = (wanted[2] != Wanted::No).then(|| graph.push(GatedResidualBackwardGate, &[h, dy])[0]);
        vec![Some(dy), dh, d_gate]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (reads, writes) = ([0, 1, 2].map(Binding::Input), [Binding::Output(0)]);
        let (params, sizes) = (params(shapes.inputs[0]), elements_and_columns(shapes.outputs[0]));
        vec![by_element(Kernel::new("gated_residual"), [&reads, &writes], &params, sizes)]
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
        vec![inputs[1].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (reads, writes) = ([0, 1].map(Binding::Input), [Binding::Output(0)]);
        let (params, sizes) = (params(shapes.inputs[1]), elements_and_columns(shapes.outputs[0]));
        vec![by_element(Kernel::new("gated_residual_backward"), [&reads, &writes], &params, sizes)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [tokens, columns] = [shapes.inputs[1][1], shapes.inputs[1][2]];
        let gate = |index: usize| inputs[0][index / (tokens * columns) * columns + index % columns];
        vec![inputs[1].iter().enumerate().map(|(index, dy)| gate(index) * dy).collect()]
    }
}

/// The sums of `[batch, tokens, columns]` over tokens.
fn over_tokens(shape: &[usize]) -> RowSums {
    let [outer, rows, columns] = *shape else { panic!("[batch, tokens, columns], not {shape:?}") };
    RowSums { outer, rows, columns }
}

impl Op for GatedResidualBackwardGate {
    fn name(&self) -> &'static str {
        "gated_residual_backward_gate"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        over_tokens(inputs[0]).shapes().to_vec()
    }

    fn dispatches(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let sums = over_tokens(shapes.inputs[0]);
        let [h, dy] = [0, 1].map(Binding::Input);
        let [d_gate, partial] = [0, 1].map(Binding::Output);
        let names = ["gated_residual_backward_gate", "gated_residual_backward_gate_vec4"];
        let first = sums.first_pass(names, profile, &[h, dy], &[sums.first_target(d_gate, partial)], &sums.params());
        [first].into_iter().chain(sums.second_pass(partial, d_gate, false)).collect()
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        over_tokens(shapes.inputs[0]).reference(|index| inputs[0][index] * inputs[1][index]).to_vec()
    }
}

//! Splitting and joining along the last dimension: in one dispatch for six parts, the number in adaLN, and otherwise
//! in one dispatch per part.

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, Graph, Op, Profile, Shapes, Tensor, Wanted};

/// `x [rows, parts · columns]` to `parts` tensors `[rows, columns]`.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// Number of parts.
    pub parts: usize,
}

/// Tensors `[rows, columns]` of the same shape to one `[rows, parts · columns]`.
#[derive(Clone, Copy, Debug)]
pub struct Join;

/// One dispatch between a tensor `[rows, 6 · columns]` and its six parts; WebGPU guarantees only eight bindings.
fn all_six(shader: &'static str, reads: &[Binding], writes: &[Binding], part: &[usize]) -> Dispatch<Binding> {
    let [rows, columns] = [part[0], part[1]];
    independent(Kernel::new(shader), reads, writes, [rows, columns].map(word).to_vec(), rows * columns)
}

/// Copies one part between a tensor of `parts · columns` columns and one of `columns`.
fn copy_part(
    from: Binding,
    to: Binding,
    rows: usize,
    columns: usize,
    [from_stride, from_offset]: [usize; 2],
    [to_stride, to_offset]: [usize; 2],
) -> Dispatch<Binding> {
    let params = [rows, columns, from_stride, from_offset, to_stride, to_offset].map(word).to_vec();
    independent(Kernel::new("copy_columns"), &[from], &[to], params, rows * columns)
}

impl Op for Split {
    fn name(&self) -> &'static str {
        "split"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let [rows, columns] = inputs[0] else { panic!("split takes a matrix, not {:?}", inputs[0]) };
        assert_eq!(columns % self.parts, 0, "parts must have the same size");
        vec![vec![*rows, columns / self.parts]; self.parts]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        _: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        _: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        let parts: Option<Vec<Tensor>> = gradients.iter().copied().collect();
        let parts = parts.expect("every part of a split must be used");
        vec![Some(graph.apply(Join, &parts))]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        if self.parts == 6 {
            let parts: Vec<Binding> = (0..6).map(Binding::Output).collect();
            return vec![all_six("split_six", &[Binding::Input(0)], &parts, shapes.outputs[0])];
        }
        let [rows, stride] = [shapes.inputs[0][0], shapes.inputs[0][1]];
        let columns = stride / self.parts;
        (0..self.parts)
            .map(|part| {
                let from = [stride, part * columns];
                copy_part(Binding::Input(0), Binding::Output(part), rows, columns, from, [columns, 0])
            })
            .collect()
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let columns = shapes.outputs[0][1];
        let part = |part: usize| -> Vec<f64> {
            inputs[0].chunks(columns).skip(part).step_by(self.parts).flatten().copied().collect()
        };
        (0..self.parts).map(part).collect()
    }
}

impl Op for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert!(inputs.iter().all(|shape| *shape == inputs[0]), "parts must have the same shape");
        vec![vec![inputs[0][0], inputs[0][1] * inputs.len()]]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        inputs: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        _: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        match gradients[0] {
            Some(dy) => graph.push(Split { parts: inputs.len() }, &[dy]).into_iter().map(Some).collect(),
            None => vec![None; inputs.len()],
        }
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let [rows, columns] = [shapes.inputs[0][0], shapes.inputs[0][1]];
        if shapes.inputs.len() == 6 {
            let parts: Vec<Binding> = (0..6).map(Binding::Input).collect();
            return vec![all_six("join_six", &parts, &[Binding::Output(0)], shapes.inputs[0])];
        }
        let stride = columns * shapes.inputs.len();
        (0..shapes.inputs.len())
            .map(|part| {
                let to = [stride, part * columns];
                copy_part(Binding::Input(part), Binding::Output(0), rows, columns, [columns, 0], to)
            })
            .collect()
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [rows, columns] = [shapes.inputs[0][0], shapes.inputs[0][1]];
        let row = |row: usize| inputs.iter().flat_map(move |part| &part[row * columns..(row + 1) * columns]);
        vec![(0..rows).flat_map(row).copied().collect()]
    }
}

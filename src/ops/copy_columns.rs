//! Splitting and joining along the last dimension: in one dispatch for six parts, the number in adaLN, and otherwise
//! in one dispatch per part.

use super::{RowsColumnsParams, independent, word};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// `x [rows, parts · columns]` to `parts` tensors `[rows, columns]`.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// Number of parts.
    pub parts: usize,
}

/// Tensors `[rows, columns]` of the same shape to one `[rows, parts · columns]`.
#[derive(Clone, Copy, Debug)]
pub struct Join;

/// One of the parts of a [`Split`] alone, for gradients of a [`Join`] that are not all needed.
#[derive(Clone, Copy, Debug)]
struct Part {
    index: usize,
    parts: usize,
}

shader_struct! {
    pub(super) struct CopyColumnsParams {
        rows: u32,
        columns: u32,
        from_stride: u32,
        from_offset: u32,
        to_stride: u32,
        to_offset: u32,
    }
}

/// A dispatch between a tensor `[rows, 6 · columns]` and its six parts; WebGPU binds no more than eight at once.
fn all_six(shader: &'static str, reads: &[Binding], writes: &[Binding], part: &[usize]) -> Dispatch<Binding> {
    let [rows, columns] = [part[0], part[1]];
    independent(Kernel::new(shader), reads, writes, &RowsColumnsParams::of(rows, columns), rows * columns)
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
    let params = CopyColumnsParams {
        rows: word(rows),
        columns: word(columns),
        from_stride: word(from_stride),
        from_offset: word(from_offset),
        to_stride: word(to_stride),
        to_offset: word(to_offset),
    };
    independent(Kernel::new("copy_columns"), &[from], &[to], &params, rows * columns)
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

    /// Parts that nothing depends on have a gradient of zeros: one constant for all of them, and no dispatch.
    fn vjp(
        &self,
        graph: &mut Graph,
        _: &[Tensor],
        outputs: &[Tensor],
        gradients: &[Option<Tensor>],
        _: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        let mut zeros = None;
        let parts: Vec<Tensor> = gradients
            .iter()
            .map(|gradient| {
                gradient.unwrap_or_else(|| {
                    *zeros.get_or_insert_with(|| {
                        let shape = graph.shape(outputs[0]).to_vec();
                        graph.constant("gradient of an unused part", &shape, vec![0.0; shape.iter().product()])
                    })
                })
            })
            .collect();
        vec![Some(graph.apply(Join, &parts))]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
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
        wanted: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        let Some(dy) = gradients[0] else { return vec![None; inputs.len()] };
        let parts = inputs.len();
        if wanted.iter().all(|want| *want != Wanted::No) {
            return graph.push(Split { parts }, &[dy]).into_iter().map(Some).collect();
        }
        let part = |(index, want): (usize, &Wanted)| match want {
            Wanted::No => None,
            Wanted::Fresh | Wanted::Into(_) => Some(graph.apply(Part { index, parts }, &[dy])),
        };
        wanted.iter().enumerate().map(part).collect()
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
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

impl Op for Part {
    fn name(&self) -> &'static str {
        "part"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![Split { parts: self.parts }.output_shapes(inputs).remove(self.index)]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let ([rows, stride], columns) = ([shapes.inputs[0][0], shapes.inputs[0][1]], shapes.outputs[0][1]);
        let from = [stride, self.index * columns];
        vec![copy_part(Binding::Input(0), Binding::Output(0), rows, columns, from, [columns, 0])]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        vec![Split { parts: self.parts }.reference(shapes, inputs).remove(self.index)]
    }
}

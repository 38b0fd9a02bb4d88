//! Table lookup: classes and tokens to vectors.

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DType, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// `table [entries, ..]`, `indices [rows]` (u32) to `[rows, ..]`. An index past the end of the table reads the last
/// entry.
#[derive(Clone, Copy, Debug)]
pub struct Embedding;

/// `indices`, `dy` to the gradient of the table.
#[derive(Clone, Copy, Debug)]
struct EmbeddingBackward {
    entries: usize,
    accumulate: bool,
}

shader_struct! {
    pub(super) struct EmbeddingParams {
        elements: u32,
        columns: u32,
        entries: u32,
    }
}

shader_struct! {
    pub(super) struct EmbeddingBackwardParams {
        entries: u32,
        columns: u32,
        rows: u32,
        accumulate: u32,
    }
}

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn input_type(&self, index: usize) -> DType {
        if index == 1 { DType::U32 } else { DType::F32 }
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![[&inputs[1][..1], &inputs[0][1..]].concat()]
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
        let entries = graph.shape(inputs[0])[0];
        let d_table = match wanted[0] {
            Wanted::No => None,
            Wanted::Fresh => Some(graph.apply(EmbeddingBackward { entries, accumulate: false }, &[inputs[1], dy])),
            Wanted::Into(target) => {
                graph.push_into(EmbeddingBackward { entries, accumulate: true }, &[inputs[1], dy], &[target]);
                None
            }
        };
        vec![d_table, None]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let elements = shapes.output_elements(0);
        let columns = elements / shapes.inputs[1][0];
        let params =
            EmbeddingParams { elements: word(elements), columns: word(columns), entries: word(shapes.inputs[0][0]) };
        let reads = [Binding::Input(0), Binding::Input(1)];
        vec![independent(Kernel::new("embedding"), &reads, &[Binding::Output(0)], &params, elements)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let columns = shapes.output_elements(0) / shapes.inputs[1][0];
        let row = |index: &f64| {
            let start = (*index as usize).min(shapes.inputs[0][0] - 1) * columns;
            inputs[0][start..start + columns].to_vec()
        };
        vec![inputs[1].iter().flat_map(row).collect()]
    }
}

impl Op for EmbeddingBackward {
    fn name(&self) -> &'static str {
        "embedding_backward"
    }

    fn input_type(&self, index: usize) -> DType {
        if index == 0 { DType::U32 } else { DType::F32 }
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![[&[self.entries], &inputs[1][1..]].concat()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let rows = shapes.inputs[1][0];
        let columns = shapes.input_elements(1) / rows;
        let params = EmbeddingBackwardParams {
            entries: word(self.entries),
            columns: word(columns),
            rows: word(rows),
            accumulate: self.accumulate.into(),
        };
        let reads = [Binding::Input(0), Binding::Input(1)];
        let kernel = Kernel::new("embedding_backward");
        vec![independent(kernel, &reads, &[Binding::Output(0)], &params, self.entries * columns)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let columns = shapes.input_elements(1) / shapes.inputs[1][0];
        let mut d_table = vec![0.0; self.entries * columns];
        for (index, row) in inputs[0].iter().zip(inputs[1].chunks(columns)) {
            for (sum, dy) in d_table[*index as usize * columns..].iter_mut().zip(row) {
                *sum += dy;
            }
        }
        vec![d_table]
    }

    fn accumulates(&self) -> bool {
        self.accumulate
    }
}

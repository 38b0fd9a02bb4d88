//! Sums over rows: gradients of biases, positions and anything else that was broadcast.

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, Graph, Op, Profile, Shapes, Tensor, Wanted};

/// Rows that one invocation of the first pass sums.
const CHUNK: usize = 64;

/// Sums `x`, viewed as `[outer, rows, columns]`, over its rows to `[outer, columns]` in two passes: first within
/// chunks of rows, then over chunks, so that tall and narrow inputs still fill the device.
///
/// Outputs: the sum, and the partial sums (scratch).
#[derive(Clone, Copy, Debug)]
pub struct SumRows {
    /// Number of independent sums.
    pub outer: usize,
    /// Number of columns.
    pub columns: usize,
    /// Add to the output, which is a stored tensor.
    pub accumulate: bool,
}

/// A single pass that sums all `rows` of `x [rows, columns]` to `y [columns]`.
pub(super) fn add_up(x: Binding, y: Binding, rows: usize, columns: usize) -> Dispatch<Binding> {
    let params = [1, rows, columns, rows, 1, 1].map(word).to_vec();
    independent(Kernel::new("sum_rows"), &[x], &[y], params, columns)
}

impl SumRows {
    /// Records the sum of `x` as the requested gradient.
    pub fn of(self, graph: &mut Graph, x: Tensor, wanted: Wanted) -> Option<Tensor> {
        match wanted {
            Wanted::No => None,
            Wanted::Fresh => Some(graph.push(self, &[x])[0]),
            Wanted::Into(target) => {
                let scratch = graph.scratch(&[self.outer, self.chunks(graph.elements(x)), self.columns]);
                graph.push_into(Self { accumulate: true, ..self }, &[x], &[target, scratch]);
                None
            }
        }
    }

    fn rows(&self, elements: usize) -> usize {
        assert_eq!(elements % (self.outer * self.columns), 0, "x must have a whole number of rows");
        elements / (self.outer * self.columns)
    }

    fn chunks(&self, elements: usize) -> usize {
        self.rows(elements).div_ceil(CHUNK)
    }
}

impl Op for SumRows {
    fn name(&self) -> &'static str {
        "sum_rows"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let chunks = self.chunks(inputs[0].iter().product());
        vec![vec![self.outer, self.columns], vec![self.outer, chunks, self.columns]]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let rows = self.rows(shapes.input_elements(0));
        let chunks = self.chunks(shapes.input_elements(0));
        let pass = |from, to, rows: usize, chunk: usize, accumulate: bool| {
            let chunks = rows.div_ceil(chunk);
            let mut params: Vec<u32> = [self.outer, rows, self.columns, chunk, chunks].map(word).to_vec();
            params.push(u32::from(accumulate));
            independent(Kernel::new("sum_rows"), &[from], &[to], params, self.outer * chunks * self.columns)
        };
        let [input, sum, partial] = [Binding::Input(0), Binding::Output(0), Binding::Output(1)];
        if chunks == 1 {
            return vec![pass(input, sum, rows, rows, self.accumulate)];
        }
        vec![pass(input, partial, rows, CHUNK, false), pass(partial, sum, chunks, chunks, self.accumulate)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let rows = self.rows(inputs[0].len());
        let mut sums = vec![0.0; self.outer * self.columns];
        let mut partial = vec![0.0; shapes.output_elements(1)];
        let chunks = rows.div_ceil(CHUNK);
        for (index, value) in inputs[0].iter().enumerate() {
            let (outer, row, column) = (index / self.columns / rows, index / self.columns % rows, index % self.columns);
            sums[outer * self.columns + column] += value;
            partial[(outer * chunks + row / CHUNK) * self.columns + column] += value;
        }
        vec![sums, partial]
    }

    fn accumulates(&self) -> bool {
        self.accumulate
    }
}

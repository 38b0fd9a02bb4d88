//! The squared norm of a long tensor, and whether all its elements are finite.

use super::{word, workgroup_a_row};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, Graph, Op, Profile, Shapes, Tensor};

/// Elements that one workgroup of the first pass sums.
const CHUNK: usize = 4096;

/// Any tensor to
/// 0. `[2]`: the sum of the squares of the finite elements, and the number of the others (an f32, exact up
///    to 2²⁴ and never 0 if there are any),
/// 1. partial sums (scratch).
///
/// The sum may overflow even if every element is finite, so callers must check that it is finite. The results
/// of several tensors may be added.
#[derive(Clone, Copy, Debug)]
pub struct SumSquares;

/// Records the sum of squares of `x` and the number of its non-finite elements, `[2]`.
pub fn sum_squares(graph: &mut Graph, x: Tensor) -> Tensor {
    graph.push(SumSquares, &[x])[0]
}

impl Op for SumSquares {
    fn name(&self) -> &'static str {
        "sum_squares"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let elements: usize = inputs[0].iter().product();
        vec![vec![2], vec![elements.div_ceil(CHUNK), 2]]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let elements = shapes.input_elements(0);
        let chunks = elements.div_ceil(CHUNK);
        let [input, sums, partial] = [Binding::Input(0), Binding::Output(0), Binding::Output(1)];
        let kernel = Kernel::new("sum_squares").with("CHUNK", word(CHUNK));
        let finish = Kernel::new("sum_squares_finish");
        vec![
            workgroup_a_row(kernel, &[input], &[partial], [elements, chunks].map(word).to_vec(), chunks),
            workgroup_a_row(finish, &[partial], &[sums], vec![word(chunks)], 1),
        ]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let sums = |elements: &[f64]| -> [f64; 2] {
            let finite = elements.iter().filter(|value| value.is_finite());
            let non_finite = elements.len() - finite.clone().count();
            [finite.map(|value| value * value).sum(), non_finite as f64]
        };
        vec![sums(inputs[0]).to_vec(), inputs[0].chunks(CHUNK).flat_map(sums).collect()]
    }
}

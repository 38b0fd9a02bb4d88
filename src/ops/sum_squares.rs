//! The squared norm of long tensors, and whether all of it is finite.

use std::ops::Range;

use super::{sum_pairs, word, workgroup_a_row};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DType, DeviceProfile, Graph, Op, Shapes, Tensor};

/// Elements that one workgroup of the first pass adds up.
const BLOCK: usize = 4096;

/// A tensor to sum, and the ranges of it that are split into blocks, such as its parameters. How a store is split into
/// tensors then does not change a bit of the sum.
#[derive(Clone, Debug)]
pub struct Summed {
    /// Any tensor.
    pub tensor: Tensor,
    /// Disjoint ranges of its elements; the elements between them are ignored.
    pub ranges: Vec<Range<usize>>,
}

/// Records the sum of the squares of all finite elements of `parts` and the number of the others, `[2]` (an f32, exact
/// up to 2²⁴ and never 0 if there are any).
///
/// The sum may overflow although every element is finite: callers must check whether it is finite.
pub fn sum_squares_of(graph: &mut Graph, parts: &[Summed]) -> Tensor {
    let blocks: Vec<Vec<Range<usize>>> = parts.iter().map(|part| blocks(&part.ranges)).collect();
    let count = blocks.iter().map(Vec::len).sum::<usize>();
    // Each part writes its range of these sums, so they outlive a node: an input that the host never writes.
    let partial = graph.constant("partial sums of squares", &[count, 2], vec![0.0; 2 * count]);
    let mut first = 0;
    for (part, blocks) in parts.iter().zip(blocks) {
        let bounds = blocks.iter().flat_map(|block| [word(block.start), word(block.end)]).collect();
        let bounds = graph.constant_indices("blocks of squares", &[blocks.len(), 2], bounds);
        graph.push_into(SumSquares { first }, &[part.tensor, bounds, partial], &[partial]);
        first += blocks.len();
    }
    graph.apply(SumPairs, &[partial])
}

/// Records the sum of squares of `x` and its count of elements that are not finite, `[2]`: [`sum_squares_of`] one tensor.
pub fn sum_squares(graph: &mut Graph, x: Tensor) -> Tensor {
    let all = 0..graph.elements(x);
    sum_squares_of(graph, &[Summed { tensor: x, ranges: vec![all] }])
}

/// Each range in blocks, the last of which may be shorter.
fn blocks(ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    let of = |range: &Range<usize>| {
        let end = range.end;
        range.clone().step_by(BLOCK).map(move |start| start..end.min(start + BLOCK))
    };
    ranges.iter().flat_map(of).collect()
}

fn sums(elements: &[f64]) -> [f64; 2] {
    let finite = elements.iter().filter(|value| value.is_finite());
    let not_finite = elements.len() - finite.clone().count();
    [finite.map(|value| value * value).sum(), not_finite as f64]
}

/// The first pass: any tensor, the bounds of blocks in it `[blocks, 2]`, and the pairs of all blocks `[all blocks, 2]`
/// to the latter, of which it writes those from `first` on.
#[derive(Clone, Copy, Debug)]
pub struct SumSquares {
    first: usize,
}

shader_struct! {
    pub(super) struct SumSquaresParams {
        blocks: u32,
        first: u32,
    }
}

impl Op for SumSquares {
    fn name(&self) -> &'static str {
        "sum_squares"
    }

    fn input_type(&self, index: usize) -> DType {
        if index == 1 { DType::U32 } else { DType::F32 }
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[2].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let blocks = shapes.inputs[1][0];
        let reads = [Binding::Input(0), Binding::Input(1)];
        let params = SumSquaresParams { blocks: word(blocks), first: word(self.first) };
        vec![workgroup_a_row(Kernel::new("sum_squares"), &reads, &[Binding::Output(0)], &params, blocks)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let mut partial = inputs[2].to_vec();
        for (block, bounds) in inputs[1].chunks(2).enumerate() {
            let pair = sums(&inputs[0][bounds[0] as usize..bounds[1] as usize]);
            partial[2 * (self.first + block)..][..2].copy_from_slice(&pair);
        }
        vec![partial]
    }
}

/// The second pass: pairs `[blocks, 2]` to their sum `[2]`.
#[derive(Clone, Copy, Debug)]
pub struct SumPairs;

impl Op for SumPairs {
    fn name(&self) -> &'static str {
        "sum_pairs"
    }

    fn output_shapes(&self, _: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![vec![2]]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        vec![sum_pairs(Binding::Input(0), Binding::Output(0), 1, shapes.inputs[0][0])]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let add = |total: [f64; 2], pair: &[f64]| [total[0] + pair[0], total[1] + pair[1]];
        vec![inputs[0].chunks(2).fold([0.0; 2], add).to_vec()]
    }
}

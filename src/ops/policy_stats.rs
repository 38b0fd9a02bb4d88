//! The two sums that the policy objectives depend on.

use super::{ElementsColumnsParams, independent, rows_and_columns, sum_pairs, takes_vectors, word, workgroup_a_row};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// Elements of a row that one workgroup adds up.
const CHUNK: usize = 4096;

/// `v_new`, `v_old` and `ε`, all `[R, ..]`, to
/// 0. `[R, 2]` of S1 = Σ ε·Δ and S2 = Σ Δ² with Δ = v_new − v_old (see [`crate::flow::objective`]),
/// 1. the same of each chunk of a row, `[R, chunks, 2]` (scratch).
///
/// Only `v_new` has a gradient: `v_old` and `ε` belong to the rollout.
#[derive(Clone, Copy, Debug)]
pub struct PolicyStats;

/// Records the two sums of each row, `[R, 2]`.
pub fn policy_stats(graph: &mut Graph, v_new: Tensor, v_old: Tensor, epsilon: Tensor) -> Tensor {
    graph.push(PolicyStats, &[v_new, v_old, epsilon])[0]
}

fn assert_one_shape(inputs: &[&[usize]]) {
    assert!(inputs[1] == inputs[0] && inputs[2] == inputs[0], "velocities and noise must have the same shape");
}

shader_struct! {
    pub(super) struct PolicyStatsParams {
        rows: u32,
        columns: u32,
        chunk: u32,
        chunks: u32,
    }
}

impl Op for PolicyStats {
    fn name(&self) -> &'static str {
        "policy_stats"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_one_shape(inputs);
        let (rows, columns) = rows_and_columns(inputs[0]);
        vec![vec![rows, 2], vec![rows, columns.div_ceil(CHUNK), 2]]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        inputs: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        wanted: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        let d_stats = gradients[0].filter(|_| wanted[0] != Wanted::No);
        let d_v_new = d_stats.map(|d_stats| {
            let [v_new, v_old, epsilon] = [inputs[0], inputs[1], inputs[2]];
            graph.apply(PolicyStatsBackward, &[v_new, v_old, epsilon, d_stats])
        });
        vec![d_v_new, None, None]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (rows, columns) = rows_and_columns(shapes.inputs[0]);
        let (chunk, chunks) = (columns.min(CHUNK), columns.div_ceil(CHUNK));
        let params =
            PolicyStatsParams { rows: word(rows), columns: word(columns), chunk: word(chunk), chunks: word(chunks) };
        let reads = [0, 1, 2].map(Binding::Input);
        let [stats, partial] = [0, 1].map(Binding::Output);
        let kernel = Kernel::new(if takes_vectors(columns, profile) { "policy_stats_vec4" } else { "policy_stats" });
        if chunks == 1 {
            return vec![workgroup_a_row(kernel, &reads, &[stats], &params, rows)];
        }
        vec![
            workgroup_a_row(kernel, &reads, &[partial], &params, rows * chunks),
            sum_pairs(partial, stats, rows, chunks),
        ]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (_, columns) = rows_and_columns(shapes.inputs[0]);
        let delta = |index: usize| inputs[0][index] - inputs[1][index];
        let indices: Vec<usize> = (0..inputs[0].len()).collect();
        let sums = |indices: &[usize]| -> [f64; 2] {
            let s1 = indices.iter().map(|index| inputs[2][*index] * delta(*index)).sum();
            [s1, indices.iter().map(|index| delta(*index).powi(2)).sum()]
        };
        let rows = indices.chunks(columns);
        vec![rows.clone().flat_map(sums).collect(), rows.flat_map(|row| row.chunks(CHUNK)).flat_map(sums).collect()]
    }
}

/// `v_new`, `v_old`, `ε` and the gradient `[R, 2]` of the sums to the gradient of `v_new`: dS1·ε + 2·dS2·Δ.
#[derive(Clone, Copy, Debug)]
struct PolicyStatsBackward;

impl Op for PolicyStatsBackward {
    fn name(&self) -> &'static str {
        "policy_stats_backward"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_one_shape(inputs);
        vec![inputs[0].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (rows, columns) = rows_and_columns(shapes.inputs[0]);
        let elements = rows * columns;
        let params = ElementsColumnsParams::of(elements, columns);
        let reads = [0, 1, 2, 3].map(Binding::Input);
        vec![independent(Kernel::new("policy_stats_backward"), &reads, &[Binding::Output(0)], &params, elements)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (_, columns) = rows_and_columns(shapes.inputs[0]);
        let gradient = |index: usize| {
            let d_sums = &inputs[3][index / columns * 2..];
            d_sums[0] * inputs[2][index] + 2.0 * d_sums[1] * (inputs[0][index] - inputs[1][index])
        };
        vec![(0..inputs[0].len()).map(gradient).collect()]
    }
}

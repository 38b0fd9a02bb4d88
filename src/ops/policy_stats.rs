//! The two sums that the policy objectives depend on.

use super::{independent, rows_and_columns, word, workgroup_a_row};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, Graph, Op, Profile, Shapes, Tensor, Wanted};

/// `v_new`, `v_old` and `ε`, all `[R, ..]`, to S1 = Σ ε·Δ and S2 = Σ Δ² with Δ = v_new − v_old, `[R, 2]`
/// (see [`crate::flow::objective`]).
///
/// Only `v_new` has a gradient: `v_old` and `ε` belong to the rollout.
#[derive(Clone, Copy, Debug)]
pub struct PolicyStats;

fn assert_one_shape(inputs: &[&[usize]]) {
    assert!(inputs[1] == inputs[0] && inputs[2] == inputs[0], "velocities and noise must have the same shape");
}

impl Op for PolicyStats {
    fn name(&self) -> &'static str {
        "policy_stats"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_one_shape(inputs);
        vec![vec![inputs[0][0], 2]]
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

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let (rows, columns) = rows_and_columns(shapes.inputs[0]);
        let params = [rows, columns].map(word).to_vec();
        let reads = [0, 1, 2].map(Binding::Input);
        vec![workgroup_a_row(Kernel::new("policy_stats"), &reads, &[Binding::Output(0)], params, rows)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (rows, columns) = rows_and_columns(shapes.inputs[0]);
        let sums = |row: usize| {
            let range = row * columns..(row + 1) * columns;
            let delta = |index: usize| inputs[0][index] - inputs[1][index];
            let s1: f64 = range.clone().map(|index| inputs[2][index] * delta(index)).sum();
            [s1, range.map(|index| delta(index).powi(2)).sum()]
        };
        vec![(0..rows).flat_map(sums).collect()]
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

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let (rows, columns) = rows_and_columns(shapes.inputs[0]);
        let elements = rows * columns;
        let params = [elements, columns].map(word).to_vec();
        let reads = [0, 1, 2, 3].map(Binding::Input);
        vec![independent(Kernel::new("policy_stats_backward"), &reads, &[Binding::Output(0)], params, elements)]
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

//! DiffusionNFT's loss on the device: a thin wrapper around [`crate::flow::nft`].

use super::policy_objective::OUTCOME;
use super::{independent, rows_and_columns, word, workgroup_a_row};
use crate::flow::nft::{Sums, evaluate, mixed};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// The loss of every sample at one time.
///
/// Inputs:
/// 0. `v_new [R, ..]`, the only input with a gradient,
/// 1. `v_old` of the same shape,
/// 2. `u = ε − x_data` of the same shape,
/// 3. advantages `[R]`,
/// 4. rows `[R, 3]` of (1 − σ, 0, σ), which mix noise into the sample: σ is the time,
/// 5. settings `[2]`: β and the advantages' clip.
///
/// Outputs:
/// 0. losses `[R]`, the only output with a gradient,
/// 1. outcomes `[R, 8]`, for inspection: loss, 0, r, mean (v_new − v_old)², 1, p, q, 0, in the order of the
///    comparable values of [`super::PolicyObjective`].
#[derive(Clone, Copy, Debug)]
pub struct NftLoss;

fn assert_shapes(inputs: &[&[usize]]) {
    assert!(inputs[1] == inputs[0] && inputs[2] == inputs[0], "velocities and target must have the same shape");
}

impl Op for NftLoss {
    fn name(&self) -> &'static str {
        "nft_loss"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_shapes(inputs);
        let rows = inputs[0][0];
        assert_eq!(*inputs[3], [rows], "each row needs an advantage");
        assert_eq!(*inputs[4], [rows, 3], "each row needs a transition (a, b, s)");
        assert_eq!(*inputs[5], [2], "there must be two settings");
        vec![vec![rows], vec![rows, OUTCOME]]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        inputs: &[Tensor],
        outputs: &[Tensor],
        gradients: &[Option<Tensor>],
        wanted: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        assert!(gradients[1].is_none(), "only the losses have a gradient");
        let mut found = vec![None; inputs.len()];
        if let (Some(d_loss), true) = (gradients[0], wanted[0] != Wanted::No) {
            let [v_new, v_old, u, settings] = [inputs[0], inputs[1], inputs[2], inputs[5]];
            found[0] = Some(graph.apply(NftLossBackward, &[v_new, v_old, u, outputs[1], settings, d_loss]));
        }
        found
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (rows, columns) = rows_and_columns(shapes.inputs[0]);
        let params = [rows, columns].map(word).to_vec();
        let reads = [0, 1, 2, 3, 4, 5].map(Binding::Input);
        let writes = [0, 1].map(Binding::Output);
        vec![workgroup_a_row(Kernel::new("nft_loss"), &reads, &writes, params, rows)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (rows, dim) = rows_and_columns(shapes.inputs[0]);
        let [v_new, v_old, u] = [inputs[0], inputs[1], inputs[2]];
        let [beta, clip] = [inputs[5][0], inputs[5][1]];
        let outcomes: Vec<[f64; OUTCOME]> = (0..rows)
            .map(|row| {
                let (mut sums, mut moved) = (Sums::default(), 0.0);
                for i in row * dim..(row + 1) * dim {
                    for (side, v) in mixed(v_new[i], v_old[i], beta).iter().enumerate() {
                        sums.absolute[side] += (u[i] - v).abs();
                        sums.squared[side] += (u[i] - v).powi(2);
                    }
                    moved += (v_new[i] - v_old[i]).powi(2);
                }
                let outcome = evaluate(sums, dim, inputs[4][row * 3 + 2], inputs[3][row], beta, clip);
                [
                    outcome.loss,
                    0.0,
                    outcome.share,
                    moved / dim as f64,
                    1.0,
                    outcome.pull_positive,
                    outcome.pull_negative,
                    0.0,
                ]
            })
            .collect();
        vec![outcomes.iter().map(|outcome| outcome[0]).collect(), outcomes.concat()]
    }
}

/// `v_new`, `v_old`, `u`, outcomes `[R, 8]`, settings `[2]` and the gradient `[R]` of the losses to the gradient
/// of `v_new`.
#[derive(Clone, Copy, Debug)]
struct NftLossBackward;

impl Op for NftLossBackward {
    fn name(&self) -> &'static str {
        "nft_loss_backward"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_shapes(inputs);
        vec![inputs[0].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (rows, columns) = rows_and_columns(shapes.inputs[0]);
        let elements = rows * columns;
        let params = [elements, columns].map(word).to_vec();
        let reads = [0, 1, 2, 3, 4, 5].map(Binding::Input);
        vec![independent(Kernel::new("nft_loss_backward"), &reads, &[Binding::Output(0)], params, elements)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (_, columns) = rows_and_columns(shapes.inputs[0]);
        let [v_new, v_old, u, outcomes, settings, d_loss] =
            [inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], inputs[5]];
        let gradient = |i: usize| {
            let row = i / columns;
            let [p, q] = [outcomes[row * OUTCOME + 5], outcomes[row * OUTCOME + 6]];
            let [positive, negative] = mixed(v_new[i], v_old[i], settings[0]);
            d_loss[row] * (q * (u[i] - negative) - p * (u[i] - positive))
        };
        vec![(0..v_new.len()).map(gradient).collect()]
    }
}

//! DiffusionNFT's loss on the device: a thin wrapper around [`crate::flow::nft`].

use super::policy_objective::{Outcome, OutcomeTwin};
use super::sampler_step::SamplerRow;
use super::{ElementsColumnsParams, RowsColumnsParams, independent, rows_and_columns, workgroup_a_row};
use crate::flow::nft::{Sums, evaluate, mixed};
use crate::flow::sampler::Transition;
use crate::gpu::{Dispatch, Kernel, ShaderStruct, shader_struct_with_twin};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

shader_struct_with_twin! {
    /// The settings of [`NftLoss`].
    pub struct NftSettings, NftSettingsTwin {
        /// β: how far the positive and the negative policy are from the old one.
        beta,
        /// Largest magnitude of an advantage.
        clip,
    }
}

/// The loss of every sample at one time.
///
/// Inputs:
/// 0. `v_new [R, ..]`, the only input with a gradient,
/// 1. `v_old` of the same shape,
/// 2. `u = ε − x_data` of the same shape,
/// 3. advantages `[R]`,
/// 4. a [`SamplerRow`] (1 − σ, 0, σ) of each row, which mixes noise into the sample: σ is the time,
/// 5. [`NftSettings`].
///
/// Outputs:
/// 0. losses `[R]`, the only output with a gradient,
/// 1. an [`Outcome`] of each row, `[R, 8]`, for inspection.
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
        assert_eq!(*inputs[4], [rows, SamplerRow::WORDS], "each row needs a transition (a, b, s)");
        assert_eq!(*inputs[5], [NftSettings::WORDS], "the settings of the loss");
        vec![vec![rows], vec![rows, Outcome::WORDS]]
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
        let params = RowsColumnsParams::of(rows, columns);
        let reads = [0, 1, 2, 3, 4, 5].map(Binding::Input);
        let writes = [0, 1].map(Binding::Output);
        vec![workgroup_a_row(Kernel::new("nft_loss"), &reads, &writes, &params, rows)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (rows, dim) = rows_and_columns(shapes.inputs[0]);
        let [v_new, v_old, u] = [inputs[0], inputs[1], inputs[2]];
        let transitions: &[Transition] = bytemuck::cast_slice(inputs[4]);
        let NftSettingsTwin { beta, clip } = bytemuck::cast_slice(inputs[5])[0];
        let outcomes: Vec<OutcomeTwin> = (0..rows)
            .map(|row| {
                let (mut sums, mut moved) = (Sums::default(), 0.0);
                for i in row * dim..(row + 1) * dim {
                    for (side, v) in mixed(v_new[i], v_old[i], beta).iter().enumerate() {
                        sums.absolute[side] += (u[i] - v).abs();
                        sums.squared[side] += (u[i] - v).powi(2);
                    }
                    moved += (v_new[i] - v_old[i]).powi(2);
                }
                let found = evaluate(sums, dim, transitions[row].s, inputs[3][row], beta, clip);
                OutcomeTwin {
                    loss: found.loss,
                    log_ratio: 0.0,
                    ratio: found.share,
                    kl: moved / dim as f64,
                    kept: 1.0,
                    d_s1: found.pull_positive,
                    d_s2: found.pull_negative,
                    beyond: 0.0,
                }
            })
            .collect();
        vec![outcomes.iter().map(|outcome| outcome.loss).collect(), bytemuck::cast_slice(&outcomes).to_vec()]
    }
}

/// `v_new`, `v_old`, `u`, [`Outcome`]s, [`NftSettings`] and the gradient `[R]` of the losses to the gradient of `v_new`.
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
        let params = ElementsColumnsParams::of(elements, columns);
        let reads = [0, 1, 2, 3, 4, 5].map(Binding::Input);
        vec![independent(Kernel::new("nft_loss_backward"), &reads, &[Binding::Output(0)], &params, elements)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (_, columns) = rows_and_columns(shapes.inputs[0]);
        let [v_new, v_old, u, d_loss] = [inputs[0], inputs[1], inputs[2], inputs[5]];
        let outcomes: &[OutcomeTwin] = bytemuck::cast_slice(inputs[3]);
        let NftSettingsTwin { beta, .. } = bytemuck::cast_slice(inputs[4])[0];
        let gradient = |i: usize| {
            let row = i / columns;
            let OutcomeTwin { d_s1: p, d_s2: q, .. } = outcomes[row];
            let [positive, negative] = mixed(v_new[i], v_old[i], beta);
            d_loss[row] * (q * (u[i] - negative) - p * (u[i] - positive))
        };
        vec![(0..v_new.len()).map(gradient).collect()]
    }
}

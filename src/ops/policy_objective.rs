//! The policy objectives on the device: a thin wrapper around [`crate::flow::objective`].

use super::sampler_step::SamplerRow;
use super::{independent, word};
use crate::flow::divergence::Divergence;
use crate::flow::objective::{LogProb, Mask, Objective, PolicyOutcome, Term};
use crate::flow::sampler::Transition;
use crate::gpu::{Dispatch, Kernel, ShaderStruct, shader_struct, shader_struct_with_twin};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

shader_struct_with_twin! {
    /// What a loss found out about a term. DiffusionNFT has no densities, and uses some members for what is closest.
    pub struct Outcome, OutcomeTwin {
        /// The loss.
        loss,
        /// ln ρ; 0 with DiffusionNFT.
        log_ratio,
        /// ρ; with DiffusionNFT the advantage as a probability.
        ratio,
        /// The KL divergence; with DiffusionNFT the mean squared change of the velocity.
        kl,
        /// 0 if the term was dropped, otherwise 1.
        kept,
        /// ∂L/∂S1; with DiffusionNFT the pull p towards the positive policy.
        d_s1,
        /// ∂L/∂S2; with DiffusionNFT the pull q towards the negative policy.
        d_s2,
        /// 1 if the term is outside the trust region ([`Objective::is_beyond`]), otherwise 0.
        beyond,
    }
}

shader_struct! {
    /// Of both directions.
    pub(super) struct PolicyObjectiveParams {
        rows: u32,
    }
}

shader_struct_with_twin! {
    /// D, the threshold and the clip range.
    pub struct PolicySettings, PolicySettingsTwin {
        /// D, the number of elements of an image.
        dim,
        /// Threshold of Flow-DPPO's mask.
        kl_mask_threshold,
        /// The ratio is clipped below 1 minus this.
        clip_low,
        /// The ratio is clipped above 1 plus this.
        clip_high,
        /// ln(1 − `clip_low`), of which f32 would lose digits.
        log_clip_low,
        /// ln(1 + `clip_high`).
        log_clip_high,
    }
}

/// The objective; its thresholds are an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ObjectiveKind {
    FlowDppo(Mask, Divergence),
    FlowGrpo,
    GrpoGuard,
}

/// Loss and gradient of every (sample, step), as in [`Objective::evaluate`] but in f32.
///
/// Inputs:
/// 0. sums `[R, 2]` from [`super::PolicyStats`],
/// 1. advantages `[R]`,
/// 2. transitions `[R, 3]` of (a, b, s), with s > 0,
/// 3. step weights `[R]`, which only GRPO-Guard uses,
/// 4. [`PolicySettings`].
///
/// Outputs:
/// 0. losses `[R]`, the only output with a gradient (to the sums only),
/// 1. an [`Outcome`] of each row, `[R, 8]`, for inspection.
///
/// ln ρ is clamped to ±20 before exponentiation. Non-finite sums result in a non-finite loss.
#[derive(Clone, Copy, Debug)]
pub struct PolicyObjective {
    kind: ObjectiveKind,
    log_prob: LogProb,
}

impl PolicyObjective {
    /// The kernel for an objective, independent of its thresholds.
    pub fn new(objective: Objective, log_prob: LogProb) -> Self {
        let kind = match objective {
            Objective::FlowDppo { mask, divergence, .. } => ObjectiveKind::FlowDppo(mask, divergence),
            Objective::FlowGrpo { .. } => ObjectiveKind::FlowGrpo,
            Objective::GrpoGuard { .. } => ObjectiveKind::GrpoGuard,
        };
        Self { kind, log_prob }
    }

    /// The settings input. Step weights are a separate input.
    pub fn settings(objective: Objective, dim: usize) -> PolicySettings {
        let (kl_mask_threshold, clip_low, clip_high) = match objective {
            // Shaders may assume that there are no infinities.
            Objective::FlowDppo { kl_mask_threshold, .. } => (kl_mask_threshold.min(f64::from(f32::MAX)), 0.0, 0.0),
            Objective::FlowGrpo { clip_low, clip_high } | Objective::GrpoGuard { clip_low, clip_high, .. } => {
                (0.0, clip_low, clip_high.min(f64::from(f32::MAX)))
            }
        };
        let (log_clip_low, log_clip_high) = ((-clip_low).ln_1p(), clip_high.ln_1p());
        let dim = dim as f64;
        PolicySettingsTwin { dim, kl_mask_threshold, clip_low, clip_high, log_clip_low, log_clip_high }.into()
    }

    fn objective(&self, settings: &PolicySettingsTwin, step_weight: f64) -> Objective {
        let PolicySettingsTwin { kl_mask_threshold, clip_low, clip_high, .. } = *settings;
        match self.kind {
            ObjectiveKind::FlowDppo(mask, divergence) => Objective::FlowDppo { kl_mask_threshold, divergence, mask },
            ObjectiveKind::FlowGrpo => Objective::FlowGrpo { clip_low, clip_high },
            ObjectiveKind::GrpoGuard => Objective::GrpoGuard { clip_low, clip_high, step_weight },
        }
    }

    fn kernel(&self) -> Kernel {
        let objective = match self.kind {
            ObjectiveKind::FlowDppo(Mask::Asymmetric, _) => 0,
            ObjectiveKind::FlowDppo(Mask::Symmetric, _) => 1,
            ObjectiveKind::FlowDppo(Mask::None, _) => 2,
            ObjectiveKind::FlowGrpo => 3,
            ObjectiveKind::GrpoGuard => 4,
        };
        let log_prob = match self.log_prob {
            LogProb::Gaussian => 0,
            LogProb::CpsSpecial => 1,
        };
        let divergence = match self.kind {
            ObjectiveKind::FlowDppo(_, Divergence::KlUnnormalised) => 1,
            ObjectiveKind::FlowDppo(_, Divergence::Velocity) => 2,
            _ => 0,
        };
        Kernel::new("policy_objective")
            .with("OBJECTIVE", objective)
            .with("LOG_PROB", log_prob)
            .with("DIVERGENCE", divergence)
    }
}

impl Op for PolicyObjective {
    fn name(&self) -> &'static str {
        "policy_objective"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let rows = inputs[0][0];
        assert_eq!(*inputs[0], [rows, 2], "each row needs two sums");
        assert_eq!(*inputs[1], [rows], "each row needs an advantage");
        assert_eq!(*inputs[2], [rows, SamplerRow::WORDS], "each row needs a transition (a, b, s)");
        assert_eq!(*inputs[3], [rows], "each row needs a step weight");
        assert_eq!(*inputs[4], [PolicySettings::WORDS], "the settings of the objective");
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
            found[0] = Some(graph.apply(PolicyObjectiveBackward, &[outputs[1], d_loss]));
        }
        found
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let rows = shapes.inputs[0][0];
        let reads = [0, 1, 2, 3, 4].map(Binding::Input);
        let writes = [0, 1].map(Binding::Output);
        vec![independent(self.kernel(), &reads, &writes, &PolicyObjectiveParams { rows: word(rows) }, rows)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [stats, advantages, step_weights] = [inputs[0], inputs[1], inputs[3]];
        let transitions: &[Transition] = bytemuck::cast_slice(inputs[2]);
        let settings: &PolicySettingsTwin = &bytemuck::cast_slice(inputs[4])[0];
        let outcomes: Vec<OutcomeTwin> = (0..shapes.inputs[0][0])
            .map(|row| {
                let term = Term {
                    s1: stats[row * 2],
                    s2: stats[row * 2 + 1],
                    dim: settings.dim as usize,
                    row: transitions[row],
                    advantage: advantages[row],
                };
                let objective = self.objective(settings, step_weights[row]);
                let PolicyOutcome { loss, log_ratio, ratio, kl, kept, d_s1, d_s2 } =
                    objective.evaluate(self.log_prob, &term);
                let beyond = objective.is_beyond(&term, log_ratio);
                let [kept, beyond] = [kept, beyond].map(|holds| f64::from(u8::from(holds)));
                OutcomeTwin { loss, log_ratio, ratio, kl, kept, d_s1, d_s2, beyond }
            })
            .collect();
        vec![outcomes.iter().map(|outcome| outcome.loss).collect(), bytemuck::cast_slice(&outcomes).to_vec()]
    }
}

/// [`Outcome`]s and the gradient `[R]` of the losses to the gradient of the sums, `[R, 2]`.
#[derive(Clone, Copy, Debug)]
struct PolicyObjectiveBackward;

impl Op for PolicyObjectiveBackward {
    fn name(&self) -> &'static str {
        "policy_objective_backward"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(*inputs[0], [inputs[1][0], Outcome::WORDS], "each loss needs an outcome");
        vec![vec![inputs[1][0], 2]]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let rows = shapes.inputs[0][0];
        let reads = [0, 1].map(Binding::Input);
        let kernel = Kernel::new("policy_objective_backward");
        vec![independent(kernel, &reads, &[Binding::Output(0)], &PolicyObjectiveParams { rows: word(rows) }, rows)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let outcomes: &[OutcomeTwin] = bytemuck::cast_slice(inputs[0]);
        let rows = outcomes.iter().zip(inputs[1]);
        vec![rows.flat_map(|(outcome, d_loss)| [d_loss * outcome.d_s1, d_loss * outcome.d_s2]).collect()]
    }
}

//! The policy objectives on the device: a thin wrapper around [`crate::flow::objective`].

use super::{independent, word};
use crate::flow::divergence::Divergence;
use crate::flow::objective::{LogProb, Mask, Objective, Term};
use crate::flow::sampler::Transition;
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// Number of values in a row of outcomes.
pub(super) const OUTCOME: usize = 8;

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
/// 4. settings `[8]` from [`PolicyObjective::settings`].
///
/// Outputs:
/// 0. losses `[R]`, the only output with a gradient (to the sums only),
/// 1. outcomes `[R, 8]`, for inspection: loss, ln ρ, ρ, KL, kept (1 or 0), ∂L/∂S1, ∂L/∂S2, and whether the
///    term is outside the trust region ([`Objective::is_beyond`], 1 or 0).
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

    /// The settings input: D, the threshold and the clip range, the latter also as logarithms, which keep
    /// digits that 1 ± c loses in f32. Step weights are a separate input.
    pub fn settings(objective: Objective, dim: usize) -> [f32; 8] {
        let (threshold, low, high) = match objective {
            // Shaders may assume that there are no infinities.
            Objective::FlowDppo { kl_mask_threshold, .. } => (kl_mask_threshold.min(f64::from(f32::MAX)), 0.0, 0.0),
            Objective::FlowGrpo { clip_low, clip_high } | Objective::GrpoGuard { clip_low, clip_high, .. } => {
                (0.0, clip_low, clip_high.min(f64::from(f32::MAX)))
            }
        };
        [dim as f64, threshold, low, high, (-low).ln_1p(), high.ln_1p(), 0.0, 0.0].map(|value| value as f32)
    }

    fn objective(&self, settings: &[f64], step_weight: f64) -> Objective {
        let [kl_mask_threshold, clip_low, clip_high] = [settings[1], settings[2], settings[3]];
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
        assert_eq!(*inputs[2], [rows, 3], "each row needs a transition (a, b, s)");
        assert_eq!(*inputs[3], [rows], "each row needs a step weight");
        assert_eq!(*inputs[4], [8], "there must be eight settings");
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
            found[0] = Some(graph.apply(PolicyObjectiveBackward, &[outputs[1], d_loss]));
        }
        found
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let rows = shapes.inputs[0][0];
        let reads = [0, 1, 2, 3, 4].map(Binding::Input);
        let writes = [0, 1].map(Binding::Output);
        vec![independent(self.kernel(), &reads, &writes, vec![word(rows)], rows)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [stats, advantages, transitions, step_weights, settings] =
            [inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]];
        let outcomes: Vec<[f64; OUTCOME]> = (0..shapes.inputs[0][0])
            .map(|row| {
                let [a, b, s] = [0, 1, 2].map(|index| transitions[row * 3 + index]);
                let term = Term {
                    s1: stats[row * 2],
                    s2: stats[row * 2 + 1],
                    dim: settings[0] as usize,
                    row: Transition { a, b, s },
                    advantage: advantages[row],
                };
                let objective = self.objective(settings, step_weights[row]);
                let outcome = objective.evaluate(self.log_prob, &term);
                let beyond = objective.is_beyond(&term, outcome.log_ratio);
                let [kept, beyond] = [outcome.kept, beyond].map(|holds| f64::from(u8::from(holds)));
                [outcome.loss, outcome.log_ratio, outcome.ratio, outcome.kl, kept, outcome.d_s1, outcome.d_s2, beyond]
            })
            .collect();
        vec![outcomes.iter().map(|outcome| outcome[0]).collect(), outcomes.concat()]
    }
}

/// Outcomes `[R, 8]` and the gradient `[R]` of the losses to the gradient of the sums, `[R, 2]`.
#[derive(Clone, Copy, Debug)]
struct PolicyObjectiveBackward;

impl Op for PolicyObjectiveBackward {
    fn name(&self) -> &'static str {
        "policy_objective_backward"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(*inputs[0], [inputs[1][0], OUTCOME], "each loss needs a row of outcomes");
        vec![vec![inputs[1][0], 2]]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let rows = shapes.inputs[0][0];
        let reads = [0, 1].map(Binding::Input);
        let kernel = Kernel::new("policy_objective_backward");
        vec![independent(kernel, &reads, &[Binding::Output(0)], vec![word(rows)], rows)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let rows = inputs[0].chunks(OUTCOME).zip(inputs[1]);
        vec![rows.flat_map(|(outcome, d_loss)| [d_loss * outcome[5], d_loss * outcome[6]]).collect()]
    }
}

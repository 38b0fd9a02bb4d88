//! The computation of an update for one micro-batch: forward pass, loss and backward pass, as one graph.
//!
//! The two methods differ only in the network's input and in the loss:
//!
//! | | policy objectives | DiffusionNFT |
//! |---|---|---|
//! | input x | the stored state of a trained step | the stored sample with added noise |
//! | old velocity | stored with it | the averaged weights' |
//! | loss | [`policy_stats`], [`PolicyObjective`] | [`NftLoss`] |

use super::method::Method;
use super::rollout::{STATES, VELOCITIES};
use super::settings::UpdateSettings;
use crate::autodiff::{Activations, Halves, backward_with};
use crate::config::{self, GuidanceGradient, ObjectiveName, Precision, ThresholdUnit};
use crate::error::{Error, Result};
use crate::flow::divergence::kl_sum_from_tv;
use crate::flow::objective::Objective;
use crate::gpu::ShaderStruct;
use crate::graph::{Graph, Store, Tensor};
use crate::model::{ConditionInput, Network};
use crate::ops::{
    NftLoss, NftSettings, NoiseWords, PhiloxNormal, PolicyObjective, SamplerRow, mean_squared_error, policy_stats,
    sampler_step,
};
use crate::optimizer::{AVERAGE, GRADIENTS, PARAMETERS};

/// The policy objective that `[objective]` selects, in mean units for images of `dim` elements, after the share
/// `progress` of the run. GRPO-Guard's step weight is a separate input.
///
/// # Errors
/// If a threshold makes no sense for this number of elements.
///
/// # Panics
/// With `nft`, which is not a policy objective.
pub fn policy_objective(it: &config::Objective, dim: usize, progress: f64) -> Result<Objective> {
    use crate::config::Divergence;
    let mean = |threshold: f64| it.threshold_unit.to_mean(threshold, dim);
    let clip = |range: f64| it.clip_schedule.factor(progress) * mean(range);
    let (clip_low, clip_high) = (clip(it.clip_low), clip(it.clip_high));
    let objective = match it.name {
        ObjectiveName::FlowDppo => Objective::FlowDppo {
            kl_mask_threshold: match it.divergence {
                Divergence::Tv => ThresholdUnit::Sum.to_mean(kl_sum_from_tv(it.kl_mask_threshold), dim),
                _ => mean(it.kl_mask_threshold),
            },
            divergence: it.divergence,
            mask: it.mask,
        },
        ObjectiveName::FlowGrpo => Objective::FlowGrpo { clip_low, clip_high },
        ObjectiveName::GrpoGuard => Objective::GrpoGuard { clip_low, clip_high, step_weight: 1.0 },
        ObjectiveName::Nft => unreachable!("nft has its own loss"),
    };
    let clips = !matches!(objective, Objective::FlowDppo { .. });
    if clips && clip_low >= 1.0 {
        return Err(Error::input(format!(
            "`objective.clip_low` = {} is {clip_low:.3} for each of the {dim} elements of an image, but must be below \
             1, as no ratio is below 0; lower it",
            it.clip_low
        )));
    }
    objective.check()?;
    Ok(objective)
}

/// The share of a term in the mean over those of an update.
fn share_of_term(settings: &UpdateSettings) -> Result<f32> {
    let samples = settings.train.samples_per_update(&settings.rollout);
    Ok(1.0 / (samples * settings.of_rollouts().trained_slots()?) as f32)
}

/// What the losses are multiplied by before they are differentiated, and what the optimizer divides gradients by: a power
/// of two, so that no bit depends on it. 16 bits hold nothing below 2⁻²⁴, and a gradient of the mean over the terms of an
/// update and the `dim` elements of an image is smaller than that of a sum by as many; so gradients of velocities are
/// made as large as those of the sum, which are near 1.
///
/// # Errors
/// If the trained steps do not fit the number of steps.
pub(super) fn loss_scale(settings: &UpdateSettings, dim: usize) -> Result<f32> {
    match settings.train.precision {
        Precision::F32 => Ok(1.0),
        Precision::F16 => Ok((dim as f32 / share_of_term(settings)?).log2().ceil().exp2()),
    }
}

/// The penalty on the distance to the base model.
#[derive(Clone, Copy, Debug)]
pub struct Penalty {
    /// Factors of the mean squared difference of velocities, `[B]`: see [`crate::flow::divergence::ReferenceKind`].
    pub factor: Tensor,
    /// Factors of the penalties in the sum that is differentiated, `[B]`: β times those of the losses, always the same.
    pub weight: Tensor,
    /// The penalties, `[B]`.
    pub value: Tensor,
}

/// The inputs of the loss of each term, `[B, C, H, W]` each; readable after a replay if the graph keeps them.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Where the velocities are compared: the network's input.
    pub x: Tensor,
    /// Noise: of the step, or with DiffusionNFT that in `x`.
    pub epsilon: Tensor,
    /// Velocity of the old policy.
    pub v_old: Tensor,
    /// Velocity of the weights in training.
    pub v_new: Tensor,
}

/// Forward and backward pass of one micro-batch at one trained step.
#[derive(Debug)]
pub struct UpdateGraph {
    /// The computation.
    pub graph: Graph,
    /// What each micro-batch copies from the stores of the rollout: `[B, C, H, W]` each.
    pub stored: Vec<(Store, Tensor)>,
    /// The network's time, `[B]`, from [`crate::model::FlowModel::time_of`].
    pub time: Tensor,
    /// Conditions of the B samples.
    pub condition: ConditionInput,
    /// [`NoiseWords`] of each term.
    pub keys: Tensor,
    /// A [`SamplerRow`] of each term; with DiffusionNFT (1 − σ, 0, σ).
    pub rows: Tensor,
    /// Advantages, `[B]`.
    pub advantages: Tensor,
    /// Factors of the losses in the sum that is differentiated, `[B]`: always one over the terms of an update, times the
    /// [`loss_scale`].
    pub weight: Tensor,
    /// [`PolicySettings`](crate::ops::PolicySettings), which may change over a run; none with DiffusionNFT.
    pub settings: Option<Tensor>,
    /// Weights of the step, `[B]`, which only GRPO-Guard has.
    pub step_weight: Option<Tensor>,
    /// The penalty on the distance to the base, if there is one.
    pub penalty: Option<Penalty>,
    /// An [`Outcome`](crate::ops::Outcome) of each term.
    pub outcomes: Tensor,
    /// The inputs of the loss.
    pub terms: Terms,
    /// What is stored in 16 bits, if anything is.
    pub halves: Option<Halves>,
}

impl UpdateGraph {
    /// Keeps the [`Terms`] readable.
    pub fn keep_terms(&mut self) {
        let Terms { x, epsilon, v_old, v_new } = self.terms;
        for tensor in [x, epsilon, v_old, v_new] {
            self.graph.keep(tensor);
        }
    }

    /// Records it.
    ///
    /// # Errors
    /// If the trained steps do not fit the number of steps, or a threshold the model.
    pub fn record(settings: &UpdateSettings, network: &Network) -> Result<Self> {
        let model = &network.model;
        let batch = settings.micro_batch();
        let mut graph = Graph::new();
        let time = graph.input("time", &[batch]);
        let condition = ConditionInput::declare(&mut graph, model, batch, settings.is_guided());
        let keys = graph.input_indices("noise keys", &[batch, NoiseWords::WORDS]);
        let rows = graph.input("sampler rows", &[batch, SamplerRow::WORDS]);
        let advantages = graph.input("advantages", &[batch]);
        let share = share_of_term(settings)? * loss_scale(settings, model.dim())?;
        let weight = graph.constant("weight", &[batch], vec![share; batch]);

        let shape = model.batch_shape(batch);
        // The noise of the rollout is not stored: it is recomputed from its key, bit for bit.
        let epsilon = graph.apply(PhiloxNormal::new(&shape[1..]), &[keys]);
        let state = graph.input("stored state", &shape);
        let mut it = Self {
            graph,
            stored: vec![(STATES, state)],
            time,
            condition,
            keys,
            rows,
            advantages,
            weight,
            settings: None,
            step_weight: None,
            penalty: None,
            outcomes: state,
            terms: Terms { x: state, epsilon, v_old: state, v_new: state },
            halves: None,
        };
        let losses = match settings.method() {
            Method::Nft => it.record_nft(settings, network, state, epsilon),
            Method::Policy => it.record_policy(settings, network, state, epsilon)?,
        };
        it.graph.keep(it.outcomes);
        let activations =
            Activations { recompute: settings.train.activation_checkpointing, half: settings.train.half_activations };
        it.halves = backward_with(&mut it.graph, &losses, &[], activations).halves;
        Ok(it)
    }

    /// Records a policy objective; returns what is differentiated, and the factors.
    fn record_policy(
        &mut self,
        settings: &UpdateSettings,
        network: &Network,
        x: Tensor,
        epsilon: Tensor,
    ) -> Result<Vec<(Tensor, Tensor)>> {
        let dim = network.model.dim();
        let batch = settings.micro_batch();
        let objective = policy_objective(&settings.objective, dim, 0.0)?;
        let v_old = self.graph.input("stored velocity", &network.model.batch_shape(batch));
        self.stored.push((VELOCITIES, v_old));
        let v_new = self.velocity(settings, network, x);
        self.terms = Terms { x, epsilon, v_old, v_new };

        let thresholds = bytemuck::cast_slice(&[PolicyObjective::settings(objective, dim)]).to_vec();
        let thresholds = self.graph.constant("objective settings", &[thresholds.len()], thresholds);
        let step_weight = self.graph.constant("step weight", &[batch], vec![1.0; batch]);
        let (advantages, rows) = (self.advantages, self.rows);
        let found = self.graph.scope("loss", |graph| {
            let stats = policy_stats(graph, v_new, v_old, epsilon);
            let op = PolicyObjective::new(objective, settings.objective.log_prob);
            graph.push(op, &[stats, advantages, rows, step_weight, thresholds])
        });
        (self.settings, self.step_weight, self.outcomes) = (Some(thresholds), Some(step_weight), found[1]);

        let mut losses = vec![(found[0], self.weight)];
        if settings.objective.reference.beta > 0.0 {
            let guidance_scale = settings.objective.reference.guidance_scale as f32;
            let (time, condition) = (self.time, self.condition);
            let v_base = self.graph.scope("reference", |graph| {
                network.declare_reference(graph, settings.from_start).guided_velocity(
                    graph,
                    x,
                    time,
                    condition,
                    guidance_scale,
                )
            });
            let factor = self.graph.input("penalty factors", &[batch]);
            let share =
                settings.objective.reference.beta as f32 * share_of_term(settings)? * loss_scale(settings, dim)?;
            let weight = self.graph.constant("penalty weight", &[batch], vec![share; batch]);
            let value = self.graph.scope("loss", |graph| mean_squared_error(graph, v_new, v_base, factor));
            self.graph.keep(value);
            self.penalty = Some(Penalty { factor, weight, value });
            losses.push((value, weight));
        }
        Ok(losses)
    }

    /// Records DiffusionNFT's loss; returns what is differentiated and the factors.
    fn record_nft(
        &mut self,
        settings: &UpdateSettings,
        network: &Network,
        sample: Tensor,
        epsilon: Tensor,
    ) -> Vec<(Tensor, Tensor)> {
        let batch = settings.micro_batch();
        let graph = &mut self.graph;
        // The sampler's kernel also mixes samples with noise.
        let x = sampler_step(graph, sample, sample, epsilon, self.rows);
        let to_target = SamplerRow { a: -1.0, b: 0.0, s: 1.0 }.constant(graph, "to target", batch);
        let u = sampler_step(graph, sample, sample, epsilon, to_target);
        let guidance_scale = settings.rollout.guidance_scale as f32;
        let (time, condition) = (self.time, self.condition);
        let v_old = graph.scope("old", |graph| {
            network.declare(graph, AVERAGE, None).guided_velocity(graph, x, time, condition, guidance_scale)
        });
        let v_new = self.velocity(settings, network, x);
        self.terms = Terms { x, epsilon, v_old, v_new };
        let scales = NftSettings { beta: settings.objective.nft_beta as f32, clip: settings.advantage.clip as f32 };
        let scales = bytemuck::cast_slice(&[scales]).to_vec();
        let scales = self.graph.constant("objective settings", &[scales.len()], scales);
        let (advantages, rows) = (self.advantages, self.rows);
        let found = self.graph.scope("loss", |graph| graph.push(NftLoss, &[v_new, v_old, u, advantages, rows, scales]));
        self.outcomes = found[1];
        vec![(found[0], self.weight)]
    }

    /// The velocity of the weights in training.
    fn velocity(&mut self, settings: &UpdateSettings, network: &Network, x: Tensor) -> Tensor {
        let graph = &mut self.graph;
        let trained = network.declare(graph, PARAMETERS, Some(GRADIENTS));
        let guidance_scale = settings.rollout.guidance_scale as f32;
        match settings.rollout.guidance_gradient {
            GuidanceGradient::Both => trained.guided_velocity(graph, x, self.time, self.condition, guidance_scale),
            GuidanceGradient::Conditional => {
                // The same weights, without storage for their gradients.
                let frozen = network.declare(graph, PARAMETERS, None);
                trained.velocity_guided_by(&frozen, graph, x, self.time, self.condition, guidance_scale)
            }
        }
    }
}

//! The sections of a configuration, one struct each. The field docs are the reference.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::*;

/// `[run]`: the run's name, place, seed and device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Name of the run's directory inside `out_dir`.
    pub name: String,
    /// Directory that holds the runs; relative to the current directory.
    pub out_dir: PathBuf,
    /// Seed of everything random: initial weights, data order, noise, trained steps.
    pub seed: u64,
    /// Adapter to use: a part of its name, or its index in `flowdppo-wgpu devices`; empty = the
    /// best one.
    pub device: String,
}

impl Default for Run {
    fn default() -> Self {
        Self { name: "digits8".into(), out_dir: "runs".into(), seed: 0, device: String::new() }
    }
}

/// `[model]`: a model from a file, or the sizes of a new one. Never both.
///
/// A file carries its sizes and conventions; they are given here only for a new model. Without a
/// `[model]` section it is the base model that is compiled into the program; a `[model]` section
/// that is there has no default for `file` or the sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// A safetensors file (relative to the current directory), or `builtin:digits8-base`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Height and width of a picture, in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// Channels of a picture: 1 is grey, 3 is RGB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// Height and width of a patch, in pixels; a patch is a token. Divides `image_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_size: Option<usize>,
    /// Width of a token's vector. A multiple of `num_heads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_size: Option<usize>,
    /// Number of transformer blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    /// Attention heads of a block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_heads: Option<usize>,
    /// Width of a block's inner layer, as a multiple of `hidden_size`; 4 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mlp_ratio: Option<f64>,
    /// Classes of the data; the null class for guidance comes on top.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_classes: Option<usize>,
    /// Direction of time and velocity: `"sigma"` (1 is noise) or `"sit"` (0 is noise).
    pub time: TimeConvention,
    /// What time, 0 to 1, is multiplied by before the model's sinusoidal time features. SiT's own
    /// checkpoints use 1.
    pub time_scale: f64,
    /// Position embedding: `"learned"` or `"sin-cos"`.
    pub positions: Positions,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            file: Some("builtin:digits8-base".into()),
            image_size: None,
            channels: None,
            patch_size: None,
            hidden_size: None,
            depth: None,
            num_heads: None,
            mlp_ratio: None,
            num_classes: None,
            time: TimeConvention::Sigma,
            time_scale: 1000.0,
            positions: Positions::Learned,
        }
    }
}

/// `[data]`: the pictures that `pretrain` and `fit-classifier` learn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// `"builtin"`, `"sheet"` or `"folder"`.
    pub kind: DataKind,
    /// For `builtin`: which one, `digits8` or `rings`.
    pub name: String,
    /// For `sheet`: the picture of all tiles. For `folder`: the folder. Relative to the current
    /// directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// For `sheet`: a text file with one label a line, in the order of the tiles (row by row).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// Height and width, in pixels, that the pictures of a folder are brought to, and that the tiles
    /// of a sheet have. Equals the model's.
    pub image_size: usize,
    /// Channels that pictures are brought to: 1 (grey) or 3 (RGB); 2 for the points of `rings`. Equals the model's.
    pub channels: usize,
    /// Mirror each picture left to right with probability 1/2. Not for digits or letters.
    pub horizontal_flip: bool,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            kind: DataKind::Builtin,
            name: "digits8".into(),
            path: None,
            labels: None,
            image_size: 8,
            channels: 1,
            horizontal_flip: false,
        }
    }
}

/// `[rollout]`: how `train` draws the samples that it learns from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rollout {
    /// Sampling steps from noise to picture. Fewer than for evaluation: training cost is
    /// proportional, and the learning carries over.
    pub steps: usize,
    /// Transition of the stochastic steps: `"flow-sde"`, `"cps"`, `"dance"`, `"precise"` or
    /// `"dance-precise"`. The other steps are `"ode"`; with the objective `"nft"` all are.
    pub sampler: Sampler,
    /// Exploration strength of the stochastic steps, or a list with one for each step; at most 1 for
    /// `cps`.
    pub eta: Eta,
    /// Noise levels: `{ kind = "static-shift", shift }` (1 is linear, larger values spend more steps
    /// on noise), `{ kind = "diffusers-static", shift }` shifts twice as the diffusers library does,
    /// `{ kind = "dynamic", mu }` and `{ kind = "dynamic-tokens", tokens, base_shift, max_shift }` are
    /// FLUX's, `{ kind = "explicit", sigmas = [1, ..., 0] }` names them.
    pub schedule: Schedule,
    /// Groups a rollout; each has one class.
    pub groups: usize,
    /// Samples a group: rewards are compared within a group.
    pub group_size: usize,
    /// The samples of a group start from the same noise.
    pub shared_noise: bool,
    /// Classifier-free guidance while sampling and training; 1 = none, which halves the cost.
    pub guidance_scale: f64,
    /// With guidance: `"both"` passes learn, or the `"conditional"` one alone.
    pub guidance_gradient: GuidanceGradient,
    /// Which steps are stochastic and trained: `{ kind = "sparse-early", count, from, to }` draws
    /// `count` of the steps from share `from` to share `to`, `{ kind = "list", steps = [...] }`
    /// names them, `{ kind = "all-but-last" }` takes all that have a density,
    /// `{ kind = "fast-window", size }` and `{ kind = "random-window", size }` draw steps in a row,
    /// `{ kind = "progressive-window", size, overlap, rollouts, roll_back }` moves them on. For
    /// `"nft"` they are the times that noise is put on samples for.
    pub trained_steps: TrainedSteps,
    /// Classes that the groups go through in turn; empty = all.
    pub classes: Vec<usize>,
    /// Samples that are drawn together; divides groups x group_size. More is faster on a GPU and
    /// takes more memory; the samples are the same bit for bit. Larger values mean "all".
    pub micro_batch: usize,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            steps: 10,
            sampler: Sampler::FlowSde,
            eta: Eta::All(0.7),
            schedule: Schedule::default(),
            groups: 10,
            group_size: 16,
            shared_noise: false,
            guidance_scale: 1.0,
            guidance_gradient: GuidanceGradient::Both,
            trained_steps: TrainedSteps::SparseEarly { count: 3, from: 0.0, to: 0.5 },
            classes: Vec::new(),
            micro_batch: 160,
        }
    }
}

/// `[advantage]`: how rewards become advantages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Advantage {
    /// `"global-std"`: minus the group's mean, divided by the whole batch's standard deviation.
    /// Others: `"group-std"`, `"global-scope"`, `"gdpo"`, and `"flow-grpo-group"`,
    /// `"flow-grpo-global"`, `"flow-factory-group"`, `"flow-factory-global"`, `"verl-omni"` for
    /// the exact rules of those programs.
    pub kind: AdvantageKind,
    /// Advantages are clipped to [-clip, clip]; `inf` = not at all.
    pub clip: f64,
}

impl Default for Advantage {
    fn default() -> Self {
        Self { kind: AdvantageKind::GlobalStd, clip: 5.0 }
    }
}

/// `[objective]`: the loss. Each name heeds its own keys and leaves the others alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Objective {
    /// `"flow-dppo"`, `"flow-grpo"`, `"grpo-guard"` or `"nft"`.
    pub name: ObjectiveName,
    /// Of `flow-dppo` and `flow-grpo`: `"gaussian"`, or `"cps-special"` (the Gaussian's log-ratio
    /// times 2s²). The KL always has the true standard deviation s.
    pub log_prob: LogProb,
    /// Of `flow-dppo`: `"asymmetric"`, `"symmetric"` or `"none"`.
    pub mask: Mask,
    /// Of `flow-dppo`: what the mask compares: `"kl"`, `"kl-unnormalised"`, `"velocity"` or `"tv"`.
    pub divergence: Divergence,
    /// Of `flow-dppo`: a sample's step is left out of the loss if its divergence from the rollout's
    /// policy has reached this and the update would push it further; `inf` = never.
    pub kl_mask_threshold: f64,
    /// Of `flow-grpo` and `grpo-guard`: the ratio is held from 1 - `clip_low` ...
    pub clip_low: f64,
    /// ... to 1 + `clip_high`.
    pub clip_high: f64,
    /// Unit of threshold and clip range: `"sum"` (nats a sample) or `"mean"` (nats an element). The
    /// paper's 1e-5 to 1e-6 a mean over 65 536 elements is 0.655 to 0.0655 as a sum. `tv` has none.
    pub threshold_unit: ThresholdUnit,
    /// The clip range over the run: `"constant"`, `"linear-decay"` or `"cosine-decay"`.
    pub clip_schedule: ClipSchedule,
    /// Of `grpo-guard`: weight of a step: `"inverse-dt"`, `"inverse-b"` or `"one"`.
    pub step_weight: StepWeight,
    /// Of `nft`: how far the implicit policies lie on either side of the old one.
    pub nft_beta: f64,
    /// A penalty on the distance to the base model.
    pub reference: Reference,
}

impl Default for Objective {
    fn default() -> Self {
        Self {
            name: ObjectiveName::FlowDppo,
            log_prob: LogProb::Gaussian,
            mask: Mask::Asymmetric,
            divergence: Divergence::Kl,
            kl_mask_threshold: 0.0655,
            clip_low: 6.55,
            clip_high: 6.55,
            threshold_unit: ThresholdUnit::Sum,
            clip_schedule: ClipSchedule::Constant,
            step_weight: StepWeight::InverseDt,
            nft_beta: 1.0,
            reference: Reference::default(),
        }
    }
}

/// `[objective.reference]`: a penalty on the distance to the model that `train` starts from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reference {
    /// Its factor in the loss; 0 = none, at no cost.
    pub beta: f64,
    /// Of velocities at the same states: `"exact"` KL, Flow-GRPO's (`"flow-grpo"`), mean squared
    /// difference of the means (`"x"`) or of the velocities (`"v"`).
    pub kind: ReferenceKind,
    /// Guidance of the base model; above 1 the penalty distils it into the policy.
    pub guidance_scale: f64,
}

impl Default for Reference {
    fn default() -> Self {
        Self { beta: 0.0, kind: ReferenceKind::Exact, guidance_scale: 1.0 }
    }
}

/// `[train]`: the optimisation that `train` does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Rollouts, each followed by its updates.
    pub iterations: usize,
    /// Updates (optimizer steps) that a pass over a rollout is split into; divides
    /// groups x group_size.
    pub updates_per_rollout: usize,
    /// Passes over a rollout. The mask acts from the second update on: with one update in all,
    /// every objective is the same.
    pub inner_epochs: usize,
    /// Samples whose forward and backward pass run together, one trained step at a time; divides
    /// the samples of an update. More is faster on a GPU and takes more memory. Larger values mean
    /// "all of the update".
    pub micro_batch: usize,
    /// Keep of each block only what enters it, and compute the rest again in the backward pass: less
    /// memory for about a third more work in updates; the results are the same bit for bit.
    pub activation_checkpointing: bool,
    /// Keep what the backward pass needs of the blocks in 16 bits: half the memory; gradients are those of
    /// slightly rounded activations. Rollouts, ratio and KL do not change.
    pub half_activations: bool,
    /// Keep the frozen base, from which drift and `objective.reference` are measured, in 16 bits: half the memory,
    /// its weights rounded by at most 2⁻¹¹. Every use expands a layer in turn; sums stay in 32 bits.
    pub half_base: bool,
    /// Order of the samples: `"shuffled"` in each pass, or `"contiguous"`, group after group.
    pub order: Order,
    /// AdamW's learning rate, constant.
    pub learning_rate: f64,
    /// AdamW's decay of the first moment.
    pub beta1: f64,
    /// AdamW's decay of the second moment.
    pub beta2: f64,
    /// AdamW's addition to the denominator.
    pub epsilon: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// The gradient's global norm is clipped to this; `inf` = not at all.
    pub max_grad_norm: f64,
    /// Decay an iteration of the averaged weights, which are evaluated and saved; 0 = none. With
    /// `nft` they also are the old policy, which draws the samples.
    pub ema_decay: f64,
    /// Early on the decay is smaller: at most (1 + t) / (10 + t) with `"rational"`, t / 1000 with
    /// `"linear"`, after t iterations.
    pub ema_warm_up: EmaWarmUp,
    /// An update with a non-finite loss or gradient is skipped; more than this many in a row stop
    /// the run.
    pub max_skipped_updates: usize,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            iterations: 10,
            updates_per_rollout: 2,
            inner_epochs: 4,
            micro_batch: 80,
            activation_checkpointing: false,
            half_activations: false,
            half_base: false,
            order: Order::Shuffled,
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            ema_decay: 0.9,
            ema_warm_up: EmaWarmUp::Rational,
            max_skipped_updates: 5,
        }
    }
}

/// `[eval]`: the measurement on fixed seeds, with deterministic steps and the averaged weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Eval {
    /// Iterations between evaluations; 0 = only of the base and after the last.
    pub every: usize,
    /// Samples a class; at least 2, since diversity is a distance between samples.
    pub count: usize,
    /// Sampling steps.
    pub steps: usize,
    /// How they are made: `"euler"`, or `"dpm-solver++"` of second order, which needs fewer.
    pub solver: Solver,
    /// Classifier-free guidance; 1 = none.
    pub guidance_scale: f64,
    /// A classifier that is no reward and judges independently: a safetensors file, or
    /// `builtin:digits8-judge`; empty = none.
    pub judge: String,
    /// Seed of the evaluation's noise, the same each time.
    pub seed: u64,
}

impl Default for Eval {
    fn default() -> Self {
        Self {
            every: 5,
            count: 20,
            steps: 20,
            solver: Solver::Euler,
            guidance_scale: 1.0,
            judge: "builtin:digits8-judge".into(),
            seed: 1234,
        }
    }
}

/// `[preview]`: the grid of samples on fixed seeds, a row for each class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Preview {
    /// Iterations between grids; 0 = only of the base and after the last.
    pub every: usize,
    /// Samples a class.
    pub per_class: usize,
    /// Sampling steps.
    pub steps: usize,
    /// Seed of the grid's noise, the same each time.
    pub seed: u64,
}

impl Default for Preview {
    fn default() -> Self {
        Self { every: 5, per_class: 8, steps: 20, seed: 42 }
    }
}

/// `[checkpoint]`: what a run can be resumed from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Iterations of `train` between checkpoints; 0 = only the last. (`pretrain` has its own
    /// `pretrain.save_every`.)
    pub every: usize,
    /// How many of the newest are kept.
    pub keep: usize,
    /// Which number of the evaluations decides which averaged model is kept in `best/`: `"judge"` (its accuracy),
    /// `"holdout"` (sum of the rewards of weight 0), `"reward"`, `"auto"` (the first of these three that there is) or
    /// `"none"`.
    pub keep_best: KeepBest,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: 5, keep: 3, keep_best: KeepBest::Auto }
    }
}

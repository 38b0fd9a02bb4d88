//! The sections of a configuration, one struct each. The field docs are the reference.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::*;
use super::ranges::*;

/// `[run]`: the run's name, directory, seed and device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Name of the run's directory inside `out_dir`.
    pub name: String,
    /// Directory that contains the runs; `--out DIR` overrides it and the name.
    pub out_dir: PathBuf,
    /// Seed of everything random: initial weights, data order, noise, trained steps.
    pub seed: u64,
    /// Adapter to use: part of its name, or its index in `flowdppo-wgpu devices`; empty means the best one. `--device`
    /// overrides it.
    pub device: String,
}

impl Default for Run {
    fn default() -> Self {
        Self { name: "digits8".into(), out_dir: "runs".into(), seed: 0, device: String::new() }
    }
}

/// `[model]`: a model from a file or a folder, or the sizes of a new one; only one of the three.
///
/// `train` needs a file or a folder; `pretrain` takes a file or a folder, from which it continues, or sizes; `eval` takes
/// its model from `--model`, and of a text-to-image model `size` and `weights` from here. If there is a `[model]` section,
/// `file` and the sizes have no defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// A trained model, with its sizes and conventions: a safetensors file, or `builtin:digits8-base` or
    /// `builtin:rings-base`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// A text-to-image model, Stable Diffusion 3 or 3.5 or MiniT2I: the folder of a diffusers pipeline, or its name in the hub's cache,
    /// such as `stabilityai/stable-diffusion-3.5-medium`. `train` and `pretrain` train an adapter of it (`lora`), or all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// With a text-to-image model: width and height of the images, in pixels. Default: the size that the model proposes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<[usize; 2]>,
    /// With the `file` of a latent model: the autoencoder that makes images of its latents, for rewards, evaluations and
    /// previews. A folder of diffusers, a safetensors file, or a name in the hub's cache, such as
    /// `stabilityai/sd-vae-ft-ema`. Also read by `eval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
    /// Height and width of an image, in pixels. Must equal the data's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub image_size: Option<usize>,
    /// Channels of an image: 1 is grey, 3 is RGB, 2 is the coordinates of a point. Must equal the data's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub channels: Option<usize>,
    /// Height and width of a patch, in pixels; one patch is one token. Must divide `image_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub patch_size: Option<usize>,
    /// Width of a token's vector. A multiple of `num_heads`, and of 4 with sin-cos positions.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub hidden_size: Option<usize>,
    /// Number of transformer blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub depth: Option<usize>,
    /// Attention heads per block.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub num_heads: Option<usize>,
    /// Width of a block's inner layer, as a multiple of `hidden_size`; the product must be an integer. Default 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub mlp_ratio: Option<f64>,
    /// Classes of the data, not counting "no class", which guidance uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub num_classes: Option<usize>,
    /// For a new text-to-image model, a small transformer of Stable Diffusion 3 that makes images without an autoencoder,
    /// such as `{ kind = "words", tokens = 8 }`: how it is told of prompts. It takes the place of `num_classes`; the other
    /// sizes are those of the image's tokens, and `mlp_ratio` is 4. Only for `data.kind` = "shapes".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextInput>,
    /// Direction of time and velocity. Only for new models.
    pub time: TimeConvention,
    /// Factor for time (0 to 1) before the model's sinusoidal time features. SiT's own checkpoints use 1. Only for new
    /// models.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub time_scale: f64,
    /// Position embedding. Only for new models.
    pub positions: Positions,
    /// How frozen weights are stored on the device: the base of an adapter (`lora`) or, if `train` trains all weights, the
    /// base that drift and `objective.reference` are measured from; and in `eval` the weights of a text-to-image model.
    /// Files keep 32 bits.
    pub weights: WeightType,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            file: Some("builtin:digits8-base".into()),
            folder: None,
            size: None,
            vae: None,
            image_size: None,
            channels: None,
            patch_size: None,
            hidden_size: None,
            depth: None,
            num_heads: None,
            mlp_ratio: None,
            num_classes: None,
            text: None,
            time: TimeConvention::Sigma,
            time_scale: 1000.0,
            positions: Positions::Learned,
            weights: WeightType::F32,
        }
    }
}

/// `[data]`: the images that `pretrain` and `fit-classifier` learn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Where images come from.
    pub kind: DataKind,
    /// For `builtin`: which one, `digits8` or `rings`. The rings are points in the plane on four noisy rings, stored as
    /// images of one pixel with two channels.
    pub name: String,
    /// For `sheet`: an image of equal tiles, row by row. For `folder`: a directory with one sub-directory of images per
    /// class, in order of name. For `captions`: a directory of images, each with its caption in a text file of the same
    /// name (`fox.png`, `fox.txt`), or all captions in `metadata.jsonl`, lines with `file_name` and `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// For `sheet`: a `.txt` file with one class number per tile, or a `.json` file with a list of `[name, category]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// Height and width, in pixels, to which the images of a directory are resized, or of the tiles of a sheet. Must
    /// equal the model's. Not for `captions` and `shapes`, whose images have the size of the model's.
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub image_size: usize,
    /// Channels to which images are converted: 1 (grey) or 3 (RGB); 2 for the points of `rings`. Must equal the
    /// model's. Not for `captions` and `shapes`.
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub channels: usize,
    /// Mirror each image left to right with probability 1/2. Not for digits or letters.
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
    /// Sampling steps from noise to image. Use fewer than for evaluation: the cost of training is proportional, and
    /// what is learned carries over.
    #[schemars(range(min = 1, max = MAX_STEPS))]
    pub steps: usize,
    /// Transition of the random steps; the others are Euler steps (`ode`). The objective `nft` requires `ode`, and the
    /// other objectives do not allow it.
    pub sampler: Sampler,
    /// Exploration strength of the random steps, above 0; at most 1 for `cps`. Or a list with one value per step, such
    /// as `[1.0, 0.8, 0.5, 0]`.
    pub eta: Eta,
    /// Noise levels of the steps. To change the kind, set the whole table, because each kind has its own keys.
    pub schedule: Schedule,
    /// Groups per rollout; each has one class.
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub groups: usize,
    /// Samples per group, whose rewards are compared with each other.
    #[schemars(range(min = 2, max = MAX_SIZE), extend("x-why" = "rewards are compared within a group"))]
    pub group_size: usize,
    /// Start the samples of a group from the same noise, so that they differ only by the noise of the random steps.
    pub shared_noise: bool,
    /// Classifier-free guidance in sampling and training; 1 disables it and halves the cost.
    #[schemars(range(min = 1), extend("x-why" = "1 is no guidance"))]
    pub guidance_scale: f64,
    /// With guidance: which of the two forward passes are trained.
    pub guidance_gradient: GuidanceGradient,
    /// Which steps are random and trained; for `nft`, the times at which noise is added to samples. A trained step must
    /// have a density: the last step with `cps`, `precise` and `dance-precise`, a step whose eta is 0, and a step whose
    /// noise is so small that the KL loses its meaning (κ above 100, see docs/method.md) are errors.
    pub trained_steps: TrainedSteps,
    /// Classes that the groups take in turn; empty means all.
    pub classes: Vec<usize>,
    /// Samples drawn together; must divide groups × group_size, and a larger value means all. More is faster on a GPU
    /// and needs more memory; the samples are bit-identical.
    #[schemars(range(min = 1, max = MAX_COUNT))]
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
    /// How rewards r become advantages.
    pub kind: AdvantageKind,
    /// Advantages are clipped to ± this; `inf` disables it.
    #[schemars(extend("exclusiveMinimum" = 0, "x-inf" = true))]
    pub clip: f64,
}

impl Default for Advantage {
    fn default() -> Self {
        Self { kind: AdvantageKind::GlobalStd, clip: 5.0 }
    }
}

/// `[objective]`: the loss. Each objective reads only its own keys. `configs/digits8/` has a file for each published
/// method: flow-dppo, flow-dppo-cps, flow-grpo, flow-cps, grpo-guard, mix-grpo, dance-grpo and nft.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Objective {
    /// The loss to minimise.
    pub name: ObjectiveName,
    /// For `flow-dppo` and `flow-grpo`: the log-probability. The KL always uses the true standard deviation s.
    pub log_prob: LogProb,
    /// For `flow-dppo`: which terms beyond the threshold are dropped.
    pub mask: Mask,
    /// For `flow-dppo`: what the mask compares with the threshold.
    pub divergence: Divergence,
    /// For `flow-dppo`: δ. A sample's step is dropped from the loss if its divergence from the rollout's policy has
    /// reached this and the update would push it further; `inf` drops nothing. At most 1 for `tv`.
    #[schemars(extend("exclusiveMinimum" = 0, "x-inf" = true))]
    pub kl_mask_threshold: f64,
    /// For `flow-grpo` and `grpo-guard`: the ratio is clipped below 1 − `clip_low`; must be less than 1 per element.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub clip_low: f64,
    /// For `flow-grpo` and `grpo-guard`: the ratio is clipped above 1 + `clip_high`.
    #[schemars(extend("exclusiveMinimum" = 0, "x-inf" = true))]
    pub clip_high: f64,
    /// Unit of threshold and clip range. The published 1e-5 (KL) and 1e-4 (clip) are means over 65,536 elements: 0.655
    /// and 6.55 as sums. `tv` has no unit.
    pub threshold_unit: ThresholdUnit,
    /// For `flow-grpo` and `grpo-guard`: the clip range over the run.
    pub clip_schedule: ClipSchedule,
    /// For `grpo-guard`: the weight of each step.
    pub step_weight: StepWeight,
    /// For `nft`: how far the implicit policies are from the old one, on either side.
    #[schemars(extend("exclusiveMinimum" = 0))]
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
    /// Its factor in the loss; 0 disables it, at no cost. Must be 0 for `nft`.
    #[schemars(range(min = 0))]
    pub beta: f64,
    /// The distance, measured between velocities at the same states.
    pub kind: ReferenceKind,
    /// Guidance of the base model; above `rollout.guidance_scale`, the penalty distils guidance into the policy.
    #[schemars(range(min = 1), extend("x-why" = "1 is no guidance"))]
    pub guidance_scale: f64,
}

impl Default for Reference {
    fn default() -> Self {
        Self { beta: 0.0, kind: ReferenceKind::Exact, guidance_scale: 1.0 }
    }
}

/// `[train]`: how `train` optimises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Rollouts, each followed by its updates.
    #[schemars(range(min = 1, max = MAX_COUNT))]
    pub iterations: usize,
    /// Updates (optimizer steps) per pass over a rollout; must divide groups × group_size.
    #[schemars(range(min = 1, max = MAX_COUNT))]
    pub updates_per_rollout: usize,
    /// Passes over a rollout. The mask acts from the second update on; with a single update, `flow-dppo` and `flow-grpo` are
    /// the same.
    #[schemars(range(min = 1, max = MAX_STEPS))]
    pub inner_epochs: usize,
    /// Samples whose forward and backward pass run together, one trained step at a time; must divide the samples of an
    /// update, and a larger value means all. More is faster on a GPU and needs more memory.
    #[schemars(range(min = 1, max = MAX_COUNT))]
    pub micro_batch: usize,
    /// Keep only the input of each block, and recompute the rest in the backward pass: less memory for about a third
    /// more work in updates, with bit-identical results.
    pub activation_checkpointing: bool,
    /// Store the activations that the backward pass needs in 16 bits: half the memory; gradients see activations
    /// rounded by at most 2⁻¹¹. Rollouts, ratio and KL do not change. An update with values beyond 65504 is skipped, and
    /// a warning names the tensor.
    pub half_activations: bool,
    /// What the factors of the network's matrix products are rounded to, in rollouts, updates and evaluations of the run:
    /// `f16` is several times faster on GPUs with matrix units, and rounds factors by up to 2⁻¹¹: see docs/running.md.
    pub precision: Precision,
    /// Order of the samples in a pass.
    pub order: Order,
    /// Order in which the gradients of an update are summed: see docs/scaling.md.
    pub reduction: Reduction,
    /// AdamW's learning rate, constant.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// AdamW's decay of the first moment.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub beta1: f64,
    /// AdamW's decay of the second moment.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub beta2: f64,
    /// AdamW's epsilon, added to the denominator.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub epsilon: f64,
    /// AdamW's decoupled weight decay.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// The global norm of the gradient is clipped to this; `inf` disables it.
    #[schemars(extend("exclusiveMinimum" = 0, "x-inf" = true))]
    pub max_grad_norm: f64,
    /// Decay per iteration of the averaged weights, which are evaluated and saved; 0 disables averaging. With `nft`
    /// they are also the old policy, which draws the samples.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub ema_decay: f64,
    /// Warm-up of `ema_decay`: an upper limit on the decay in the first iterations.
    pub ema_warm_up: EmaWarmUp,
    /// An update with a non-finite loss or gradient is skipped; the run stops after more than this many in a row.
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
            precision: Precision::F32,
            order: Order::Shuffled,
            reduction: Reduction::Auto,
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

/// `[eval]`: evaluation on fixed seeds, with deterministic steps and the averaged weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Eval {
    /// Iterations between evaluations; 0 means only the base and the end.
    pub every: usize,
    /// Classes to evaluate; empty means all.
    pub classes: Vec<usize>,
    /// Samples per class.
    #[schemars(range(min = 2, max = MAX_PER_CLASS), extend("x-why" = "diversity is a distance between samples"))]
    pub count: usize,
    /// Sampling steps, on a linear schedule or, with `model.folder`, on that of the model.
    #[schemars(range(min = 1, max = MAX_STEPS))]
    pub steps: usize,
    /// How the deterministic steps are made.
    pub solver: Solver,
    /// Classifier-free guidance, also for previews; 1 disables it.
    #[schemars(range(min = 1), extend("x-why" = "1 is no guidance"))]
    pub guidance_scale: f64,
    /// An independent classifier that is not a reward: a safetensors file, or `builtin:digits8-judge`,
    /// `builtin:rings-judge` or `builtin:shapes-judge`; empty means none.
    pub judge: String,
    /// With prompts: fields of their lines by whose values scores are also shown separately, such as `["category"]`. Every
    /// prompt must have them.
    pub group_by: Vec<String>,
    /// Seed of the evaluation's noise, the same every time.
    pub seed: u64,
}

impl Default for Eval {
    fn default() -> Self {
        Self {
            every: 5,
            classes: Vec::new(),
            count: 20,
            steps: 20,
            solver: Solver::Euler,
            guidance_scale: 1.0,
            judge: "builtin:digits8-judge".into(),
            group_by: Vec::new(),
            seed: 1234,
        }
    }
}

/// `[preview]`: the grid of samples on fixed seeds, one row per class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Preview {
    /// Iterations of `train` between grids; 0 means only the base and the end.
    pub every: usize,
    /// Classes to show; empty means at most 16, those of `rollout.classes` first.
    pub classes: Vec<usize>,
    /// Samples per class.
    #[schemars(range(min = 1, max = MAX_PER_CLASS))]
    pub per_class: usize,
    /// Euler steps, on a linear schedule or, with `model.folder`, on that of the model.
    #[schemars(range(min = 1, max = MAX_STEPS))]
    pub steps: usize,
    /// Seed of the grid's noise, the same every time.
    pub seed: u64,
}

impl Default for Preview {
    fn default() -> Self {
        Self { every: 5, classes: Vec::new(), per_class: 8, steps: 20, seed: 42 }
    }
}

/// `[checkpoint]`: what a run can resume from, and its best model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Iterations of `train` between checkpoints; 0 means only at the end. (`pretrain` has its own
    /// `pretrain.save_every`.)
    pub every: usize,
    /// How many of the newest checkpoints to keep.
    #[schemars(range(min = 1, max = MAX_COUNT))]
    pub keep: usize,
    /// Which number of the evaluations selects the averaged model kept in `best/`: `"judge"` (its accuracy),
    /// `"holdout"` (sum of the rewards of weight 0), `"reward"`, `"auto"` (the first of these three that exists) or
    /// `"none"`.
    pub keep_best: KeepBest,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: 5, keep: 3, keep_best: KeepBest::Auto }
    }
}

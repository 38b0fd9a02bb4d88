//! The sections of supervised training: `[pretrain]` and `[classifier]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::{Decay, Reduction, TimeSampling};
use super::ranges::*;

/// `[pretrain]`: flow-matching pretraining, or fine-tuning of a given model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pretrain {
    /// Optimizer steps.
    #[schemars(range(min = 1, max = MAX_COUNT))]
    pub steps: usize,
    /// Images per step.
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub batch_size: usize,
    /// Images whose forward and backward pass run together; must divide `batch_size`, and a larger value means all.
    #[schemars(range(min = 1, max = MAX_COUNT))]
    pub micro_batch: usize,
    /// Like `train.reduction`, over the micro-batches of a step.
    pub reduction: Reduction,
    /// Like `train.activation_checkpointing`.
    pub activation_checkpointing: bool,
    /// Like `train.half_activations`.
    pub half_activations: bool,
    /// AdamW's learning rate after the warm-up.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// AdamW's decoupled weight decay.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Steps over which the learning rate rises from 0; at most `steps`.
    pub warmup_steps: usize,
    /// How the learning rate continues after the warm-up.
    pub decay: Decay,
    /// The global norm of the gradient is clipped to this; `inf` disables it.
    #[schemars(extend("exclusiveMinimum" = 0, "x-inf" = true))]
    pub max_grad_norm: f64,
    /// Decay per step of the averaged weights, which are sampled from and saved; 0 disables averaging. At most
    /// (1 + t) / (10 + t), where t counts the steps done before.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub ema_decay: f64,
    /// Probability that an image's class is replaced by "no class", or its caption by the empty one, which guidance needs.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub class_dropout: f64,
    /// Distribution of the noise level.
    pub time_sampling: TimeSampling,
    /// Mean of the logit-normal distribution; above 0 means more noise. ln(s) is the same as noise levels with the shift s.
    pub logit_mean: f64,
    /// Standard deviation of the logit-normal distribution.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub logit_std: f64,
    /// Steps between lines of `metrics.jsonl`.
    #[schemars(range(min = 1, max = MAX_COUNT))]
    pub log_every: usize,
    /// Steps between grids of samples; 0 means only at the end.
    pub sample_every: usize,
    /// Classifier-free guidance of these samples; 1 disables it.
    #[schemars(range(min = 1), extend("x-why" = "1 is no guidance"))]
    pub guidance_scale: f64,
    /// Steps between checkpoints, which `--resume` continues from, each with the model so far; 0 means only at the end.
    /// The two newest are kept.
    pub save_every: usize,
}

impl Default for Pretrain {
    fn default() -> Self {
        Self {
            steps: 1250,
            batch_size: 128,
            micro_batch: 128,
            reduction: Reduction::Auto,
            activation_checkpointing: false,
            half_activations: false,
            learning_rate: 1e-3,
            weight_decay: 0.01,
            warmup_steps: 200,
            decay: Decay::Cosine,
            max_grad_norm: 1.0,
            ema_decay: 0.995,
            class_dropout: 0.1,
            time_sampling: TimeSampling::Uniform,
            logit_mean: 0.0,
            logit_std: 1.0,
            log_every: 50,
            sample_every: 500,
            guidance_scale: 1.0,
            save_every: 500,
        }
    }
}

/// `[classifier]`: the small network used as reward and as judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Classifier {
    /// Width of the one hidden layer.
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub hidden_size: usize,
    /// Optimizer steps.
    #[schemars(range(min = 1, max = MAX_COUNT))]
    pub steps: usize,
    /// Images per step.
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub batch_size: usize,
    /// Images whose forward and backward pass run together; must divide `batch_size`, and a larger value means all.
    #[schemars(range(min = 1, max = MAX_COUNT))]
    pub micro_batch: usize,
    /// Like `train.reduction`, over the micro-batches of a step.
    pub reduction: Reduction,
    /// AdamW's learning rate, constant.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// AdamW's decoupled weight decay.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Standard deviation of the normal noise added to the images (-1 to 1), which makes the score smooth around them.
    #[schemars(range(min = 0))]
    pub noise_std: f64,
    /// Steps between checkpoints, which `--resume` continues from, each with the model so far; 0 means only at the end.
    /// The two newest are kept.
    pub save_every: usize,
}

impl Default for Classifier {
    fn default() -> Self {
        Self {
            hidden_size: 128,
            steps: 1500,
            batch_size: 128,
            micro_batch: 128,
            reduction: Reduction::Auto,
            learning_rate: 1e-3,
            weight_decay: 0.01,
            noise_std: 0.15,
            save_every: 500,
        }
    }
}

//! The section that sets when `train` warns and when it stops a run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[guard]`: what `train` monitors. Each check can be turned off with its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    /// A score of the evaluations (the judge's accuracy, a reward of weight 0, the reward) has fallen if it is this
    /// many standard errors of the difference below its best so far; `inf` disables the check.
    #[schemars(extend("exclusiveMinimum" = 0, "x-inf" = true))]
    pub max_drop: f64,
    /// Diversity has fallen if it is below this share of the base's; 0 disables the check.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub min_diversity: f64,
    /// High frequencies have risen if their share of the energy is above this many times the base's; `inf` disables the
    /// check.
    #[schemars(extend("exclusiveMinimum" = 0, "x-inf" = true))]
    pub max_high_frequency: f64,
    /// The model has drifted if images are this far from the base's of the same noise, in units of the distance between
    /// two of the base's images of a class; `inf` disables the check.
    #[schemars(extend("exclusiveMinimum" = 0, "x-inf" = true))]
    pub max_drift: f64,
    /// Too much is dropped if this share of the terms of the updates after the first is masked or clipped; 1 disables
    /// the check.
    #[schemars(range(min = 0, max = 1))]
    pub max_masked_fraction: f64,
    /// The reward is saturated if its standard deviation in rollouts is below this share of its largest so far; 0
    /// disables the check.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub min_reward_spread: f64,
    /// Gradients are clipped hard if the norm of every update is above this many times `train.max_grad_norm`; `inf`
    /// disables the check.
    #[schemars(extend("exclusiveMinimum" = 0, "x-inf" = true))]
    pub max_gradient_cut: f64,
    /// Iterations in a row for which a problem in rollouts or updates must last before it is reported; 0 disables these
    /// checks.
    pub patience: usize,
    /// Iterations from the first without any masked or clipped term before that is reported; 0 disables the check.
    pub idle_after: usize,
    /// Iterations in a row above `max_masked_fraction` that stop the run; 0 means never.
    pub stop_after_masked: usize,
    /// Stop the run when the reward is being hacked: it rises while a hold-out score or the diversity falls, high
    /// frequencies rise, or the model drifts.
    pub stop_on_hack: bool,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            max_drop: 3.0,
            min_diversity: 0.5,
            max_high_frequency: 1.5,
            max_drift: 1.5,
            max_masked_fraction: 0.9,
            min_reward_spread: 0.05,
            max_gradient_cut: 10.0,
            patience: 3,
            idle_after: 10,
            stop_after_masked: 5,
            stop_on_hack: false,
        }
    }
}

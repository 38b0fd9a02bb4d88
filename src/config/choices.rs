//! The choices that a key can name.

use serde::{Deserialize, Serialize};

/// How a step's transition is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampler {
    /// Deterministic Euler steps.
    Ode,
    /// Flow-SDE (Flow-GRPO, arXiv 2505.05470).
    FlowSde,
    /// Constant noise level (DanceGRPO, arXiv 2505.07818).
    Dance,
    /// Coefficients-preserving sampling (Flow-CPS, arXiv 2509.05952).
    Cps,
    /// The exact finite-step transition (Precise).
    Precise,
    /// The exact finite-step transition of DanceGRPO's noise level (Precise).
    DancePrecise,
}

/// Which steps of a rollout are stochastic and trained; never the last, whose density is undefined
/// for some samplers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TrainedSteps {
    /// `count` different steps out of `[steps * from, steps * to)`, drawn anew for each rollout.
    SparseEarly {
        /// How many steps are drawn.
        count: usize,
        /// Start of the range, as a share of the steps.
        #[serde(default)]
        from: f64,
        /// End of the range, as a share of the steps.
        #[serde(default = "half")]
        to: f64,
    },
    /// The same steps in each rollout.
    List {
        /// Step numbers from 0.
        steps: Vec<usize>,
    },
    /// All steps but the last.
    // Braces, since serde would let unknown keys pass on a variant without them.
    AllButLast {},
}

fn half() -> f64 {
    0.5
}

/// How rewards become advantages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdvantageKind {
    /// (r - group mean) / group std.
    GroupStd,
    /// (r - group mean) / batch std: one scale for all groups (Flow-DPPO).
    GlobalStd,
    /// (r - batch mean) / batch std: groups compete with each other.
    GlobalScope,
    /// Flow-GRPO's rule by group.
    FlowGrpoGroup,
    /// Flow-GRPO's rule with the batch's standard deviation.
    FlowGrpoGlobal,
    /// Flow-Factory's rule by group.
    FlowFactoryGroup,
    /// Flow-Factory's rule with the batch's standard deviation.
    FlowFactoryGlobal,
    /// Each reward normalised by itself, then summed, then normalised again (GDPO).
    Gdpo,
    /// verl-omni's rule by group.
    VerlOmni,
}

/// Which policy loss is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectiveName {
    /// Flow-DPPO's asymmetric mask on the exact KL (arXiv 2606.11025).
    FlowDppo,
}

/// Whether a KL is a sum over a sample's elements or their mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThresholdUnit {
    /// Nats for the whole sample: does not depend on the picture's size.
    Sum,
    /// Nats an element (the sum divided by channels x height x width), as large models quote it.
    Mean,
}

/// The direction of a model's time and velocity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeConvention {
    /// Time is sigma: 1 is noise, 0 is data; the velocity is noise - data.
    Sigma,
    /// SiT's (arXiv 2401.08740): 0 is noise, 1 is data; the velocity is data - noise.
    Sit,
}

/// Where a model's position embedding comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// Trained, initialised from N(0, 0.02).
    Learned,
    /// Fixed two-dimensional sines and cosines.
    SinCos,
}

/// Where pictures and their classes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    /// A data set that is compiled into the program.
    Builtin,
    /// One picture of many equal tiles, in rows, and a text file of their labels.
    Sheet,
    /// A folder with a sub-folder of pictures for each class.
    Folder,
}

/// What scores a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RewardKind {
    /// The probability that a trained classifier gives to the class that was asked for.
    Classifier,
}

/// How the learning rate goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Half a cosine, to zero at the last step.
    Cosine,
    /// It does not.
    Constant,
}

/// How pretraining draws its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeSampling {
    /// Uniformly from 0 to 1.
    Uniform,
    /// The logistic function of a normal number: more from the middle (SD3, arXiv 2403.03206).
    LogitNormal,
}

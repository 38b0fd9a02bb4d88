//! The values that a key selects by name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::flow::divergence::{Divergence, ReferenceKind};
pub use crate::flow::objective::{ClipSchedule, LogProb, Mask, StepWeight, ThresholdUnit};
pub use crate::flow::sampler::{Eta, Sampler};
pub use crate::flow::schedule::Schedule;
pub use crate::flow::solver::Solver;
pub use crate::flow::trained_steps::TrainedSteps;

/// The rule that turns rewards r into advantages. "Group" means the samples of one group, "batch" all samples of the
/// rollout; a standard deviation (std) is the population's unless called unbiased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum AdvantageKind {
    /// `(r − group mean) / √(group variance + 1e-8)`.
    GroupStd,
    /// `(r − group mean) / (unbiased batch std + 1e-8)`, used by the Flow-DPPO authors: one scale for all groups, so
    /// that a group whose samples hardly differ is not amplified.
    #[default]
    GlobalStd,
    /// `(r − batch mean) / (unbiased batch std + 1e-8)`: groups compete with each other.
    GlobalScope,
    /// `(r − group mean) / (group std + 1e-4)`, Flow-GRPO's rule.
    FlowGrpoGroup,
    /// `(r − group mean) / (batch std + 1e-4)`, Flow-GRPO's default.
    FlowGrpoGlobal,
    /// `(r − group mean) / max(group std, 1e-6)`, Flow-Factory's rule.
    FlowFactoryGroup,
    /// `(r − group mean) / max(batch std, 1e-6)`, Flow-Factory's default.
    FlowFactoryGlobal,
    /// GDPO, for several rewards of different scales: each component is normalised separately as in
    /// `flow-factory-group`; their weighted sum C becomes `(C − batch mean) / max(batch std, 1e-6)`.
    Gdpo,
    /// `(r − group mean) / (unbiased group std + 1e-4)`, verl-omni's rule.
    VerlOmni,
}

/// Which loss is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectiveName {
    /// Flow-DPPO's mask on the divergence (arXiv 2606.11025).
    FlowDppo,
    /// Flow-GRPO's clipped ratio (arXiv 2505.05470).
    FlowGrpo,
    /// GRPO-Guard's clipped normalised ratio with step weights (arXiv 2510.22319).
    GrpoGuard,
    /// DiffusionNFT's forward-process loss (arXiv 2509.16117), which needs no random steps.
    Nft,
}

/// How the best of the evaluated models is selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeepBest {
    /// By the judge's accuracy if there is a judge, else by the rewards of weight 0 if there are any, else by the
    /// reward.
    Auto,
    /// By the judge's accuracy.
    Judge,
    /// By the sum of the rewards of weight 0, which training does not see.
    Holdout,
    /// By the reward that is trained.
    Reward,
    /// No model is kept.
    None,
}

/// How frozen weights are stored on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// In 32 bits, unchanged.
    #[default]
    F32,
    /// Matrices in 16 bits, rounded by at most 2⁻¹¹: half the memory.
    F16,
    /// Matrices in 8 bits with one scale per 32 weights of a row, like GGUF's q8_0: little more than a quarter of the
    /// memory. Matrices whose rows are not a multiple of 32 long are stored in 16 bits.
    #[serde(rename = "q8_0")]
    #[cfg_attr(feature = "cli", value(name = "q8_0"))]
    Q8_0,
}

/// What the elements of both factors of a matrix product are rounded to. The product is summed in 32 bits, and nothing else
/// is rounded: norms, attention, the loss and the weights that are trained stay in 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Nothing: 32 bits.
    #[default]
    F32,
    /// 16 bits, which GPUs multiply several times faster: 11 significant bits, up to 65504.
    F16,
}

impl WeightType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Q8_0];

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }
}

/// Which model counts as the start of a run that continues from an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoraReference {
    /// The base with the adapter: the model that the run starts from.
    #[default]
    Start,
    /// The base alone.
    Base,
}

/// Which of the two forward passes of guidance are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GuidanceGradient {
    /// Both passes, with the class and without.
    Both,
    /// Only the one with the class; the one without is treated as constant.
    Conditional,
}

/// The order in which a pass visits the samples of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Shuffled for each pass, so that every update sees all classes.
    Shuffled,
    /// As they were drawn, group after group: an update sees only some of the classes.
    Contiguous,
}

/// The order in which the gradients of an update are summed, which decides their last bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// `tree` if the run was started by a launcher such as `mpirun`, even with one process; otherwise `fast`. A run keeps
    /// what it began with.
    Auto,
    /// Along a tree over the micro-batches of an update: the same bits on any number of equal devices. The gradients of
    /// each micro-batch are read from the device, and added on the host.
    Tree,
    /// Each process adds up on its device, one micro-batch after another, and their sums along a tree: nothing is
    /// read from the device but one gradient per update, or none in a single process; but the last bits depend on the
    /// number of processes.
    Fast,
}

impl Reduction {
    /// Whether gradients are summed along a tree, which does not depend on the number of processes.
    pub fn is_tree(self, processes: usize) -> bool {
        match self {
            Self::Auto => processes > 1,
            Self::Tree => true,
            Self::Fast => false,
        }
    }
}

/// The upper limit on the decay of the averaged weights in an iteration, where t counts the iterations done before it:
/// 0 in the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EmaWarmUp {
    /// (1 + t) / (10 + t), Flow-GRPO's.
    Rational,
    /// t / 1000, DiffusionNFT's.
    Linear,
}

impl EmaWarmUp {
    /// The decay of the iteration that has `t` iterations before it, on the way to `target`.
    pub fn decay(self, target: f64, t: u64) -> f64 {
        let t = t as f64;
        target.min(match self {
            Self::Rational => (1.0 + t) / (10.0 + t),
            Self::Linear => 1e-3 * t,
        })
    }
}

/// The direction of a model's time and velocity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TimeConvention {
    /// Time is sigma: 1 is noise, 0 is data; the velocity is noise - data.
    Sigma,
    /// SiT's convention (arXiv 2401.08740): 0 is noise, 1 is data; the velocity is data - noise.
    Sit,
}

/// Where a model's position embedding comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// Trained, initialised from N(0, 0.02).
    Learned,
    /// Fixed two-dimensional sines and cosines.
    SinCos,
}

/// Where images and their classes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    /// A data set that is compiled into the program.
    Builtin,
    /// One image of many equal tiles, in rows, and a text file of their labels.
    Sheet,
    /// A directory with one sub-directory of images per class.
    Folder,
    /// A directory of images with captions, for a text-to-image model (`model.folder`).
    Captions,
    /// Scenes of coloured shapes with captions, drawn anew for every step, for a text-to-image model that knows words
    /// (`model.text`, or the `model.folder` of such a model). For `fit-classifier` views of such scenes, from which a judge
    /// learns to count their objects.
    Shapes,
}

/// How a new text-to-image model is told of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TextInput {
    /// The words of the data's captions and their places, as one-hot rows: the model learns word vectors, and needs no
    /// text encoder.
    Words {
        /// The most words of a prompt.
        #[schemars(range(min = 1, max = 1024))]
        tokens: usize,
    },
}

/// What scores an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RewardKind {
    /// The probability that a trained classifier assigns to the requested class.
    Classifier,
    /// How bright the image is, whatever its class: the mean over all channels, 0 for black and 1 for white.
    Ink,
    /// Any ONNX model.
    Onnx,
    /// The size of the image as a JPEG file, in KiB. A positive weight rewards detail, a negative one plainness.
    JpegSize,
    /// The mean luma (Rec. 709), 0 to 1.
    Brightness,
    /// How close the pixels are to a colour, 0 to 1.
    Colour,
    /// How well the halves of the image mirror each other, 0 to 1.
    Symmetry,
    /// How much neighbouring pixels differ, 0 to 1.
    TotalVariation,
    /// Correlation with a given image, -1 to 1.
    Template,
    /// How well the image fits its prompt, by a CLIP model.
    ClipScore,
    /// Whether the image shows the coloured shapes that its caption demands, 0 to 1.
    Shapes,
    /// The score that your own program returns.
    Command,
    /// The score that an HTTP service returns.
    Http,
}

impl RewardKind {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classifier => "classifier",
            Self::Ink => "ink",
            Self::Onnx => "onnx",
            Self::JpegSize => "jpeg-size",
            Self::Brightness => "brightness",
            Self::Colour => "colour",
            Self::Symmetry => "symmetry",
            Self::TotalVariation => "total-variation",
            Self::Template => "template",
            Self::ClipScore => "clip-score",
            Self::Shapes => "shapes",
            Self::Command => "command",
            Self::Http => "http",
        }
    }
}

/// Which halves of an image are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// The left half and the mirrored right half.
    LeftRight,
    /// The upper half and the mirrored lower half.
    TopBottom,
}

/// Order of the dimensions of a batch of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TensorLayout {
    /// Images, channels, rows, columns.
    Nchw,
    /// Images, rows, columns, channels.
    Nhwc,
}

/// Order of an image's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ColourOrder {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

/// How a program receives images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImageForm {
    /// As PNG in base64, in the request.
    Base64,
    /// As a PNG file whose path is in the request.
    Path,
}

/// How the learning rate decays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Along half a cosine, to zero at the last step.
    Cosine,
    /// No decay.
    Constant,
}

/// How pretraining draws noise levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TimeSampling {
    /// Uniformly from 0 to 1.
    Uniform,
    /// The logistic function of a normal number, with more levels in the middle (SD3, arXiv 2403.03206).
    LogitNormal,
}

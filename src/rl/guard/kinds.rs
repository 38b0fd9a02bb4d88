//! What a guard rail can warn of.

use serde::Serialize;

/// What a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WarningKind {
    /// The judge's accuracy fell.
    Judge,
    /// A reward of weight 0 fell.
    Holdout,
    /// The trained reward fell.
    Reward,
    /// Samples of a class become alike.
    Diversity,
    /// High spatial frequencies rise: grids, noise.
    HighFrequency,
    /// The model is far from its base.
    Drift,
    /// Most terms are masked or clipped.
    Masked,
    /// Nothing is ever masked or clipped.
    IdleMask,
    /// No group has samples of different reward.
    NoSignal,
    /// Rewards hardly differ any more.
    Saturated,
    /// Gradients are always cut to a small part.
    GradientCut,
    /// Activations are too large or too small for 16 bits.
    HalfActivations,
}

impl WarningKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Judge,
        Self::Holdout,
        Self::Reward,
        Self::Diversity,
        Self::HighFrequency,
        Self::Drift,
        Self::Masked,
        Self::IdleMask,
        Self::NoSignal,
        Self::Saturated,
        Self::GradientCut,
        Self::HalfActivations,
    ];

    /// Whether it is detected from evaluations.
    pub(super) fn is_evaluated(self) -> bool {
        use WarningKind::{Diversity, Drift, HighFrequency, Holdout, Judge, Reward};
        matches!(self, Judge | Holdout | Reward | Diversity | HighFrequency | Drift)
    }

    /// Its name in `warnings.jsonl` and docs/troubleshooting.md.
    pub fn name(self) -> &'static str {
        match self {
            Self::Judge => "judge",
            Self::Holdout => "holdout",
            Self::Reward => "reward",
            Self::Diversity => "diversity",
            Self::HighFrequency => "high-frequency",
            Self::Drift => "drift",
            Self::Masked => "masked",
            Self::IdleMask => "idle-mask",
            Self::NoSignal => "no-signal",
            Self::Saturated => "saturated",
            Self::GradientCut => "gradient-cut",
            Self::HalfActivations => "half-activations",
        }
    }
}

//! The policy objectives: how a sample changes the velocities that produced it.
//!
//! # The policy
//!
//! Sampling is a decision process: at each trained step the policy, given the latent x, takes the
//! action x'. With the row (a, b, s) of its sampler (see [`crate::flow::sampler`]) it is Gaussian:
//!
//! ```text
//! π_θ(x' | x) = N(a·x + b·v_θ(x), s²·I)
//! ```
//!
//! A rollout is sampled with the old velocity v_old and gives each sample an advantage A; several
//! updates of θ then learn from it, comparing the new velocity v with v_old.
//!
//! # Two sums are enough
//!
//! Old and new policy share x, a, b and s. With the noise ε = (x' − a·x − b·v_old)/s that was drawn
//! and Δ = v − v_old, both of D elements, everything is a function of two sums:
//!
//! ```text
//! S1 = Σ ε·Δ         S2 = Σ Δ²
//!
//! KL = b²/(2 s² D) · S2          exact divergence of the two Gaussians, in either direction
//! ln ρ = ln π_θ(x')/π_old(x') = b/(s D) · S1 − KL
//! ```
//!
//! Both are **means over the D elements** and not sums, as in DDPO and everything after it: the
//! true likelihood ratio of ten thousand elements overflows within one step. Thresholds are meant
//! the same way (see [`ThresholdUnit`]). The sums are also well conditioned: at the first
//! update Δ = 0, so ρ = 1 and KL = 0 bit for bit, where two subtracted log-likelihoods would leave
//! rounding noise.
//!
//! # The objectives
//!
//! All of them descend −A·ρ, and differ in when a term is *dropped*, that is, when ρ is replaced by
//! a constant and so has no gradient:
//!
//! * **Flow-GRPO** (arXiv 2505.05470) clips as PPO does: nothing is gained from ρ outside 1 ± c.
//!   But ln ρ has mean −KL and a deviation of only √(2·KL/D): in high dimension ρ > 1 + c hardly
//!   ever happens, while ρ < 1 − c soon always does. Good samples are never clipped, bad ones always are.
//! * **Flow-DPPO** (arXiv 2606.11025) compares the exact divergence instead, which does not depend on
//!   the noise that was drawn. A term is dropped only if the policy is already far (KL ≥ δ) *and*
//!   the term would push it further: ρ > 1 and A > 0, or ρ < 1 and A < 0. Terms that lead back are
//!   always kept.
//!   Divergences other than the KL can be chosen ([`Divergence`]).
//! * **GRPO-Guard** (arXiv 2510.22319) clips a normalised ratio
//!   ρ̃ = exp(s·(ln ρ + KL)) = exp(b/D · S1), whose logarithm has mean 0 and no 1/s, and weights the
//!   steps against each other.
//!
//! # The gradient
//!
//! Each exponent is linear in the two sums, ln ρ = p·S1 − q·S2. So a kept term L = −w·A·ρ has
//!
//! ```text
//! ∂L/∂S1 = −w·A·ρ·p      ∂L/∂S2 = w·A·ρ·q      ∂L/∂v = ∂L/∂S1 · ε + 2·∂L/∂S2 · Δ
//! ```
//!
//! This is all that a second pass over the elements needs. This file is the `f64` twin of the
//! shader: the same names in the same order.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::flow::divergence::Divergence;
use crate::flow::sampler::Transition;

/// Which exponent stands for the log-likelihood ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum LogProb {
    /// The Gaussian one, as a mean over the elements.
    #[default]
    Gaussian,
    /// Flow-CPS's (arXiv 2509.05952), ℓ = −mean (x' − mean)²: the Gaussian's log-ratio times 2s².
    /// Steps count more evenly, and nothing is divided by s. KL keeps the true variance.
    CpsSpecial,
}

/// When Flow-DPPO drops a term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Mask {
    /// If the divergence is δ or more and the term would push the policy further away: Flow-DPPO itself.
    #[default]
    Asymmetric,
    /// If the divergence is δ or more, whatever the direction: an ablation, which also blocks the way back.
    Symmetric,
    /// Never: an ablation, plain importance weighting.
    None,
}

/// The weight w of a step in GRPO-Guard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum StepWeight {
    /// 1/(σ − σ'), which makes Flow-SDE's steps equal: the authors' choice.
    #[default]
    InverseDt,
    /// 1/|b|, which makes any sampler's steps equal: the choice of Precise's authors.
    InverseB,
    /// 1.
    One,
}

impl StepWeight {
    /// The weight of the step from `sigma` to `sigma_next` with transition `row`.
    pub fn of(self, sigma: f64, sigma_next: f64, row: Transition) -> f64 {
        match self {
            Self::InverseDt => (sigma - sigma_next).recip(),
            Self::InverseB => row.b.abs().recip(),
            Self::One => 1.0,
        }
    }
}

/// How PPO's clip range changes over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum ClipSchedule {
    /// Not at all.
    #[default]
    Constant,
    /// Shrinks to half at the end of the run.
    LinearDecay,
    /// Shrinks to zero at the end of the run, along half a cosine.
    CosineDecay,
}

impl ClipSchedule {
    /// The factor of the clip range after the share `progress`, in [0, 1), of a run.
    pub fn factor(self, progress: f64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::LinearDecay => 1.0 - 0.5 * progress,
            Self::CosineDecay => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        }
    }
}

/// The unit of a threshold or a clip range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum ThresholdUnit {
    /// Mean over the elements of a latent, as used in the objectives and quoted in publications: 1e-5 for the 65 536
    /// elements of a 512² image. Its meaning depends on the size of the latent.
    #[default]
    Mean,
    /// Sum over the elements, in nats: the same 1e-5 is 0.655, which also works for small latents.
    Sum,
}

impl ThresholdUnit {
    /// `threshold`, given in this unit, per element of a latent of `dim` elements.
    pub fn to_mean(self, threshold: f64, dim: usize) -> f64 {
        match self {
            Self::Mean => threshold,
            Self::Sum => threshold / dim as f64,
        }
    }
}

/// A policy objective with its thresholds, in mean-reduced units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// Divergence mask.
    FlowDppo {
        /// δ > 0, of the divergence.
        kl_mask_threshold: f64,
        /// What is compared with δ.
        divergence: Divergence,
        /// Which terms beyond δ are dropped.
        mask: Mask,
    },
    /// PPO's clip; keeps ρ from 1 − `clip_low` to 1 + `clip_high`, both included.
    FlowGrpo {
        /// In (0, 1).
        clip_low: f64,
        /// Above 0.
        clip_high: f64,
    },
    /// PPO's clip on the normalised ratio. Its exponent is the same for every [`LogProb`].
    GrpoGuard {
        /// In (0, 1).
        clip_low: f64,
        /// Above 0.
        clip_high: f64,
        /// w > 0 of this step (see [`StepWeight`]).
        step_weight: f64,
    },
}

/// The inputs of an objective: one sample at one trained step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// S1 = Σ ε·Δ over the latent's elements.
    pub s1: f64,
    /// S2 = Σ Δ².
    pub s2: f64,
    /// D, the number of elements.
    pub dim: usize,
    /// The transition; its `s` must be above 0 ([`Transition::has_density`]).
    pub row: Transition,
    /// A of the sample.
    pub advantage: f64,
}

/// The result of an objective for a [`Term`]. The loss of a batch is the mean over all its terms,
/// dropped ones included, so the caller scales `loss`, `d_s1` and `d_s2` by one over their number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyOutcome {
    /// L, to be minimised.
    pub loss: f64,
    /// The exponent of `ratio`.
    pub log_ratio: f64,
    /// ρ (of GRPO-Guard: ρ̃).
    pub ratio: f64,
    /// Exact KL divergence between old and new policy, mean over the elements.
    pub kl: f64,
    /// Whether the term has a gradient; false if it is masked or clipped.
    pub kept: bool,
    /// ∂L/∂S1
    pub d_s1: f64,
    /// ∂L/∂S2
    pub d_s2: f64,
}

impl Objective {
    /// Checks that the thresholds make sense; an infinite one never acts.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] that names the setting and its range.
    pub fn check(self) -> Result<()> {
        let require = |name: &str, value: f64, holds: bool, range: &str| {
            if holds {
                return Ok(());
            }
            Err(Error::input(format!("{name} is {value}, but must be {range}")))
        };
        match self {
            Self::FlowDppo { kl_mask_threshold: delta, .. } => {
                require("kl_mask_threshold", delta, delta > 0.0, "above 0")
            }
            Self::FlowGrpo { clip_low, clip_high } => {
                let below_one = clip_low > 0.0 && clip_low < 1.0;
                require("clip_low", clip_low, below_one, "between 0 and 1")?;
                require("clip_high", clip_high, clip_high > 0.0, "above 0")
            }
            Self::GrpoGuard { clip_low, clip_high, step_weight } => {
                Self::FlowGrpo { clip_low, clip_high }.check()?;
                let sensible = step_weight > 0.0 && step_weight.is_finite();
                require("step_weight", step_weight, sensible, "finite and above 0")
            }
        }
    }

    /// Loss, ratio, divergence and gradient of one term.
    pub fn evaluate(self, log_prob: LogProb, term: &Term) -> PolicyOutcome {
        let dim = term.dim as f64;
        let kl = term.row.kappa() / dim * term.s2;

        let (p, q) = self.exponent(log_prob, term.row, dim);
        let log_ratio = p * term.s1 - q * term.s2;
        let ratio = log_ratio.exp();

        // A dropped term has a constant instead of its ratio: selected, never multiplied by 0, since
        // ρ may have overflowed and ∞·0 is NaN.
        let constant = match self {
            Self::FlowDppo { mask, .. } => {
                let far = self.is_beyond(term, log_ratio);
                mask.drops(far, log_ratio, term.advantage).then_some(0.0)
            }
            Self::FlowGrpo { clip_low, clip_high } | Self::GrpoGuard { clip_low, clip_high, .. } => {
                clipped_at(log_ratio, term.advantage, clip_low, clip_high)
            }
        };
        let gain = -self.weight() * term.advantage;
        let slope = match constant {
            None => gain * ratio,
            Some(_) => 0.0,
        };
        PolicyOutcome {
            loss: gain * constant.unwrap_or(ratio),
            log_ratio,
            ratio,
            kl,
            kept: constant.is_none(),
            d_s1: slope * p,
            d_s2: -slope * q,
        }
    }

    /// The (p, q) of ln ρ = p·S1 − q·S2.
    fn exponent(self, log_prob: LogProb, row: Transition, dim: f64) -> (f64, f64) {
        let Transition { b, s, .. } = row;
        match (self, log_prob) {
            (Self::GrpoGuard { .. }, _) => (b / dim, 0.0),
            (_, LogProb::Gaussian) => (b / (s * dim), row.kappa() / dim),
            (_, LogProb::CpsSpecial) => (2.0 * b * s / dim, b * b / dim),
        }
    }

    /// Whether a term lies beyond the trust region, whichever way it points: for monitoring; not the
    /// share that is dropped.
    pub fn is_beyond(self, term: &Term, log_ratio: f64) -> bool {
        match self {
            Self::FlowDppo { kl_mask_threshold, divergence, .. } => {
                divergence.factor(term.row) / term.dim as f64 * term.s2 >= kl_mask_threshold
            }
            Self::FlowGrpo { clip_low, clip_high } | Self::GrpoGuard { clip_low, clip_high, .. } => {
                log_ratio > clip_high.ln_1p() || log_ratio < (-clip_low).ln_1p()
            }
        }
    }

    fn weight(self) -> f64 {
        match self {
            Self::FlowDppo { .. } | Self::FlowGrpo { .. } => 1.0,
            Self::GrpoGuard { step_weight, .. } => step_weight,
        }
    }
}

impl Mask {
    /// Whether a term is dropped; `far` says that the divergence is δ or more. Signs of ln ρ stand for ρ > 1 and ρ < 1: in
    /// the shader's `f32` a small exponent would round to ρ = 1.
    fn drops(self, far: bool, log_ratio: f64, advantage: f64) -> bool {
        let outward = (log_ratio > 0.0 && advantage > 0.0) || (log_ratio < 0.0 && advantage < 0.0);
        match self {
            Self::Asymmetric => far && outward,
            Self::Symmetric => far,
            Self::None => false,
        }
    }
}

/// PPO's `max(−A·ρ, −A·clamp(ρ, 1−low, 1+high))`: the bound to which ρ is clipped, or `None` if it is
/// free. Compared as logarithms, which for the usual ranges of 1e-4 have digits that 1 ± 1e-4 lacks
/// in `f32`.
fn clipped_at(log_ratio: f64, advantage: f64, low: f64, high: f64) -> Option<f64> {
    if advantage >= 0.0 {
        (log_ratio > high.ln_1p()).then_some(1.0 + high)
    } else {
        (log_ratio < (-low).ln_1p()).then_some(1.0 - low)
    }
}

#[cfg(test)]
mod tests;

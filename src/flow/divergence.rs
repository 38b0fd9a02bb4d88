//! How far one policy is from another: every measure is a factor times the mean squared difference of velocities.
//!
//! Two policies share the row (a, b, s) of a step, so only their means differ, by b·Δv.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::sampler::Transition;

/// What Flow-DPPO's mask compares with its threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Divergence {
    /// The exact KL, κ·mean Δv²: Flow-DPPO itself.
    #[default]
    Kl,
    /// b²/2·mean Δv²: the KL as if s were 1 at every step, so late steps do not count more.
    KlUnnormalised,
    /// mean Δv²: the network alone, whatever the sampler.
    Velocity,
    /// Total variation distance of the two Gaussians, 0 to 1.
    // It grows with the KL, so only the threshold is converted (`kl_sum_from_tv`).
    Tv,
}

impl Divergence {
    /// The factor of mean Δv².
    pub fn factor(self, row: Transition) -> f64 {
        match self {
            Self::Kl | Self::Tv => row.kappa(),
            Self::KlUnnormalised => 0.5 * row.b * row.b,
            Self::Velocity => 1.0,
        }
    }
}

/// The penalty that keeps a policy near a reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum ReferenceKind {
    /// The exact KL: κ·mean Δv².
    #[default]
    Exact,
    /// Flow-GRPO's: the KL with s/√(−dt) instead of s, so that late steps count more.
    FlowGrpo,
    /// Mean squared difference of the means: b²·mean Δv².
    X,
    /// Mean squared difference of the velocities.
    V,
}

impl ReferenceKind {
    /// The factor of mean Δv² at the step from `sigma` to `sigma_next` with transition `row`.
    pub fn factor(self, sigma: f64, sigma_next: f64, row: Transition) -> f64 {
        match self {
            Self::Exact => row.kappa(),
            Self::FlowGrpo => row.kappa() * (sigma - sigma_next),
            Self::X => row.b * row.b,
            Self::V => 1.0,
        }
    }
}

/// Total variation distance of two Gaussians with equal covariance whose KL, summed over the elements, is
/// `kl_sum`: `erf(√KL / 2)`.
pub fn tv_from_kl_sum(kl_sum: f64) -> f64 {
    libm::erf(0.5 * kl_sum.sqrt())
}

/// The KL at which the total variation distance is `tv`: `4·erfinv(tv)²`; ∞ from 1 on.
pub fn kl_sum_from_tv(tv: f64) -> f64 {
    if tv >= 1.0 {
        return f64::INFINITY;
    }
    // erf(6) is 1 in f64. After 100 halvings the interval is smaller than the spacing of f64.
    let (mut low, mut high) = (0.0, 6.0);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if libm::erf(middle) < tv { low = middle } else { high = middle }
    }
    4.0 * high * high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_variation_and_kl_are_inverses() {
        for kl in [1e-8, 1e-3, 0.0655, 0.655, 6.55] {
            let back = kl_sum_from_tv(tv_from_kl_sum(kl));
            // erf near 1 loses digits: 1 − 0.93 keeps all but one.
            assert!((back / kl - 1.0).abs() < 1e-12, "{kl}: {back}");
        }
        assert_eq!(tv_from_kl_sum(0.0), 0.0);
        assert_eq!(kl_sum_from_tv(1.0), f64::INFINITY);
        // Pinsker: TV ≤ √(KL/2).
        assert!([1e-3, 0.1, 1.0, 10.0].iter().all(|kl: &f64| tv_from_kl_sum(*kl) <= (0.5 * kl).sqrt()));
    }

    #[test]
    fn factors_match_the_table() {
        let row = Transition { a: 0.9, b: -0.2, s: 0.5 };
        assert_eq!(Divergence::Kl.factor(row), row.kappa());
        assert_eq!(Divergence::Tv.factor(row), row.kappa());
        assert_eq!(Divergence::KlUnnormalised.factor(row), row.kappa() * 0.25);
        assert_eq!(Divergence::Velocity.factor(row), 1.0);
        let of = |kind: ReferenceKind| kind.factor(0.75, 0.5, row);
        assert_eq!(of(ReferenceKind::FlowGrpo), 0.25 * of(ReferenceKind::Exact));
        assert_eq!(of(ReferenceKind::X), 2.0 * Divergence::KlUnnormalised.factor(row));
        assert_eq!(of(ReferenceKind::V), 1.0);
    }
}

//! The ratio against its theoretical distribution: for samples that a policy has not learned from, it is noise.
//!
//! For a policy that moved by Δ independently of a term's noise ε, D·ln ρ is normal with mean −KL and variance 2·KL
//! (both sums over the D elements). Then z = (D·ln ρ + KL) / √(2·KL), which is ∓ε·Δ/‖Δ‖, is standard normal,
//! however far the policy moved. Updates on the very samples break the independence.

/// Number of bins of the histogram.
pub const BINS: usize = 16;
/// The histogram covers −`LIMIT` to `LIMIT`.
pub const LIMIT: f64 = 4.0;

/// The distribution of z over a set of terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StandardRatio {
    /// Mean of z.
    pub mean: f64,
    /// Its standard deviation.
    pub std: f64,
    /// How many z fell into each of the equal bins from −[`LIMIT`] to [`LIMIT`]; the outer bins also count values
    /// beyond.
    pub histogram: [usize; BINS],
}

impl StandardRatio {
    /// From ln ρ (the Gaussian's) and KL of each term, means over `dim` elements. Terms whose policy has not moved have
    /// no distribution and do not count; `None` if no others are left, or if one is not finite.
    pub fn new(terms: impl Iterator<Item = [f64; 2]>, dim: usize) -> Option<Self> {
        let sums = terms.map(|term| term.map(|mean| mean * dim as f64));
        let moved = sums.filter(|[_, kl]| *kl != 0.0);
        let found: Vec<f64> = moved.map(|[log_ratio, kl]| (log_ratio + kl) / (2.0 * kl).sqrt()).collect();
        if found.is_empty() || found.iter().any(|z| !z.is_finite()) {
            return None;
        }
        let count = found.len() as f64;
        let mean = found.iter().sum::<f64>() / count;
        let std = (found.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / count).sqrt();
        let mut histogram = [0; BINS];
        for z in found {
            let bin = (z + LIMIT) / (2.0 * LIMIT) * BINS as f64;
            histogram[bin.clamp(0.0, BINS as f64 - 1.0) as usize] += 1;
        }
        Some(Self { mean, std, histogram })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::divergence::Divergence;
    use crate::flow::noise::{NoiseKey, normals};
    use crate::flow::objective::{LogProb, Mask, Objective, Term};
    use crate::flow::sampler::Transition;

    /// A term whose noise was drawn independently of the drift, by the objective's own formulas.
    fn term(dim: usize, drift: f64, sample: u32) -> [f64; 2] {
        let noise = normals(NoiseKey { seed: 7, rollout: 0, sample, step: 0 }, dim);
        let delta = drift / (dim as f64).sqrt();
        let s1 = noise.iter().map(|noise| noise * delta).sum();
        let term = Term { s1, s2: drift * drift, dim, row: Transition { a: 0.9, b: -0.1, s: 0.3 }, advantage: 1.0 };
        let (mask, divergence) = (Mask::None, Divergence::Kl);
        let objective = Objective::FlowDppo { kl_mask_threshold: 1.0, divergence, mask };
        let found = objective.evaluate(LogProb::Gaussian, &term);
        [found.log_ratio, found.kl]
    }

    #[test]
    fn a_drift_independent_of_the_noise_gives_a_standard_normal_ratio() {
        let terms = (0..4000).map(|sample| term(64, f64::from(sample % 7), sample));
        let found = StandardRatio::new(terms, 64).unwrap();
        let moved = 4000 - 572;
        // Three standard errors for this many numbers.
        assert!(found.mean.abs() < 3.0 / f64::from(moved).sqrt(), "{found:?}");
        assert!((found.std - 1.0).abs() < 3.0 / f64::from(2 * moved).sqrt(), "{found:?}");
        assert_eq!(found.histogram.iter().sum::<usize>(), moved as usize);
        // Φ(0.5) − Φ(0) = 0.1915 of them in each of the middle bins, within three standard deviations.
        assert!(found.histogram[7..9].iter().all(|count| (587..726).contains(count)), "{found:?}");
    }

    #[test]
    fn bins_include_their_lower_edge_and_the_outer_bins_everything_beyond() {
        // KL = 0.5, so z = ln ρ + 0.5.
        let terms = [-9.0, -4.0, 0.0, 0.25, 0.5, 3.9, 4.0, 9.0].map(|z: f64| [z - 0.5, 0.5]);
        let mut expected = [0; BINS];
        (expected[0], expected[8], expected[9], expected[15]) = (2, 2, 1, 3);
        assert_eq!(StandardRatio::new(terms.into_iter(), 1).unwrap().histogram, expected);
    }

    #[test]
    fn an_unmoved_policy_or_non_finite_terms_give_none() {
        for terms in [&[][..], &[[0.0, 0.0]], &[[0.0, 0.1], [f64::NAN, 0.1]], &[[0.0, f64::NAN]]] {
            assert_eq!(StandardRatio::new(terms.iter().copied(), 4), None, "{terms:?}");
        }
    }
}

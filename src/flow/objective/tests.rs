use proptest::prelude::*;

use super::*;
use crate::flow::noise::{NoiseKey, Stream, normals};
use crate::flow::sampler::Sampler;

const KEY: NoiseKey = NoiseKey { seed: 11, rollout: 0, sample: 0, step: 0 };

const DPPO: Objective = dppo(1e-5, Mask::Asymmetric);
const GRPO: Objective = Objective::FlowGrpo { clip_low: 1e-4, clip_high: 1e-4 };
const GUARD: Objective = Objective::GrpoGuard { clip_low: 1e-4, clip_high: 1e-4, step_weight: 2.0 };

const fn dppo(kl_mask_threshold: f64, mask: Mask) -> Objective {
    Objective::FlowDppo { kl_mask_threshold, divergence: Divergence::Kl, mask }
}

/// The transitions of a middle step for each sampler with a density.
fn rows() -> Vec<(Sampler, Transition)> {
    [Sampler::FlowSde, Sampler::Dance, Sampler::Cps, Sampler::Precise, Sampler::DancePrecise]
        .map(|sampler| (sampler, sampler.row(0.875, 0.8, 0.96, 0.7)))
        .to_vec()
}

/// ln N(x'; mean, s²), summed over the elements.
fn log_density(action: &[f64], mean: &[f64], s: f64) -> f64 {
    let normaliser = s.ln() + 0.5 * std::f64::consts::TAU.ln();
    action.iter().zip(mean).map(|(x, m)| -0.5 * ((x - m) / s).powi(2) - normaliser).sum()
}

/// The divergence from the closed form against the definition, E_old[ln π_old(x') − ln π_new(x')],
/// with actions drawn from the sampler and densities evaluated from their means.
#[test]
fn kl_and_log_ratio_agree_with_densities_and_monte_carlo() {
    let (dim, draws) = (16, 40_000);
    let inputs = normals(KEY, 3 * dim);
    let (x, rest) = inputs.split_at(dim);
    let (v_old, change) = rest.split_at(dim);
    let delta: Vec<_> = change.iter().map(|c| 0.3 * c).collect();
    for (sampler, row) in rows() {
        let mean = |v: &dyn Fn(usize) -> f64| -> Vec<f64> { (0..dim).map(|j| row.a * x[j] + row.b * v(j)).collect() };
        let (old, new) = (mean(&|j| v_old[j]), mean(&|j| v_old[j] + delta[j]));
        let s2 = delta.iter().map(|d| d * d).sum();
        let mut stream = Stream::new(NoiseKey { step: 1, ..KEY });
        let (mut sum, mut squares, mut kl) = (0.0, 0.0, 0.0);
        for _ in 0..draws {
            let noise: Vec<_> = (0..dim).map(|_| stream.normal()).collect();
            let action: Vec<_> = old.iter().zip(&noise).map(|(m, n)| m + row.s * n).collect();
            let gap = log_density(&action, &old, row.s) - log_density(&action, &new, row.s);
            sum += gap;
            squares += gap * gap;

            let s1 = noise.iter().zip(&delta).map(|(n, d)| n * d).sum();
            let term = Term { s1, s2, dim, row, advantage: 1.0 };
            let outcome = DPPO.evaluate(LogProb::Gaussian, &term);
            let expected = -gap / dim as f64;
            assert!((outcome.log_ratio - expected).abs() < 1e-12, "{sampler:?}");
            kl = outcome.kl;
        }
        let n = f64::from(draws);
        let estimate = sum / n;
        let error = ((squares / n - estimate * estimate) / n).sqrt();
        let exact = kl * dim as f64;
        assert!(exact > 0.0 && error < 0.05 * exact, "{sampler:?}: too few draws");
        assert!((estimate - exact).abs() < 4.0 * error, "{sampler:?}: {estimate} {exact}");
    }
}

#[test]
fn the_first_update_is_exactly_on_policy() {
    for (_, row) in rows() {
        for objective in [DPPO, dppo(1e-5, Mask::Symmetric), GRPO, GUARD] {
            for log_prob in [LogProb::Gaussian, LogProb::CpsSpecial] {
                let term = Term { s1: 0.0, s2: 0.0, dim: 64, row, advantage: -1.5 };
                let outcome = objective.evaluate(log_prob, &term);
                assert_eq!((outcome.ratio, outcome.kl, outcome.kept), (1.0, 0.0, true));
            }
        }
    }
}

#[test]
fn objectives_agree_until_a_trust_region_acts() {
    for (_, row) in rows() {
        let term = Term { s1: 1e-6, s2: 1e-12, dim: 64, row, advantage: 0.8 };
        let reference = DPPO.evaluate(LogProb::Gaussian, &term);
        assert!(reference.kept);
        assert_eq!(GRPO.evaluate(LogProb::Gaussian, &term), reference);
        assert_eq!(dppo(1e-5, Mask::None).evaluate(LogProb::Gaussian, &term), reference);
    }
}

#[test]
fn the_special_log_prob_is_the_gaussian_times_twice_the_variance() {
    for (_, row) in rows() {
        let term = Term { s1: -0.4, s2: 0.2, dim: 8, row, advantage: 1.0 };
        let gaussian = DPPO.evaluate(LogProb::Gaussian, &term);
        let special = DPPO.evaluate(LogProb::CpsSpecial, &term);
        let expected = 2.0 * row.s * row.s * gaussian.log_ratio;
        assert!((special.log_ratio - expected).abs() < 1e-15);
        assert_eq!(special.kl, gaussian.kl);
    }
}

#[test]
fn guard_is_the_bias_corrected_ratio() {
    for (_, row) in rows() {
        let term = Term { s1: -0.4, s2: 0.2, dim: 8, row, advantage: 1.0 };
        let gaussian = GRPO.evaluate(LogProb::Gaussian, &term);
        let guard = GUARD.evaluate(LogProb::Gaussian, &term);
        let expected = row.s * (gaussian.log_ratio + gaussian.kl);
        assert!((guard.log_ratio - expected).abs() < 1e-15);
        assert_eq!(guard, GUARD.evaluate(LogProb::CpsSpecial, &term));
    }
}

#[test]
fn an_overflowing_ratio_is_dropped_without_nan() {
    let row = Transition { a: 1.0, b: -1.0, s: 1.0 };
    let term = Term { s1: -1e4, s2: 1.0, dim: 1, row, advantage: 1.0 };
    for objective in [DPPO, dppo(1e-5, Mask::Symmetric), GRPO, GUARD] {
        let outcome = objective.evaluate(LogProb::Gaussian, &term);
        assert!(outcome.ratio.is_infinite() && !outcome.kept);
        assert!(outcome.loss.is_finite());
        assert_eq!((outcome.d_s1, outcome.d_s2), (0.0, 0.0));
    }
}

#[test]
fn beyond_the_trust_region_in_either_direction() {
    // With b² = 2 and s = 1 the KL is S2/D.
    let row = Transition { a: 1.0, b: -(2.0_f64.sqrt()), s: 1.0 };
    let term = |kl: f64| Term { s1: 0.0, s2: 4.0 * kl, dim: 4, row, advantage: 1.0 };
    assert!(DPPO.is_beyond(&term(1.01e-5), 0.0) && !DPPO.is_beyond(&term(0.9e-5), 1.0));
    for objective in [GRPO, GUARD] {
        assert!(objective.is_beyond(&term(0.0), 1.1e-4) && objective.is_beyond(&term(0.0), -1.1e-4));
        assert!(!objective.is_beyond(&term(1.0), 0.9e-4) && !objective.is_beyond(&term(1.0), -0.9e-4));
    }
}

#[test]
fn the_mask_compares_the_configured_divergence() {
    for (_, row) in rows() {
        for divergence in [Divergence::Kl, Divergence::KlUnnormalised, Divergence::Velocity, Divergence::Tv] {
            let term = Term { s1: -0.4, s2: 0.2, dim: 8, row, advantage: 1.0 };
            let value = divergence.factor(row) * 0.2 / 8.0;
            let kept = |kl_mask_threshold| {
                let objective = Objective::FlowDppo { kl_mask_threshold, divergence, mask: Mask::Symmetric };
                let outcome = objective.evaluate(LogProb::Gaussian, &term);
                assert_eq!(outcome.kl, row.kappa() / 8.0 * 0.2, "the KL is reported whichever divergence is compared");
                outcome.kept
            };
            assert!(kept(1.001 * value) && !kept(0.999 * value), "{divergence:?}");
        }
    }
}

#[test]
fn clip_ranges_shrink_as_scheduled() {
    let at = |schedule: ClipSchedule| [0.0, 0.5, 0.999_999].map(|progress| schedule.factor(progress));
    assert_eq!(at(ClipSchedule::Constant), [1.0; 3]);
    let close = |found: [f64; 3], expected: [f64; 3]| found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-6);
    assert!(close(at(ClipSchedule::LinearDecay), [1.0, 0.75, 0.5]));
    assert!(close(at(ClipSchedule::CosineDecay), [1.0, 0.5, 0.0]));
    assert!(at(ClipSchedule::CosineDecay).iter().all(|factor| *factor > 0.0));
}

#[test]
fn sum_thresholds_are_shared_among_the_elements() {
    assert_eq!(ThresholdUnit::Sum.to_mean(0.655, 65_536), 0.655 / 65_536.0);
    assert_eq!(ThresholdUnit::Mean.to_mean(1e-5, 65_536), 1e-5);
}

#[test]
fn step_weights_undo_the_step_size() {
    let row = Sampler::FlowSde.row(0.875, 0.8, 0.96, 0.7);
    assert_eq!(StepWeight::InverseDt.of(0.875, 0.8, row), 1.0 / (0.875 - 0.8));
    assert_eq!(StepWeight::InverseB.of(0.875, 0.8, row) * row.b, -1.0);
    assert_eq!(StepWeight::One.of(0.875, 0.8, row), 1.0);
}

#[test]
fn thresholds_out_of_range_are_named() {
    let grpo = |clip_low, clip_high| Objective::FlowGrpo { clip_low, clip_high };
    let guard = |clip_low, step_weight| Objective::GrpoGuard { clip_low, clip_high: 1e-4, step_weight };
    for (objective, name) in [
        (dppo(0.0, Mask::Asymmetric), "kl_mask_threshold is 0"),
        (dppo(f64::NAN, Mask::Asymmetric), "kl_mask_threshold is NaN"),
        (grpo(1.0, 0.1), "clip_low is 1"),
        (grpo(-0.1, 0.1), "clip_low is -0.1"),
        (grpo(0.1, 0.0), "clip_high is 0"),
        (guard(2.0, 1.0), "clip_low is 2"),
        (guard(0.1, f64::INFINITY), "step_weight is inf"),
    ] {
        let error = objective.check().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    for objective in [DPPO, GRPO, GUARD, dppo(f64::INFINITY, Mask::Symmetric)] {
        assert!(objective.check().is_ok());
    }
}

proptest! {
    /// ∂L/∂S1 and ∂L/∂S2 against central differences, wherever no boundary is crossed.
    #[test]
    fn gradients_are_derivatives_of_the_loss(
        s1 in -2.0..2.0_f64, s2 in 0.01..2.0_f64, advantage in -3.0..3.0_f64, which in 0_usize..5,
        objective in prop::sample::select(vec![
            dppo(1e-2, Mask::Asymmetric), dppo(1e-2, Mask::Symmetric), dppo(1e-2, Mask::None),
            Objective::FlowGrpo { clip_low: 0.05, clip_high: 0.1 },
            Objective::GrpoGuard { clip_low: 0.01, clip_high: 0.02, step_weight: 3.0 },
        ]),
        log_prob in prop::sample::select(vec![LogProb::Gaussian, LogProb::CpsSpecial]),
    ) {
        let row = rows()[which].1;
        let at = |s1, s2| objective.evaluate(log_prob, &Term { s1, s2, dim: 8, row, advantage });
        let outcome = at(s1, s2);
        let h = 1e-6;
        for (low, high, derivative) in [
            (at(s1 - h, s2), at(s1 + h, s2), outcome.d_s1),
            (at(s1, s2 - h), at(s1, s2 + h), outcome.d_s2),
        ] {
            prop_assume!(low.kept == outcome.kept && high.kept == outcome.kept);
            let difference = (high.loss - low.loss) / (2.0 * h);
            // Central differences: O(h²) truncation, and 1e-16/h of rounding.
            let tolerance = 1e-8 * (1.0 + derivative.abs());
            prop_assert!((difference - derivative).abs() < tolerance, "{difference} {derivative}");
        }
    }

    /// A larger threshold never drops more, nor the asymmetric mask more than the symmetric one.
    #[test]
    fn masks_are_ordered(
        s1 in -2.0..2.0_f64, s2 in 0.0..2.0_f64, advantage in -3.0..3.0_f64, delta in 1e-4..0.1_f64,
    ) {
        let row = rows()[0].1;
        let term = Term { s1, s2, dim: 8, row, advantage };
        let kept = |delta, mask| dppo(delta, mask).evaluate(LogProb::Gaussian, &term).kept;
        prop_assert!(kept(2.0 * delta, Mask::Asymmetric) >= kept(delta, Mask::Asymmetric));
        prop_assert!(kept(delta, Mask::Asymmetric) >= kept(delta, Mask::Symmetric));
        prop_assert!(kept(delta, Mask::None));
    }
}

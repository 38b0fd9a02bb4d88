//! Masks, clips, losses, penalties and their gradients.

use flowdppo_wgpu::flow::divergence::{Divergence, ReferenceKind};
use flowdppo_wgpu::flow::nft;
use flowdppo_wgpu::flow::objective::{LogProb, Mask, Objective, StepWeight, Term};
use flowdppo_wgpu::flow::sampler::{Sampler, Transition};

use crate::{LossInputs, PolicyCase, assert_all_close, assert_close, numbers, sampler};

/// A term with the given log-ratio and KL: with b = −1, s = 1 and D = 1, KL = S2/2 and
/// ln ρ = −S1 − KL.
fn term(log_ratio: f64, kl: f64, advantage: f64) -> Term {
    Term { s1: -(log_ratio + kl), s2: 2.0 * kl, dim: 1, row: Transition { a: 1.0, b: -1.0, s: 1.0 }, advantage }
}

/// ln ρ of a ratio that was written as a decimal 1 ± n·1e-4, rounded so that a decimal boundary equals the decimal
/// threshold.
fn log_of_decimal(ratio: f64) -> f64 {
    (((ratio - 1.0) * 1e4).round() / 1e4).ln_1p()
}

/// ∂L/∂ρ of an outcome of [`term`], where ∂ρ/∂S1 = −ρ.
fn d_ratio(d_s1: f64, ratio: f64) -> f64 {
    -d_s1 / ratio
}

#[test]
fn divergence_mask() {
    let golden = numbers();
    assert_eq!(golden.dppo_mask.len(), 27);
    for case in &golden.dppo_mask {
        let what = format!("A {} ratio {} KL {}", case.advantage, case.ratio, case.kl);
        let term = term(log_of_decimal(case.ratio), case.kl, case.advantage);
        let evaluate = |mask| {
            let objective = Objective::FlowDppo { kl_mask_threshold: case.delta, divergence: Divergence::Kl, mask };
            objective.evaluate(LogProb::Gaussian, &term)
        };
        let outcome = evaluate(Mask::Asymmetric);
        assert_eq!(outcome.kl, case.kl, "{what}");
        assert_eq!(outcome.kept, case.keep, "{what}");
        assert_close(outcome.ratio, case.ratio, 0.0, &what);
        assert_close(outcome.loss, case.loss, 0.0, &what);
        assert_close(d_ratio(outcome.d_s1, outcome.ratio), case.dloss_dratio, 0.0, &what);
        assert_eq!(evaluate(Mask::Symmetric).kept, case.keep_symmetric, "{what}");
        assert!(evaluate(Mask::None).kept, "{what}");
    }
}

#[test]
fn ratio_clip() {
    let golden = numbers();
    assert_eq!(golden.ppo_clip.len(), 15);
    for case in &golden.ppo_clip {
        let what = format!("A {} ratio {}", case.advantage, case.ratio);
        let objective = Objective::FlowGrpo { clip_low: case.clip, clip_high: case.clip };
        let term = term(log_of_decimal(case.ratio), 0.0, case.advantage);
        let outcome = objective.evaluate(LogProb::Gaussian, &term);
        assert_close(outcome.loss, case.loss, 0.0, &what);
        assert_close(d_ratio(outcome.d_s1, outcome.ratio), case.dloss_dratio, 0.0, &what);
    }
}

/// The terms of the six samples, with S1 and S2 from the action x' as a trainer would have it.
fn terms(inputs: &LossInputs, sampler: Sampler) -> Vec<(Term, Vec<f64>, Vec<f64>)> {
    (0..inputs.adv.len())
        .map(|i| {
            let row = sampler.row(inputs.sigma[i], inputs.sigma_next[i], inputs.sigma_max, inputs.eta);
            let (x, v_old, v_new) = (&inputs.x[i], &inputs.v_old[i], &inputs.v_new[i]);
            let epsilon: Vec<_> = (0..x.len())
                .map(|j| {
                    let mean = row.a * x[j] + row.b * v_old[j];
                    let action = mean + row.s * inputs.noise[i][j];
                    (action - mean) / row.s
                })
                .collect();
            let delta: Vec<_> = v_new.iter().zip(v_old).map(|(new, old)| new - old).collect();
            let term = Term {
                s1: epsilon.iter().zip(&delta).map(|(e, d)| e * d).sum(),
                s2: delta.iter().map(|d| d * d).sum(),
                dim: x.len(),
                row,
                advantage: inputs.adv[i],
            };
            (term, epsilon, delta)
        })
        .collect()
}

/// A penalty on the distance to the reference, and its gradient to the new velocity.
fn penalty(inputs: &LossInputs, kind: ReferenceKind, term: &Term, i: usize) -> (f64, Vec<f64>) {
    let factor = kind.factor(inputs.sigma[i], inputs.sigma_next[i], term.row) / term.dim as f64;
    let delta: Vec<f64> = inputs.v_new[i].iter().zip(&inputs.v_ref[i]).map(|(new, base)| new - base).collect();
    let value = factor * delta.iter().map(|d| d * d).sum::<f64>();
    (value, delta.iter().map(|d| 2.0 * factor * d).collect())
}

fn objective(name: &str, case: &PolicyCase, step_weight: f64) -> Option<Objective> {
    let dppo = |mask| Objective::FlowDppo { kl_mask_threshold: case.delta, divergence: Divergence::Kl, mask };
    let (clip_low, clip_high) = (case.clip, case.clip);
    match name {
        "dppo" => Some(dppo(Mask::Asymmetric)),
        "dppo_sym" => Some(dppo(Mask::Symmetric)),
        "ppo" => Some(Objective::FlowGrpo { clip_low, clip_high }),
        "guard" => Some(Objective::GrpoGuard { clip_low, clip_high, step_weight }),
        _ => None,
    }
}

#[test]
fn losses_and_gradients() {
    let golden = numbers();
    let inputs = &golden.loss_inputs;
    let (mut compared, mut dropped) = (0, 0);
    for case in &golden.losses {
        let Some(policy) = &case.policy else { continue };
        let log_prob = if policy.special_logp { LogProb::CpsSpecial } else { LogProb::Gaussian };
        let samples = terms(inputs, sampler(&case.sampler));
        let batch = samples.len() as f64;
        let mut loss = 0.0;
        for (i, (term, epsilon, delta)) in samples.iter().enumerate() {
            let what = format!("{} {} sample {i}", case.sampler, case.loss_name);
            let weight = StepWeight::InverseDt.of(inputs.sigma[i], inputs.sigma_next[i], term.row);
            let objective = objective(&case.loss_name, policy, weight).unwrap();
            let outcome = objective.evaluate(log_prob, term);

            // Sums of ten products of about 1.
            assert_close(term.s1, policy.s1[i], 10.0, &what);
            assert_close(term.s2, policy.s2[i], 10.0, &what);
            assert_close(outcome.kl, policy.kl[i], 0.0, &what);
            assert_close(outcome.ratio, policy.ratio[i], 0.0, &what);
            // The expected number is a difference of two log-likelihoods of about 1, of the
            // Gaussian also where GRPO-Guard uses another exponent.
            let clip = Objective::FlowGrpo { clip_low: 0.5, clip_high: 0.5 };
            let log_ratio = clip.evaluate(log_prob, term).log_ratio;
            assert_close(log_ratio, policy.log_ratio[i], 1.0, &what);
            assert_eq!(outcome.kept, policy.gate[i] == 1.0, "{what}");
            dropped += usize::from(!outcome.kept);

            let guard = case.loss_name == "guard";
            let unweighted = if guard { outcome.loss / weight } else { outcome.loss };
            assert_close(unweighted, policy.per_sample[i], 0.0, &what);
            loss += outcome.loss / batch;

            let (penalty, d_penalty) = penalty(inputs, ReferenceKind::Exact, term, i);
            if let Some(kl_ref) = &policy.kl_ref {
                assert_close(penalty, kl_ref[i], 0.0, &what);
            }
            loss += policy.beta_ref * penalty / batch;
            let gradient: Vec<_> = (epsilon.iter().zip(delta).zip(&d_penalty))
                .map(|((e, d), p)| (outcome.d_s1 * e + 2.0 * outcome.d_s2 * d + policy.beta_ref * p) / batch)
                .collect();
            // Each element is a difference of two terms of the size of the largest element.
            let largest = gradient.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
            assert_all_close(&gradient, &case.grad_v[i], largest, &what);
        }
        // A sum in which samples of either sign cancel.
        assert_close(loss, case.loss, 1.0, &case.loss_name);
        compared += 1;
    }
    assert_eq!(compared, 22);
    assert!(dropped > 20, "{dropped}: the cases must reach both branches");
}

#[test]
fn penalties_on_the_distance_to_a_reference() {
    let golden = numbers();
    let inputs = &golden.loss_inputs;
    let mut compared = 0;
    for case in golden.losses.iter().filter(|case| case.policy.is_none()) {
        let kind = match case.loss_name.as_str() {
            "ref_exact" => ReferenceKind::Exact,
            "ref_flow_grpo" => ReferenceKind::FlowGrpo,
            "ref_x_mse" => ReferenceKind::X,
            "ref_v_mse" => ReferenceKind::V,
            other => panic!("unknown penalty {other}"),
        };
        let terms = terms(inputs, sampler(&case.sampler));
        let batch = terms.len() as f64;
        let mut loss = 0.0;
        for (i, (term, ..)) in terms.iter().enumerate() {
            let (value, gradient) = penalty(inputs, kind, term, i);
            loss += value / batch;
            let gradient: Vec<_> = gradient.iter().map(|g| g / batch).collect();
            let largest = gradient.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
            assert_all_close(&gradient, &case.grad_v[i], largest, &case.loss_name);
        }
        assert_close(loss, case.loss, 0.0, &case.loss_name);
        compared += 1;
    }
    assert_eq!(compared, 16);
}

#[test]
fn diffusion_nft() {
    let golden = numbers();
    let inputs = &golden.loss_inputs;
    let (t, beta, clip) = (0.6, 0.7, 5.0);
    let batch = inputs.adv.len() as f64;
    let mut loss = 0.0;
    for (i, advantage) in inputs.adv.iter().enumerate() {
        let dim = inputs.x[i].len();
        let errors: Vec<[f64; 2]> = (0..dim)
            .map(|j| {
                let u = inputs.noise[i][j] - inputs.x[i][j];
                nft::mixed(inputs.v_new[i][j], inputs.v_old[i][j], beta).map(|v| u - v)
            })
            .collect();
        let mut sums = nft::Sums::default();
        for (error, side) in errors.iter().flat_map(|error| [(error[0], 0), (error[1], 1)]) {
            sums.absolute[side] += error.abs();
            sums.squared[side] += error * error;
        }
        let outcome = nft::evaluate(sums, dim, t, *advantage, beta, clip);
        loss += outcome.loss / batch;
        let gradient: Vec<_> = errors
            .iter()
            .map(|[plus, minus]| (outcome.pull_negative * minus - outcome.pull_positive * plus) / batch)
            .collect();
        let largest = gradient.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
        assert_all_close(&gradient, &golden.nft.grad_v[i], largest, "NFT");
    }
    assert_close(loss, golden.nft.loss, 0.0, "NFT");
}

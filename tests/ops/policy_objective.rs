use flowdppo_wgpu::autodiff::backward;
use flowdppo_wgpu::flow::divergence::{Divergence, ReferenceKind};
use flowdppo_wgpu::flow::objective::{LogProb, Mask, Objective, StepWeight};
use flowdppo_wgpu::flow::sampler::Sampler;
use flowdppo_wgpu::gpu::ShaderStruct;
use flowdppo_wgpu::ops::{Outcome, PolicyObjective, PolicySettings, mean_squared_error, policy_stats};
use serde_json::Value;

use crate::common::{Input, Values, check_forward, check_gradient, floats, run, words};

const CLIP: Objective = Objective::FlowGrpo { clip_low: 0.05, clip_high: 0.1 };
const GUARD: Objective = Objective::GrpoGuard { clip_low: 0.03, clip_high: 0.05, step_weight: 1.0 };

const fn dppo(kl_mask_threshold: f64, mask: Mask) -> Objective {
    Objective::FlowDppo { kl_mask_threshold, divergence: Divergence::Kl, mask }
}

/// Every objective with every log-probability.
fn kinds() -> Vec<(Objective, LogProb)> {
    let masked_by = |divergence| Objective::FlowDppo { kl_mask_threshold: 0.02, divergence, mask: Mask::Asymmetric };
    [dppo(0.02, Mask::Asymmetric), dppo(0.02, Mask::Symmetric), dppo(0.02, Mask::None), CLIP, GUARD]
        .into_iter()
        .chain([Divergence::KlUnnormalised, Divergence::Velocity, Divergence::Tv].map(masked_by))
        .flat_map(|objective| [LogProb::Gaussian, LogProb::CpsSpecial].map(|log_prob| (objective, log_prob)))
        .collect()
}

fn settings(objective: Objective, dim: usize) -> Vec<u32> {
    bytemuck::cast_slice(&[PolicyObjective::settings(objective, dim)]).to_vec()
}

/// Outcomes of terms (S1, S2, A) with D = 1, a = 1, b = -1, s = 1: KL is S2/2 and the log-ratio -S1 - KL.
fn evaluate(objective: Objective, terms: &[[f64; 3]]) -> Vec<Outcome> {
    let rows = terms.len();
    let stats: Vec<f32> = terms.iter().flat_map(|[s1, s2, _]| [*s1 as f32, *s2 as f32]).collect();
    let advantages: Vec<f32> = terms.iter().map(|[.., advantage]| *advantage as f32).collect();
    let outputs = run(
        &[
            (&[rows, 2], &words(&stats)),
            (&[rows], &words(&advantages)),
            (&[rows, 3], &words(&[1.0, -1.0, 1.0].repeat(rows))),
            (&[rows], &words(&vec![1.0; rows])),
            (&[PolicySettings::WORDS], &settings(objective, 1)),
        ],
        |graph, x| graph.push(PolicyObjective::new(objective, LogProb::Gaussian), x),
    );
    let found: &[Outcome] = bytemuck::cast_slice(&outputs[1]);
    let losses: Vec<u32> = found.iter().map(|outcome| outcome.loss.to_bits()).collect();
    assert_eq!(outputs[0], losses, "losses are returned twice");
    found.to_vec()
}

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden.json")).expect("it is JSON")
}

fn sampler(name: &Value) -> Sampler {
    match name.as_str().expect("it is a name") {
        "flow" => Sampler::FlowSde,
        "dance" => Sampler::Dance,
        "cps" => Sampler::Cps,
        "precise" => Sampler::Precise,
        other => panic!("unknown sampler {other}"),
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("it is a number")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("it is a list").iter().map(number).collect()
}

fn matrix(value: &Value) -> Vec<f64> {
    value.as_array().expect("it is a list").iter().flat_map(numbers).collect()
}

#[track_caller]
fn assert_close(actual: f32, expected: f64, tolerance: f64, what: &str) {
    assert!((f64::from(actual) - expected).abs() <= tolerance, "{what}: {actual} instead of {expected}");
}

/// ln of a ratio that was written as a decimal 1 ± n·1e-4, so that it equals the decimal threshold.
fn log_of_decimal(ratio: f64) -> f64 {
    (((ratio - 1.0) * 1e4).round() / 1e4).ln_1p()
}

#[test]
fn divergence_mask() {
    let golden = golden();
    let cases = golden["dppo_mask"].as_array().expect("it is a list");
    assert_eq!(cases.len(), 27);
    for case in cases {
        let [advantage, ratio, kl, delta] = ["A", "ratio", "kl", "delta"].map(|key| number(&case[key]));
        let term = [-(log_of_decimal(ratio) + kl), 2.0 * kl, advantage];
        let of = |mask| evaluate(dppo(delta, mask), &[term]).remove(0);
        let outcome = of(Mask::Asymmetric);
        let what = case.to_string();
        assert_eq!(outcome.kept == 1.0, case["keep"], "{what}");
        assert_eq!(outcome.beyond == 1.0, kl >= delta, "{what}");
        assert_close(outcome.kl, kl, 1e-6 * kl, &what);
        assert_close(outcome.ratio, ratio, 2e-7, &what);
        assert_close(outcome.loss, number(&case["loss"]), 1e-6, &what);
        assert_close(-outcome.d_s1 / outcome.ratio, number(&case["dloss_dratio"]), 1e-6, &what);
        assert_eq!(of(Mask::Symmetric).kept == 1.0, case["keep_symmetric"], "{what}");
        assert_eq!(of(Mask::None).kept, 1.0, "{what}");
    }
}

#[test]
fn ratio_clip() {
    let golden = golden();
    let cases = golden["ppo_clip"].as_array().expect("it is a list");
    assert_eq!(cases.len(), 15);
    for case in cases {
        let [advantage, ratio, clip] = ["A", "ratio", "clip"].map(|key| number(&case[key]));
        let objective = Objective::FlowGrpo { clip_low: clip, clip_high: clip };
        let outcome = evaluate(objective, &[[-log_of_decimal(ratio), 0.0, advantage]]).remove(0);
        let what = case.to_string();
        assert_close(outcome.loss, number(&case["loss"]), 1e-6, &what);
        assert_close(-outcome.d_s1 / outcome.ratio, number(&case["dloss_dratio"]), 1e-6, &what);
    }
}

#[test]
fn losses_and_gradients() {
    let golden = golden();
    let inputs = &golden["loss_inputs"];
    let [sigma, sigma_next, advantages] = ["sigma", "sigma_next", "adv"].map(|key| numbers(&inputs[key]));
    let [v_new, v_old, v_ref, noise] = ["v_new", "v_old", "v_ref", "noise"].map(|key| matrix(&inputs[key]));
    let (rows, dim) = (advantages.len(), v_new.len() / advantages.len());
    let single = |values: &[f64]| words(&values.iter().map(|value| *value as f32).collect::<Vec<_>>());
    let (mut compared, mut dropped) = (0, 0);
    for case in golden["losses"].as_array().expect("it is a list") {
        if case.get("S1").is_none() {
            continue; // only a reference penalty
        }
        let sampler = sampler(&case["sampler"]);
        let [clip, delta] = ["clip", "delta"].map(|key| number(&case[key]));
        let objective = match case["loss_name"].as_str().expect("it is a name") {
            "dppo" => dppo(delta, Mask::Asymmetric),
            "dppo_sym" => dppo(delta, Mask::Symmetric),
            "ppo" => Objective::FlowGrpo { clip_low: clip, clip_high: clip },
            "guard" => Objective::GrpoGuard { clip_low: clip, clip_high: clip, step_weight: 1.0 },
            other => panic!("unknown objective {other}"),
        };
        let log_prob = if case["special_logp"] == true { LogProb::CpsSpecial } else { LogProb::Gaussian };
        let [sigma_max, eta] = ["sigma_max", "eta"].map(|key| number(&inputs[key]));
        let table: Vec<_> = (0..rows).map(|i| sampler.row(sigma[i], sigma_next[i], sigma_max, eta)).collect();
        let weights: Vec<f64> =
            (0..rows).map(|i| StepWeight::InverseDt.of(sigma[i], sigma_next[i], table[i])).collect();
        let transitions: Vec<f64> = table.iter().flat_map(|row| [row.a, row.b, row.s]).collect();
        let factors: Vec<f64> =
            (0..rows).map(|i| ReferenceKind::Exact.factor(sigma[i], sigma_next[i], table[i])).collect();
        let mean = vec![1.0 / rows as f64; rows];
        let outputs = run(
            &[
                (&[rows, dim], &single(&v_new)),
                (&[rows, dim], &single(&v_old)),
                (&[rows, dim], &single(&noise)),
                (&[rows], &single(&advantages)),
                (&[rows, 3], &single(&transitions)),
                (&[rows], &single(&weights)),
                (&[PolicySettings::WORDS], &settings(objective, dim)),
                (&[rows], &single(&mean)),
                (&[rows, dim], &single(&v_ref)),
                (&[rows], &single(&factors)),
                (&[rows], &single(&vec![number(&case["beta_ref"]) / rows as f64; rows])),
            ],
            |graph, x| {
                let stats = policy_stats(graph, x[0], x[1], x[2]);
                let op = PolicyObjective::new(objective, log_prob);
                let outputs = graph.push(op, &[stats, x[3], x[4], x[5], x[6]]);
                let penalty = mean_squared_error(graph, x[0], x[8], x[9]);
                let gradient = backward(graph, &[(outputs[0], x[7]), (penalty, x[10])], &[x[0]])[0];
                vec![stats, outputs[1], gradient.expect("the loss depends on the velocity"), penalty]
            },
        );
        let (stats, gradient) = (floats(&outputs[0]), floats(&outputs[2]));
        let found: &[Outcome] = bytemuck::cast_slice(&outputs[1]);
        let penalties = floats(&outputs[3]);
        let [s1, s2, kl, ratio, gate, per_sample] =
            ["S1", "S2", "kl", "ratio", "gate", "per_sample"].map(|key| numbers(&case[key]));
        let of_case = matrix(&case["grad_v"]);
        for (i, outcome) in found.iter().enumerate() {
            let what = format!("{} {} sample {i}", case["sampler"], case["loss_name"]);
            // Sums of ten products of about 1.
            assert_close(stats[2 * i], s1[i], 1e-5 * s1[i].abs().max(1.0), &what);
            assert_close(stats[2 * i + 1], s2[i], 1e-5 * s2[i], &what);
            assert_close(outcome.kl, kl[i], 1e-5 * kl[i], &what);
            assert_close(outcome.ratio, ratio[i], 1e-5 * ratio[i], &what);
            assert_eq!(f64::from(outcome.kept), gate[i], "{what}");
            dropped += usize::from(outcome.kept == 0.0);
            let weight = if matches!(objective, Objective::GrpoGuard { .. }) { weights[i] } else { 1.0 };
            assert_close(outcome.loss, weight * per_sample[i], 1e-5 * weight * per_sample[i].abs(), &what);
            if let Some(kl_ref) = case.get("kl_ref") {
                let kl_ref = numbers(kl_ref)[i];
                assert_close(penalties[i], kl_ref, 1e-5 * kl_ref, &what);
            }
            let range = i * dim..(i + 1) * dim;
            let largest = of_case[range.clone()].iter().fold(0.0, |most: f64, g| most.max(g.abs()));
            for index in range {
                assert_close(gradient[index], of_case[index], 1e-4 * largest, &what);
            }
        }
        compared += 1;
    }
    assert_eq!(compared, 22);
    assert!(dropped > 20, "{dropped}: the cases reach both branches");
}

/// Only the penalties on the distance to a reference.
#[test]
fn reference_penalties() {
    let golden = golden();
    let inputs = &golden["loss_inputs"];
    let [sigma, sigma_next] = ["sigma", "sigma_next"].map(|key| numbers(&inputs[key]));
    let [v_new, v_ref] = ["v_new", "v_ref"].map(|key| matrix(&inputs[key]));
    let (rows, dim) = (sigma.len(), v_new.len() / sigma.len());
    let single = |values: &[f64]| words(&values.iter().map(|value| *value as f32).collect::<Vec<_>>());
    let mut compared = 0;
    for case in golden["losses"].as_array().expect("it is a list") {
        let kind = match case["loss_name"].as_str().expect("it is a name") {
            "ref_exact" => ReferenceKind::Exact,
            "ref_flow_grpo" => ReferenceKind::FlowGrpo,
            "ref_x_mse" => ReferenceKind::X,
            "ref_v_mse" => ReferenceKind::V,
            _ => continue,
        };
        let [sigma_max, eta] = ["sigma_max", "eta"].map(|key| number(&inputs[key]));
        let sampler = sampler(&case["sampler"]);
        let factor =
            |i: usize| kind.factor(sigma[i], sigma_next[i], sampler.row(sigma[i], sigma_next[i], sigma_max, eta));
        let factors: Vec<f64> = (0..rows).map(factor).collect();
        let mean = vec![1.0 / rows as f64; rows];
        let outputs = run(
            &[
                (&[rows, dim], &single(&v_new)),
                (&[rows, dim], &single(&v_ref)),
                (&[rows], &single(&factors)),
                (&[rows], &single(&mean)),
            ],
            |graph, x| {
                let penalty = mean_squared_error(graph, x[0], x[1], x[2]);
                let gradient = backward(graph, &[(penalty, x[3])], &[x[0]])[0];
                vec![penalty, gradient.expect("the penalty depends on the velocity")]
            },
        );
        let loss = floats(&outputs[0]).iter().sum::<f32>() / rows as f32;
        let what = format!("{} {}", case["sampler"], case["loss_name"]);
        assert_close(loss, number(&case["loss"]), 1e-5 * number(&case["loss"]), &what);
        let gradients = matrix(&case["grad_v"]);
        for (row, expected) in gradients.chunks(dim).enumerate() {
            let largest = expected.iter().fold(0.0, |most: f64, g| most.max(g.abs()));
            for (found, expected) in floats(&outputs[1])[row * dim..].iter().zip(expected) {
                assert_close(*found, *expected, 1e-4 * largest, &what);
            }
        }
        compared += 1;
    }
    assert_eq!(compared, 16);
}

fn inputs(rows: usize, differentiate: bool) -> [Input; 5] {
    let stats = Input::new(&[rows, 2], Values::Between(-2.0, 2.0));
    [
        if differentiate { stats } else { stats.constant() },
        Input::normal(&[rows]).constant(),
        Input::new(&[rows, 3], Values::Between(0.4, 0.9)).constant(),
        Input::new(&[rows], Values::Between(0.5, 2.0)).constant(),
        Input::new(&[6], Values::Fixed(&[7.0, 0.02, 0.05, 0.1, -0.051_293_295, 0.095_310_18])).constant(),
    ]
}

#[test]
fn odd_sizes() {
    for (objective, log_prob) in kinds() {
        let op = PolicyObjective::new(objective, log_prob);
        for rows in [1, 7, 64, 131] {
            let name = format!("{objective:?} {log_prob:?}");
            check_forward(&name, &inputs(rows, false), 1e-11, |graph, x| graph.push(op, x));
            check_gradient(&name, &inputs(rows, true), 1e-11, |graph, x| vec![graph.push(op, x)[0]]);
        }
    }
}

#[test]
fn past_65535_workgroups() {
    // No mask: among so many terms, rounding would move some across a threshold. Hardly more outcomes fit in a
    // binding of 128 MiB.
    let op = PolicyObjective::new(dppo(0.02, Mask::None), LogProb::Gaussian);
    check_forward("policy_objective", &inputs(65_535 * 64 + 3, false), 1e-11, |graph, x| vec![graph.push(op, x)[0]]);
}

#[test]
fn the_first_update_is_exactly_on_policy() {
    for (objective, _) in kinds() {
        let found = evaluate(objective, &[[0.0, 0.0, 1.5], [0.0, 0.0, -1.5], [-0.0, 0.0, 0.3]]);
        for outcome in found {
            assert_eq!((outcome.ratio, outcome.kl, outcome.kept), (1.0, 0.0, 1.0), "{objective:?}");
            assert_eq!((outcome.log_ratio, outcome.beyond), (0.0, 0.0));
        }
    }
}

#[test]
fn a_huge_ratio_is_dropped_or_clamped_but_never_infinite() {
    for (objective, _) in kinds() {
        let outcome = evaluate(objective, &[[-1e4, 1.0, 1.0]]).remove(0);
        assert!((4.8e8..4.9e8).contains(&outcome.ratio), "e^20 is 4.85e8, not {}", outcome.ratio);
        assert_eq!(outcome.kept == 1.0, matches!(objective, Objective::FlowDppo { mask: Mask::None, .. }));
        assert!(outcome.beyond == 1.0 && outcome.loss.is_finite());
        assert!(outcome.kept == 1.0 || (outcome.d_s1 == 0.0 && outcome.d_s2 == 0.0));
    }
}

#[test]
fn sums_that_are_not_finite_are_not_hidden() {
    for (objective, _) in kinds() {
        for [s1, s2] in [[f64::NAN, 1.0], [0.5, f64::NAN], [f64::NEG_INFINITY, 1.0], [0.5, f64::INFINITY]] {
            let outcome = evaluate(objective, &[[s1, s2, 1.0]]).remove(0);
            assert!(!outcome.loss.is_finite(), "{objective:?}: {s1} and {s2} give {outcome:?}");
            assert!(!outcome.d_s1.is_finite() && !outcome.d_s2.is_finite(), "{outcome:?}");
        }
    }
}

#[test]
fn an_infinite_threshold_never_acts() {
    for mask in [Mask::Asymmetric, Mask::Symmetric] {
        let outcome = evaluate(dppo(f64::INFINITY, mask), &[[-5.0, 1e4, 1.0]]).remove(0);
        assert_eq!((outcome.kept, outcome.beyond), (1.0, 0.0));
    }
}

//! The pure mathematics against numbers from an independent `f64` program, which computes log-likelihoods from means and
//! actions, and whose gradients were checked with finite differences.
//!
//! Tolerance: 1e-12 of the larger of the expected number and the scale of the terms it is a sum of. Both sides round to
//! about 1e-16 per step, over tens of steps, and some numbers are small differences of larger ones. Without that scale
//! the tolerance would require digits that neither side has.

mod golden {
    mod losses;
}

use std::collections::BTreeMap;

use serde::Deserialize;

use flowdppo_wgpu::config::EmaWarmUp;
use flowdppo_wgpu::flow::divergence::{kl_sum_from_tv, tv_from_kl_sum};
use flowdppo_wgpu::flow::sampler::Sampler;
use flowdppo_wgpu::flow::schedule::Schedule;
use flowdppo_wgpu::flow::trained_steps::TrainedSteps;
use flowdppo_wgpu::rl::advantage::AdvantageKind;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    /// Describes the numbers; contains none itself.
    #[serde(rename = "meta")]
    _meta: serde_json::Value,
    schedules: BTreeMap<String, Vec<f64>>,
    sampler_inputs: SamplerInputs,
    samplers: Vec<SamplerCase>,
    advantages: BTreeMap<String, serde_json::Value>,
    dppo_mask: Vec<MaskCase>,
    ppo_clip: Vec<ClipCase>,
    loss_inputs: LossInputs,
    losses: Vec<LossCase>,
    tv_from_kl_sum: Vec<TvCase>,
    nft: NftCase,
    #[serde(rename = "mixgrpo_windows_T10_size4_iters25_overlap1")]
    mixgrpo_windows: BTreeMap<u32, Vec<usize>>,
    #[serde(rename = "ema_decay_flow_grpo_target0.9")]
    ema_decay: BTreeMap<u64, f64>,
    flow_grpo_num_train_timesteps: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct SamplerInputs {
    x: Vec<f64>,
    v: Vec<f64>,
    noise: Vec<f64>,
}

#[derive(Deserialize)]
struct SamplerCase {
    kind: String,
    sigma: f64,
    sigma_next: f64,
    eta: f64,
    sigma_max: f64,
    a: f64,
    b: f64,
    s: f64,
    mean: Vec<f64>,
    x_next: Vec<f64>,
    kappa: Option<f64>,
    logp_mean: Option<f64>,
    logp_sum: Option<f64>,
    logp_special: Option<f64>,
}

#[derive(Deserialize)]
struct TvCase {
    kl_sum: f64,
    tv: f64,
}

#[derive(Deserialize)]
struct NftCase {
    loss: f64,
    grad_v: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
struct MaskCase {
    #[serde(rename = "A")]
    advantage: f64,
    ratio: f64,
    kl: f64,
    delta: f64,
    keep: bool,
    keep_symmetric: bool,
    loss: f64,
    dloss_dratio: f64,
}

#[derive(Deserialize)]
struct ClipCase {
    #[serde(rename = "A")]
    advantage: f64,
    ratio: f64,
    clip: f64,
    loss: f64,
    dloss_dratio: f64,
}

#[derive(Deserialize)]
struct LossInputs {
    sigma: Vec<f64>,
    sigma_next: Vec<f64>,
    eta: f64,
    sigma_max: f64,
    x: Vec<Vec<f64>>,
    v_old: Vec<Vec<f64>>,
    v_new: Vec<Vec<f64>>,
    v_ref: Vec<Vec<f64>>,
    noise: Vec<Vec<f64>>,
    adv: Vec<f64>,
}

#[derive(Deserialize)]
struct LossCase {
    sampler: String,
    loss_name: String,
    loss: f64,
    grad_v: Vec<Vec<f64>>,
    /// Absent from the cases that only have a reference penalty.
    #[serde(flatten)]
    policy: Option<PolicyCase>,
}

#[derive(Deserialize)]
struct PolicyCase {
    special_logp: bool,
    beta_ref: f64,
    clip: f64,
    delta: f64,
    #[serde(rename = "S1")]
    s1: Vec<f64>,
    #[serde(rename = "S2")]
    s2: Vec<f64>,
    log_ratio: Vec<f64>,
    ratio: Vec<f64>,
    kl: Vec<f64>,
    /// With a penalty on the distance to a reference.
    kl_ref: Option<Vec<f64>>,
    gate: Vec<f64>,
    per_sample: Vec<f64>,
}

fn numbers() -> Golden {
    serde_json::from_str(include_str!("golden.json")).unwrap()
}

fn sampler(name: &str) -> Sampler {
    match name {
        "ode" => Sampler::Ode,
        "flow" => Sampler::FlowSde,
        "dance" => Sampler::Dance,
        "cps" => Sampler::Cps,
        "precise" => Sampler::Precise,
        "dance_precise" => Sampler::DancePrecise,
        other => panic!("unknown sampler {other}"),
    }
}

/// `got` equals `expected`, where terms of size `scale` went into it.
#[track_caller]
fn assert_close(got: f64, expected: f64, scale: f64, what: &str) {
    let tolerance = 1e-12 * expected.abs().max(scale);
    assert!((got - expected).abs() <= tolerance, "{what}: {got} instead of {expected}");
}

#[track_caller]
fn assert_all_close(got: &[f64], expected: &[f64], scale: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (j, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_close(*got, *expected, scale, &format!("{what}[{j}]"));
    }
}

#[test]
fn schedules() {
    let golden = numbers();
    assert_eq!(golden.schedules.len(), 3);
    for (name, expected) in &golden.schedules {
        let schedule = match name.as_str() {
            "unirl_T10_shift3" => Schedule::StaticShift { shift: 3.0 },
            "diffusers_static_T10_shift3" => Schedule::DiffusersStatic { shift: 3.0 },
            "dynamic_T14_mu0.8" => Schedule::Dynamic { mu: 0.8 },
            other => panic!("unknown schedule {other}"),
        };
        let got = schedule.sigmas(expected.len() - 1).unwrap();
        assert_all_close(&got, expected, 0.0, name);
        let explicit = Schedule::Explicit { sigmas: expected.clone() };
        assert_eq!(explicit.sigmas(expected.len() - 1).unwrap(), *expected);
    }
}

#[test]
fn samplers() {
    let golden = numbers();
    let inputs = &golden.sampler_inputs;
    assert_eq!(golden.samplers.len(), 112);
    let (mut with_density, mut special) = (0, 0);
    for case in &golden.samplers {
        let what = format!("{} {}→{} eta {}", case.kind, case.sigma, case.sigma_next, case.eta);
        let row = sampler(&case.kind).row(case.sigma, case.sigma_next, case.sigma_max, case.eta);
        // Scale 1: with a full mix the noise that is kept is a rounding error, and `a` and `b` are
        // sums of terms of that size.
        assert_close(row.a, case.a, 1.0, &what);
        assert_close(row.b, case.b, 1.0, &what);
        assert_close(row.s, case.s, 0.0, &what);
        assert_eq!(row.has_density(), case.kappa.is_some(), "{what}");
        if let Some(kappa) = case.kappa {
            assert_close(row.kappa(), kappa, 0.0, &what);
        }
        let mean: Vec<_> = (inputs.x.iter().zip(&inputs.v)).map(|(x, v)| row.a * x + row.b * v).collect();
        let next: Vec<_> = (mean.iter().zip(&inputs.noise)).map(|(m, n)| m + row.s * n).collect();
        assert_all_close(&mean, &case.mean, 1.0, &what);
        assert_all_close(&next, &case.x_next, 1.0, &what);

        // The log-probabilities of the action, by their definition from this row.
        let z: Vec<_> = next.iter().zip(&mean).map(|(x, m)| x - m).collect();
        let squares = z.iter().map(|z| z * z).sum::<f64>();
        let count = z.len() as f64;
        assert_eq!(case.logp_mean.is_some(), row.has_density(), "{what}");
        if let (Some(mean), Some(sum)) = (case.logp_mean, case.logp_sum) {
            let gaussian = -squares / (2.0 * row.s * row.s) - count * (row.s.ln() + 0.5 * std::f64::consts::TAU.ln());
            assert_close(gaussian / count, mean, 1.0, &what);
            assert_close(gaussian, sum, count, &what);
            with_density += 1;
        }
        if let Some(expected) = case.logp_special {
            assert_close(-squares / count, expected, 1.0, &what);
            special += 1;
        }
    }
    assert!(with_density > 80 && special > 0, "{with_density} {special}");
}

/// The schedules of diffusers, rounded to six digits.
#[test]
fn schedules_of_diffusers() {
    #[derive(Deserialize)]
    struct Case {
        sigmas: Vec<f64>,
    }
    let cases: BTreeMap<String, Case> = serde_json::from_str(include_str!("formats/scheduler_sigmas.json")).unwrap();
    assert_eq!(cases.len(), 5);
    for (name, case) in cases {
        let schedule = match name.split_once(",n=").unwrap().0 {
            "shift=1.0" => Schedule::DiffusersStatic { shift: 1.0 },
            "shift=3.0" => Schedule::DiffusersStatic { shift: 3.0 },
            "dynamic mu=0.8" => Schedule::Dynamic { mu: 0.8 },
            other => panic!("unknown schedule {other}"),
        };
        let got = schedule.sigmas(case.sigmas.len() - 1).unwrap();
        for (got, expected) in got.iter().zip(&case.sigmas) {
            assert!((got - expected).abs() < 6e-7, "{name}: {got} instead of {expected}");
        }
    }
}

#[test]
fn a_table_is_the_rows_of_its_schedule() {
    let golden = numbers();
    let sigmas = &golden.schedules["unirl_T10_shift3"];
    let mut compared = 0;
    for case in &golden.samplers {
        let table = sampler(&case.kind).table(sigmas, |_| case.eta).unwrap();
        let step = (sigmas.windows(2)).position(|w| w == [case.sigma, case.sigma_next]);
        if let Some(k) = step {
            assert_close(table[k].a, case.a, 1.0, &case.kind);
            assert_close(table[k].b, case.b, 1.0, &case.kind);
            assert_close(table[k].s, case.s, 0.0, &case.kind);
            compared += 1;
        }
    }
    assert!(compared >= 64, "{compared}");
}

#[test]
fn advantages() {
    let golden = numbers();
    let groups = |name: &str| -> Vec<f64> {
        let groups: Vec<Vec<f64>> = serde_json::from_value(golden.advantages[name].clone()).unwrap();
        groups.concat()
    };
    let (r1, r2) = (groups("rewards_r1"), groups("rewards_r2"));
    let one = std::slice::from_ref(&r1);
    let both = [r1.clone(), r2];
    for (name, kind, rewards, zero_spread_groups) in [
        ("unirl_group", AdvantageKind::GroupStd, one, 1),
        ("unirl_global_std", AdvantageKind::GlobalStd, one, 1),
        ("unirl_global_scope", AdvantageKind::GlobalScope, one, 1),
        ("flow_grpo_group", AdvantageKind::FlowGrpoGroup, one, 1),
        ("flow_grpo_global_std", AdvantageKind::FlowGrpoGlobal, one, 1),
        ("ff_sum_global", AdvantageKind::FlowFactoryGlobal, &both, 0),
        ("ff_gdpo", AdvantageKind::Gdpo, &both, 0),
    ] {
        let weights = vec![1.0; rewards.len()];
        let got = kind.advantages(rewards, &weights, 4, None).unwrap();
        // Differences from a mean that is up to 20 times the standard deviation.
        assert_all_close(&got.values, &groups(name), 20.0, name);
        assert_eq!(got.zero_spread_groups, zero_spread_groups, "{name}");
    }
}

#[test]
fn total_variation() {
    let cases = numbers().tv_from_kl_sum;
    assert_eq!(cases.len(), 5);
    for case in cases {
        assert_close(tv_from_kl_sum(case.kl_sum), case.tv, 0.0, "total variation");
        // Near 1 the distance determines the KL poorly: TV 0.93 has lost a digit of it.
        assert_close(kl_sum_from_tv(case.tv), case.kl_sum, 1.0, "KL of a total variation");
    }
}

#[test]
fn windows_of_mix_grpo() {
    let rule = TrainedSteps::ProgressiveWindow { size: 4, overlap: 1, rollouts: 25, roll_back: true };
    let cases = numbers().mixgrpo_windows;
    assert_eq!(cases.len(), 5);
    for (rollout, steps) in cases {
        assert_eq!(rule.choose(10, 0, rollout).unwrap(), steps, "rollout {rollout}");
    }
}

#[test]
fn decay_of_the_average() {
    let cases = numbers().ema_decay;
    assert_eq!(cases.len(), 6);
    for (t, decay) in cases {
        assert_close(EmaWarmUp::Rational.decay(0.9, t), decay, 0.0, "decay");
    }
}

#[test]
fn flow_grpo_trains_on_all_steps_but_the_last() {
    let expected = numbers().flow_grpo_num_train_timesteps;
    assert_eq!(expected.len(), 2);
    let chosen = TrainedSteps::AllButLast {}.choose(10, 0, 0).unwrap();
    assert_eq!(chosen.len(), expected["T10_frac0.99"]);
    // All of them would include the last, which is rejected by name.
    let all = TrainedSteps::List { steps: (0..expected["T10_frac1.0"]).collect() };
    assert!(all.choose(10, 0, 0).unwrap_err().to_string().contains("is the last"));
}

/// A new section in the file does not parse. These are the tests of the existing ones.
#[test]
fn every_section_is_tested() {
    let tested = [
        ("schedules", "schedules"),
        ("sampler_inputs", "samplers"),
        ("samplers", "samplers"),
        ("advantages", "advantages"),
        ("dppo_mask", "divergence_mask"),
        ("ppo_clip", "ratio_clip"),
        ("tv_from_kl_sum", "total_variation"),
        ("loss_inputs", "losses_and_gradients"),
        ("losses", "losses_and_gradients"),
        ("nft", "diffusion_nft"),
        ("mixgrpo_windows_T10_size4_iters25_overlap1", "windows_of_mix_grpo"),
        ("ema_decay_flow_grpo_target0.9", "decay_of_the_average"),
        ("flow_grpo_num_train_timesteps", "flow_grpo_trains_on_all_steps_but_the_last"),
    ];
    let file: BTreeMap<String, serde_json::Value> = serde_json::from_str(include_str!("golden.json")).unwrap();
    let here = [include_str!("golden.rs"), include_str!("golden/losses.rs")].concat();
    for section in file.keys().filter(|key| key.as_str() != "meta") {
        let (_, test) = tested.iter().find(|(name, _)| name == section).unwrap_or_else(|| panic!("{section}"));
        assert!(here.contains(&format!("#[test]\nfn {test}() {{")), "{section} is tested by {test}");
    }
}

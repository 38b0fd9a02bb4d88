//! Made-up histories: healthy, noisy, hacked, broken.

use serde_json::json;

use super::*;
use crate::config::{Config, KeepBest};
use crate::run::Record;

const DIM: usize = 64;

fn record(value: Value) -> Record {
    serde_json::from_value(value).unwrap()
}

fn watch(change: impl FnOnce(&mut Config)) -> Watch {
    let mut config = Config::default();
    config.checkpoint.keep_best = KeepBest::None;
    change(&mut config);
    Watch::new(&config.guard, &config.objective, config.train.max_grad_norm, vec!["ink".into()], DIM)
}

/// An evaluation of 200 samples.
#[derive(Clone, Copy)]
struct Seen {
    reward: f64,
    judge: f64,
    ink: f64,
    diversity: f64,
    high_frequency: f64,
    image_msd: f64,
}

const BASE: Seen = Seen { reward: 0.8, judge: 0.82, ink: 0.3, diversity: 4.6, high_frequency: 0.1, image_msd: 0.0 };

impl Seen {
    fn line(self, iteration: u64) -> Record {
        record(json!({
            "iteration": iteration,
            "eval/samples": 200,
            "eval/reward_mean": self.reward,
            "eval/reward_standard_error": 0.02,
            "eval/judge_accuracy": self.judge,
            "eval/components": { "classifier": self.reward, "ink": self.ink },
            "eval/components_standard_error": { "classifier": 0.02, "ink": 0.01 },
            "eval/diversity": self.diversity,
            "eval/diversity_standard_error": 0.08,
            "eval/high_frequency": self.high_frequency,
            "eval/high_frequency_standard_error": 0.002,
            "eval/drift": { "image_msd": self.image_msd, "kl_mean": 0.03 },
        }))
    }
}

/// The kinds of warnings that a history gives, with their iterations; and whether it is stopped.
fn told(mut watch: Watch, lines: impl IntoIterator<Item = Record>) -> (Vec<(u64, WarningKind)>, bool) {
    let (mut told, mut stopped) = (Vec::new(), false);
    for line in lines {
        let findings = watch.observe(&line.into());
        told.extend(findings.warnings.iter().map(|warning| (warning.iteration, warning.kind)));
        stopped |= findings.stop.is_some();
    }
    (told, stopped)
}

fn evaluations(after: &[Seen]) -> Vec<Record> {
    [&[BASE], after].concat().iter().zip(0..).map(|(seen, iteration)| seen.line(iteration)).collect()
}

/// Iterations 1, 2, ...: eight updates, 10 groups; `change` makes them special.
fn rollouts(count: u64, change: impl Fn(u64, &mut Record)) -> Vec<Record> {
    let line = |iteration| {
        let mut line = record(json!({
            "iteration": iteration, "reward_mean": 0.8, "reward_std": 0.3, "zero_std_group_ratio": 0.1,
            "masked_fraction_later": 0.1, "masked_by_update": vec![0.1; 8], "grad_norm_by_update": vec![2.0; 8],
        }));
        change(iteration, &mut line);
        line
    };
    (1..=count).map(line).collect()
}

#[test]
fn a_healthy_run_gives_no_warning() {
    // The history of the built-in example, with noise of two standard errors on everything.
    let course = [
        Seen { reward: 0.9, judge: 0.91, diversity: 4.0, high_frequency: 0.11, image_msd: 0.07, ..BASE },
        Seen { reward: 0.97, judge: 0.975, diversity: 3.41, high_frequency: 0.12, image_msd: 0.14, ..BASE },
        Seen { reward: 0.975, judge: 0.95, ink: 0.28, diversity: 3.3, high_frequency: 0.124, image_msd: 0.15 },
    ];
    // A run that resumes measures the base again.
    let lines = evaluations(&course).into_iter().chain(rollouts(30, |_, _| {})).chain([BASE.line(0)]);
    assert_eq!(told(watch(|config| config.guard.stop_on_hack = true), lines), (vec![], false));
}

#[test]
fn a_base_measured_otherwise_is_a_new_baseline() {
    let good = Seen { judge: 0.95, reward: 0.9, ..BASE };
    // Resumed with another judge and another reward, which score half of the same pictures as good.
    let [base, worse] = [BASE, good].map(|seen| Seen { judge: seen.judge / 2.0, reward: seen.reward / 2.0, ..seen });
    let lines = [BASE.line(0), good.line(1), base.line(0), worse.line(2), worse.line(3)];
    assert_eq!(told(watch(|_| {}), lines).0, []);
    // Warnings given for the old ones are given again for the new ones.
    let bad = Seen { judge: 0.3, ..good };
    let lines = [BASE.line(0), bad.line(1), BASE.line(0), bad.line(2), Seen { ink: 0.31, ..BASE }.line(0), bad.line(3)];
    assert_eq!(told(watch(|_| {}), lines).0, [(1, WarningKind::Judge), (3, WarningKind::Judge)]);
    // Another device rounds differently but is not a new baseline: no warning is repeated, and the best stays the best.
    let rounded = Seen { diversity: BASE.diversity * (1.0 + 1e-5), ..BASE };
    let lines = [BASE.line(0), bad.line(1), rounded.line(0), bad.line(2)];
    assert_eq!(told(watch(|_| {}), lines).0, [(1, WarningKind::Judge)]);
}

#[test]
fn each_kind_of_hacking_is_reported_once_until_it_gets_worse() {
    let up = Seen { reward: 0.95, ..BASE };
    type Worsen = fn(Seen, f64) -> Seen;
    let cases: [(WarningKind, Worsen); 5] = [
        (WarningKind::Judge, |seen, bad| Seen { judge: 0.82 - 0.2 * bad, ..seen }),
        (WarningKind::Holdout, |seen, bad| Seen { ink: 0.3 - 0.08 * bad, ..seen }),
        (WarningKind::Diversity, |seen, bad| Seen { diversity: 1.9 / bad, ..seen }),
        (WarningKind::HighFrequency, |seen, bad| Seen { high_frequency: 0.18 * bad, ..seen }),
        (WarningKind::Drift, |seen, bad| Seen { image_msd: 0.8 * bad * bad, ..seen }),
    ];
    for (kind, make) in cases {
        let course = [0.0001, 1.0, 1.1, 1.4, 2.0].map(|bad| make(up, bad));
        let mut lines = evaluations(&course);
        if matches!(kind, WarningKind::Diversity) {
            lines[1] = up.line(1);
        }
        assert_eq!(told(watch(|_| {}), lines.clone()).0, [(2, kind), (5, kind)]);
        assert!(told(watch(|config| config.guard.stop_on_hack = true), lines.clone()).1, "{kind:?}");
        // Turned off.
        let off = watch(|config| {
            config.guard.max_drop = f64::INFINITY;
            config.guard.min_diversity = 0.0;
            config.guard.max_high_frequency = f64::INFINITY;
            config.guard.max_drift = f64::INFINITY;
        });
        assert_eq!(told(off, lines), (vec![], false));
    }
}

#[test]
fn a_fall_is_measured_from_the_best_and_against_noise() {
    let better = Seen { reward: 0.95, judge: 0.97, ..BASE };
    let worse = Seen { reward: 0.99, judge: 0.86, ..better };
    assert_eq!(told(watch(|_| {}), evaluations(&[better, worse])).0, [(2, WarningKind::Judge)]);
    let message = {
        let mut watch = watch(|_| {});
        let lines = evaluations(&[better, worse]);
        lines.into_iter().flat_map(|line| watch.observe(&line.into()).warnings).next().unwrap().message
    };
    for part in
        ["fell from 0.970 (iteration 1) to 0.860", "rose from 0.950 to 0.990", "train.learning_rate", "`judge` in"]
    {
        assert!(message.contains(part), "{message}");
    }
    // The same fall over 20 samples is noise.
    let few = evaluations(&[better, worse]).into_iter().map(|mut line| {
        line.insert("eval/samples".into(), json!(20));
        line
    });
    assert_eq!(told(watch(|_| {}), few).0, []);
}

#[test]
fn damage_is_not_a_hack() {
    let broken = Seen { reward: 0.3, judge: 0.2, ..BASE };
    let mut watch = watch(|config| config.guard.stop_on_hack = true);
    let findings: Vec<Findings> = evaluations(&[broken]).into_iter().map(|line| watch.observe(&line.into())).collect();
    assert_eq!(findings[1].stop, None);
    assert_eq!(findings[1].warnings.len(), 1);
    assert!(findings[1].warnings[0].message.contains("the reward did not rise (0.800, then 0.300)"));
    // Without a judge the reward decides.
    let lines = evaluations(&[broken]).into_iter().map(|mut line| {
        line.insert("eval/judge_accuracy".into(), Value::Null);
        line
    });
    assert_eq!(told(self::watch(|_| {}), lines), (vec![(1, WarningKind::Reward)], false));
}

#[test]
fn a_base_without_diversity_or_frequencies_is_no_baseline() {
    let mut lines = evaluations(&[Seen { reward: 0.9, image_msd: 3.0, high_frequency: 0.4, ..BASE }]);
    lines[0].insert("eval/diversity".into(), json!(0.0));
    lines[0].insert("eval/high_frequency".into(), json!(0.0));
    assert_eq!(told(watch(|_| {}), lines.clone()).0, []);
    // Points have none, and there may be no judge.
    for line in &mut lines {
        for key in ["eval/high_frequency", "eval/high_frequency_standard_error", "eval/judge_accuracy"] {
            line.insert(key.into(), Value::Null);
        }
    }
    assert_eq!(told(watch(|_| {}), lines).0, []);
}

#[test]
fn lasting_masking_is_reported_and_then_stops_the_run() {
    let masked =
        |share: f64| move |_: u64, line: &mut Record| drop(line.insert("masked_fraction_later".into(), json!(share)));
    assert_eq!(told(watch(|_| {}), rollouts(9, masked(0.85))), (vec![], false));
    assert_eq!(told(watch(|_| {}), rollouts(4, masked(0.95))), (vec![(3, WarningKind::Masked)], false));
    assert_eq!(told(watch(|_| {}), rollouts(5, masked(0.95))), (vec![(3, WarningKind::Masked)], true));
    // An iteration that learns resets the count.
    let now_and_then = |iteration: u64, line: &mut Record| {
        masked(if iteration.is_multiple_of(3) { 0.5 } else { 1.0 })(iteration, line)
    };
    assert_eq!(told(watch(|_| {}), rollouts(30, now_and_then)), (vec![], false));
    let off: [fn(&mut config::Guard); 2] = [
        |guard| guard.max_masked_fraction = 1.0,
        |guard| {
            guard.patience = 0;
            guard.stop_after_masked = 0;
        },
    ];
    for off in off {
        assert_eq!(told(watch(|config| off(&mut config.guard)), rollouts(9, masked(1.0))), (vec![], false));
    }
}

#[test]
fn a_threshold_that_never_acts_is_reported() {
    let nothing = |_: u64, line: &mut Record| drop(line.insert("masked_fraction_later".into(), json!(0.0)));
    let lines = rollouts(20, nothing);
    assert_eq!(told(watch(|_| {}), lines.clone()).0, [(10, WarningKind::IdleMask)]);
    assert_eq!(told(watch(|config| config.objective.name = ObjectiveName::FlowGrpo), lines.clone()).0.len(), 1);
    let quiet: [fn(&mut Config); 4] = [
        |config| config.guard.idle_after = 0,
        |config| config.objective.mask = Mask::None,
        |config| config.objective.kl_mask_threshold = f64::INFINITY,
        |config| config.objective.name = ObjectiveName::Nft,
    ];
    for quiet in quiet {
        assert_eq!(told(watch(quiet), lines.clone()).0, []);
    }
    // One update per rollout masks nothing by construction; and one iteration that masks is enough.
    let one = rollouts(20, |iteration, line| {
        nothing(iteration, line);
        line.insert("masked_by_update".into(), json!([0.0]));
    });
    assert_eq!(told(watch(|_| {}), one).0, []);
    let once = rollouts(20, |iteration, line| {
        drop(line.insert("masked_fraction_later".into(), json!(u8::from(iteration == 7))))
    });
    assert_eq!(told(watch(|_| {}), once).0, []);
}

#[test]
fn a_reward_without_differences_is_reported() {
    let blind = rollouts(5, |_, line| {
        line.insert("zero_std_group_ratio".into(), json!(1.0));
        line.insert("reward_std".into(), json!(0.0));
    });
    assert_eq!(told(watch(|_| {}), blind).0, [(3, WarningKind::NoSignal)]);
    let saturated = rollouts(9, |iteration, line| {
        line.insert("reward_std".into(), json!(if iteration < 5 { 0.3 } else { 0.01 }));
    });
    assert_eq!(told(watch(|_| {}), saturated).0, [(7, WarningKind::Saturated)]);
}

#[test]
fn gradients_that_are_always_clipped_hard_are_reported() {
    let norms = |least: f64| {
        move |_: u64, line: &mut Record| drop(line.insert("grad_norm_by_update".into(), json!([90.0, least, f64::NAN])))
    };
    assert_eq!(told(watch(|_| {}), rollouts(9, norms(9.0))).0, []);
    assert_eq!(told(watch(|_| {}), rollouts(9, norms(11.0))).0, [(3, WarningKind::GradientCut)]);
    assert_eq!(told(watch(|config| config.train.max_grad_norm = f64::INFINITY), rollouts(9, norms(11.0))).0, []);
}

#[test]
fn a_resumed_run_is_watched_as_if_it_had_never_stopped() {
    let hacked = Seen { reward: 0.95, judge: 0.5, ..BASE };
    let worse = Seen { judge: 0.3, ..hacked };
    let lines: Vec<Line> = evaluations(&[hacked, hacked, worse]).into_iter().map(Line::from).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("warnings.jsonl");
    let progress = Progress::new("training", 3, crate::run::Verbosity::Quiet);
    let mut guard = RunGuard::new(watch(|_| {}), &[], file.clone());
    lines[..2].iter().for_each(|line| guard.observe(line, &progress).unwrap());
    assert_eq!(guard.warnings, 1);
    let mut resumed = RunGuard::new(watch(|_| {}), &lines[..3], file.clone());
    // The base is measured again.
    for line in [&lines[0], &lines[3]] {
        resumed.observe(line, &progress).unwrap();
    }
    assert_eq!(resumed.warnings, 1);
    let written = crate::run::metrics::read(&file).unwrap();
    let written: Vec<(u64, &str)> =
        written.iter().map(|line| (line["iteration"].as_u64().unwrap(), line["kind"].as_str().unwrap())).collect();
    assert_eq!(written, [(1, "judge"), (3, "judge")]);
}

#[test]
fn a_kind_is_written_by_its_name() {
    for kind in WarningKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
}

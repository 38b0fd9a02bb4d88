//! Watches the metrics of a run, and reports what looks wrong, with numbers, and what to change.
//!
//! It reads nothing but these lines, so a resumed run that reads them back is watched as if it had never stopped.
//! docs/troubleshooting.md lists every kind of warning with its causes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use crate::config::{self, Mask, ObjectiveName};
use crate::error::Result;
use crate::run::metrics::{Record, number};
use crate::run::{MetricsLog, Progress};

/// How many standard errors a value must be beyond its limit, so that noise does not count.
const NOISE: f64 = 3.0;
/// A warning is repeated once its severity is this many times worse.
const WORSE: f64 = 1.5;

mod half;
mod kinds;

pub use kinds::WarningKind;

/// A line of `warnings.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Warning {
    /// Iterations done when it was detected.
    pub iteration: u64,
    /// What it is about.
    pub kind: WarningKind,
    /// What was observed, in numbers, and what to change.
    pub message: String,
}

/// What to report and do after a line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// What is new, or has become much worse.
    pub warnings: Vec<Warning>,
    /// Why the run should stop.
    pub stop: Option<String>,
}

/// Something that looks wrong.
struct Sign {
    kind: WarningKind,
    /// Distinguishes it from others of its kind; empty for most.
    name: String,
    /// How bad it is; only compared with earlier values of the same sign.
    severity: f64,
    /// Whether the reward rose meanwhile.
    hack: bool,
    seen: String,
    change: String,
}

/// A score at the evaluation where it was best.
#[derive(Clone, Copy, Debug)]
struct Score {
    iteration: u64,
    value: f64,
    standard_error: f64,
    /// The trained reward at that evaluation.
    reward: f64,
}

/// The history of a run, as far as the warnings need it.
#[derive(Debug)]
pub struct Watch {
    limits: config::Guard,
    max_grad_norm: f64,
    objective: ObjectiveName,
    /// The keys of the trust region, if the objective has one.
    threshold: Option<String>,
    holdouts: Vec<String>,
    dim: usize,
    base: Option<Record>,
    best: BTreeMap<String, Score>,
    /// Iterations in a row that a sign has lasted.
    streaks: BTreeMap<WarningKind, usize>,
    largest_spread: f64,
    /// Iterations in which nothing was dropped, until something is.
    idle: Option<usize>,
    /// The severity of the warnings given.
    told: BTreeMap<(WarningKind, String), f64>,
}

impl Watch {
    /// Watches a run whose gradients are clipped to `max_grad_norm`. `holdouts` are the names of the rewards of weight
    /// 0, as in `eval/components`; `dim` is the number of elements of an image.
    pub fn new(
        limits: &config::Guard,
        objective: &config::Objective,
        max_grad_norm: f64,
        holdouts: Vec<String>,
        dim: usize,
    ) -> Self {
        let threshold = match objective.name {
            ObjectiveName::FlowDppo if objective.mask != Mask::None && objective.kl_mask_threshold.is_finite() => {
                Some(format!("`objective.kl_mask_threshold` = {}", objective.kl_mask_threshold))
            }
            ObjectiveName::FlowGrpo | ObjectiveName::GrpoGuard => {
                let config::Objective { clip_low, clip_high, .. } = objective;
                Some(format!("`objective.clip_low` = {clip_low} and `objective.clip_high` = {clip_high}"))
            }
            ObjectiveName::FlowDppo | ObjectiveName::Nft => None,
        };
        Self {
            limits: limits.clone(),
            max_grad_norm,
            objective: objective.name,
            threshold,
            holdouts,
            dim,
            base: None,
            best: BTreeMap::new(),
            streaks: BTreeMap::new(),
            largest_spread: 0.0,
            idle: Some(0),
            told: BTreeMap::new(),
        }
    }

    /// Processes a line of `metrics.jsonl`: an iteration, its evaluation, or both. Iteration 0 is the base.
    pub fn observe(&mut self, line: &Record) -> Findings {
        let iteration = line["iteration"].as_u64().unwrap_or(0);
        let mut signs = Vec::new();
        // A run that resumes measures the base again. Different numbers mean that the rewards, the judge or the samples
        // have changed, so what was measured before is no longer a baseline.
        if iteration == 0
            && let Some(base) = &self.base
        {
            if same_evaluation(base, line) {
                return Findings::default();
            }
            self.best.clear();
            self.told.retain(|(kind, _), _| !kind.is_evaluated());
        }
        if let Some(spread) = number(line, "reward_std") {
            self.observe_rollout(line, spread, &mut signs);
            signs.extend(half::sign(line));
        }
        if let Some(reward) = number(line, "eval/reward_mean") {
            if iteration == 0 {
                self.base = Some(line.clone());
            }
            self.observe_scores(line, iteration, reward, &mut signs);
            self.observe_images(line, reward, &mut signs);
        }
        let mut findings = Findings::default();
        for Sign { kind, name, severity, hack, seen, change } in signs {
            let told = self.told.entry((kind, name)).or_insert(0.0);
            if severity > WORSE * *told {
                *told = severity;
                let message = format!("{seen}; {change} (`{}` in docs/troubleshooting.md)", kind.name());
                if hack && self.limits.stop_on_hack {
                    findings.stop.get_or_insert_with(|| format!("the reward is being hacked: {message}"));
                }
                findings.warnings.push(Warning { iteration, kind, message });
            }
        }
        let masked = self.streaks.get(&WarningKind::Masked).copied().unwrap_or(0);
        if self.limits.stop_after_masked > 0 && masked >= self.limits.stop_after_masked {
            findings.stop = Some(format!(
                "more than {} of the terms were dropped for {}, so almost nothing is learned; {}, or change \
                 `guard.stop_after_masked`",
                self.limits.max_masked_fraction,
                in_a_row(masked),
                self.loosen()
            ));
        }
        findings
    }

    /// Signs in the samples of a rollout and their updates; `spread` is the standard deviation of the rewards.
    fn observe_rollout(&mut self, line: &Record, spread: f64, signs: &mut Vec<Sign>) {
        let no_signal = number(line, "zero_std_group_ratio") == Some(1.0);
        let saturated = !no_signal && spread < self.limits.min_reward_spread * self.largest_spread;
        self.largest_spread = self.largest_spread.max(spread);
        let masked = number(line, "masked_fraction_later").unwrap_or(0.0);
        // A non-finite norm is written as null.
        let norms = line.get("grad_norm_by_update").and_then(Value::as_array);
        let norms = norms.into_iter().flatten().map(|norm| norm.as_f64().unwrap_or(f64::INFINITY));
        let smallest = norms.reduce(f64::min).unwrap_or(0.0);
        let cut = smallest / self.max_grad_norm;

        let mut sign = |kind, severity, seen: String, change: String| {
            signs.push(Sign { kind, name: String::new(), severity, hack: false, seen, change });
        };
        if let Some(lasted) = self.lasts(WarningKind::NoSignal, no_signal) {
            sign(
                WarningKind::NoSignal,
                1.0,
                format!(
                    "all samples of every group had the same reward for {lasted}, so they teach \
                     nothing"
                ),
                "use a reward that distinguishes them, or raise `rollout.group_size` or `rollout.eta`".into(),
            );
        }
        if let Some(lasted) = self.lasts(WarningKind::Saturated, saturated) {
            let (mean, most) = (number(line, "reward_mean").unwrap_or(f64::NAN), self.largest_spread);
            sign(
                WarningKind::Saturated,
                1.0,
                format!(
                    "the reward of rollouts is saturated: mean {mean:.3}, and its standard deviation fell from \
                     {most:.2e} to {spread:.2e}, for {lasted}"
                ),
                "end the run here with `train.iterations`, or use a harder reward".into(),
            );
        }
        if let Some(lasted) = self.lasts(WarningKind::Masked, masked > self.limits.max_masked_fraction) {
            sign(
                WarningKind::Masked,
                masked,
                format!(
                    "{masked:.2} of the terms after the first update were dropped, more than \
                     `guard.max_masked_fraction` = {} for {lasted}",
                    self.limits.max_masked_fraction
                ),
                self.loosen(),
            );
        }
        if let Some(lasted) = self.lasts(WarningKind::GradientCut, cut > self.limits.max_gradient_cut) {
            sign(
                WarningKind::GradientCut,
                cut,
                format!(
                    "every gradient was more than {cut:.0} times as long as `train.max_grad_norm` = {} for {lasted}",
                    self.max_grad_norm
                ),
                "raise `train.max_grad_norm`, or lower `train.learning_rate` if the reward does not rise".into(),
            );
        }
        let updates = line.get("masked_by_update").and_then(Value::as_array).map_or(0, Vec::len);
        self.idle = self.idle.filter(|_| masked == 0.0 && updates > 1).map(|count| count + 1);
        if let Some(threshold) = &self.threshold
            && self.limits.idle_after > 0
            && self.idle == Some(self.limits.idle_after)
        {
            sign(
                WarningKind::IdleMask,
                1.0,
                format!(
                    "nothing was dropped in {} iterations by {threshold}: this is the plain policy gradient",
                    self.limits.idle_after
                ),
                "lower the threshold (check `objective.threshold_unit`), or raise `train.inner_epochs`".into(),
            );
        }
    }

    /// Counts how long a sign lasts; describes the duration once it is long enough.
    fn lasts(&mut self, kind: WarningKind, holds: bool) -> Option<String> {
        let streak = self.streaks.entry(kind).or_insert(0);
        *streak = if holds { *streak + 1 } else { 0 };
        (self.limits.patience > 0 && *streak >= self.limits.patience).then(|| in_a_row(*streak))
    }

    /// Scores against their best evaluation so far.
    fn observe_scores(&mut self, line: &Record, iteration: u64, reward: f64, signs: &mut Vec<Sign>) {
        let mut scores = Vec::new();
        if let (Some(value), Some(samples)) = (number(line, "eval/judge_accuracy"), number(line, "eval/samples")) {
            // Agresti and Coull's: also right where all samples are recognised, or none.
            let share = (value * samples + 2.0) / (samples + 4.0);
            let standard_error = (share * (1.0 - share) / (samples + 4.0)).sqrt();
            scores.push((WarningKind::Judge, "the judge's accuracy".to_owned(), value, standard_error));
        }
        for name in &self.holdouts {
            let of = |key: &str| number(line, &format!("eval/{key}.{name}"));
            if let (Some(value), Some(standard_error)) = (of("components"), of("components_standard_error")) {
                scores.push((WarningKind::Holdout, format!("the hold-out `{name}`"), value, standard_error));
            }
        }
        if let Some(standard_error) = number(line, "eval/reward_standard_error") {
            scores.push((WarningKind::Reward, "the reward".to_owned(), reward, standard_error));
        }
        for (kind, name, value, standard_error) in scores {
            let now = Score { iteration, value, standard_error, reward };
            let best = self.best.entry(name.clone()).or_insert(now);
            let fall = best.value - value;
            if fall <= 0.0 {
                *best = now;
            } else if fall > self.limits.max_drop * best.standard_error.hypot(standard_error)
                // If a hold-out fell as well, one warning is enough.
                && !(kind == WarningKind::Reward && signs.iter().any(|it| matches!(it.kind, WarningKind::Judge | WarningKind::Holdout)))
            {
                let seen = format!("{name} fell from {:.3} (iteration {}) to {value:.3}", best.value, best.iteration);
                let rewards = [best.reward, reward];
                signs.push(self.evaluated(kind, name, fall, seen, rewards));
            }
        }
    }

    /// The statistics of the samples, against the base's.
    fn observe_images(&self, line: &Record, reward: f64, signs: &mut Vec<Sign>) {
        let Some(base) = &self.base else { return };
        let both = |key: &str| Some([number(base, key)?, number(line, key)?]);
        let measured = |key: &str| Some((both(key)?, both(&format!("{key}_standard_error"))?));
        let Some(reward_before) = number(base, "eval/reward_mean") else { return };
        let mut sign = |kind, severity, seen| {
            signs.push(self.evaluated(kind, String::new(), severity, seen, [reward_before, reward]));
        };
        if let Some(([before, now], [error_before, error])) = measured("eval/diversity") {
            let limit = self.limits.min_diversity;
            let share = now / before;
            if now + NOISE * error.hypot(limit * error_before) < limit * before {
                let seen = format!("diversity fell from {before:.3} to {now:.3}, {share:.2} of the base's");
                sign(WarningKind::Diversity, share.recip(), seen);
            }
        }
        if let Some(([before, now], [error_before, error])) = measured("eval/high_frequency") {
            let limit = self.limits.max_high_frequency;
            let factor = now / before;
            if before > 0.0 && now > limit * before + NOISE * error.hypot(limit * error_before) {
                let seen = format!(
                    "the share of high frequencies in the samples rose from {before:.3} to {now:.3}, {factor:.1} times \
                     the base's"
                );
                sign(WarningKind::HighFrequency, factor, seen);
            }
        }
        let moved = number(line, "eval/drift.image_msd").map(|msd| (msd * self.dim as f64).sqrt());
        if let (Some(moved), Some(unit)) = (moved, number(base, "eval/diversity").filter(|unit| *unit > 0.0)) {
            let drift = moved / unit;
            if drift > self.limits.max_drift {
                let kl = number(line, "eval/drift.kl_mean").unwrap_or(f64::NAN);
                let seen = format!(
                    "samples lie {moved:.3} from the base's of the same noise, {drift:.2} times as far as two of the \
                     base samples of a class from each other (KL to the base {kl:.1e} nats per element)"
                );
                sign(WarningKind::Drift, drift, seen);
            }
        }
    }

    /// A sign of an evaluation, with what the reward did meanwhile.
    fn evaluated(&self, kind: WarningKind, name: String, severity: f64, seen: String, [before, now]: [f64; 2]) -> Sign {
        let hack = now > before;
        let meanwhile = match kind {
            WarningKind::Reward => String::new(),
            _ if hack => format!(" while the reward rose from {before:.3} to {now:.3}"),
            _ => format!(", and the reward did not rise ({before:.3}, then {now:.3})"),
        };
        Sign { kind, name, severity, hack, seen: seen + &meanwhile, change: self.tighten() }
    }

    /// Advice to keep a policy closer to its start.
    fn tighten(&self) -> String {
        let keys = match self.objective {
            ObjectiveName::FlowDppo => {
                "lower `train.learning_rate` or `objective.kl_mask_threshold`, raise `objective.reference.beta`"
            }
            ObjectiveName::FlowGrpo | ObjectiveName::GrpoGuard => {
                "lower `train.learning_rate`, `objective.clip_low` and `objective.clip_high`, raise `objective.reference.beta`"
            }
            ObjectiveName::Nft => "lower `train.learning_rate`",
        };
        format!("{keys}, stop earlier, or add a [[reward]] for what the others miss")
    }

    /// Advice to let more terms through.
    fn loosen(&self) -> String {
        let threshold = match self.objective {
            ObjectiveName::FlowDppo => "`objective.kl_mask_threshold`",
            _ => "`objective.clip_low` and `objective.clip_high`",
        };
        format!("lower `train.learning_rate` or `train.inner_epochs`, or raise {threshold}")
    }
}

/// Whether two lines contain the same evaluation, up to the rounding of another device or driver:
/// sums of thousands of floats differ by about 1e-5, other rewards, judges or seeds by percents.
fn same_evaluation(a: &Record, b: &Record) -> bool {
    fn same(a: Option<&Value>, b: &Value) -> bool {
        match (a, b) {
            (Some(Value::Number(a)), Value::Number(b)) => match (a.as_f64(), b.as_f64()) {
                (Some(a), Some(b)) => (a - b).abs() <= 1e-3 * a.abs(),
                _ => false,
            },
            (Some(Value::Object(a)), Value::Object(b)) => same_all(a, b, |_| true),
            (a, b) => a == Some(b),
        }
    }
    fn same_all(a: &Record, b: &Record, counts: impl Fn(&str) -> bool) -> bool {
        let keys = |record: &Record| record.keys().filter(|key| counts(key)).count();
        keys(a) == keys(b) && b.iter().filter(|(key, _)| counts(key)).all(|(key, b)| same(a.get(key), b))
    }
    same_all(a, b, |key| key.starts_with("eval/"))
}

fn in_a_row(iterations: usize) -> String {
    if iterations == 1 { "one iteration".into() } else { format!("{iterations} iterations in a row") }
}

/// Reports what a [`Watch`] finds to the user, and records it.
#[derive(Debug)]
pub(super) struct RunGuard {
    watch: Watch,
    file: PathBuf,
    /// Open once there is a warning.
    log: Option<MetricsLog>,
    /// Warnings given by this process.
    pub(super) warnings: usize,
    /// Why the run should stop.
    pub(super) stop: Option<String>,
}

impl RunGuard {
    /// Warnings go to `file`. `past` contains the lines of the iterations that are done: their warnings have been
    /// given.
    pub(super) fn new(mut watch: Watch, past: Vec<Record>, file: PathBuf) -> Self {
        for line in past {
            watch.observe(&line);
        }
        Self { watch, file, log: None, warnings: 0, stop: None }
    }

    /// Processes a line of `metrics.jsonl`.
    pub(super) fn observe(&mut self, line: &Record, progress: &Progress) -> Result<()> {
        let Findings { warnings, stop } = self.watch.observe(line);
        for warning in &warnings {
            progress.println(&format!("warning: {}", warning.message));
            let log = match &mut self.log {
                Some(log) => log,
                None => self.log.insert(MetricsLog::open_append(&self.file)?),
            };
            log.append(warning)?;
        }
        self.warnings += warnings.len();
        self.stop = stop;
        Ok(())
    }
}

#[cfg(test)]
mod tests;

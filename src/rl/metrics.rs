//! The metrics of an iteration; docs/metrics.md describes healthy values.

use serde_json::{Value, json};

use super::advantage::Advantages;
use super::line::{IterationLine, MaskedLine};
use super::method::Method;
use super::update::UpdateRecord;
use crate::autodiff::LostInHalf;
use crate::config::ObjectiveName;
use crate::flow::divergence::tv_from_kl_sum;
use crate::flow::standard_ratio::StandardRatio;
use crate::ops::Outcome;
use crate::run::Record;

/// The statistics of one optimizer step, under the names used in the literature.
///
/// With DiffusionNFT there is no ratio, and `kl_mean` and `kl_max` are the mean squared change of the velocity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateMetrics {
    /// Of the importance ratio ρ: mean, standard deviation, smallest, largest.
    pub ratio: [f64; 4],
    /// Mean of ½ (ln ρ)².
    pub approx_kl: f64,
    /// Mean-reduced KL between the rollout's policy and the current one.
    pub kl_mean: f64,
    /// The largest of them.
    pub kl_max: f64,
    /// Mean total variation distance between the two.
    pub tv_mean: f64,
    /// Share of terms beyond the trust region with ρ > 1, and with ρ ≤ 1, whichever way they point.
    pub beyond: [f64; 2],
    /// Share of terms that were dropped, whatever their advantage.
    pub masked_fraction: f64,
    /// Share of terms that were dropped with a positive advantage.
    pub pos_rm_fraction: f64,
    /// Share of terms that were dropped with a negative advantage.
    pub neg_rm_fraction: f64,
    /// Mean loss.
    pub policy_loss: f64,
    /// Mean penalty on the distance to the base, if there is one.
    pub kl_ref_mean: Option<f64>,
    /// Gradient norm before clipping.
    pub grad_norm: f64,
    /// Whether the gradients were not finite, so that nothing was changed.
    pub skipped: bool,
}

impl UpdateMetrics {
    /// From the record of an update on images of `dim` elements.
    pub fn new(record: &UpdateRecord, advantages: &[f64], dim: usize) -> Self {
        let all = |of: fn(&Outcome) -> f32| record.outcomes.iter().map(move |outcome| f64::from(of(outcome)));
        let (ratios, kls) = (|| all(|it| it.ratio), || all(|it| it.kl));
        let count = record.outcomes.len() as f64;
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / count;
        let ratio_mean = mean(&mut ratios());
        let variance = mean(&mut ratios().map(|ratio| (ratio - ratio_mean).powi(2)));
        let dropped = |sign: f64| {
            let rows = record.rows.iter().zip(&record.outcomes);
            let dropped = rows.filter(|((sample, _), outcome)| outcome.kept == 0.0 && advantages[*sample] * sign > 0.0);
            dropped.count() as f64 / count
        };
        let beyond = |above: bool| {
            let shares = record.outcomes.iter();
            mean(&mut shares.map(|it| if (it.log_ratio > 0.0) == above { f64::from(it.beyond) } else { 0.0 }))
        };
        let penalties = record.penalties.iter().map(|penalty| f64::from(*penalty));
        Self {
            ratio: [
                ratio_mean,
                variance.sqrt(),
                ratios().fold(f64::INFINITY, f64::min),
                ratios().fold(f64::NEG_INFINITY, f64::max),
            ],
            approx_kl: mean(&mut all(|it| it.log_ratio).map(|log_ratio| 0.5 * log_ratio * log_ratio)),
            kl_mean: mean(&mut kls()),
            kl_max: kls().fold(0.0, f64::max),
            tv_mean: mean(&mut kls().map(|kl| tv_from_kl_sum(kl * dim as f64))),
            beyond: [beyond(true), beyond(false)],
            masked_fraction: all(|it| it.kept).filter(|kept| *kept == 0.0).count() as f64 / count,
            pos_rm_fraction: dropped(1.0),
            neg_rm_fraction: dropped(-1.0),
            policy_loss: mean(&mut all(|it| it.loss)),
            kl_ref_mean: (!record.penalties.is_empty()).then(|| penalties.sum::<f64>() / count),
            grad_norm: f64::from(record.norm.norm),
            skipped: record.norm.skipped,
        }
    }

    /// Share of terms beyond the trust region.
    pub fn beyond_fraction(&self) -> f64 {
        self.beyond[0] + self.beyond[1]
    }
}

/// Statistics of one trained step over the updates after the first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepMetrics {
    /// Mean-reduced KL.
    pub kl: f64,
    /// Mean ln ρ.
    pub log_ratio: f64,
    /// Share of terms that were dropped.
    pub masked: f64,
}

impl StepMetrics {
    fn new(step: usize, records: &[UpdateRecord]) -> Self {
        let rows = records.iter().skip(1).flat_map(|record| record.rows.iter().zip(&record.outcomes));
        let (mut it, mut count) = (Self::default(), 0.0_f64);
        for (_, outcome) in rows.filter(|((_, of), _)| *of == step) {
            it.kl += f64::from(outcome.kl);
            it.log_ratio += f64::from(outcome.log_ratio);
            it.masked += 1.0 - f64::from(outcome.kept);
            count += 1.0;
        }
        let count = count.max(1.0);
        Self { kl: it.kl / count, log_ratio: it.log_ratio / count, masked: it.masked / count }
    }
}

/// The metrics of an iteration.
#[derive(Clone, Debug)]
pub struct IterationMetrics {
    /// Iteration, from 1.
    pub iteration: u64,
    /// The objective, which decides which quantities exist.
    pub objective: ObjectiveName,
    /// β of the penalty on the distance to the base.
    pub reference_beta: f64,
    /// Mean, standard deviation, smallest and largest reward (weighted sum).
    pub reward: [f64; 4],
    /// Name, mean and standard deviation of every reward component.
    pub components: Vec<(String, [f64; 2])>,
    /// Standard deviation of the advantages, and the largest magnitude.
    pub advantage: [f64; 2],
    /// Groups without spread, and the number of groups.
    pub zero_std_groups: [usize; 2],
    /// Trained steps.
    pub trained_steps: Vec<usize>,
    /// Every update, in order.
    pub updates: Vec<UpdateMetrics>,
    /// Every trained step.
    pub by_step: Vec<StepMetrics>,
    /// Largest deviation of the ratio from 1, and largest KL, at the first update: 0 by construction.
    pub on_policy: [f64; 2],
    /// The ratio against its theoretical distribution, where the ratio is the Gaussian's and an update saw new samples
    /// after a first.
    pub standard_ratio: Option<StandardRatio>,
    /// What 16 bits could not represent of the activations; `None` if none are stored in 16 bits.
    pub lost_in_half: Option<Vec<LostInHalf>>,
    /// Elements of an image: mean-reduced KL times this is in nats per sample.
    pub dim: usize,
    /// Seconds for rollout, reward and update.
    pub seconds: [f64; 3],
    /// Samples drawn and learned from.
    pub images: usize,
}

/// Mean, standard deviation (of the population), smallest and largest.
pub(super) fn spread(values: &[f64]) -> [f64; 4] {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    let fold = |start, pick: fn(f64, f64) -> f64| values.iter().copied().fold(start, pick);
    [mean, variance.sqrt(), fold(f64::INFINITY, f64::min), fold(f64::NEG_INFINITY, f64::max)]
}

impl IterationMetrics {
    /// Fills in the statistics of an iteration's updates.
    pub(super) fn observe(&mut self, records: &[UpdateRecord], advantages: &Advantages) {
        self.updates = records.iter().map(|record| UpdateMetrics::new(record, &advantages.values, self.dim)).collect();
        let [_, std, smallest, largest] = spread(&advantages.values);
        self.advantage = [std, largest.max(-smallest)];
        if let Some(first) = records.first() {
            // NaN counts as largest; `f64::max` would ignore it.
            let larger = |most: f64, value: f64| if value > most || value.is_nan() { value } else { most };
            let most = |of: fn(&Outcome) -> f32, target: f64| {
                first.outcomes.iter().map(|outcome| (f64::from(of(outcome)) - target).abs()).fold(0.0, larger)
            };
            self.on_policy = [most(|it| it.ratio, 1.0), most(|it| it.kl, 0.0)];
        }
        self.by_step = self.trained_steps.iter().map(|step| StepMetrics::new(*step, records)).collect();
    }

    /// Mean of a quantity over the updates.
    pub fn mean(&self, quantity: impl Fn(&UpdateMetrics) -> f64) -> f64 {
        self.updates.iter().map(quantity).sum::<f64>() / self.updates.len().max(1) as f64
    }

    /// Mean of a quantity over the updates after the first; 0 if there is none.
    fn later(&self, quantity: impl Fn(&UpdateMetrics) -> f64) -> f64 {
        self.updates.iter().skip(1).map(quantity).sum::<f64>() / self.updates.len().saturating_sub(1).max(1) as f64
    }

    /// Largest of a quantity over the updates.
    pub fn max(&self, quantity: impl Fn(&UpdateMetrics) -> f64) -> f64 {
        self.updates.iter().map(quantity).fold(f64::NEG_INFINITY, f64::max)
    }

    /// The mean-reduced KL at the end of the iteration, where the policy has moved furthest.
    pub fn last_kl(&self) -> f64 {
        self.updates.last().map_or(0.0, |update| update.kl_mean)
    }

    /// Updates that were skipped because of non-finite gradients.
    pub fn skipped(&self) -> usize {
        self.updates.iter().filter(|update| update.skipped).count()
    }

    /// Samples per second over the whole iteration.
    pub fn images_per_second(&self) -> f64 {
        self.images as f64 / self.seconds.iter().sum::<f64>().max(1e-9)
    }

    /// What the line of `metrics.jsonl` says about it.
    pub fn line(&self, learning_rate: f64) -> IterationLine {
        let is_policy = Method::from(self.objective) == Method::Policy;
        IterationLine {
            reward_mean: self.reward[0],
            reward_std: self.reward[1],
            zero_std_group_ratio: self.zero_std_groups[0] as f64 / self.zero_std_groups[1] as f64,
            grad_norm_by_update: self.updates.iter().map(|it| Some(it.grad_norm).filter(|it| it.is_finite())).collect(),
            masked: is_policy.then(|| MaskedLine {
                masked_fraction_later: self.later(|update| update.masked_fraction),
                masked_by_update: self.by_update(|update| update.masked_fraction),
            }),
            lost_in_half: self.lost_in_half.clone(),
            others: self.other_keys(learning_rate),
        }
    }

    /// The keys of the line that nothing in this process reads.
    fn other_keys(&self, learning_rate: f64) -> Record {
        let mut line = object(json!({
            "reward_min": self.reward[2],
            "reward_max": self.reward[3],
            "advantage_std": self.advantage[0],
            "advantage_abs_max": self.advantage[1],
            "zero_std_group_count": self.zero_std_groups[0],
            "policy_loss": self.mean(|update| update.policy_loss),
            "policy_loss_update0": self.updates.first().map(|update| update.policy_loss),
            "policy_loss_later": self.later(|update| update.policy_loss),
            "grad_norm": self.mean(|update| update.grad_norm),
            "lr": learning_rate,
            "skipped_updates": self.skipped(),
            "trained_steps": self.trained_steps,
            "seconds_rollout": self.seconds[0],
            "seconds_reward": self.seconds[1],
            "seconds_update": self.seconds[2],
            "images_per_second": self.images_per_second(),
        }));
        for (name, [mean, std]) in &self.components {
            line.insert(format!("reward/{name}_mean"), json!(mean));
            line.insert(format!("reward/{name}_std"), json!(std));
        }
        line.append(&mut Method::from(self.objective).metrics(self));
        if let Some(kl_ref) = self.updates.first().and_then(|update| update.kl_ref_mean) {
            let mean = self.mean(|update| update.kl_ref_mean.unwrap_or(kl_ref));
            let kl_loss = self.reference_beta * mean;
            line.insert("kl_ref_mean".into(), json!(mean));
            line.insert("kl_ref_by_update".into(), json!(self.by_update(|update| update.kl_ref_mean.unwrap_or(0.0))));
            line.insert("kl_loss".into(), json!(kl_loss));
            line.insert("loss".into(), json!(self.mean(|update| update.policy_loss) + kl_loss));
        }
        line
    }

    pub(super) fn by_update(&self, quantity: impl Fn(&UpdateMetrics) -> f64) -> Vec<f64> {
        self.updates.iter().map(quantity).collect()
    }

    /// The keys that exist because old and new policy have densities.
    pub(super) fn policy_json(&self) -> Value {
        let by_step = |quantity: fn(&StepMetrics) -> f64| -> Vec<f64> { self.by_step.iter().map(quantity).collect() };
        let masked = self.mean(|update| update.masked_fraction);
        let mut line = object(json!({
            "ratio_mean": self.mean(|update| update.ratio[0]),
            "ratio_std": self.mean(|update| update.ratio[1]),
            "ratio_min": -self.max(|update| -update.ratio[2]),
            "ratio_max": self.max(|update| update.ratio[3]),
            "ratio_mean_by_update": self.by_update(|update| update.ratio[0]),
            "ratio_std_by_update": self.by_update(|update| update.ratio[1]),
            "approx_kl": self.mean(|update| update.approx_kl),
            "kl_new_old_mean": self.mean(|update| update.kl_mean),
            "kl_new_old_later": self.later(|update| update.kl_mean),
            "kl_new_old_max": self.max(|update| update.kl_max),
            "kl_new_old_sum": self.mean(|update| update.kl_mean) * self.dim as f64,
            "tv_new_old_mean": self.mean(|update| update.tv_mean),
            "pos_rm_fraction": self.mean(|update| update.pos_rm_fraction),
            "neg_rm_fraction": self.mean(|update| update.neg_rm_fraction),
            "masked_fraction": masked,
            "unmasked_fraction": 1.0 - masked,
            "ratio_update0_maxdev": self.on_policy[0],
            "kl_update0_max": self.on_policy[1],
            "kl_by_update": self.by_update(|update| update.kl_mean),
            "kl_by_step": by_step(|step| step.kl),
            "log_ratio_by_step": by_step(|step| step.log_ratio),
            "masked_by_step": by_step(|step| step.masked),
        }));
        let beyond = self.mean(UpdateMetrics::beyond_fraction);
        line.append(&mut object(match self.objective {
            ObjectiveName::FlowDppo => json!({ "kl_mask_fraction": beyond }),
            _ => json!({
                "clip_fraction": beyond,
                "clipfrac_gt_one": self.mean(|update| update.beyond[0]),
                "clipfrac_lt_one": self.mean(|update| update.beyond[1]),
            }),
        }));
        if let Some(StandardRatio { mean, std, histogram }) = &self.standard_ratio {
            line.append(&mut object(json!({
                "z_fresh_mean": mean,
                "z_fresh_std": std,
                "z_fresh_histogram": histogram,
            })));
        }
        Value::Object(line)
    }
}

fn object(value: Value) -> Record {
    match value {
        Value::Object(map) => map,
        other => unreachable!("{other} is an object"),
    }
}

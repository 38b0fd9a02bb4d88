//! The numbers of an evaluation, as `metrics.jsonl` and `best.json` have them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use super::Record;

/// With this, the keys of an evaluation begin in a line of metrics.
const PREFIX: &str = "eval/";

/// The result of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Samples.
    #[serde(default)]
    pub samples: usize,
    /// Mean reward (weighted sum of components).
    #[serde(default = "unknown", deserialize_with = "number_or_null")]
    pub reward_mean: f64,
    /// Standard error of that mean.
    #[serde(default = "unknown", deserialize_with = "number_or_null")]
    pub reward_standard_error: f64,
    /// Share of samples that the independent judge assigns to the requested class.
    pub judge_accuracy: Option<f64>,
    /// Mean Euclidean distance between two samples of one class.
    #[serde(default = "unknown", deserialize_with = "number_or_null")]
    pub diversity: f64,
    /// Standard error of that.
    #[serde(default = "unknown", deserialize_with = "number_or_null")]
    pub diversity_standard_error: f64,
    /// Share of the samples' energy in high spatial frequencies, from 0 to 1: Σ (differences of neighbouring pixels)² /
    /// (8·Σ (x − mean)²), which weights each frequency by its height; `None` for samples of one pixel.
    pub high_frequency: Option<f64>,
    /// Standard error of that.
    pub high_frequency_standard_error: Option<f64>,
    /// Mean of each reward component before its weight, by name; empty if there is only one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, f64>,
    /// Standard errors of those.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub components_standard_error: BTreeMap<String, f64>,
    /// Trained and untrained classes separately, if `rollout.classes` leaves some out.
    #[serde(flatten)]
    pub split: Option<Split>,
    /// The same by the values of the prompts' fields that `eval.group_by` names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, GroupScores>,
    /// How far the model is from its base.
    pub drift: Option<Drift>,
    /// Reward gained per nat per element of distance from the base, once there is any distance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_efficiency: Option<f64>,
}

/// The scores of the samples of one group of prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupScores {
    /// Samples.
    pub samples: usize,
    /// Mean reward.
    pub reward_mean: f64,
    /// Standard error of that mean.
    pub reward_standard_error: f64,
    /// Mean of each reward component before its weight, by name; empty if there is only one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, f64>,
    /// Standard errors of those.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub components_standard_error: BTreeMap<String, f64>,
    /// Share of samples that the independent judge finds right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge_accuracy: Option<f64>,
}

/// An evaluation by whether a class is among those that the rollouts draw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// Mean reward over trained classes.
    pub reward_trained: f64,
    /// Mean reward over the others.
    pub reward_untrained: f64,
    /// The judge's accuracy on trained classes.
    pub judge_trained: Option<f64>,
    /// The judge's accuracy on the others.
    pub judge_untrained: Option<f64>,
    /// Mean squared difference from the base's images of untrained classes, per element; `None` for the base.
    pub image_msd_untrained: Option<f64>,
}

/// How far a model is from its base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Mean squared difference of the velocities at the same states, per element; states are those of the
    /// model's own deterministic trajectories.
    #[serde(default = "unknown", deserialize_with = "number_or_null")]
    pub velocity_msd: f64,
    /// The same difference as KL of the stochastic sampler at each step, in nats per element; `None` where the
    /// sampler has no density.
    #[serde(default)]
    pub kl_by_step: Vec<Option<f64>>,
    /// Mean of those, without the last step, whose weight would dominate.
    #[serde(default = "unknown", deserialize_with = "number_or_null")]
    pub kl_mean: f64,
    /// Mean squared difference of the final images from the same noise, per element.
    #[serde(default = "unknown", deserialize_with = "number_or_null")]
    pub image_msd: f64,
}

impl Evaluation {
    /// Adds its keys to a line of metrics.
    pub fn write_to(&self, line: &mut Record) {
        let Value::Object(values) = json!(self) else { unreachable!("a struct is an object") };
        line.extend(values.into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value)));
    }

    /// Takes its keys out of a line of metrics; `None` if the line has no evaluation.
    pub fn take_from(line: &mut Record) -> Option<Self> {
        let (own, others): (Record, Record) =
            std::mem::take(line).into_iter().partition(|(key, _)| key.starts_with(PREFIX));
        *line = others;
        let own = own.into_iter().map(|(key, value)| (key[PREFIX.len()..].to_owned(), value)).collect();
        serde_json::from_value(Value::Object(own)).ok().filter(|found: &Self| found.reward_mean.is_finite())
    }

    /// The gain in reward over the base per distance from it; `None` without a distance.
    pub fn kl_efficiency(&self, base: &Self) -> Option<f64> {
        let distance = self.drift.as_ref()?.kl_mean;
        let gain = self.reward_mean - base.reward_mean;
        (distance > 0.0).then_some(gain / distance)
    }
}

/// [`Evaluation`]s by their keys in a line of metrics, for serde.
pub(super) mod as_line {
    use super::*;

    pub fn serialize<S: Serializer>(evaluation: &Evaluation, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = Record::new();
        evaluation.write_to(&mut line);
        line.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Evaluation, D::Error> {
        let found = Evaluation::take_from(&mut Record::deserialize(deserializer)?);
        found.ok_or_else(|| serde::de::Error::custom("there is no evaluation"))
    }
}

/// What a number is that older versions did not write.
fn unknown() -> f64 {
    f64::NAN
}

/// JSON has no numbers that are not finite: they are written as null.
fn number_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

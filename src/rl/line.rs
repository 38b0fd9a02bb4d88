//! The lines of `metrics.jsonl` as the guard rails, the main loop and the keeper of the best model read them.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use crate::autodiff::LostInHalf;
use crate::run::Record;
use crate::run::evaluation::Evaluation;

/// A line of `metrics.jsonl`: an iteration, an evaluation, or both. Iteration 0 is the base.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// Iterations done.
    pub iteration: u64,
    /// What the iteration drew and learned.
    pub learned: Option<IterationLine>,
    /// What a line of another version says about it if that cannot be read as `learned`: it is only written again.
    pub unread: Record,
    /// The model afterwards.
    pub evaluation: Option<Evaluation>,
}

/// What a line says about an iteration. Numbers that are not finite are `None`, as JSON has none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IterationLine {
    /// Mean reward of the samples.
    pub reward_mean: f64,
    /// Its standard deviation.
    pub reward_std: f64,
    /// Share of the groups whose samples all have the same reward.
    pub zero_std_group_ratio: f64,
    /// Gradient norm of every update.
    pub grad_norm_by_update: Vec<Option<f64>>,
    /// What was dropped, if the objective drops terms.
    #[serde(flatten)]
    pub masked: Option<MaskedLine>,
    /// What 16 bits could not represent; `None` if no activations are stored in 16 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_in_half: Option<Vec<LostInHalf>>,
    /// The other keys, which are only written.
    #[serde(flatten)]
    pub others: Record,
}

/// Shares of the terms that an iteration dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaskedLine {
    /// In the updates after the first.
    pub masked_fraction_later: f64,
    /// In every update.
    pub masked_by_update: Vec<f64>,
}

impl From<Record> for Line {
    /// A line that was read back.
    fn from(mut line: Record) -> Self {
        let iteration = line.remove("iteration").and_then(|value| value.as_u64()).unwrap_or(0);
        let evaluation = Evaluation::take_from(&mut line);
        let (learned, unread) = match serde_json::from_value(Value::Object(line.clone())) {
            Ok(learned) => (Some(learned), Record::new()),
            Err(_) => (None, line),
        };
        Self { iteration, learned, unread, evaluation }
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = match json!(self.learned) {
            Value::Object(line) => line,
            _ => self.unread.clone(),
        };
        line.insert("iteration".into(), json!(self.iteration));
        if let Some(evaluation) = &self.evaluation {
            evaluation.write_to(&mut line);
        }
        line.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let text = json!({
            "iteration": 7, "reward_mean": 0.5, "reward_std": 0.25, "zero_std_group_ratio": 0.125,
            "grad_norm_by_update": [2.0, null], "masked_fraction_later": 0.5, "masked_by_update": [0.0, 0.5],
            "reward/ink_mean": 0.75, "a key of another version": [1, {"b": null}],
            "eval/samples": 20, "eval/reward_mean": 0.5, "eval/reward_standard_error": 0.0625, "eval/diversity": null,
            "eval/diversity_standard_error": 0.5, "eval/judge_accuracy": 0.75, "eval/high_frequency": null,
            "eval/high_frequency_standard_error": null, "eval/components": {"ink": 0.5},
            "eval/components_standard_error": {"ink": 0.25}, "eval/kl_efficiency": 1.5,
            "eval/drift": {"velocity_msd": 0.5, "kl_by_step": [0.5, null], "kl_mean": 0.25, "image_msd": 0.125},
        });
        let read = |value: &Value| Line::from(serde_json::from_value::<Record>(value.clone()).unwrap());
        let line = read(&text);
        assert_eq!(json!(line), text);
        let learned = line.learned.unwrap();
        assert_eq!(learned.grad_norm_by_update, [Some(2.0), None]);
        assert_eq!(learned.masked.unwrap().masked_by_update, [0.0, 0.5]);
        assert_eq!(learned.others.len(), 2, "{:?}", learned.others);
        let evaluation = line.evaluation.unwrap();
        assert!(evaluation.diversity.is_nan() && evaluation.drift.unwrap().kl_by_step[1].is_none());

        // An iteration alone, with an objective that drops nothing; the base, as an older version measured it.
        let alone = read(&json!({
            "iteration": 7, "reward_mean": 0.5, "reward_std": 0.25, "zero_std_group_ratio": 0.0,
            "grad_norm_by_update": [], "lost_in_half": [{"tensor": "x", "beyond": 2, "largest": 7e4}],
        }));
        assert_eq!((alone.evaluation, alone.learned.as_ref().unwrap().masked.as_ref()), (None, None));
        assert_eq!(alone.learned.unwrap().lost_in_half.unwrap()[0].beyond, 2);
        let base = read(&json!({"iteration": 0, "eval/reward_mean": 0.5}));
        assert_eq!((base.learned, base.evaluation.unwrap().reward_mean), (None, 0.5));
    }

    /// A resumed run measures the last iteration again if that failed, and its new line takes the place of the old one.
    #[test]
    fn an_evaluation_that_is_added_to_a_line_of_another_version_keeps_its_keys() {
        // A version without `zero_std_group_ratio`, and a number that was not finite.
        let old = json!({"iteration": 7, "reward_mean": null, "reward_std": 0.25, "grad_norm_by_update": [2.0]});
        let mut line = Line::from(serde_json::from_value::<Record>(old.clone()).unwrap());
        assert_eq!((&line.learned, &line.evaluation), (&None, &None));
        assert_eq!(json!(line), old);
        let mut evaluated = serde_json::from_value(json!({"eval/reward_mean": 0.5})).unwrap();
        line.evaluation = Evaluation::take_from(&mut evaluated);
        let written = json!(line);
        assert_eq!((&written["reward_std"], &written["grad_norm_by_update"]), (&json!(0.25), &json!([2.0])));
        assert_eq!((&written["iteration"], &written["eval/reward_mean"]), (&json!(7), &json!(0.5)));
    }
}

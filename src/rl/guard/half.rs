//! Activations that `train.half_activations` cannot keep.

use super::{Kind, Sign};
use crate::autodiff::LostInHalf;
use crate::run::metrics::Record;

/// The sign of a line of `metrics.jsonl`, if 16 bits did not hold some tensors.
pub(super) fn sign(line: &Record) -> Option<Sign> {
    let lost: Vec<LostInHalf> = serde_json::from_value(line.get("lost_in_half")?.clone()).ok()?;
    let explained = LostInHalf::explain(&lost, "train.half_activations")?;
    let (seen, change) = explained.rsplit_once(": ")?;
    Some(Sign {
        kind: Kind::HalfActivations,
        name: String::new(),
        severity: lost.len() as f64,
        hack: false,
        seen: seen.to_owned(),
        change: change.to_owned(),
    })
}

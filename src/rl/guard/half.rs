//! Activations that `train.half_activations` cannot keep.

use super::{Sign, WarningKind};
use crate::autodiff::LostInHalf;
use crate::run::metrics::Record;

/// The sign in a line of `metrics.jsonl`, if some tensors did not fit in 16 bits.
pub(super) fn sign(line: &Record) -> Option<Sign> {
    let lost: Vec<LostInHalf> = serde_json::from_value(line.get("lost_in_half")?.clone()).ok()?;
    let explained = LostInHalf::explain(&lost, "train.half_activations")?;
    let (seen, change) = explained.rsplit_once(": ")?;
    Some(Sign {
        kind: WarningKind::HalfActivations,
        name: String::new(),
        severity: lost.len() as f64,
        hack: false,
        seen: seen.to_owned(),
        change: change.to_owned(),
    })
}

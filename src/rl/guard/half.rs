//! Activations that `train.half_activations` cannot keep.

use super::{Sign, WarningKind};
use crate::autodiff::LostInHalf;
use crate::rl::line::IterationLine;

/// The sign in an iteration, if some tensors did not fit in 16 bits.
pub(super) fn sign(learned: &IterationLine) -> Option<Sign> {
    let lost = learned.lost_in_half.as_ref()?;
    let explained = LostInHalf::explain(lost, "train.half_activations")?;
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

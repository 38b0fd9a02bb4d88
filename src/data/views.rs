//! Views of scenes of shapes, a class for each kind of object: what a judge of such scenes learns from.

use super::Dataset;
use crate::flow::noise::NoiseKey;
use crate::shapes::{VIEW, draw_view, view_names};

/// So many that a network of a few hundred thousand weights does not learn them by heart. They take 162 MB.
const COUNT: u32 = 60_000;

/// Draws the set; it is always the same.
pub(super) fn generate() -> Dataset {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for sample in 0..COUNT {
        let (view, shown) = draw_view(NoiseKey { seed: 0, rollout: 0, sample, step: 0 });
        images.extend(view);
        labels.push(shown);
    }
    Dataset { images, labels, class_names: view_names(), image_size: VIEW, channels: 3, originals: None }
}

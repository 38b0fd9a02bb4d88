//! What follows from the keys of a section.

use super::{Classifier, Pretrain, Reference, Rollout, Train};

impl Rollout {
    /// Samples of a rollout: groups x group_size, or `usize::MAX` if that is more.
    pub fn samples(&self) -> usize {
        self.groups.saturating_mul(self.group_size)
    }

    /// `rollout.micro_batch`, at most the whole rollout.
    pub fn effective_micro_batch(&self) -> usize {
        self.micro_batch.min(self.samples())
    }

    /// Whether the policy is guided, in sampling and in training.
    pub fn is_guided(&self) -> bool {
        self.guidance_scale != 1.0
    }
}

impl Train {
    /// Samples of an update: those of a rollout split into `train.updates_per_rollout`.
    pub fn samples_per_update(&self, rollout: &Rollout) -> usize {
        rollout.samples() / self.updates_per_rollout.max(1)
    }

    /// `train.micro_batch`, at most the whole update.
    pub fn effective_micro_batch(&self, rollout: &Rollout) -> usize {
        self.micro_batch.min(self.samples_per_update(rollout))
    }
}

impl Reference {
    /// Whether there is a penalty, and on the distance to a base that is guided.
    pub fn is_guided(&self) -> bool {
        self.beta > 0.0 && self.guidance_scale != 1.0
    }
}

impl Pretrain {
    /// `pretrain.micro_batch`, at most the whole batch.
    pub fn effective_micro_batch(&self) -> usize {
        self.micro_batch.min(self.batch_size)
    }
}

impl Classifier {
    /// `classifier.micro_batch`, at most the whole batch.
    pub fn effective_micro_batch(&self) -> usize {
        self.micro_batch.min(self.batch_size)
    }
}

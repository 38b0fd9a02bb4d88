//! What training reads of a configuration; sections and keys mean what they mean there.

use super::method::Method;
use super::share::Share;
use crate::config::{Advantage, Config, Lora, Objective, ObjectiveName, Reward, Rollout, Train, WeightType};
use crate::error::Result;
use crate::ranks::Seat;

/// What a rollout reads.
#[derive(Clone, Copy, Debug)]
pub struct RolloutSettings<'a> {
    /// Seed of the noise, and of the choice of the trained steps.
    pub seed: u64,
    /// How samples are drawn.
    pub rollout: &'a Rollout,
    /// The loss, which determines what is stored.
    pub objective: ObjectiveName,
    /// Which samples are drawn here.
    pub share: Share,
}

impl RolloutSettings<'_> {
    /// How many steps (with DiffusionNFT: times) are trained per rollout.
    pub(super) fn trained_slots(&self) -> Result<usize> {
        Ok(self.rollout.trained_steps.choose(self.rollout.steps, self.seed, 0)?.len())
    }

    /// Samples that are drawn together here.
    pub(super) fn micro_batch(&self) -> usize {
        self.rollout.effective_micro_batch().min(self.share.count())
    }

    /// How many states are stored per sample.
    pub(super) fn stored_slots(&self) -> Result<usize> {
        Ok(Method::from(self.objective).stored_slots(self.trained_slots()?))
    }
}

/// What updates read.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateSettings {
    /// Seed of everything random.
    pub seed: u64,
    /// How samples are drawn: the policy is a part of it.
    pub rollout: Rollout,
    /// How rewards become advantages.
    pub advantage: Advantage,
    /// The loss.
    pub objective: Objective,
    /// How it is optimised.
    pub train: Train,
    /// Whether the penalty is on the distance to the adapter that the run started from ([`crate::model::START`]), and
    /// not to the base ([`crate::model::BASE`]).
    pub from_start: bool,
    /// The place of this process among those that train together.
    pub seat: Seat,
}

impl From<&Config> for UpdateSettings {
    fn from(config: &Config) -> Self {
        Self {
            seed: config.run.seed,
            rollout: config.rollout.clone(),
            advantage: config.advantage.clone(),
            objective: config.objective.clone(),
            train: config.train.clone(),
            from_start: config.lora.starts_from_adapter(),
            seat: Seat::default(),
        }
    }
}

impl UpdateSettings {
    pub(super) fn method(&self) -> Method {
        self.objective.name.into()
    }

    /// What the rollouts before the updates read.
    pub fn of_rollouts(&self) -> RolloutSettings<'_> {
        RolloutSettings { seed: self.seed, rollout: &self.rollout, objective: self.objective.name, share: self.share() }
    }

    /// What this process computes of it.
    pub(super) fn share(&self) -> Share {
        Share {
            seat: self.seat,
            seed: self.seed,
            order: self.train.order,
            samples: self.rollout.samples(),
            per_update: self.train.samples_per_update(&self.rollout),
            micro_batch: self.micro_batch(),
        }
    }

    /// Whether gradients are summed along a tree, which does not depend on the number of processes.
    pub fn sums_in_tree(&self) -> bool {
        self.train.reduction.is_tree(self.seat.size)
    }

    /// Checks that every process has something to compute.
    ///
    /// # Errors
    /// [`Error::Input`] with the numbers, and what to change.
    pub fn check_share(&self) -> Result<()> {
        let Share { per_update, micro_batch, .. } = self.share();
        self.seat.check_batches(per_update, micro_batch, "an update", "train.micro_batch", "raise `rollout.groups`")
    }

    /// Samples whose forward and backward pass run together.
    pub(super) fn micro_batch(&self) -> usize {
        self.train.effective_micro_batch(&self.rollout)
    }

    /// Whether any velocity of an update is guided: the policy's, or that of the reference.
    pub(super) fn is_guided(&self) -> bool {
        self.rollout.is_guided() || self.objective.reference.is_guided()
    }
}

/// What a trainer reads.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainerSettings {
    /// How it learns from a rollout.
    pub updates: UpdateSettings,
    /// The rewards.
    pub rewards: Vec<Reward>,
    /// What is trained instead of all weights.
    pub lora: Lora,
    /// How frozen weights are stored on the device.
    pub weights: WeightType,
    /// The model that training starts from, by its absolute path or its name.
    pub base: String,
}

impl From<&Config> for TrainerSettings {
    fn from(config: &Config) -> Self {
        Self {
            updates: config.into(),
            rewards: config.reward.clone(),
            lora: config.lora.clone(),
            weights: config.model.weights,
            base: config.anchored().model.name(),
        }
    }
}

impl TrainerSettings {
    /// Whether an adapter or the penalty on the distance to the base needs the base's weights.
    pub(super) fn keeps_base(&self) -> bool {
        self.lora.is_used() || self.updates.objective.reference.beta > 0.0
    }
}

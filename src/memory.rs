//! The device memory of training and of what is there besides, part by part, known before it starts.

use crate::error::Result;
use crate::gpu::STAGING_BYTES;
use crate::graph::{DeviceProfile, PartMemory, Planned, planned_together};
use crate::model::FlowModel;

/// What training takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingMemory {
    /// Bytes of everything but the plans, with the staging buffer that every open device holds.
    pub fixed: u64,
    /// The plans in the order in which they are bound, the largest first: the others fit into its slots.
    pub plans: Vec<Planned>,
}

impl TrainingMemory {
    /// Device bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes_beside([])
    }

    /// The same if no memory were reused.
    pub fn naive_bytes(&self) -> u64 {
        self.fixed + self.plans.iter().map(|plan| plan.naive).sum::<u64>()
    }

    /// Device bytes while these parts are there, too: plans share their memory.
    pub fn bytes_beside<'a>(&self, parts: impl IntoIterator<Item = &'a PartMemory>) -> u64 {
        let (mut weights, mut plans) = (0, self.plans.clone());
        for part in parts {
            weights += part.weights;
            plans.push(part.plan.clone());
        }
        self.fixed + weights + planned_together(&plans)
    }
}

/// What is on the device besides training: before it, beside it, and while pictures are decoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OtherParts {
    /// What encodes prompts or images before training, each alone on the device, in words.
    pub encoders: Vec<(String, PartMemory)>,
    /// Rewards that stay on the device.
    pub rewards: Vec<(String, PartMemory)>,
    /// What decodes latents, and the size of its tiles in pixels, `[height, width]`, if it needs them.
    pub decoder: Option<(Option<[usize; 2]>, PartMemory)>,
}

impl OtherParts {
    /// The parts of a run whose training takes `training`, with these encoders and rewards. `room` rejects more bytes than
    /// the device has.
    ///
    /// # Errors
    /// If there is no room for the decoder with the smallest tiles.
    pub fn of(
        model: &FlowModel,
        training: &TrainingMemory,
        encoders: Vec<(String, PartMemory)>,
        rewards: Vec<(String, PartMemory)>,
        profile: &DeviceProfile,
        room: impl Fn(u64) -> Result<()>,
    ) -> Result<Self> {
        let held = training.bytes_beside(rewards.iter().map(|(_, memory)| memory));
        // If there is no room for training, tiles do not help.
        let is_full = room(held).is_err();
        let fits = |decoder: &PartMemory| if is_full { Ok(()) } else { room(held + decoder.alone()) };
        let decoder = model.decoder().map(|decoder| decoder.planned(model.state_shape(), profile, &fits));
        Ok(Self { encoders, rewards, decoder: decoder.transpose()? })
    }

    /// Bytes of the rewards and then of the decoder, each on top of training and those before it.
    pub fn on_top(&self, training: &TrainingMemory) -> Vec<u64> {
        let parts: Vec<&PartMemory> = self.beside().collect();
        let bytes = |count: usize| training.bytes_beside(parts[..count].iter().copied());
        (0..parts.len()).map(|count| bytes(count + 1) - bytes(count)).collect()
    }

    /// The most that is on the device at a time.
    pub fn most(&self, training: &TrainingMemory) -> u64 {
        let encoders = self.encoders.iter().map(|(_, memory)| memory.alone() + STAGING_BYTES);
        encoders.fold(training.bytes_beside(self.beside()), u64::max)
    }

    /// The same if no memory were reused.
    pub fn naive(&self, training: &TrainingMemory) -> u64 {
        let naive = |memory: &PartMemory| memory.weights + memory.plan.naive;
        let encoders = self.encoders.iter().map(|(_, memory)| naive(memory) + STAGING_BYTES);
        encoders.fold(training.naive_bytes() + self.beside().map(naive).sum::<u64>(), u64::max)
    }

    fn beside(&self) -> impl Iterator<Item = &PartMemory> {
        let rewards = self.rewards.iter().map(|(_, memory)| memory);
        rewards.chain(self.decoder.iter().map(|(_, memory)| memory))
    }
}

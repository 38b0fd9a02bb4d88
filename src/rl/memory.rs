//! The device memory of a run, part by part, known before it starts.

use super::trainer::Cost;
use crate::error::Result;
use crate::graph::{DeviceProfile, PartMemory};
use crate::text_to_image::TextBase;

/// What is on the device besides training: before it, beside it, and while pictures are decoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OtherParts {
    /// The text encoder with the largest layer, which is alone on the device, before training.
    pub encoder: Option<(&'static str, PartMemory)>,
    /// Rewards that stay on the device.
    pub rewards: Vec<(String, PartMemory)>,
    /// What decodes latents, and the size of its tiles in pixels, `[height, width]`, if it needs them.
    pub decoder: Option<(Option<[usize; 2]>, PartMemory)>,
}

impl OtherParts {
    /// The parts of a run of a text-to-image model that costs `cost`, with rewards that take `rewards`. `room` rejects
    /// more bytes than the device has.
    ///
    /// # Errors
    /// If an encoder is not supported, or there is no room for the decoder with the smallest tiles.
    pub fn of_prompts(
        text: &TextBase,
        cost: &Cost,
        rewards: Vec<(String, PartMemory)>,
        profile: &DeviceProfile,
        room: impl Fn(u64) -> Result<()>,
    ) -> Result<Self> {
        let held = cost.bytes_beside(rewards.iter().map(|(_, memory)| memory));
        // If there is no room for training, tiles do not help.
        let is_full = room(held).is_err();
        let fits = |decoder: &PartMemory| if is_full { Ok(()) } else { room(held + decoder.alone()) };
        let decoder = text.planned_decoder(profile, &fits)?;
        Ok(Self { encoder: text.planned_encoder(profile)?, rewards, decoder: Some(decoder) })
    }

    /// Bytes of the rewards and then of the decoder, each on top of training and those before it.
    pub fn on_top(&self, cost: &Cost) -> Vec<u64> {
        let parts: Vec<&PartMemory> = self.beside().collect();
        let bytes = |count: usize| cost.bytes_beside(parts[..count].iter().copied());
        (0..parts.len()).map(|count| bytes(count + 1) - bytes(count)).collect()
    }

    /// The most that is on the device at a time.
    pub fn most(&self, cost: &Cost) -> u64 {
        let encoder = self.encoder.as_ref().map_or(0, |(_, memory)| memory.alone());
        cost.bytes_beside(self.beside()).max(encoder)
    }

    /// The same if no memory were reused.
    pub fn naive(&self, cost: &Cost) -> u64 {
        let naive = |memory: &PartMemory| memory.weights + memory.plan.naive;
        let encoder = self.encoder.as_ref().map_or(0, |(_, memory)| naive(memory));
        (cost.naive_bytes + self.beside().map(naive).sum::<u64>()).max(encoder)
    }

    fn beside(&self) -> impl Iterator<Item = &PartMemory> {
        let rewards = self.rewards.iter().map(|(_, memory)| memory);
        rewards.chain(self.decoder.iter().map(|(_, memory)| memory))
    }
}

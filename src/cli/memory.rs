//! The device memory of training, as `--dry-run` prints it.

use super::say;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::memory::{OtherParts, TrainingMemory};

pub(super) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Prints the most that is on the device at a time, and what it consists of; `what` is training in words.
pub(super) fn print(training: &TrainingMemory, what: &str, parts: &OtherParts) {
    say(format_args!(
        "planned device memory  {:.1} MiB ({:.1} MiB if nothing were reused)",
        mebibytes(parts.most(training)),
        mebibytes(parts.naive(training))
    ));
    let part = |bytes: u64, what: &str| say(format_args!("  {:>10.1} MiB       {what}", mebibytes(bytes)));
    let decoder = parts.decoder.iter().map(|(tile, _)| match tile {
        None => "the decoder, while it decodes whole images".to_owned(),
        Some([height, width]) => format!("the decoder, while it decodes in tiles of {width}x{height} pixels"),
    });
    let rewards = parts.rewards.iter().map(|(name, _)| format!("the reward {name}"));
    let beside: Vec<(u64, String)> = parts.on_top(training).into_iter().zip(rewards.chain(decoder)).collect();
    if !beside.is_empty() {
        part(training.bytes(), what);
        beside.iter().for_each(|(bytes, what)| part(*bytes, &format!("{what}, on top")));
    }
    for (encoder, memory) in &parts.encoders {
        part(memory.alone(), &format!("{encoder}, alone, before training"));
    }
}

/// Prints what the device has, if that is known.
///
/// # Errors
/// If it is less than is planned.
pub(super) fn check(gpu: &Gpu, training: &TrainingMemory, parts: &OtherParts) -> Result<()> {
    if let Some(memory) = gpu.description().memory_bytes {
        say(format_args!("device memory          {:.0} MiB", mebibytes(memory)));
    }
    gpu.check_memory(parts.most(training))
}

//! What the user can do about a device with too little memory, which depends on the command.

use super::Command;
use crate::error::{Error, Shortage};

/// For a tensor that is as large however few samples are computed together.
const LARGE_WEIGHTS: &str = "choose a smaller model, or a device with larger limits \
    (`flowdppo-wgpu devices` lists them; --limits webgpu-default lowers them)";

/// For commands that run text-to-image models with a configuration.
const OF_PROMPTS: &str =
    "; a text-to-image model also needs less with `model.weights` = \"q8_0\" or a smaller `model.size`";

impl Command {
    /// How the command needs less memory.
    pub(super) fn with_less_memory(&self) -> String {
        let (less, also) = match self {
            Self::Train(_) | Self::Sweep(_) => (
                "lower the micro-batches (`train.micro_batch`, `rollout.micro_batch`), or choose a smaller model",
                OF_PROMPTS,
            ),
            Self::Eval(_) => {
                ("lower `rollout.micro_batch`, which evaluations use too, or choose a smaller model", OF_PROMPTS)
            }
            Self::Pretrain(_) => ("lower `pretrain.micro_batch`, or choose a smaller model", OF_PROMPTS),
            Self::FitClassifier(_) => ("lower `classifier.batch_size` or `classifier.hidden_size`", ""),
            Self::Sample(_) => (
                "lower --count, or choose a smaller model",
                "; a text-to-image model needs less with a lower --batch, a smaller --size or --weights q8_0",
            ),
            Self::Encode(_) => ("leave out the largest text encoder with --no-t5, or lower --t5-tokens", ""),
            _ => ("choose a smaller model, or another device with --device", ""),
        };
        format!("{less}{also}")
    }
}

/// The error with advice: `less` is that of the command.
pub(super) fn advised(error: Error, less: &str) -> Error {
    match error {
        Error::Memory { shortage, more } => {
            let advice = match shortage {
                Shortage::Piece { of_batch: false, .. } => LARGE_WEIGHTS,
                _ => less,
            };
            Error::Device(format!("{shortage}: {advice}{more}"))
        }
        other => other,
    }
}

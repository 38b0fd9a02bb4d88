//! `[prompts]`: what a text-to-image model is asked for.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Model;
use crate::error::{Error, Result};

/// `[prompts]`: what a text-to-image model (`model.folder`) is asked for. A prompt takes the place of a class: each group
/// of a rollout has one, in turn, and `rollout.classes`, `eval.classes` and `preview.classes` choose prompts by number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prompts {
    /// The prompts: a text file with one per line, JSON lines with a `prompt` each, or a file that `encode` wrote, which
    /// needs no text encoders. More than 256 prompts are encoded into such a file beside the run, which is used again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The negative prompt, which guidance leads away from. A file that `encode` wrote has its own.
    pub negative: String,
    /// Whether the T5 encoder takes part, if the model has one. Without it prompts have 77 tokens of text and zeros.
    pub t5: bool,
}

impl Default for Prompts {
    fn default() -> Self {
        Self { file: None, negative: String::new(), t5: true }
    }
}

impl Prompts {
    /// Checks that there are prompts exactly if the model needs them.
    pub(super) fn validate(&self, model: &Model) -> Result<()> {
        match (&model.folder, &self.file) {
            (Some(_), None) => Err(Error::input(
                "`model.folder` is a text-to-image model, which needs prompts: set `prompts.file`, a file with one prompt \
                 per line",
            )),
            (None, Some(_)) => Err(Error::input(
                "`prompts.file` does nothing without `model.folder`: remove it, or set `model.folder` to a text-to-image \
                 model",
            )),
            _ => Ok(()),
        }
    }
}

/// Whether a file of prompts is one that `encode` wrote.
pub fn is_encoded(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors"))
}

//! `[prompts]`: what a text-to-image model is asked for.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Command, Model};
use crate::error::{Error, Result};

/// `[prompts]`: what a text-to-image model (`model.folder`, or `--model` of `eval`) is asked for. A prompt takes the place
/// of a class: each group of a rollout has one, in turn, and `rollout.classes`, `eval.classes` and `preview.classes` choose
/// prompts by number. In `pretrain` the captions of the images take their place, and only `t5` is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prompts {
    /// For `train` and `eval`: the prompts, a text file with one per line, JSON lines with a `prompt` each, or a file that `encode`
    /// wrote, which needs no text encoders. `builtin:shapes` are captions of `data.kind` = "shapes",
    /// in parts `builtin:shapes-trained`, `builtin:shapes-forgotten` and `builtin:shapes-held-out`. More than 256 prompts are encoded into such a file beside the run, which is
    /// used again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// For `train` and `eval`: the negative prompt, which guidance leads away from. A file that `encode` wrote has its own.
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
    /// The file of prompts.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none.
    pub fn given(&self) -> Result<&Path> {
        self.file.as_deref().ok_or_else(|| {
            Error::input(
                "a text-to-image model needs prompts: set `prompts.file`, a file with one prompt per line (`eval` has \
                 --prompts for it)",
            )
        })
    }

    /// Checks that a command has the prompts that it needs, and that it reads every key that is set.
    pub(super) fn validate(&self, command: Command, model: &Model) -> Result<()> {
        let is_folder = model.folder.is_some();
        match command {
            Command::Train if is_folder => drop(self.given()?),
            Command::Train if self.file.is_some() => {
                return Err(Error::input(
                    "`prompts.file` does nothing without `model.folder`: remove it, or set `model.folder` to a text-to-image \
                     model",
                ));
            }
            Command::Pretrain if self.file.is_some() => {
                return Err(Error::input(
                    "`prompts.file` does nothing in pretrain, which learns from the images and captions of `data`: remove it",
                ));
            }
            Command::Pretrain if !self.negative.is_empty() => {
                return Err(Error::input(
                    "`prompts.negative` does nothing in pretrain, whose samples are guided away from the empty caption: \
                     remove it",
                ));
            }
            _ => {}
        }
        // The model of `eval` is given on the command line.
        let why = match command {
            Command::Train | Command::Pretrain if !is_folder => "without `model.folder`, a text-to-image model",
            _ if self.file.as_deref().is_some_and(is_encoded) => "with prompts that are encoded already",
            _ => return Ok(()),
        };
        let set = [("negative", !self.negative.is_empty(), "\"\""), ("t5", !self.t5, "true")];
        match set.into_iter().find(|(_, is_set, _)| *is_set) {
            Some((key, _, default)) => {
                Err(Error::input(format!("`prompts.{key}` does nothing {why}: remove it, or set it to {default}")))
            }
            None => Ok(()),
        }
    }
}

/// Whether a file of prompts is one that `encode` wrote.
pub fn is_encoded(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors"))
}

//! `[lora]`: what is trained in place of all weights.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ranges::*;
use crate::error::{Error, Result};

/// `[lora]`: `train` learns low-rank additions to layers (LoRA, Hu et al. 2021) in place of all weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    /// Rank of the additions; 0 = none, all weights are trained.
    #[schemars(range(max = MAX_SIZE))]
    pub rank: usize,
    /// An addition counts alpha / rank times; twice the rank if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub alpha: Option<f64>,
    /// The layers that are added to, by their names or the last parts of them as in PEFT; `*` stands for any text.
    pub targets: Vec<String>,
    /// Go on from the adapter in this folder, as PEFT or an earlier run wrote it; rank, alpha and targets are then its
    /// own. Relative to the current directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
}

impl Default for Lora {
    fn default() -> Self {
        let targets = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"].map(String::from).to_vec();
        Self { rank: 0, alpha: None, targets, adapter: None }
    }
}

impl Lora {
    /// Whether an adapter is trained.
    pub fn is_used(&self) -> bool {
        self.rank > 0 || self.adapter.is_some()
    }

    /// `lora.alpha`, or what stands for it.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(2.0 * self.rank as f64)
    }

    pub(super) fn validate(&self) -> Result<()> {
        if !self.is_used() && *self != Self::default() {
            return Err(Error::input(
                "`lora.alpha` and `lora.targets` do nothing, as all weights are trained: set `lora.rank` above 0, or \
                 remove them",
            ));
        }
        if self.alpha.is_some() && self.adapter.is_some() {
            return Err(Error::input(
                "`lora.alpha` does nothing with `lora.adapter`, which brings its own: remove one of the two",
            ));
        }
        if self.rank > 0 && self.targets.is_empty() {
            return wrong("lora.targets", "names of layers, such as \"attn.qkv\"", "an empty list");
        }
        Ok(())
    }
}

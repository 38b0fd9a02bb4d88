//! `[lora]`: what is trained instead of all weights.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::LoraReference;
use super::ranges::*;
use crate::error::{Error, Result};

/// `[lora]`: `train` and `pretrain` learn low-rank additions to layers (LoRA, Hu et al. 2021) instead of all weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    /// Rank of the adapter; 0 trains all weights instead.
    #[schemars(range(max = MAX_SIZE))]
    pub rank: usize,
    /// Each addition is scaled by alpha / rank. Default: twice the rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub alpha: Option<f64>,
    /// The layers to adapt, by name or the last parts of it as in PEFT; `*` matches any text.
    pub targets: Vec<String>,
    /// Continue from the adapter in this directory, written by PEFT or an earlier run, with its own rank, alpha and
    /// targets. Relative to the current directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// With `lora.adapter`, for `train`: the model that drift and `objective.reference` are measured from, and that iteration 0 and
    /// the `[guard]` take as the one before training.
    pub reference: LoraReference,
}

impl Default for Lora {
    fn default() -> Self {
        let targets = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"].map(String::from).to_vec();
        Self { rank: 0, alpha: None, targets, adapter: None, reference: LoraReference::default() }
    }
}

impl Lora {
    /// Whether an adapter is trained.
    pub fn is_used(&self) -> bool {
        self.rank > 0 || self.adapter.is_some()
    }

    /// `lora.alpha`, or its default.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(2.0 * self.rank as f64)
    }

    /// Whether the run starts from the base with an adapter, and everything is measured from that model.
    pub fn starts_from_adapter(&self) -> bool {
        self.adapter.is_some() && self.reference == LoraReference::Start
    }

    /// The name of the model that a run is measured from.
    pub fn reference_name(&self) -> &'static str {
        if self.starts_from_adapter() { "start" } else { "base" }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.adapter.is_none() && self.reference != LoraReference::default() {
            return Err(Error::input(
                "`lora.reference` does nothing without `lora.adapter`, because a new adapter starts from the base: \
                 remove it, or set `lora.adapter`",
            ));
        }
        if self.rank > 0 && self.targets.is_empty() {
            return wrong("lora.targets", "names of layers, such as \"attn.qkv\"", "an empty list");
        }
        Ok(())
    }
}

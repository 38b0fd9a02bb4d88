//! The prompt embeddings of a model whose only text encoder is T5, which is told what is padding.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::prompt_table::PromptEmbeddings;
use super::config::{T5Config, read_config};
use super::encoders::PromptEncoder;
use super::prompt::CutPrompt;
use super::t5::{encode_t5, planned_t5};
use super::tokenizer::Tokenizer;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{DeviceProfile, PartMemory};

/// The tokenizer and the encoder of such a model.
#[derive(Debug)]
pub struct T5Prompts {
    encoder: PathBuf,
    tokenizer: Tokenizer,
    /// Rows of each prompt.
    tokens: usize,
    /// Width of the embeddings that the transformer takes.
    width: usize,
}

impl T5Prompts {
    /// Opens the tokenizer in a folder; the encoder's stays as it is. Prompts have so many rows, and the transformer takes
    /// rows of this width.
    ///
    /// # Errors
    /// [`Error::Input`] if the tokenizer is missing or damaged.
    pub fn open([tokenizer, encoder]: &[PathBuf; 2], tokens: usize, width: usize) -> Result<Self> {
        Ok(Self { encoder: encoder.clone(), tokenizer: Tokenizer::open(tokenizer)?, tokens, width })
    }

    fn config(&self) -> Result<T5Config> {
        let path = self.encoder.join("config.json");
        let config: T5Config = read_config(&path)?;
        config.check(&path.display().to_string())?;
        match config.d_model == self.width {
            true => Ok(config),
            false => Err(Error::input(format!(
                "{} has embeddings of {} numbers, but the transformer takes {}: they are of different models",
                self.encoder.display(),
                config.d_model,
                self.width
            ))),
        }
    }
}

impl PromptEncoder for T5Prompts {
    fn tokens(&self) -> usize {
        self.tokens
    }

    fn has_t5(&self) -> bool {
        true
    }

    /// Padding is zeros. The empty prompt is no prompt: all of it is padding.
    fn encode(&self, gpu: &Arc<Gpu>, prompts: &[&str]) -> Result<(PromptEmbeddings, Vec<CutPrompt>)> {
        if prompts.is_empty() {
            return Err(Error::input("there is no prompt to encode: at least one is needed"));
        }
        let config = self.config()?;
        let mut tokens = self.tokenizer.encode(prompts, self.tokens)?;
        let lost = std::mem::take(&mut tokens.cut).into_iter().enumerate();
        let cut =
            lost.filter_map(|(prompt, lost)| Some(CutPrompt { prompt, encoder: "T5".into(), lost: lost? })).collect();
        let mut embeddings = encode_t5(gpu, &config, &Weights::open(&self.encoder, "")?, &tokens, true)?;
        let of_prompt = self.tokens * self.width;
        for ((rows, prompt), length) in embeddings.chunks_mut(of_prompt).zip(prompts).zip(&tokens.lengths) {
            let kept = if prompt.trim().is_empty() { 0 } else { *length };
            rows[kept * self.width..].fill(0.0);
        }
        let (prompts, width) = (prompts.len(), self.width);
        let pooled = Vec::new();
        Ok((PromptEmbeddings { prompts, tokens: self.tokens, width, embeddings, pooled, pooled_width: 0 }, cut))
    }

    fn planned(&self, prompts: usize, profile: &DeviceProfile) -> Result<(&'static str, PartMemory)> {
        Ok(("text_encoder", planned_t5(&self.config()?, [prompts, self.tokens], true, profile)?))
    }
}

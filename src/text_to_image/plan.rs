//! A pipeline as plans need it: nothing large is read.

use std::sync::Arc;

use super::decoding::PictureDecoder;
use super::pipeline::TextToImage;
use super::training::T5_TOKENS;
use crate::error::{Error, Result};
use crate::graph::{DeviceProfile, PartMemory};
use crate::model::text::{CLIP_TOKENS, planned_encoder};
use crate::model::{FlowModel, Prompt, PromptEmbedding, PromptSource, Shared};

/// Prompts whose embeddings nobody asks for yet.
#[derive(Debug)]
pub(super) struct Unencoded {
    pub prompts: Vec<Prompt>,
    pub tokens: usize,
}

impl PromptSource for Unencoded {
    fn prompts(&self) -> &[Prompt] {
        &self.prompts
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    fn embedding(&self, _: Option<usize>) -> Result<PromptEmbedding> {
        Err(Error::failed("the prompts have not been encoded: this model is for plans only"))
    }
}

impl TextToImage {
    /// The model for latents of a size and so many prompts, which cannot be drawn.
    pub fn unencoded(&self, size: [usize; 2], prompts: usize, decoder: Arc<PictureDecoder>) -> FlowModel {
        let prompts = Unencoded { prompts: vec![Prompt::default(); prompts], tokens: CLIP_TOKENS + T5_TOKENS };
        FlowModel::Mmdit(self.flow_model(size, Shared(Arc::new(prompts)), Shared(decoder)))
    }

    /// The text encoder whose largest layer takes the most on such a device, and what that layer takes.
    ///
    /// # Errors
    /// As [`planned_encoder`].
    pub fn planned_encoder(&self, prompts: usize, profile: &DeviceProfile) -> Result<(&'static str, PartMemory)> {
        let tokens = self.has_t5().then_some(T5_TOKENS);
        planned_encoder(&self.pipeline().folder, prompts, tokens, profile)
    }
}

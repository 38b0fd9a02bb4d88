//! A pipeline as plans need it: nothing large is read.

use std::sync::Arc;

use super::pipeline::TextToImage;
use crate::error::{Error, Result};
use crate::model::{FlowModel, PictureDecoder, Prompt, PromptEmbedding, PromptSource, Shared};

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
    /// The model for states of a size and so many prompts of so many tokens, which cannot be drawn.
    pub fn unencoded(
        &self,
        size: [usize; 2],
        [prompts, tokens]: [usize; 2],
        decoder: Arc<PictureDecoder>,
    ) -> FlowModel {
        let prompts = Unencoded { prompts: vec![Prompt::default(); prompts], tokens };
        FlowModel::Text(self.flow_model(size, Shared(Arc::new(prompts)), Shared(decoder)))
    }
}

//! What a transformer is told of prompts.

use super::condition::{Prompt, PromptEmbedding, PromptSource};
use crate::error::Result;

/// The transformer's input for P prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptEmbeddings {
    /// Number of prompts, P.
    pub prompts: usize,
    /// Rows of each prompt: those of CLIP, then those of T5.
    pub tokens: usize,
    /// Columns of a row.
    pub width: usize,
    /// `[P, tokens, width]`.
    pub embeddings: Vec<f32>,
    /// `[P, pooled_width]`: both pooled embeddings, side by side.
    pub pooled: Vec<f32>,
    /// Columns of the pooled embeddings.
    pub pooled_width: usize,
}

impl PromptEmbeddings {
    /// Those of the prompt at a place.
    ///
    /// # Panics
    /// If there are fewer prompts.
    pub fn at(&self, place: usize) -> PromptEmbedding {
        let part = |values: &[f32], length: usize| values[place * length..][..length].to_vec();
        PromptEmbedding {
            context: part(&self.embeddings, self.tokens * self.width),
            pooled: part(&self.pooled, self.pooled_width),
        }
    }
}

/// Prompts in memory. Place 0 of the embeddings is the negative prompt, and the prompts follow.
#[derive(Clone, Debug)]
pub struct PromptTable {
    /// The prompts.
    pub prompts: Vec<Prompt>,
    /// Their embeddings, after those of the negative prompt.
    pub embeddings: PromptEmbeddings,
}

impl PromptSource for PromptTable {
    fn prompts(&self) -> &[Prompt] {
        &self.prompts
    }

    fn tokens(&self) -> usize {
        self.embeddings.tokens
    }

    fn embedding(&self, prompt: Option<usize>) -> Result<PromptEmbedding> {
        Ok(self.embeddings.at(prompt.map_or(0, |prompt| prompt + 1)))
    }
}

//! What the transformer is told of prompts: encoded in this process, or kept in a file.

use std::path::Path;
use std::sync::Arc;

use super::conditions_file::ConditionsFile;
use super::pipeline::Encoders;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::text::CutPrompt;
use crate::model::{Prompt, PromptEmbedding, PromptEmbeddings, PromptSource, TextNetwork, WordPrompts};

/// Prompts with their embeddings, and those of a negative prompt.
#[derive(Debug)]
pub struct Conditions {
    prompts: Vec<Prompt>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Place 0 is the negative prompt.
    Memory(PromptEmbeddings),
    File(ConditionsFile),
}

impl Conditions {
    /// Encodes prompts and a negative prompt, by one encoder after the other; also returns what was cut off, where place 0
    /// is the negative prompt.
    ///
    /// # Errors
    /// If an encoder's files do not fit, or the device has not enough memory.
    pub fn encode(
        gpu: &Arc<Gpu>,
        encoders: &Encoders,
        prompts: &[Prompt],
        negative: &str,
    ) -> Result<(Self, Vec<CutPrompt>)> {
        let all: Vec<&str> = [negative].into_iter().chain(prompts.iter().map(|prompt| prompt.text.as_str())).collect();
        let (embeddings, cut) = encoders.encode(gpu, &all)?;
        Ok((Self { prompts: prompts.to_vec(), source: Source::Memory(embeddings) }, cut))
    }

    /// Prompts of words; the negative prompt is the empty one.
    ///
    /// # Errors
    /// [`Error::Input`] if one has a word that is not known, or too many words.
    pub fn of_words(words: &WordPrompts, prompts: &[Prompt]) -> Result<Self> {
        let table = words.table(prompts.to_vec())?;
        Ok(Self { prompts: table.prompts, source: Source::Memory(table.embeddings) })
    }

    /// Those of a file, of which nothing but the prompts is in memory. With `chosen`, only those prompts, in that order.
    ///
    /// # Errors
    /// [`Error::Input`] if the file is damaged or something else, or lacks a chosen prompt.
    pub fn open(path: &Path, chosen: &[String]) -> Result<Self> {
        let mut file = ConditionsFile::open(path)?;
        let prompts = file.choose(chosen)?;
        Ok(Self { prompts, source: Source::File(file) })
    }

    /// The prompts.
    pub fn prompts(&self) -> &[Prompt] {
        &self.prompts
    }

    /// Rows of each prompt.
    pub fn tokens(&self) -> usize {
        match &self.source {
            Source::Memory(embeddings) => embeddings.tokens,
            Source::File(file) => file.tokens(),
        }
    }

    /// The negative prompt, where it is known.
    pub fn negative_prompt(&self) -> Option<&str> {
        match &self.source {
            Source::Memory(_) => None,
            Source::File(file) => file.negative_prompt(),
        }
    }

    /// Checks that they are of a transformer, and that there is a negative prompt if `guided`.
    ///
    /// # Errors
    /// [`Error::Input`] with what is not.
    pub fn check(&self, network: &TextNetwork, guided: bool) -> Result<()> {
        let Source::File(file) = &self.source else { return Ok(()) };
        file.check(network.widths(), guided)
    }

    /// The embeddings of a prompt, or of the negative one.
    ///
    /// # Errors
    /// [`Error::Input`] if the file cannot be read.
    ///
    /// # Panics
    /// If there are fewer prompts.
    pub fn of(&self, prompt: Option<usize>) -> Result<PromptEmbedding> {
        match &self.source {
            Source::Memory(embeddings) => Ok(embeddings.at(prompt.map_or(0, |prompt| prompt + 1))),
            Source::File(file) => file.of(prompt),
        }
    }
}

impl PromptSource for Conditions {
    fn prompts(&self) -> &[Prompt] {
        &self.prompts
    }

    fn tokens(&self) -> usize {
        Conditions::tokens(self)
    }

    fn embedding(&self, prompt: Option<usize>) -> Result<PromptEmbedding> {
        self.of(prompt)
    }
}

impl Encoders {
    /// The folder of the first encoder, for messages.
    fn place(&self) -> impl std::fmt::Display {
        self.folders.encoders().next().expect("there is one").display()
    }

    /// Encodes texts, and checks that the transformer takes what comes of it.
    ///
    /// # Errors
    /// As [`Conditions::encode`].
    pub(super) fn encode(&self, gpu: &Arc<Gpu>, texts: &[&str]) -> Result<(PromptEmbeddings, Vec<CutPrompt>)> {
        let (embeddings, cut) = self.prompts.encode(gpu, texts)?;
        let (found, expected) = (embeddings.pooled_width, self.widths[1]);
        if found != expected {
            return Err(Error::input(format!(
                "{}: the CLIP encoders give pooled embeddings of {found} numbers, but the transformer takes {expected}: \
                 they belong to different models",
                self.place()
            )));
        }
        let all = embeddings.embeddings.iter().chain(&embeddings.pooled);
        if !all.clone().all(|value| value.is_finite()) {
            return Err(Error::NotFinite(format!(
                "{}: the text encoders give numbers that are not finite: their files are damaged, download them again",
                self.place()
            )));
        }
        Ok((embeddings, cut))
    }
}

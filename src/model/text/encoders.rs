//! The text encoders of a pipeline, of any family: where they are, and what they make of prompts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::folder::{MODEL_INDEX, Pipeline, State, is_hub_name, locate};
use super::super::prompt_table::PromptEmbeddings;
use super::super::text_network::TextNetwork;
use super::super::words::WordPrompts;
use super::prompt::{CutPrompt, Sd3Prompts};
use super::t5_prompts::T5Prompts;
use super::tokenizer::Tokenizer;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{DeviceProfile, PartMemory};

/// Tokens that T5 contributes to a prompt of Stable Diffusion 3, as in the published pipelines.
const T5_TOKENS: usize = 256;

/// The tokenizers and text encoders of Stable Diffusion 3, in order.
const OF_SD3: [[&str; 2]; 3] = [["tokenizer", "text_encoder"], ["tokenizer_2", "text_encoder_2"], ["tokenizer_3", T5]];

/// The encoder of Stable Diffusion 3 that may be left out.
pub(super) const T5: &str = "text_encoder_3";

/// The folder of the words that a small model knows.
const TOKENIZER: &str = "tokenizer";

/// The tokenizer and the text encoder of MiniT2I.
const OF_MINIT2I: [&str; 2] = ["tokenizer", "text_encoder"];

/// Tokenizers with text encoders, which stay on disk.
pub trait PromptEncoder: fmt::Debug + Send + Sync {
    /// Rows of each prompt.
    fn tokens(&self) -> usize;

    /// Whether T5 takes part.
    fn has_t5(&self) -> bool;

    /// Whether encoding takes no time and its result hardly any memory, so that no file is kept of it.
    fn is_instant(&self) -> bool {
        false
    }

    /// Encodes prompts with one encoder after the other; also returns what was cut off.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no prompts, or a file is damaged or of another model; else if the device does not have
    /// enough memory or is lost.
    fn encode(&self, gpu: &Arc<Gpu>, prompts: &[&str]) -> Result<(PromptEmbeddings, Vec<CutPrompt>)>;

    /// What the largest layer of the encoders takes on such a device to encode so many prompts, and its encoder.
    ///
    /// # Errors
    /// [`Error::Input`] if the configuration of an encoder is missing or not supported; if the device is too small for a
    /// tensor of one.
    fn planned(&self, prompts: usize, profile: &DeviceProfile) -> Result<(&'static str, PartMemory)>;

    /// Checks that the device has room to encode so many prompts.
    ///
    /// # Errors
    /// As [`PromptEncoder::planned`], and if it does not.
    fn check_room(&self, gpu: &Gpu, prompts: usize) -> Result<()> {
        let (_, layer) = self.planned(prompts, &DeviceProfile::of(gpu))?;
        gpu.check_memory(gpu.counters().bytes_held + layer.alone())
    }
}

impl PromptEncoder for WordPrompts {
    fn tokens(&self) -> usize {
        WordPrompts::tokens(self)
    }

    fn has_t5(&self) -> bool {
        false
    }

    fn is_instant(&self) -> bool {
        true
    }

    fn encode(&self, _: &Arc<Gpu>, prompts: &[&str]) -> Result<(PromptEmbeddings, Vec<CutPrompt>)> {
        if prompts.is_empty() {
            return Err(Error::input("there is no prompt to encode: at least one is needed"));
        }
        Ok((self.embeddings(prompts)?, Vec::new()))
    }

    fn planned(&self, _: usize, _: &DeviceProfile) -> Result<(&'static str, PartMemory)> {
        Ok(("tokenizer", PartMemory::default()))
    }
}

/// How a user wants prompts to be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderChoice {
    /// Whether T5 takes part, if the model has it.
    pub t5: bool,
    /// Tokens that T5 contributes; by default as many as the model is made for.
    pub t5_tokens: Option<usize>,
}

impl EncoderChoice {
    /// As many tokens as the model is made for.
    pub fn usual(t5: bool) -> Self {
        Self { t5, t5_tokens: None }
    }

    /// All encoders that a pipeline has: T5 is left out if its folder is missing, and it can be.
    pub fn possible(pipeline: &Pipeline) -> Self {
        Self::usual(pipeline.state(T5) != State::Missing)
    }
}

/// The folders of the tokenizers and text encoders that take part: `[tokenizer, encoder]` of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderFolders {
    folders: Vec<[PathBuf; 2]>,
    choice: EncoderChoice,
    /// The name on the hub and its folder, if they are in its cache instead of the pipeline.
    hub: Option<(String, PathBuf)>,
    /// Whether the tokenizer is a list of words, which needs no encoder.
    has_words: bool,
}

impl EncoderFolders {
    /// The folders in a pipeline with such a transformer.
    ///
    /// # Errors
    /// [`Error::Input`] if one is missing, or the model does not offer the choice.
    pub fn of(pipeline: &Pipeline, network: &TextNetwork, choice: EncoderChoice) -> Result<Self> {
        match network {
            _ if pipeline.kind.has_words() => {
                check_words(choice)?;
                let tokenizer = pipeline.component(TOKENIZER)?;
                Ok(Self { folders: vec![[tokenizer.clone(), tokenizer]], choice, hub: None, has_words: true })
            }
            TextNetwork::Mmdit(_) => {
                Ok(Self { folders: of_sd3(pipeline, choice)?, choice, hub: None, has_words: false })
            }
            TextNetwork::MiniT2i(config) => {
                check_minit2i(choice, config.prompt_length)?;
                let folders = of_minit2i(pipeline, &config.text_encoder)?;
                let is_own = folders[1].starts_with(&pipeline.folder);
                let hub = (!is_own).then(|| (config.text_encoder.clone(), folders[1].clone()));
                Ok(Self { folders: vec![folders], choice, hub, has_words: false })
            }
        }
    }

    /// The name on the hub and its folder, if the encoders are in its cache instead of the pipeline.
    pub fn hub(&self) -> Option<(&str, &Path)> {
        self.hub.as_ref().map(|(name, folder)| (name.as_str(), folder.as_path()))
    }

    /// The folders of the encoders.
    pub fn encoders(&self) -> impl Iterator<Item = &PathBuf> {
        self.folders.iter().map(|[_, encoder]| encoder)
    }

    /// The files of tokenizers and encoders.
    ///
    /// # Errors
    /// [`Error::Input`] if weights are missing.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for [tokenizer, encoder] in &self.folders {
            if self.has_words {
                files.push(WordPrompts::file(tokenizer));
                continue;
            }
            files.extend(Tokenizer::files(tokenizer));
            files.push(encoder.join("config.json"));
            files.extend(Weights::open(encoder, "")?.files().map(ToOwned::to_owned));
        }
        Ok(files)
    }

    /// Opens the tokenizers, for a pipeline with such a transformer.
    ///
    /// # Errors
    /// [`Error::Input`] if one is missing or damaged.
    pub fn open(&self, pipeline: &Pipeline, network: &TextNetwork) -> Result<Box<dyn PromptEncoder>> {
        let [width, _] = network.widths();
        Ok(match network {
            _ if self.has_words => Box::new(WordPrompts::open(&self.folders[0][0], width)?),
            TextNetwork::Mmdit(_) => {
                let has_t5 = self.folders.len() == OF_SD3.len();
                let tokens = self.choice.t5_tokens.unwrap_or(T5_TOKENS);
                Box::new(Sd3Prompts::open(&pipeline.folder, has_t5, tokens, width)?)
            }
            TextNetwork::MiniT2i(config) => Box::new(T5Prompts::open(&self.folders[0], config.prompt_length, width)?),
        })
    }
}

fn of_sd3(pipeline: &Pipeline, choice: EncoderChoice) -> Result<Vec<[PathBuf; 2]>> {
    let state = pipeline.state(T5);
    if choice.t5 && state == State::Missing {
        return Err(Error::input(format!(
            "{} has no folder `{T5}`, which its {MODEL_INDEX} names: download it as well, or leave T5 \
             out (--no-t5, or `prompts.t5` = false)",
            pipeline.folder.display()
        )));
    }
    let count = if choice.t5 && state == State::Present { 3 } else { 2 };
    let parts = OF_SD3[..count].iter();
    parts.map(|[tokenizer, encoder]| Ok([pipeline.component(tokenizer)?, pipeline.component(encoder)?])).collect()
}

fn check_words(choice: EncoderChoice) -> Result<()> {
    match (choice.t5, choice.t5_tokens) {
        (true, None) => Ok(()),
        _ => Err(Error::input(
            "this model has no T5: leave out --no-t5, --t5-tokens and `prompts.t5` = false, which are of its encoder",
        )),
    }
}

fn check_minit2i(choice: EncoderChoice, prompt_length: usize) -> Result<()> {
    match choice {
        EncoderChoice { t5: false, .. } => Err(Error::input(
            "T5 is the only text encoder of this model and cannot be left out: remove --no-t5 or `prompts.t5` = false",
        )),
        EncoderChoice { t5_tokens: Some(tokens), .. } if tokens != prompt_length => Err(Error::input(format!(
            "the prompts of this model have {prompt_length} tokens, not {tokens}: leave out --t5-tokens"
        ))),
        _ => Ok(()),
    }
}

/// In the pipeline, or in the cache of the hub: the published model names its encoder, and does not contain it.
fn of_minit2i(pipeline: &Pipeline, encoder: &str) -> Result<[PathBuf; 2]> {
    let own = OF_MINIT2I.map(|part| pipeline.folder.join(part));
    if own.iter().any(|part| part.is_dir()) {
        let [tokenizer, encoder] = OF_MINIT2I.map(|part| pipeline.component(part));
        return Ok([tokenizer?, encoder?]);
    }
    let place = pipeline.folder.display();
    let [tokenizer, text_encoder] = OF_MINIT2I;
    let missing = |cause: &str| {
        Error::input(format!(
            "{place} has no `{text_encoder}` and `{tokenizer}`, and its text encoder {encoder} {cause}: copy its config.json \
             and model.safetensors to {place}/{text_encoder}, and its tokenizer.json to {place}/{tokenizer}"
        ))
    };
    if !is_hub_name(encoder) {
        return Err(missing("is no name on the hub"));
    }
    let folder = locate(encoder).map_err(|cause| cause.followed_by(&format!("; it is the text encoder of {place}")))?;
    match folder.join("tokenizer.json").is_file() {
        true => Ok([folder.clone(), folder]),
        false => Err(missing("has no tokenizer.json in the cache of the hub")),
    }
}

//! A pipeline and prompts as what `train` starts from.

use std::sync::Arc;

use super::base::{Base, T5_TOKENS};
use super::conditions::Conditions;
use super::pipeline::Encoders;
use super::prompts::{Prompt, check_count, cut_warnings, read_prompts};
use crate::config::{self, Config, is_encoded};
use crate::error::{Error, Result};
use crate::flow::schedule::Schedule;
use crate::gpu::Gpu;
use crate::model::text::CLIP_TOKENS;
use crate::model::{Shared, StoredModel};

/// Prompts that are evaluated unless the configuration names some.
const MAX_EVALUATED: usize = 64;

/// A text-to-image model with its prompts, before anything large is read.
#[derive(Debug)]
pub struct TextBase {
    base: Base,
    prompts: config::Prompts,
    texts: Vec<String>,
    embeddings: Embeddings,
    /// The noise levels of rollouts, and those of the pipeline.
    schedule: (Schedule, Schedule),
}

/// Where the embeddings of the prompts come from.
#[derive(Debug)]
enum Embeddings {
    /// A file that `encode` wrote.
    Encoded(Arc<Conditions>),
    /// The text encoders, of which no weights have been read yet.
    Open(Box<Encoders>),
}

impl TextBase {
    /// Opens the model that a configuration names as `folder`, and reads its prompts.
    ///
    /// # Errors
    /// [`Error::Input`] if a file is missing, damaged or not supported, or the size of the pictures does not suit the model.
    pub fn open(config: &Config, folder: &str) -> Result<Self> {
        let base = Base::open(config, folder)?;
        let prompts = config.prompts.clone();
        let file = prompts.file.as_deref().ok_or_else(|| Error::input("train needs `prompts.file`"))?;
        let (texts, embeddings) = match is_encoded(file) {
            true => {
                let conditions = Conditions::open(file, &[])?;
                conditions.check(base.model.config(), config.guides_updates() || config.eval.guidance_scale != 1.0)?;
                (conditions.prompts().to_vec(), Embeddings::Encoded(Arc::new(conditions)))
            }
            false => {
                let texts: Vec<String> = read_prompts(file)?.into_iter().map(|Prompt { text, .. }| text).collect();
                check_count(texts.len(), "`prompts.file`")?;
                (texts, Embeddings::Open(Box::new(base.model.encoders(prompts.t5, T5_TOKENS)?)))
            }
        };
        if config.eval.classes.is_empty() && texts.len() > MAX_EVALUATED {
            return Err(Error::input(format!(
                "`eval.classes` is empty, so an evaluation would draw {} images of each of the {} prompts: name some of the \
                 prompts by number, such as [0, 1, 2, 3]",
                config.eval.count,
                texts.len()
            )));
        }
        let schedule = (config.rollout.schedule.clone(), base.model.schedule(None));
        Ok(Self { base, prompts, texts, embeddings, schedule })
    }

    /// The model as plans need it, without the embeddings of its prompts.
    ///
    /// # Errors
    /// [`Error::Input`] if the transformer's file does not fit its configuration.
    pub fn planned(&self) -> Result<StoredModel> {
        let tokens = match &self.embeddings {
            Embeddings::Encoded(conditions) => conditions.tokens(),
            Embeddings::Open(encoders) => CLIP_TOKENS + encoders.t5_tokens,
        };
        self.base.planned(&self.texts, tokens)
    }

    /// The model with the embeddings of its prompts, by one text encoder after the other. `warn` is given what was cut
    /// off prompts that are too long.
    ///
    /// # Errors
    /// If an encoder is damaged, or the device does not have enough memory.
    pub fn encoded(&self, gpu: &Arc<Gpu>, warn: impl Fn(&str)) -> Result<StoredModel> {
        let (rollout, own) = &self.schedule;
        if *rollout == Schedule::default() && rollout != own {
            warn(
                "`rollout.schedule` is linear, but the model is sampled along shifted noise levels: set it to \
                 { kind = \"static-shift\", shift = 3.0 }, for instance",
            );
        }
        let conditions = match &self.embeddings {
            Embeddings::Encoded(conditions) => conditions.clone(),
            Embeddings::Open(encoders) => {
                let (conditions, cut) = Conditions::encode(gpu, encoders, &self.texts, &self.prompts.negative)?;
                cut_warnings(&cut).iter().for_each(|warning| warn(warning));
                Arc::new(conditions)
            }
        };
        self.base.with(Shared(conditions))
    }
}

//! A pipeline with prompts: what `train` starts from, and what `eval` measures.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::base::Base;
use super::conditions::Conditions;
use super::kept::ManyPrompts;
use super::named::NamedModel;
use super::pipeline::Encoders;
use super::prompts::{MOST_ENCODED, cut_warnings, read_prompts};
use crate::classes::ConditionKind;
use crate::config::{self, Config, is_encoded};
use crate::error::{Error, Result};
use crate::flow::schedule::Schedule;
use crate::gpu::Gpu;
use crate::graph::{DeviceProfile, PartMemory};
use crate::model::text::EncoderChoice;
use crate::model::{Adapter, Prompt, Shared, StoredModel};
use crate::run::Verbosity;

/// A text-to-image model with its prompts, before anything large is read.
#[derive(Debug)]
pub struct TextBase {
    base: Base,
    prompts: config::Prompts,
    asked: Vec<Prompt>,
    embeddings: Embeddings,
    /// Embeddings that [`TextBase::encoded`] has made.
    encoded: OnceLock<Arc<Conditions>>,
}

/// Where the embeddings of the prompts come from.
#[derive(Debug)]
enum Embeddings {
    /// A file that `encode` wrote.
    Encoded(Arc<Conditions>),
    /// The text encoders, of which no weights have been read yet.
    Open(Box<Encoders>),
}

/// What is read of a configuration.
#[derive(Clone, Copy, Debug)]
pub struct TextSettings<'a> {
    /// Width and height of the pictures, in pixels; by default the size that the model proposes.
    pub size: Option<[usize; 2]>,
    /// The prompts.
    pub prompts: &'a config::Prompts,
    /// Noise levels of the rollouts.
    pub schedule: &'a Schedule,
    /// How the model is evaluated.
    pub eval: &'a config::Eval,
    /// Whether anything is guided, which needs the embedding of the negative prompt.
    pub is_guided: bool,
}

impl<'a> From<&'a Config> for TextSettings<'a> {
    fn from(config: &'a Config) -> Self {
        let Config { model, prompts, rollout, objective, eval, .. } = config;
        let is_guided = rollout.is_guided() || objective.reference.is_guided() || eval.guidance_scale != 1.0;
        Self { size: model.size, prompts, schedule: &rollout.schedule, eval, is_guided }
    }
}

impl TextBase {
    /// Opens the pipeline in a folder for what a command reads of its configuration, and reads its prompts.
    ///
    /// # Errors
    /// [`Error::Input`] if a file is missing, damaged or not supported, or the size of the pictures does not suit the model.
    pub fn open(folder: &str, settings: &TextSettings<'_>) -> Result<Self> {
        Self::of(Base::open(folder, settings.size)?, settings)
    }

    /// The same for a model that a user names.
    ///
    /// # Errors
    /// As [`TextBase::open`].
    pub fn named(named: &NamedModel, settings: &TextSettings<'_>) -> Result<Self> {
        Self::of(Base::of(named.open(None)?, settings.size)?, settings)
    }

    fn of(base: Base, settings: &TextSettings<'_>) -> Result<Self> {
        let prompts = settings.prompts.clone();
        let file = prompts.given()?;
        let (asked, embeddings) = match is_encoded(file) {
            true => {
                let conditions = Conditions::open(file, &[])?;
                (conditions.prompts().to_vec(), Embeddings::Encoded(Arc::new(conditions)))
            }
            false => {
                let asked = read_prompts(file)?;
                (asked, Embeddings::Open(Box::new(base.model.encoders(EncoderChoice::usual(prompts.t5))?)))
            }
        };
        let base = Self { base, prompts, asked, embeddings, encoded: OnceLock::new() };
        base.check(settings)?;
        Ok(base)
    }

    /// Checks that it suits other settings with the same model and prompts.
    ///
    /// # Errors
    /// [`Error::Input`] if guidance needs a negative prompt that there is none of, or too many prompts would be evaluated.
    pub fn check(&self, settings: &TextSettings<'_>) -> Result<()> {
        if let Embeddings::Encoded(conditions) = &self.embeddings {
            conditions.check(self.base.model.network(), settings.is_guided)?;
        }
        settings.eval.check_is_small(self.base.picture_shape(), (self.asked.len(), ConditionKind::Prompt))
    }

    /// The model as plans need it, without the embeddings of its prompts.
    ///
    /// # Errors
    /// [`Error::Input`] if the transformer's file does not fit its configuration.
    pub fn planned(&self) -> Result<StoredModel> {
        let tokens = match &self.embeddings {
            Embeddings::Encoded(conditions) => conditions.tokens(),
            Embeddings::Open(encoders) => encoders.prompts.tokens(),
        };
        self.base.planned(&self.asked, tokens)
    }

    /// What encodes the prompts on such a device, in words: the largest layer of the text encoders; `None` if the prompts
    /// have been encoded before.
    ///
    /// # Errors
    /// As [`crate::model::text::PromptEncoder::planned`].
    pub fn planned_encoder(&self, profile: &DeviceProfile) -> Result<Option<(String, PartMemory)>> {
        match &self.embeddings {
            Embeddings::Encoded(_) => Ok(None),
            // The negative prompt is one more.
            Embeddings::Open(encoders) => encoders.planned(self.asked.len() + 1, profile).map(Some),
        }
    }

    /// Checks that the device has room to encode the prompts, unless they have been encoded: before, or as many prompts into
    /// a file in `folder`.
    ///
    /// # Errors
    /// If it does not, or an encoder is damaged.
    pub fn check_room(&self, gpu: &Gpu, folder: &Path) -> Result<()> {
        let Embeddings::Open(encoders) = &self.embeddings else { return Ok(()) };
        let many = self.many(encoders);
        // Why a file is not used is said when the prompts are encoded again.
        let is_there = || Ok::<_, Error>(many.found(&many.file(folder, Verbosity::Quiet, &|_| ())?).is_some());
        if self.is_kept(encoders) && is_there()? { Ok(()) } else { many.check_room(gpu) }
    }

    /// Whether the embeddings are kept in a file.
    fn is_kept(&self, encoders: &Encoders) -> bool {
        self.asked.len() > MOST_ENCODED && !encoders.prompts.is_instant()
    }

    fn many<'a>(&'a self, encoders: &'a Encoders) -> ManyPrompts<'a> {
        ManyPrompts { encoders, prompts: &self.asked, negative: &self.prompts.negative }
    }

    /// The model with the embeddings of its prompts, by one text encoder after the other: in memory or, if there are many,
    /// in a file in `folder`, which is used again. It is done once. `warn` is given what was cut off prompts that are too
    /// long.
    ///
    /// # Errors
    /// If an encoder is damaged, the device does not have enough memory, or the file cannot be written.
    pub fn encoded(
        &self,
        gpu: &Arc<Gpu>,
        folder: &Path,
        verbosity: Verbosity,
        warn: impl Fn(&str),
    ) -> Result<StoredModel> {
        if let Some(conditions) = self.encoded.get() {
            return self.base.with(Shared(conditions.clone()));
        }
        let conditions = match &self.embeddings {
            Embeddings::Encoded(conditions) => conditions.clone(),
            Embeddings::Open(encoders) if self.is_kept(encoders) => {
                let many = self.many(encoders);
                let file = many.file(folder, verbosity, &warn)?;
                Arc::new(many.found(&file).map_or_else(|| many.written(gpu, &file), Ok)?)
            }
            Embeddings::Open(encoders) => {
                let (conditions, cut) = Conditions::encode(gpu, encoders, &self.asked, &self.prompts.negative)?;
                cut_warnings(&cut).iter().for_each(|warning| warn(warning));
                Arc::new(conditions)
            }
        };
        self.base.with(Shared(self.encoded.get_or_init(|| conditions).clone()))
    }

    /// What to tell a user whose rollouts take other steps than the model is made for.
    pub fn schedule_warning(&self, settings: &TextSettings<'_>) -> Option<&'static str> {
        let own = self.base.model.schedule(None);
        (*settings.schedule == Schedule::default() && own != Schedule::default()).then_some(
            "`rollout.schedule` is linear, but the model is sampled along shifted noise levels: set it to \
             { kind = \"static-shift\", shift = 3.0 }, for instance",
        )
    }

    /// The adapter of a model that a user names, or the one that is given, as [`NamedModel::adapter`].
    ///
    /// # Errors
    /// As there.
    pub fn adapter(&self, named: &NamedModel, given: Option<(&Path, f64)>) -> Result<Option<(Adapter, f64)>> {
        named.adapter(&self.base.model, given)
    }
}

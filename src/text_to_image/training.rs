//! A pipeline as what `train` starts from.

use std::path::Path;
use std::sync::Arc;

use super::conditions::Conditions;
use super::decoding::PictureDecoder;
use super::kept::ManyPrompts;
use super::pipeline::{Encoders, TextToImage, folder_of};
use super::plan::Unencoded;
use super::prompts::{MOST_ENCODED, cut_warnings, read_prompts};
use crate::config::{self, Config, is_encoded};
use crate::error::{Error, Result};
use crate::flow::schedule::Schedule;
use crate::gpu::Gpu;
use crate::graph::{DeviceProfile, PartMemory};
use crate::model::text::{CLIP_TOKENS, planned_encoder};
use crate::model::{FlowModel, LatentDecoder, Prompt, PromptSource, Shared, StoredModel, StoredTransformer, Weights};
use crate::run::Verbosity;
use crate::shape::ImageShape;

/// Tokens that T5 contributes, as in the published pipelines.
pub(super) const T5_TOKENS: usize = 256;

/// Prompts that are evaluated unless the configuration names some.
const MAX_EVALUATED: usize = 64;

/// A text-to-image model with its prompts, before anything large is read.
#[derive(Debug)]
pub struct TextBase {
    model: TextToImage,
    prompts: config::Prompts,
    asked: Vec<Prompt>,
    embeddings: Embeddings,
    decoder: Arc<PictureDecoder>,
    size: [usize; 2],
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

impl LatentDecoder for PictureDecoder {
    fn picture_shape(&self, latents: ImageShape) -> ImageShape {
        let factor = self.factor();
        ImageShape { channels: 3, height: latents.height * factor, width: latents.width * factor }
    }

    fn decode(&self, gpu: &Arc<Gpu>, latents: &[f32], shape: ImageShape) -> Result<Vec<f32>> {
        let mut pictures = Vec::new();
        let mut take = |_: usize, picture: &[f32]| {
            pictures.extend_from_slice(picture);
            Ok(())
        };
        PictureDecoder::decode(self, gpu, latents, [shape.height, shape.width], None, &mut take)?;
        Ok(pictures)
    }
}

/// What the base of a training run reads of a configuration.
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
    /// Opens the model that `model.folder` names, and reads its prompts.
    ///
    /// # Errors
    /// [`Error::Input`] if a file is missing, damaged or not supported, or the size of the pictures does not suit the model.
    pub fn open(folder: &str, settings: &TextSettings<'_>) -> Result<Self> {
        let Some(path) = folder_of(folder)? else {
            return Err(Error::input(format!(
                "`model.folder` is {folder}, which is not a text-to-image model: a folder with a model_index.json is needed"
            )));
        };
        let model = TextToImage::open(&path, None)?;
        let decoder = PictureDecoder::of_pipeline(&model)?;
        let picture = settings.size.map(|[width, height]| [height, width]);
        let size = model.latent_size("`model.size`", picture, decoder.factor())?;
        let prompts = settings.prompts.clone();
        let file = prompts.file.as_deref().ok_or_else(|| Error::input("train needs `prompts.file`"))?;
        let (asked, embeddings) = match is_encoded(file) {
            true => {
                let conditions = Conditions::open(file, &[])?;
                conditions.check(model.config(), settings.is_guided)?;
                (conditions.prompts().to_vec(), Embeddings::Encoded(Arc::new(conditions)))
            }
            false => {
                let asked = read_prompts(file)?;
                (asked, Embeddings::Open(Box::new(model.encoders(prompts.t5, T5_TOKENS)?)))
            }
        };
        if settings.eval.classes.is_empty() && asked.len() > MAX_EVALUATED {
            return Err(Error::input(format!(
                "`eval.classes` is empty, so an evaluation would draw {} images of each of the {} prompts: name some of the \
                 prompts by number, such as [0, 1, 2, 3]",
                settings.eval.count,
                asked.len()
            )));
        }
        let schedule = (settings.schedule.clone(), model.schedule(None));
        Ok(Self { model, prompts, asked, embeddings, decoder: Arc::new(decoder), size, schedule })
    }

    fn with(&self, prompts: Shared<dyn PromptSource>) -> Result<StoredModel> {
        let weights = StoredTransformer::new(self.model.config(), self.size, self.model.transformer())?;
        let texts: Vec<String> = prompts.prompts().iter().map(|prompt| prompt.text.clone()).collect();
        let model = self.model.flow_model(self.size, prompts, Shared(self.decoder.clone()));
        Ok(StoredModel::of(&FlowModel::Mmdit(model), &texts, Weights::Transformer(weights)))
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
        self.with(Shared(Arc::new(Unencoded { prompts: self.asked.clone(), tokens })))
    }

    /// The text encoder whose largest layer takes the most on such a device, and what that layer takes; `None` if the
    /// prompts have been encoded before.
    ///
    /// # Errors
    /// As [`planned_encoder`].
    pub fn planned_encoder(&self, profile: &DeviceProfile) -> Result<Option<(&'static str, PartMemory)>> {
        match &self.embeddings {
            Embeddings::Encoded(_) => Ok(None),
            // The negative prompt is one more.
            Embeddings::Open(encoders) => {
                let tokens = encoders.prompts.has_t5().then_some(encoders.t5_tokens);
                planned_encoder(&self.model.pipeline().folder, self.asked.len() + 1, tokens, profile).map(Some)
            }
        }
    }

    /// What decoding takes, see [`PictureDecoder::planned`].
    ///
    /// # Errors
    /// As there.
    pub fn planned_decoder(
        &self,
        profile: &DeviceProfile,
        room: &dyn Fn(&PartMemory) -> Result<()>,
    ) -> Result<(Option<[usize; 2]>, PartMemory)> {
        self.decoder.planned(self.size, profile, room)
    }

    /// The model with the embeddings of its prompts, by one text encoder after the other: in memory or, if there are many,
    /// in a file in `folder`, which is used again. `warn` is given what was cut off prompts that are too long.
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
        let (rollout, own) = &self.schedule;
        if *rollout == Schedule::default() && rollout != own {
            warn(
                "`rollout.schedule` is linear, but the model is sampled along shifted noise levels: set it to \
                 { kind = \"static-shift\", shift = 3.0 }, for instance",
            );
        }
        let conditions = match &self.embeddings {
            Embeddings::Encoded(conditions) => conditions.clone(),
            Embeddings::Open(encoders) if self.asked.len() > MOST_ENCODED => {
                let (pipeline, negative) = (self.model.pipeline(), self.prompts.negative.as_str());
                let many = ManyPrompts { pipeline, encoders, prompts: &self.asked, negative };
                Arc::new(many.encoded(gpu, folder, verbosity, warn)?)
            }
            Embeddings::Open(encoders) => {
                let (conditions, cut) = Conditions::encode(gpu, encoders, &self.asked, &self.prompts.negative)?;
                cut_warnings(&cut).iter().for_each(|warning| warn(warning));
                Arc::new(conditions)
            }
        };
        self.with(Shared(conditions))
    }
}

//! A pipeline with prompts: what `train` starts from, and what `eval` measures.

use std::path::Path;
use std::sync::Arc;

use super::conditions::Conditions;
use super::decoding::PictureDecoder;
use super::pipeline::{Encoders, TextToImage, add_adapter, folder_of, out_of_memory};
use super::prompts::{Prompt, check_count, cut_warnings, read_prompts};
use crate::config::{self, Command, Config, WeightType, is_encoded};
use crate::error::{Error, Result};
use crate::flow::schedule::Schedule;
use crate::gpu::Gpu;
use crate::graph::Stores;
use crate::model::text::CLIP_TOKENS;
use crate::model::{
    Adapter, BASE, FlowModel, LatentDecoder, Network, PromptEmbedding, PromptSource, Shared, StoredModel,
    StoredTransformer, Weights,
};
use crate::shape::ImageShape;

/// Tokens that T5 contributes, as in the published pipelines.
const T5_TOKENS: usize = 256;

/// Prompts that are evaluated unless the configuration names some.
const MAX_EVALUATED: usize = 64;

/// A text-to-image model with its prompts, before anything large is read.
#[derive(Debug)]
pub struct TextBase {
    model: TextToImage,
    prompts: config::Prompts,
    texts: Vec<String>,
    embeddings: Embeddings,
    decoder: Shared<dyn LatentDecoder>,
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

/// Prompts whose embeddings nobody asks for yet.
#[derive(Debug)]
struct Unencoded {
    prompts: Vec<String>,
    tokens: usize,
}

impl PromptSource for Unencoded {
    fn prompts(&self) -> &[String] {
        &self.prompts
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    fn embedding(&self, _: Option<usize>) -> Result<PromptEmbedding> {
        Err(Error::failed("the prompts have not been encoded: this model is for plans only"))
    }
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

impl TextBase {
    /// Opens the pipeline in a folder for a command with this configuration, and reads its prompts.
    ///
    /// # Errors
    /// [`Error::Input`] if a file is missing, damaged or not supported, or the size of the pictures does not suit the model.
    pub fn open(config: &Config, command: Command, folder: &str) -> Result<Self> {
        let Some(path) = folder_of(folder)? else {
            return Err(Error::input(format!(
                "`model.folder` is {folder}, which is not a text-to-image model: a folder with a model_index.json is needed"
            )));
        };
        let model = TextToImage::open(&path, None)?;
        let decoder = PictureDecoder::of_pipeline(&model)?;
        let picture = config.model.size.map(|[width, height]| [height, width]);
        let size = model.latent_size("`model.size`", picture, decoder.factor())?;
        let prompts = config.prompts.clone();
        let file = prompts.given()?;
        let (texts, embeddings) = match is_encoded(file) {
            true => {
                let conditions = Conditions::open(file, &[])?;
                conditions.check(model.config(), config.guides(command))?;
                (conditions.prompts().to_vec(), Embeddings::Encoded(Arc::new(conditions)))
            }
            false => {
                let texts: Vec<String> = read_prompts(file)?.into_iter().map(|Prompt { text, .. }| text).collect();
                check_count(texts.len(), "`prompts.file`")?;
                (texts, Embeddings::Open(Box::new(model.encoders(prompts.t5, T5_TOKENS)?)))
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
        let schedule = (config.rollout.schedule.clone(), model.schedule(None));
        Ok(Self { model, prompts, texts, embeddings, decoder: Shared(Arc::new(decoder)), size, schedule })
    }

    fn with(&self, prompts: Shared<dyn PromptSource>) -> Result<StoredModel> {
        let weights = StoredTransformer::new(self.model.config(), self.size, self.model.transformer())?;
        let model = self.model.flow_model(self.size, prompts, self.decoder.clone());
        Ok(StoredModel::of(&FlowModel::Mmdit(model), &self.texts, Weights::Transformer(weights)))
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
        self.with(Shared(Arc::new(Unencoded { prompts: self.texts.clone(), tokens })))
    }

    /// The model with the embeddings of its prompts, by one text encoder after the other. `warn` is given what was cut
    /// off prompts that are too long.
    ///
    /// # Errors
    /// If an encoder is damaged, or the device does not have enough memory.
    pub fn encoded(&self, gpu: &Arc<Gpu>, warn: impl Fn(&str)) -> Result<StoredModel> {
        let conditions = match &self.embeddings {
            Embeddings::Encoded(conditions) => conditions.clone(),
            Embeddings::Open(encoders) => {
                let (conditions, cut) = Conditions::encode(gpu, encoders, &self.texts, &self.prompts.negative)?;
                cut_warnings(&cut).iter().for_each(|warning| warn(warning));
                Arc::new(conditions)
            }
        };
        self.with(Shared(conditions))
    }

    /// What to tell a user whose rollouts take other steps than the model is made for.
    pub fn schedule_warning(&self) -> Option<&'static str> {
        let (rollout, own) = &self.schedule;
        (*rollout == Schedule::default() && rollout != own).then_some(
            "`rollout.schedule` is linear, but the model is sampled along shifted noise levels: set it to \
             { kind = \"static-shift\", shift = 3.0 }, for instance",
        )
    }

    /// Reads an adapter of the transformer, as [`TextToImage::adapter`].
    ///
    /// # Errors
    /// As there.
    pub fn adapter(&self, path: &Path) -> Result<Adapter> {
        self.model.adapter(path)
    }

    /// Uploads what [`TextBase::encoded`] has made, as [`BASE`] stored in this type, with an adapter at a scale if there is
    /// one.
    ///
    /// # Errors
    /// If the weights cannot be read or stored so, or the device does not have enough memory.
    pub fn upload(
        &self,
        gpu: &Arc<Gpu>,
        model: &StoredModel,
        weights: WeightType,
        adapter: Option<(&Adapter, f64)>,
    ) -> Result<(Network, Stores)> {
        let mut network = Network::base(&model.flow_model("the model")?, weights);
        let base = network.frozen().upload(gpu, BASE.0, &model.weights).map_err(out_of_memory)?;
        let mut stores = Stores::from([(BASE, base)]);
        add_adapter(gpu, (&mut network, &mut stores), adapter)?;
        Ok((network, stores))
    }
}

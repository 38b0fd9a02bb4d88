//! A pipeline on disk: what its files say before weights are read, and the way of the weights to the device.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::scheduler::{FILE as SCHEDULER_CONFIG, read_shift};
use crate::assets::input_file;
use crate::config::{Config, WeightType, is_encoded};
use crate::error::{Error, Result};
use crate::files::read_file;
use crate::flow::schedule::Schedule;
use crate::gpu::Gpu;
use crate::graph::{StoreMemory, Stores};
use crate::model::folder::{
    MODEL_INDEX, Pipeline, State, StoredTensor, StoredTensors, is_hub_name, locate, open_weights, to_diffusers,
};
use crate::model::text::{Sd3Prompts, Tokenizer, Weights};
use crate::model::{
    ADAPTER_CONFIG, Adapter, BASE, DIFFUSERS_ADAPTER, FlowModel, LatentDecoder, Layout, MmditConfig, Network,
    PictureDecoder, PromptSource, Shared, StoredTransformer, TextModel,
};
use crate::optimizer::PARAMETERS;
use crate::run::inputs::InputFile;

/// The transformer's component.
const TRANSFORMER: &str = "transformer";

/// The tokenizers and text encoders of Stable Diffusion 3, in order.
const ENCODERS: [[&str; 2]; 3] =
    [["tokenizer", "text_encoder"], ["tokenizer_2", "text_encoder_2"], ["tokenizer_3", T5]];

/// The encoder that may be left out.
const T5: &str = "text_encoder_3";

/// Latents along a side where the pipeline proposes no size.
const USUAL_SIZE: usize = 128;

/// The folder of a text-to-image pipeline that a user names: its folder, or `org/name` in the cache of the hub. `None`
/// if it is another model.
///
/// # Errors
/// [`Error::Input`] if it is a name on the hub that is not in the cache.
pub fn folder_of(model: &str) -> Result<Option<PathBuf>> {
    let path = if is_hub_name(model) { locate(model)? } else { PathBuf::from(model) };
    let is_pipeline = path.join(MODEL_INDEX).exists() || path.join(TRANSFORMER).is_dir();
    Ok(is_pipeline.then_some(path))
}

/// A pipeline of Stable Diffusion 3 or 3.5, whose weights are still on disk.
#[derive(Debug)]
pub struct TextToImage {
    pipeline: Pipeline,
    config: MmditConfig,
    transformer: StoredTensors,
    shift: f64,
    usual_size: usize,
}

/// The text encoders of a pipeline.
#[derive(Debug)]
pub struct Encoders {
    /// Tokenizers and encoders.
    pub prompts: Sd3Prompts,
    /// Rows that T5 gives, or the zeros in place of it.
    pub t5_tokens: usize,
    /// Width of the embeddings that the transformer takes.
    pub width: usize,
    /// Width of the pooled embeddings that it takes.
    pub pooled_width: usize,
    /// The folders of the encoders that take part.
    pub folders: Vec<PathBuf>,
}

impl TextToImage {
    /// Opens the folder of a pipeline: configurations and headers are read, weights are not. `variant` chooses among
    /// weights of the transformer, see [`open_weights`].
    ///
    /// # Errors
    /// [`Error::Input`] if a part is missing, damaged, or not supported.
    pub fn open(folder: &Path, variant: Option<&str>) -> Result<Self> {
        let pipeline = Pipeline::open(folder)?;
        let place = pipeline.component(TRANSFORMER)?;
        let path = place.join("config.json");
        let bytes = read_file(&path)?;
        let config = MmditConfig::from_diffusers(&path.display().to_string(), &bytes)?;
        let transformer = to_diffusers(TRANSFORMER, &open_weights(&place, variant)?)?;
        let usual_size = pipeline.config(TRANSFORMER)?.get("sample_size").and_then(Value::as_u64);
        let usual_size = usual_size.and_then(|size| usize::try_from(size).ok()).unwrap_or(USUAL_SIZE);
        let shift = read_shift(&pipeline.component("scheduler")?)?;
        Ok(Self { pipeline, config, transformer, shift, usual_size })
    }

    /// The folder and its parts.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The transformer's sizes.
    pub fn config(&self) -> &MmditConfig {
        &self.config
    }

    /// The transformer's weights on disk.
    pub(super) fn transformer(&self) -> &StoredTensors {
        &self.transformer
    }

    /// Its decoder, or another one for the same latents, such as TAESD.
    ///
    /// # Errors
    /// As [`PictureDecoder::open`].
    pub fn decoder(&self, other: Option<&Path>) -> Result<PictureDecoder> {
        let own = || self.pipeline.component("vae");
        PictureDecoder::open(
            &other.map_or_else(own, |path| Ok(path.to_owned()))?,
            self.config.channels,
            "the transformer's",
        )
    }

    /// The noise levels of the scheduler, or with another shift.
    pub fn schedule(&self, shift: Option<f64>) -> Schedule {
        Schedule::DiffusersStatic { shift: shift.unwrap_or(self.shift) }
    }

    /// Height and width of the latents of pictures `[height, width]`, or of those that the pipeline proposes; a latent
    /// covers `factor` pixels along a side. `name` is where the size is from, in messages.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no such latents, or no positions for them.
    pub fn latent_size(&self, name: &str, picture: Option<[usize; 2]>, factor: usize) -> Result<[usize; 2]> {
        let [height, width] = picture.unwrap_or([self.usual_size.saturating_mul(factor); 2]);
        let unit = factor * self.config.patch_size;
        let most = unit * self.config.positions_side;
        let fits = |size: usize| size > 0 && size.is_multiple_of(unit) && size <= most;
        if fits(height) && fits(width) {
            return Ok([height / factor, width / factor]);
        }
        Err(Error::input(format!(
            "{name} is {width}x{height}: width and height must be multiples of {unit} from {unit} to {most}, as the \
             model's latents and positions ask"
        )))
    }

    /// The type in which the transformer's matrices lose nothing: 16 bits if the files have no more.
    pub fn usual_weights(&self) -> WeightType {
        // The table of positions, [1, N, D], is none: diffusers may write it in 32 bits beside matrices of 16.
        let is_matrix = |tensor: &&StoredTensor| matches!(tensor.shape().len(), 2 | 4);
        let mut matrices = self.transformer.tensors().values().filter(is_matrix);
        let is_half = matrices.all(|tensor| tensor.bytes() <= 2 * tensor.elements() as u64);
        if is_half { WeightType::F16 } else { WeightType::F32 }
    }

    /// Whether T5 can take part.
    pub(super) fn has_t5(&self) -> bool {
        state_of(&self.pipeline, T5) == Some(State::Present)
    }

    /// Opens tokenizers and text encoders, T5 among them if it is wanted and the pipeline has it.
    ///
    /// # Errors
    /// [`Error::Input`] if one is missing or damaged.
    pub fn encoders(&self, with_t5: bool, t5_tokens: usize) -> Result<Encoders> {
        if with_t5 && state_of(&self.pipeline, T5) == Some(State::Missing) {
            return Err(Error::input(format!(
                "{} has no folder `{T5}`, which its {MODEL_INDEX} names: download it as well, or leave T5 \
                 out (--no-t5, or `prompts.t5` = false)",
                self.pipeline.folder.display()
            )));
        }
        let parts = encoder_parts(&self.pipeline, with_t5);
        let has_t5 = parts.len() == ENCODERS.len();
        let mut folders = Vec::new();
        for [tokenizer, encoder] in parts {
            self.pipeline.component(tokenizer)?;
            folders.push(self.pipeline.component(encoder)?);
        }
        let [width, pooled_width] = [self.config.context_dim, self.config.pooled_dim];
        let prompts = Sd3Prompts::open(&self.pipeline.folder, has_t5, t5_tokens, width)?;
        Ok(Encoders { prompts, t5_tokens, width, pooled_width, folders })
    }

    /// The transformer as a flow model, for latents of a size and these prompts.
    pub(super) fn flow_model(
        &self,
        size: [usize; 2],
        prompts: Shared<dyn PromptSource>,
        decoder: Shared<dyn LatentDecoder>,
    ) -> TextModel {
        TextModel { config: self.config.clone(), size, schedule: self.schedule(None), prompts, decoder }
    }

    /// Uploads the transformer of a model, with an adapter at a scale if there is one.
    ///
    /// # Errors
    /// As [`StoredTransformer::new`] and [`crate::model::Frozen::upload`].
    pub(super) fn upload(
        &self,
        gpu: &Arc<Gpu>,
        model: &TextModel,
        weights: WeightType,
        adapter: Option<(&Adapter, f64)>,
    ) -> Result<(Network, Stores)> {
        // A wrong file is found before gigabytes have been read.
        let stored = StoredTransformer::new(&self.config, model.size, &self.transformer)?;
        let network = Network::base(&FlowModel::Mmdit(model.clone()), weights);
        let option = |weights: WeightType| format!("--weights {}", weights.name());
        let base = network.frozen().upload_set_by(gpu, "transformer", &stored, option)?;
        with_adapter(gpu, network, base, adapter)
    }

    /// The transformer's parameters for latents of some size: all but the positions are the same for each.
    pub(super) fn any_layout(&self) -> Layout {
        self.config.layout([self.config.patch_size; 2])
    }

    /// Reads an adapter of the transformer, see [`load_adapter`].
    ///
    /// # Errors
    /// As there.
    pub fn adapter(&self, path: &Path) -> Result<Adapter> {
        load_adapter(path, &self.any_layout())
    }
}

/// A transformer on the device, with an adapter at a scale if there is one.
///
/// # Errors
/// If the device does not have enough memory.
pub fn with_adapter(
    gpu: &Arc<Gpu>,
    mut network: Network,
    base: StoreMemory,
    adapter: Option<(&Adapter, f64)>,
) -> Result<(Network, Stores)> {
    let mut stores = Stores::from([(BASE, base)]);
    if let Some((adapter, scale)) = adapter {
        network.lora = Some(adapter.lora.scaled(scale));
        stores.insert(PARAMETERS, network.layout().upload(gpu, "adapter", &adapter.weights)?);
    }
    Ok((network, stores))
}

fn state_of(pipeline: &Pipeline, component: &str) -> Option<State> {
    pipeline.components.iter().find(|it| it.name == component).map(|it| it.state)
}

/// The tokenizers and text encoders that take part, T5 among them if it is wanted and there.
fn encoder_parts(pipeline: &Pipeline, with_t5: bool) -> &'static [[&'static str; 2]] {
    match with_t5 && state_of(pipeline, T5) == Some(State::Present) {
        true => &ENCODERS,
        false => &ENCODERS[..2],
    }
}

/// The files of the tokenizers and text encoders that take part.
///
/// # Errors
/// [`Error::Input`] if a part is missing, or its weights are.
pub(super) fn encoder_files(pipeline: &Pipeline, with_t5: bool) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for [tokenizer, encoder] in encoder_parts(pipeline, with_t5) {
        files.extend(Tokenizer::files(&pipeline.component(tokenizer)?));
        let encoder = pipeline.component(encoder)?;
        files.push(encoder.join("config.json"));
        files.extend(Weights::open(&encoder, "")?.files().map(Path::to_owned));
    }
    Ok(files)
}

/// The files of the pipeline that a run with this configuration reads; none if its model is another one.
///
/// # Errors
/// [`Error::Input`] if a part is missing, or its weights are.
pub fn files_of(config: &Config) -> Result<Vec<InputFile>> {
    let Some(named) = config.model.folder.as_deref() else { return Ok(Vec::new()) };
    let Some(folder) = folder_of(named)? else { return Ok(Vec::new()) };
    let pipeline = Pipeline::open(&folder)?;
    let mut files = vec![folder.join(MODEL_INDEX), pipeline.component("scheduler")?.join(SCHEDULER_CONFIG)];
    for part in [TRANSFORMER, "vae"] {
        let part = pipeline.component(part)?;
        files.push(part.join("config.json"));
        files.extend(open_weights(&part, None)?.files().map(|(path, _)| path.to_owned()));
    }
    if !config.prompts.file.as_deref().is_some_and(is_encoded) {
        files.extend(encoder_files(&pipeline, config.prompts.t5)?);
    }
    Ok(files.into_iter().map(|place| input_file("model.folder", named, &folder, place)).collect())
}

/// Reads an adapter of a transformer: a file as diffusers writes it, or a folder as diffusers or PEFT does.
///
/// # Errors
/// [`Error::Input`] with the key or tensor that does not fit the transformer, or is not plain LoRA.
pub fn load_adapter(path: &Path, base: &Layout) -> Result<Adapter> {
    let inside = path.join(DIFFUSERS_ADAPTER);
    match () {
        () if path.join(ADAPTER_CONFIG).exists() => Adapter::load(path, base),
        () if inside.exists() => Adapter::load_diffusers(&inside, base),
        () if path.is_dir() => Err(Error::input(format!(
            "{} has no adapter: expected {ADAPTER_CONFIG} of PEFT, or {DIFFUSERS_ADAPTER} of diffusers",
            path.display()
        ))),
        () => Adapter::load_diffusers(path, base),
    }
}

//! A pipeline on disk: what its files say before weights are read, and the way of the weights to the device.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::builtin::unpacked;
use super::scheduler::{FILE as SCHEDULER_CONFIG, read_shift};
use crate::assets::input_file;
use crate::config::{Config, WeightType, is_encoded};
use crate::error::{Error, Result};
use crate::flow::schedule::Schedule;
use crate::gpu::Gpu;
use crate::graph::{DeviceProfile, PartMemory, StoreMemory, Stores};
use crate::model::WordPrompts;
use crate::model::folder::{
    MODEL_INDEX, Pipeline, State, StoredTensor, StoredTensors, is_hub_name, locate, open_weights, to_diffusers,
};
use crate::model::text::{EncoderChoice, EncoderFolders, PromptEncoder};
use crate::model::{
    ADAPTER_CONFIG, Adapter, BASE, DIFFUSERS_ADAPTER, FlowModel, LatentDecoder, Layout, Network, PictureDecoder,
    PromptSource, Shared, StoredTransformer, TRANSFORMER, TextModel, TextNetwork,
};
use crate::optimizer::PARAMETERS;
use crate::run::inputs::InputFile;

/// The folder with the noise levels.
const SCHEDULER: &str = "scheduler";

/// The folder of a text-to-image pipeline that a user names: its folder, `org/name` in the cache of the hub, or
/// `builtin:NAME`. `None` if it is another model.
///
/// # Errors
/// [`Error::Input`] if it is a name on the hub that is not in the cache.
pub fn folder_of(model: &str) -> Result<Option<PathBuf>> {
    if let Some(folder) = unpacked(model)? {
        return Ok(Some(folder));
    }
    let path = if is_hub_name(model) { locate(model)? } else { PathBuf::from(model) };
    let is_pipeline = path.join(MODEL_INDEX).exists() || path.join(TRANSFORMER).is_dir();
    Ok(is_pipeline.then_some(path))
}

/// A text-to-image pipeline, whose weights are still on disk.
#[derive(Debug)]
pub struct TextToImage {
    pipeline: Pipeline,
    network: TextNetwork,
    transformer: StoredTensors,
    schedule: Schedule,
}

/// The text encoders of a pipeline.
#[derive(Debug)]
pub struct Encoders {
    /// Tokenizers and encoders.
    pub prompts: Box<dyn PromptEncoder>,
    /// Where they are.
    pub folders: EncoderFolders,
    /// Width of the embeddings, and of the pooled embeddings, that the transformer takes.
    pub widths: [usize; 2],
}

impl Encoders {
    /// What the largest layer of the encoders takes on such a device to encode so many prompts, and its name in words.
    ///
    /// # Errors
    /// As [`PromptEncoder::planned`].
    pub(super) fn planned(&self, prompts: usize, profile: &DeviceProfile) -> Result<(String, PartMemory)> {
        let (encoder, memory) = self.prompts.planned(prompts, profile)?;
        Ok((format!("the largest layer of {encoder}"), memory))
    }
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
        let network = TextNetwork::open(&place)?;
        let transformer = to_diffusers(TRANSFORMER, &open_weights(&place, variant)?)?;
        let schedule = match pipeline.state(SCHEDULER) {
            // Without a file, the steps of MiniT2I are even.
            State::Null if network.pixel_scale().is_some() => Schedule::default(),
            _ => Schedule::DiffusersStatic { shift: read_shift(&pipeline.component(SCHEDULER)?)? },
        };
        Ok(Self { pipeline, network, transformer, schedule })
    }

    /// The same with the transformer in a file, such as a run's.
    ///
    /// # Errors
    /// [`Error::Input`] if the file cannot be read.
    pub fn with_transformer(self, file: &Path) -> Result<Self> {
        Ok(Self { transformer: to_diffusers(TRANSFORMER, &StoredTensors::open(file)?)?, ..self })
    }

    /// The folder and its parts.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The transformer's sizes and conventions.
    pub fn network(&self) -> &TextNetwork {
        &self.network
    }

    /// The transformer's weights on disk.
    pub(super) fn transformer(&self) -> &StoredTensors {
        &self.transformer
    }

    /// What makes pictures of its states: its decoder, or another one for the same latents, such as TAESD.
    ///
    /// # Errors
    /// As [`PictureDecoder::open`], and if there is another one although the states are pictures.
    pub fn decoder(&self, other: Option<&Path>) -> Result<PictureDecoder> {
        let path = match (self.network.pixel_scale(), other) {
            (Some(scale), None) => return Ok(PictureDecoder::of_pixels(scale)),
            (Some(_), Some(other)) => {
                return Err(Error::input(format!(
                    "{} makes images without an autoencoder: leave out the decoder {}",
                    self.pipeline.folder.display(),
                    other.display()
                )));
            }
            (None, Some(other)) => other.to_owned(),
            (None, None) => self.pipeline.component("vae")?,
        };
        PictureDecoder::open(&path, self.network.channels(), "the transformer's")
    }

    /// The noise levels of the scheduler, or with another shift.
    pub fn schedule(&self, shift: Option<f64>) -> Schedule {
        shift.map_or_else(|| self.schedule.clone(), |shift| Schedule::DiffusersStatic { shift })
    }

    /// Height and width of the latents of pictures `[height, width]`, or of those that the pipeline proposes; a latent
    /// covers `factor` pixels along a side. `name` is where the size is from, in messages.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no such latents, or no positions for them.
    pub fn latent_size(&self, name: &str, picture: Option<[usize; 2]>, factor: usize) -> Result<[usize; 2]> {
        let [height, width] = picture.unwrap_or([self.network.usual_side().saturating_mul(factor); 2]);
        let [unit, most] = self.network.sides().map(|side| side.saturating_mul(factor));
        let fits = |size: usize| size > 0 && size.is_multiple_of(unit) && size <= most;
        if fits(height) && fits(width) {
            return Ok([height / factor, width / factor]);
        }
        Err(Error::input(format!(
            "{name} is {width}x{height}: width and height must be multiples of {unit} from {unit} to {most}, as the \
             model's patches and positions ask"
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

    /// Opens tokenizers, and finds the text encoders.
    ///
    /// # Errors
    /// [`Error::Input`] if one is missing or damaged, or the model does not offer the choice.
    pub fn encoders(&self, choice: EncoderChoice) -> Result<Encoders> {
        let folders = EncoderFolders::of(&self.pipeline, &self.network, choice)?;
        let prompts = folders.open(&self.pipeline, &self.network)?;
        Ok(Encoders { prompts, folders, widths: self.network.widths() })
    }

    /// The words that it knows, if that is all that it is told of prompts.
    ///
    /// # Errors
    /// [`Error::Input`] if their file is missing or damaged.
    pub(super) fn words(&self) -> Result<Option<WordPrompts>> {
        if !self.pipeline.kind.has_words() {
            return Ok(None);
        }
        WordPrompts::open(&self.pipeline.component("tokenizer")?, self.network.widths()[0]).map(Some)
    }

    /// The transformer as a flow model, for latents of a size and these prompts.
    pub(super) fn flow_model(
        &self,
        size: [usize; 2],
        prompts: Shared<dyn PromptSource>,
        decoder: Shared<dyn LatentDecoder>,
    ) -> TextModel {
        let schedule = self.schedule(None);
        TextModel { network: self.network.clone(), size, schedule, prompts, decoder, published: None }
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
        let stored = StoredTransformer::new(&self.network, model.size, &self.transformer)?;
        let network = Network::base(&FlowModel::Text(model.clone()), weights);
        let option = |weights: WeightType| format!("--weights {}", weights.name());
        let base = network.frozen().upload_set_by(gpu, "transformer", &stored, option)?;
        with_adapter(gpu, network, base, adapter)
    }

    /// The transformer's parameters for latents of some size: all but the positions are the same for each.
    pub(super) fn any_layout(&self) -> Layout {
        self.network.layout(self.network.smallest_size())
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

/// The files of the pipeline that a run with this configuration reads; none if its model is another one.
///
/// # Errors
/// [`Error::Input`] if a part is missing, or its weights are.
pub fn files_of(config: &Config) -> Result<Vec<InputFile>> {
    // A built-in model is as constant as the program.
    let named = config.model.folder.as_deref().filter(|named| !named.starts_with("builtin:"));
    let Some(named) = named else { return Ok(Vec::new()) };
    let Some(folder) = folder_of(named)? else { return Ok(Vec::new()) };
    let pipeline = Pipeline::open(&folder)?;
    let network = TextNetwork::open(&pipeline.component(TRANSFORMER)?)?;
    let mut files = vec![folder.join(MODEL_INDEX), folder.join(SCHEDULER).join(SCHEDULER_CONFIG)];
    // A pipeline without an autoencoder may have neither.
    if network.pixel_scale().is_some() {
        files.retain(|file| file.exists());
    }
    for part in [TRANSFORMER, "vae"].into_iter().take(if network.pixel_scale().is_some() { 1 } else { 2 }) {
        let part = pipeline.component(part)?;
        files.push(part.join("config.json"));
        files.extend(open_weights(&part, None)?.files().map(|(path, _)| path.to_owned()));
    }
    let mut files: Vec<InputFile> =
        files.into_iter().map(|place| input_file("model.folder", named, &folder, place)).collect();
    if !config.prompts.file.as_deref().is_some_and(is_encoded) {
        let encoders = EncoderFolders::of(&pipeline, &network, EncoderChoice::usual(config.prompts.t5))?;
        let (named, folder) = encoders.hub().unwrap_or((named, &folder));
        files.extend(encoders.files()?.into_iter().map(|place| input_file("model.folder", named, folder, place)));
    }
    Ok(files)
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

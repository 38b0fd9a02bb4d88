//! A pipeline on disk: what its files say before weights are read, and the way of the weights to the device.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::scheduler::read_shift;
use crate::config::WeightType;
use crate::error::{Error, Result};
use crate::files::read_file;
use crate::flow::schedule::Schedule;
use crate::gpu::Gpu;
use crate::graph::Stores;
use crate::model::folder::{
    MODEL_INDEX, Pipeline, State, StoredTensors, is_hub_name, locate, open_weights, to_diffusers,
};
use crate::model::text::Sd3Prompts;
use crate::model::{
    ADAPTER_CONFIG, Adapter, BASE, DIFFUSERS_ADAPTER, FlowModel, LatentDecoder, Layout, MmditConfig, Network,
    PromptSource, Shared, StoredTransformer, TextModel,
};
use crate::optimizer::PARAMETERS;

/// The transformer's component.
const TRANSFORMER: &str = "transformer";

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
        let mut matrices = self.transformer.tensors().values().filter(|tensor| tensor.shape().len() > 1);
        let is_half = matrices.all(|tensor| tensor.bytes() <= 2 * tensor.elements() as u64);
        if is_half { WeightType::F16 } else { WeightType::F32 }
    }

    /// Opens tokenizers and text encoders, T5 among them if it is wanted and the pipeline has it.
    ///
    /// # Errors
    /// [`Error::Input`] if one is missing or damaged.
    pub fn encoders(&self, with_t5: bool, t5_tokens: usize) -> Result<Encoders> {
        let state = |name: &str| self.pipeline.components.iter().find(|it| it.name == name).map(|it| it.state);
        if with_t5 && state("text_encoder_3") == Some(State::Missing) {
            return Err(Error::input(format!(
                "{} has no folder `text_encoder_3`, which its {MODEL_INDEX} names: download it as well, or leave T5 \
                 out (--no-t5, or `prompts.t5` = false)",
                self.pipeline.folder.display()
            )));
        }
        let has_t5 = with_t5 && state("text_encoder_3") == Some(State::Present);
        let names: &[[&str; 2]] =
            &[["tokenizer", "text_encoder"], ["tokenizer_2", "text_encoder_2"], ["tokenizer_3", "text_encoder_3"]];
        let mut folders = Vec::new();
        for [tokenizer, encoder] in names.iter().take(if has_t5 { 3 } else { 2 }) {
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
        let mut network = Network::base(&FlowModel::Mmdit(model.clone()), weights);
        let option = |weights: WeightType| format!("--weights {}", weights.name());
        let base = network.frozen().upload_set_by(gpu, "transformer", &stored, option);
        let mut stores = Stores::from([(BASE, base.map_err(out_of_memory)?)]);
        add_adapter(gpu, (&mut network, &mut stores), adapter)?;
        Ok((network, stores))
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

/// Puts an adapter at a scale onto a transformer on the device.
///
/// # Errors
/// If the device does not have enough memory.
pub(super) fn add_adapter(
    gpu: &Arc<Gpu>,
    (network, stores): (&mut Network, &mut Stores),
    adapter: Option<(&Adapter, f64)>,
) -> Result<()> {
    if let Some((adapter, scale)) = adapter {
        network.lora = Some(adapter.lora.scaled(scale));
        stores.insert(PARAMETERS, network.layout().upload(gpu, "adapter", &adapter.weights)?);
    }
    Ok(())
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

/// Says what needs less memory here.
pub(super) fn out_of_memory(cause: Error) -> Error {
    match cause {
        Error::Device(_) => cause.followed_by(
            "; a text-to-image model needs less with weights in q8_0, smaller batches or smaller pictures",
        ),
        other => other,
    }
}

//! The weights of a run as files of its checkpoints: those in training and their average, as models or as adapters.

use std::path::Path;

use crate::assets::BaseRecord;
use crate::config::{ADAPTER_BASE, Config, MODEL, TRANSFORMER_BASE};
use crate::error::{Error, Result};
use crate::files::{Content, Streamed, stream_atomically};
use crate::model::{
    ADAPTER_CONFIG, ADAPTER_MODEL, Adapter, Lora, Model, ModelKind, Network, OnDevice, PipelineFile, StoredModel,
    TRANSFORMER_WEIGHTS, WeightSource, Weights,
};
use crate::run::LoadedCheckpoint;

/// The average of the weights in training, as a model. They themselves are [`MODEL`].
const AVERAGED_MODEL: &str = "ema.safetensors";
/// The adapter in training. Its average is the folder's [`ADAPTER_MODEL`], so that PEFT can read the folder.
const ADAPTER_IN_TRAINING: &str = "adapter_training.safetensors";

/// The adapter that the run started from, if any.
const ADAPTER_AT_START: &str = "adapter_start.safetensors";

/// Files by name.
pub type Files<'a> = Vec<(&'static str, Streamed<'a>)>;

/// Writes files into a folder, which is created.
///
/// # Errors
/// If one cannot be made or written.
pub fn write_files(folder: &Path, files: &Files<'_>) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|cause| Error::unwritable(folder, cause))?;
    files.iter().try_for_each(|(name, content)| {
        let path = folder.join(name);
        if let Some(inside) = path.parent().filter(|inside| *inside != folder) {
            std::fs::create_dir_all(inside).map_err(|cause| Error::unwritable(inside, cause))?;
        }
        stream_atomically(&path, content).map(drop)
    })
}

/// The configuration with which a run continues from a checkpoint. An adapter that it started from is in the
/// checkpoint: the directory that it came from is no longer needed.
pub fn going_on(config: &Config, newest: Option<&LoadedCheckpoint>) -> Config {
    let mut config = config.clone();
    if let (Some(newest), Some(folder)) = (newest, &mut config.lora.adapter)
        && newest.has(ADAPTER_CONFIG)
    {
        folder.clone_from(&newest.path);
    }
    config
}

/// Checks that a checkpoint, and the base that it was trained from, belong to a run. Of the checkpoint and of the run:
/// whether an adapter is trained, and the CRC-32 of the weights that training starts from, where it is known.
///
/// # Errors
/// [`Error::Input`] if they do not.
pub fn check_base(checkpoint: &str, then: (bool, Option<u32>), now: (bool, Option<u32>)) -> Result<()> {
    let problem = match (then, now) {
        ((true, _), (false, _)) => "contains an adapter, but `lora` now trains all weights".to_owned(),
        ((false, _), (true, _)) => "contains all weights, but `lora` now trains an adapter".to_owned(),
        ((_, Some(then)), (_, Some(now))) if then != now => format!(
            "was trained from a base whose weights have the CRC-32 {then:08x}, but those of the model have {now:08x}"
        ),
        _ => return Ok(()),
    };
    Err(Error::input(format!(
        "{checkpoint} {problem}: resume with the model and configuration that the run was started with"
    )))
}

/// What the weights belong to.
#[derive(Debug)]
pub struct Saved<'a> {
    kind: ModelKind,
    class_names: &'a [String],
    /// If it is an adapter.
    adapter: Option<&'a Lora>,
    /// What it was trained from.
    base: Option<&'a BaseRecord>,
}

impl<'a> Saved<'a> {
    /// All weights of a model.
    pub fn whole(kind: ModelKind, class_names: &'a [String]) -> Self {
        Self { kind, class_names, adapter: None, base: None }
    }

    /// The trained part of a network; `base` is what an adapter is trained on.
    ///
    /// # Panics
    /// If an adapter has no base.
    pub fn of(network: &'a Network, class_names: &'a [String], base: Option<&'a BaseRecord>) -> Self {
        let adapter = network.lora.as_ref();
        assert!(adapter.is_none() || base.is_some(), "an adapter has a base");
        Self { adapter, base, ..Self::whole(network.model.kind(), class_names) }
    }

    /// Whether the trained part is an adapter.
    pub fn is_adapter(&self) -> bool {
        self.adapter.is_some()
    }

    /// The CRC-32 of the base of an adapter.
    pub fn base_crc32(&self) -> Option<u32> {
        self.adapter.and(self.base).map(|base| base.crc32)
    }

    /// A model of these weights.
    fn model<W: WeightSource + 'a>(&self, weights: W) -> Streamed<'a> {
        let model = self.kind.clone().with(self.class_names.to_vec(), weights);
        Streamed::new(move |sink| model.file().write_to(sink))
    }

    /// The record of what it was trained from, as a file of this name.
    fn record(&self, name: &'static str) -> Option<(&'static str, Streamed<'static>)> {
        let base = self.base?;
        Some((name, serde_json::to_vec_pretty(base).expect("it is text").into()))
    }

    /// The record that a transformer needs, whose file says nothing of the rest of its pipeline.
    fn pipeline(&self) -> Option<(&'static str, Streamed<'static>)> {
        matches!(self.kind, ModelKind::Text(_)).then(|| self.record(TRANSFORMER_BASE)).flatten()
    }

    /// The small files of a pipeline that is not on disk yet, so that the result is all of it.
    fn new_pipeline(&self) -> Vec<PipelineFile> {
        match &self.kind {
            ModelKind::Text(model) => model.published.as_ref().map_or_else(Vec::new, |it| it.beside().to_vec()),
            _ => Vec::new(),
        }
    }

    /// The files of weights that are a result: a model, or the folder of an adapter.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn result(&self, weights: OnDevice<'a>) -> Result<Files<'a>> {
        let Some(lora) = self.adapter else {
            let beside = self.new_pipeline();
            let name = if beside.is_empty() { MODEL } else { TRANSFORMER_WEIGHTS };
            let beside = beside.into_iter().map(|(name, bytes)| (name, bytes.into()));
            return Ok([(name, self.model(weights))].into_iter().chain(beside).chain(self.pipeline()).collect());
        };
        let adapter = Adapter { lora: lora.clone(), weights: weights.memory.read(weights.gpu)? };
        let files = adapter.all_files(&self.kind).into_iter();
        let mut files: Files<'a> = files.map(|(name, bytes)| (name, bytes.into())).collect();
        files.extend(self.record(ADAPTER_BASE));
        Ok(files)
    }

    /// The matrices of an adapter as a file of this name.
    fn matrices(&self, name: &'static str, lora: &Lora, weights: Vec<f32>) -> (&'static str, Streamed<'static>) {
        let [_, (_, bytes)] = Adapter { lora: lora.clone(), weights }.files(&self.kind.layout());
        (name, bytes.into())
    }

    /// The files of a checkpoint, from the weights in training and their average; without one, those in training are the
    /// result. With LoRA the base is not included.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn files(&self, current: OnDevice<'a>, average: Option<OnDevice<'a>>) -> Result<Files<'a>> {
        let Some(lora) = self.adapter else {
            let average = average.map(|average| (AVERAGED_MODEL, self.model(average)));
            return Ok([(MODEL, self.model(current))].into_iter().chain(average).chain(self.pipeline()).collect());
        };
        let mut files = vec![self.matrices(ADAPTER_IN_TRAINING, lora, current.memory.read(current.gpu)?)];
        files.extend(self.result(average.unwrap_or(current))?);
        Ok(files)
    }

    /// The file of the adapter that the run started from.
    pub fn start(&self, weights: Vec<f32>) -> Option<(&'static str, Streamed<'static>)> {
        Some(self.matrices(ADAPTER_AT_START, self.adapter?, weights))
    }

    /// The adapter that the run started from; `None` if the checkpoint is from an older version, which did not store
    /// it.
    ///
    /// # Errors
    /// If it belongs to another network.
    pub fn read_start(&self, checkpoint: &LoadedCheckpoint) -> Result<Option<Vec<f32>>> {
        match self.adapter {
            Some(lora) if checkpoint.has(ADAPTER_AT_START) => {
                self.read_adapter(checkpoint, lora, ADAPTER_AT_START).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The weights in training from a checkpoint.
    ///
    /// # Errors
    /// If it belongs to another network.
    pub fn read(&self, checkpoint: &LoadedCheckpoint) -> Result<Weights> {
        match self.adapter {
            None => self.read_model(checkpoint, MODEL),
            Some(lora) => Ok(self.read_adapter(checkpoint, lora, ADAPTER_IN_TRAINING)?.into()),
        }
    }

    /// Their average from a checkpoint.
    ///
    /// # Errors
    /// If it belongs to another network.
    pub fn read_average(&self, checkpoint: &LoadedCheckpoint) -> Result<Weights> {
        match self.adapter {
            None => self.read_model(checkpoint, AVERAGED_MODEL),
            Some(lora) => Ok(self.read_adapter(checkpoint, lora, ADAPTER_MODEL)?.into()),
        }
    }

    fn read_model(&self, checkpoint: &LoadedCheckpoint, file: &str) -> Result<Weights> {
        let path = checkpoint.path_of(file)?;
        if let ModelKind::Text(model) = &self.kind {
            let published = model.published.as_ref().expect("what is trained has files");
            return published.reopened(&path).map(Weights::Transformer);
        }
        let name = path.display().to_string();
        let model = StoredModel::open(&path)?;
        if model.kind == self.kind {
            let begun =
                Model { kind: self.kind.clone(), class_names: self.class_names.to_vec(), weights: (), decoder: None };
            model.classes(&name).check_same(begun.classes("the run"))?;
            return Ok(model.weights);
        }
        Err(Error::input(format!(
            "{name} contains a different network than the run has now: resume with the configuration that the run was \
             started with"
        )))
    }

    fn read_adapter(&self, checkpoint: &LoadedCheckpoint, lora: &Lora, file: &str) -> Result<Vec<f32>> {
        let folder = checkpoint.path.display().to_string();
        let [config, matrices] = [checkpoint.file(ADAPTER_CONFIG)?, checkpoint.file(file)?];
        let adapter = Adapter::from_bytes(&folder, [&config, &matrices], &self.kind.layout())?;
        if adapter.lora == *lora {
            return Ok(adapter.weights);
        }
        Err(Error::input(format!(
            "{folder} contains a different adapter than `lora` describes: resume with \
             the configuration that the run was started with"
        )))
    }
}

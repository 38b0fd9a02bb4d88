//! The weights of a run as files of its checkpoints: those in training and their average, as models or as adapters.

use crate::assets::AdapterBase;
use crate::classes::Classes;
use crate::config::ADAPTER_BASE;
use crate::error::{Error, Result};
use crate::files::{Content, Streamed};
use crate::model::{
    ADAPTER_CONFIG, ADAPTER_MODEL, Adapter, Lora, Model, Network, OnDevice, StoredModel, WeightSource, Weights,
};
use crate::run::LoadedCheckpoint;

/// The weights in training, as a model.
const MODEL: &str = "model.safetensors";
/// Their average, as a model.
const AVERAGED_MODEL: &str = "ema.safetensors";
/// The adapter in training. Its average is the folder's [`ADAPTER_MODEL`], so that PEFT can read the folder.
const ADAPTER_IN_TRAINING: &str = "adapter_training.safetensors";

/// The adapter that the run started from, if any.
const ADAPTER_AT_START: &str = "adapter_start.safetensors";

/// Files by name.
pub(super) type Files<'a> = Vec<(&'static str, Streamed<'a>)>;

/// What the weights belong to.
pub(super) struct Saved<'a> {
    pub network: &'a Network,
    pub class_names: &'a [String],
    /// What an adapter was trained on.
    pub base: &'a AdapterBase,
}

impl<'a> Saved<'a> {
    /// A model of these weights.
    fn model<W: WeightSource + 'a>(&self, weights: W) -> Streamed<'a> {
        let model = Model::of(&self.network.model, self.class_names, weights);
        Streamed::new(move |sink| model.file().write_to(sink))
    }

    /// The files of weights that are a result: a model, or the folder of an adapter.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn result(&self, weights: OnDevice<'a>) -> Result<Files<'a>> {
        Ok(match &self.network.lora {
            None => vec![(MODEL, self.model(weights))],
            Some(lora) => {
                let adapter = Adapter { lora: lora.clone(), weights: weights.memory.read(weights.gpu)? };
                let files = adapter.all_files(&self.network.model).into_iter();
                let mut files: Files<'a> = files.map(|(name, bytes)| (name, bytes.into())).collect();
                files.push((ADAPTER_BASE, serde_json::to_vec_pretty(self.base).expect("it is text").into()));
                files
            }
        })
    }

    /// The matrices of an adapter as a file of this name.
    fn matrices(&self, name: &'static str, lora: &Lora, weights: Vec<f32>) -> (&'static str, Streamed<'static>) {
        let [_, (_, bytes)] = Adapter { lora: lora.clone(), weights }.files(&self.network.model);
        (name, bytes.into())
    }

    /// The files of a checkpoint, from the weights in training and their average. With LoRA the base is not included.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn files(&self, current: OnDevice<'a>, average: OnDevice<'a>) -> Result<Files<'a>> {
        Ok(match &self.network.lora {
            None => vec![(MODEL, self.model(current)), (AVERAGED_MODEL, self.model(average))],
            Some(lora) => {
                let mut files = vec![self.matrices(ADAPTER_IN_TRAINING, lora, current.memory.read(current.gpu)?)];
                files.extend(self.result(average)?);
                files
            }
        })
    }

    /// The file of the adapter that the run started from.
    pub fn start(&self, weights: Vec<f32>) -> Option<(&'static str, Streamed<'static>)> {
        Some(self.matrices(ADAPTER_AT_START, self.network.lora.as_ref()?, weights))
    }

    /// The adapter that the run started from; `None` if the checkpoint is from an older version, which did not store
    /// it.
    ///
    /// # Errors
    /// If it belongs to another network.
    pub fn read_start(&self, checkpoint: &LoadedCheckpoint) -> Result<Option<Vec<f32>>> {
        match &self.network.lora {
            Some(lora) if checkpoint.has(ADAPTER_AT_START) => {
                self.read_adapter(checkpoint, lora, ADAPTER_AT_START).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The weights in training and their average from a checkpoint.
    ///
    /// # Errors
    /// If it belongs to another network.
    pub fn read(&self, checkpoint: &LoadedCheckpoint) -> Result<[Weights; 2]> {
        Ok(match &self.network.lora {
            None => [self.read_model(checkpoint, MODEL)?, self.read_model(checkpoint, AVERAGED_MODEL)?],
            Some(lora) => [
                self.read_adapter(checkpoint, lora, ADAPTER_IN_TRAINING)?.into(),
                self.read_adapter(checkpoint, lora, ADAPTER_MODEL)?.into(),
            ],
        })
    }

    fn read_model(&self, checkpoint: &LoadedCheckpoint, file: &str) -> Result<Weights> {
        let path = checkpoint.path_of(file)?;
        let name = path.display().to_string();
        let model = StoredModel::open(&path)?;
        if model.kind == self.network.model.kind() {
            let begun =
                Classes { of: "`model.file`", count: self.network.model.num_conditions(), names: self.class_names };
            model.classes(&name).check_same(begun)?;
            return Ok(model.weights);
        }
        Err(Error::input(format!(
            "{name} contains a different network than `model.file`: resume with \
             the configuration that the run was started with"
        )))
    }

    fn read_adapter(&self, checkpoint: &LoadedCheckpoint, lora: &Lora, file: &str) -> Result<Vec<f32>> {
        let folder = checkpoint.path.display().to_string();
        let [config, matrices] = [checkpoint.file(ADAPTER_CONFIG)?, checkpoint.file(file)?];
        let adapter = Adapter::from_bytes(&folder, [&config, &matrices], &self.network.model)?;
        if adapter.lora == *lora {
            return Ok(adapter.weights);
        }
        Err(Error::input(format!(
            "{folder} contains a different adapter than `lora` describes: resume with \
             the configuration that the run was started with"
        )))
    }
}

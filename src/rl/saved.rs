//! The weights of a run as files of its checkpoints: those in training and their average, as models or as adapters.

use crate::classes::Classes;
use crate::error::{Error, Result};
use crate::model::{ADAPTER_CONFIG, ADAPTER_MODEL, Adapter, Lora, Model, Network};
use crate::run::LoadedCheckpoint;

/// The weights in training, as a model.
const MODEL: &str = "model.safetensors";
/// Their average, as a model.
const AVERAGED_MODEL: &str = "ema.safetensors";
/// The adapter in training. Its average is the folder's [`ADAPTER_MODEL`], so that PEFT can read the folder.
const ADAPTER_IN_TRAINING: &str = "adapter_training.safetensors";

/// The adapter that the run started from, if any.
const ADAPTER_AT_START: &str = "adapter_start.safetensors";

/// What the weights belong to.
pub(super) struct Saved<'a> {
    pub network: &'a Network,
    pub class_names: &'a [String],
}

impl Saved<'_> {
    /// A model of these weights.
    pub fn model(&self, weights: Vec<f32>) -> Model {
        Model::of(&self.network.model, self.class_names, weights)
    }

    /// The files, from the weights in training and their average. With LoRA the base is not included.
    pub fn files(&self, current: Vec<f32>, average: Vec<f32>) -> Vec<(&'static str, Vec<u8>)> {
        let model = &self.network.model;
        match &self.network.lora {
            None => vec![(MODEL, self.model(current).to_bytes()), (AVERAGED_MODEL, self.model(average).to_bytes())],
            Some(lora) => {
                let files = |weights| Adapter { lora: lora.clone(), weights }.files(model);
                let [_, (_, current)] = files(current);
                let [config, average] = files(average);
                vec![(ADAPTER_IN_TRAINING, current), config, average]
            }
        }
    }

    /// The file of the adapter that the run started from.
    pub fn start(&self, weights: Vec<f32>) -> Option<(&'static str, Vec<u8>)> {
        let lora = self.network.lora.clone()?;
        let [_, (_, bytes)] = Adapter { lora, weights }.files(&self.network.model);
        Some((ADAPTER_AT_START, bytes))
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
    pub fn read(&self, checkpoint: &LoadedCheckpoint) -> Result<[Vec<f32>; 2]> {
        match &self.network.lora {
            None => Ok([self.read_model(checkpoint, MODEL)?, self.read_model(checkpoint, AVERAGED_MODEL)?]),
            Some(lora) => Ok([
                self.read_adapter(checkpoint, lora, ADAPTER_IN_TRAINING)?,
                self.read_adapter(checkpoint, lora, ADAPTER_MODEL)?,
            ]),
        }
    }

    fn read_model(&self, checkpoint: &LoadedCheckpoint, file: &str) -> Result<Vec<f32>> {
        let name = checkpoint.path.join(file).display().to_string();
        let model = Model::from_bytes(&name, checkpoint.file(file)?)?;
        if model.flow_model(&name).is_ok_and(|found| found == self.network.model) {
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
        let bytes = [checkpoint.file(ADAPTER_CONFIG)?, checkpoint.file(file)?];
        let adapter = Adapter::from_bytes(&folder, bytes, &self.network.model)?;
        if adapter.lora == *lora {
            return Ok(adapter.weights);
        }
        Err(Error::input(format!(
            "{folder} contains a different adapter than `lora` describes: resume with \
             the configuration that the run was started with"
        )))
    }
}

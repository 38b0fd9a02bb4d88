//! A trainer as the files of a checkpoint, and back.

use serde::{Deserialize, Serialize};

use super::Trainer;
use crate::error::{Error, Result};
use crate::model::folder::StoredTensors;
use crate::optimizer::{AVERAGE, PARAMETERS};
use crate::run::LoadedCheckpoint;
use crate::saved::{Files, Saved, check_base};

/// The file of a checkpoint with AdamW's moments.
const MOMENTS: &str = "optimizer.safetensors";

/// The contents of a checkpoint besides tensors. Noise is a function of seed and counters, so there is no generator
/// state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct State {
    /// Iterations done.
    iteration: u64,
    /// Optimizer steps done.
    optimizer_step: u64,
    /// Number of consecutive skipped updates, up to the last.
    skipped_in_a_row: usize,
    /// CRC-32 of the weights that the run started from; older versions wrote it only with LoRA.
    base_crc32: Option<u32>,
    /// Whether the weights are an adapter's; absent in older versions.
    adapter: Option<bool>,
    /// Version of the program.
    version: String,
}

impl Trainer {
    /// The averaged weights as files: those of a model or, if one is trained, of an adapter and the record of its base.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn averaged_files(&self) -> Result<Files<'_>> {
        self.saved().result(self.optimizer.source(AVERAGE))
    }

    fn saved(&self) -> Saved<'_> {
        Saved::of(&self.network, &self.class_names, Some(&self.origin))
    }

    /// The files of a checkpoint after `iteration` iterations.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn checkpoint(&self, iteration: u64) -> Result<Files<'_>> {
        let state = State {
            iteration,
            optimizer_step: self.optimizer.step,
            skipped_in_a_row: self.optimizer.skipped_in_a_row,
            base_crc32: Some(self.origin.crc32),
            adapter: Some(self.network.lora.is_some()),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let [current, average] = [PARAMETERS, AVERAGE].map(|store| self.optimizer.source(store));
        let mut files = self.saved().files(current, Some(average))?;
        files.extend(self.began_with.as_ref().and_then(|weights| self.saved().start(weights.clone())));
        files.push((MOMENTS, self.optimizer.moments()));
        files.push(("state.json", serde_json::to_vec_pretty(&state).expect("numbers and text are JSON").into()));
        Ok(files)
    }

    /// Goes back to a checkpoint; returns the iterations done.
    ///
    /// # Errors
    /// If it belongs to another model, or to another base.
    pub fn restore(&mut self, checkpoint: &LoadedCheckpoint) -> Result<u64> {
        let name = "state.json";
        let state: State = serde_json::from_slice(&checkpoint.file(name)?)
            .map_err(|cause| Error::unreadable(&checkpoint.path.join(name), cause))?;
        let then = (state.adapter.unwrap_or(state.base_crc32.is_some()), state.base_crc32);
        let now = (self.network.lora.is_some(), Some(self.origin.crc32));
        check_base(&checkpoint.path.display().to_string(), then, now)?;
        self.optimizer.load(PARAMETERS, &self.saved().read(checkpoint)?)?;
        self.optimizer.load(AVERAGE, &self.saved().read_average(checkpoint)?)?;
        if self.began_with.is_some() {
            // The current value came from the folder of `lora.adapter`, which may since have been overwritten by this
            // run.
            self.began_with = self.saved().read_start(checkpoint)?;
            match (&self.start, &self.began_with) {
                (Some(store), Some(weights)) => store.write(&self.gpu, weights),
                (Some(_), None) => return Err(no_start(&checkpoint.path.display().to_string(), &state.version)),
                (None, _) => {}
            }
        }
        self.optimizer.restore_moments(&StoredTensors::open(&checkpoint.path_of(MOMENTS)?)?)?;
        self.optimizer.step = state.optimizer_step;
        self.optimizer.skipped_in_a_row = state.skipped_in_a_row;
        Ok(state.iteration)
    }
}

/// The error for a checkpoint of a version that always measured from the base, even if the run started from an adapter.
fn no_start(checkpoint: &str, version: &str) -> Error {
    Error::input(format!(
        "{checkpoint} was written by version {version}, which measured from the base and did not store the \
         adapter that the run started from: resume with --set lora.reference=base, or start another run"
    ))
}

//! The transformer in files that are larger than the host's memory, read tensor by tensor.

use std::borrow::Cow;
use std::sync::Arc;

use super::layout::POSITIONS;
use super::{MmditConfig, MmditNetwork};
use crate::config::WeightType;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::StoreMemory;
use crate::model::folder::StoredTensors;
use crate::model::layout::Entry;
use crate::model::weights::WeightSource;

/// A transformer for latents of one size in files with the names of diffusers. Of the table of positions only the part
/// for that size is read.
#[derive(Clone, Debug)]
pub struct StoredTransformer {
    config: MmditConfig,
    size: [usize; 2],
    tensors: StoredTensors,
}

impl StoredTransformer {
    /// Checks names and shapes, without reading weights.
    ///
    /// # Errors
    /// [`Error::Input`] if the size has no positions, or a tensor is missing, misshapen or unknown.
    pub fn new(config: &MmditConfig, size: [usize; 2], tensors: &StoredTensors) -> Result<Self> {
        let network = MmditNetwork::base(config, size, WeightType::F32);
        network.check_stored(tensors)?;
        Ok(Self { config: config.clone(), size, tensors: tensors.clone() })
    }
}

impl WeightSource for StoredTransformer {
    fn read(&self, entry: &Entry) -> Result<Cow<'_, [f32]>> {
        let name = &entry.name;
        let stored = self.tensors.get(name)?;
        let values = if name == POSITIONS {
            let mut values = Vec::new();
            for range in self.config.centre_ranges(self.size) {
                values.extend(stored.range(range)?.read()?);
            }
            values
        } else {
            stored.read()?
        };
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(Cow::Owned(values)),
            Some(index) => Err(Error::input(format!(
                "{}: tensor `{name}` is not finite at element {index} ({}): the file is damaged, download it again",
                self.tensors.name(),
                values[index]
            ))),
        }
    }
}

impl MmditNetwork {
    /// Uploads the base from files with the names of diffusers, as [`MmditNetwork::frozen`] stores it. `setting` is how
    /// the user sets a type of weights, in messages.
    ///
    /// # Errors
    /// [`Error::Input`] if the size has no positions, a tensor is missing, misshapen, unknown or not finite, or does not
    /// suit the type of weights; else if the device has not enough memory.
    pub fn upload_base(
        &self,
        gpu: &Arc<Gpu>,
        tensors: &StoredTensors,
        setting: impl Fn(WeightType) -> String,
    ) -> Result<StoreMemory> {
        // A wrong file is found before gigabytes have been read.
        let weights = StoredTransformer::new(&self.config, self.size, tensors)?;
        self.frozen().upload_set_by(gpu, "transformer", &weights, setting)
    }

    /// Checks names and shapes in the files of a base, without reading weights.
    ///
    /// # Errors
    /// [`Error::Input`] if the size has no positions, or a tensor is missing, misshapen or unknown.
    pub fn check_stored(&self, tensors: &StoredTensors) -> Result<()> {
        self.config.check_size(tensors.name(), self.size)?;
        let layout = self.base_layout();
        layout.entries().iter().try_for_each(|entry| self.check_entry(tensors, entry))?;
        let is_known = |name: &&String| layout.entries().iter().any(|entry| entry.name == **name);
        match tensors.tensors().keys().find(|name| !is_known(name)) {
            None => Ok(()),
            Some(extra) => {
                let file = tensors.name();
                Err(Error::input(format!("{file} has a tensor `{extra}` that its network does not have")))
            }
        }
    }

    fn check_entry(&self, tensors: &StoredTensors, entry: &Entry) -> Result<()> {
        let (name, found) = (&entry.name, tensors.get(&entry.name)?.shape());
        let side = self.config.positions_side;
        let expected = if name == POSITIONS { vec![1, side * side, self.config.hidden()] } else { entry.shape.clone() };
        if found == expected {
            return Ok(());
        }
        Err(Error::input(format!(
            "{}: tensor `{name}` has shape {found:?}, but {expected:?} is expected",
            tensors.name()
        )))
    }
}

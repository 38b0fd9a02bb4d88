//! The transformer in files that are larger than the host's memory, read tensor by tensor.

use std::borrow::Cow;

use super::MmditConfig;
use super::layout::POSITIONS;
use crate::error::{Error, Result};
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
        config.check_size(tensors.name(), size)?;
        let stored = Self { config: config.clone(), size, tensors: tensors.clone() };
        let layout = config.layout(size);
        layout.entries().iter().try_for_each(|entry| stored.check(entry))?;
        let is_known = |name: &&String| layout.entries().iter().any(|entry| entry.name == **name);
        match tensors.tensors().keys().find(|name| !is_known(name)) {
            None => Ok(stored),
            Some(extra) => {
                let file = tensors.name();
                Err(Error::input(format!("{file} has a tensor `{extra}` that its network does not have")))
            }
        }
    }

    fn check(&self, entry: &Entry) -> Result<()> {
        let name = &entry.name;
        let side = self.config.positions_side;
        let expected = if name == POSITIONS { vec![1, side * side, self.config.hidden()] } else { entry.shape.clone() };
        let Some(found) = self.tensors.tensors().get(name) else {
            let file = self.tensors.name();
            return Err(Error::input(format!("{file} is missing the tensor `{name}` of shape {expected:?}")));
        };
        let found = found.shape();
        if found == expected {
            return Ok(());
        }
        Err(Error::input(format!(
            "{}: tensor `{name}` has shape {found:?}, but {expected:?} is expected",
            self.tensors.name()
        )))
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

//! How users name a text-to-image model.

use std::path::{Path, PathBuf};

use super::pipeline::folder_of;
use crate::assets::{AdapterBase, is_base_of};
use crate::config::adapter_in;
use crate::error::Result;

/// A text-to-image model that a user names: a pipeline, or a run that trained an adapter of one.
#[derive(Clone, Debug)]
pub struct NamedModel {
    /// The pipeline: its folder, or `org/name` in the cache of the hub.
    pub pipeline: String,
    /// The folder of the adapter that the run trained, and the record of its base.
    pub trained: Option<(PathBuf, AdapterBase)>,
}

impl NamedModel {
    /// The model that a user names; `None` if it is of another kind. The directory of a run, of its best model or of a
    /// checkpoint stands for the pipeline with the adapter in it.
    ///
    /// # Errors
    /// As [`folder_of`], and if the record of a run's base cannot be read.
    pub fn of(model: &str) -> Result<Option<Self>> {
        let Some(folder) = adapter_in(Path::new(model)) else {
            return Ok(folder_of(model)?.map(|_| Self { pipeline: model.to_owned(), trained: None }));
        };
        let base = AdapterBase::read(&folder)?;
        let pipeline = folder_of(&base.model).map_err(|cause| is_base_of(&folder, cause))?;
        Ok(pipeline.map(|_| Self { pipeline: base.model.clone(), trained: Some((folder, base)) }))
    }

    /// Whether another name stands for the same pipeline.
    ///
    /// # Errors
    /// As [`folder_of`].
    pub fn is_on(&self, other: &str) -> Result<bool> {
        let place = |name: &str| folder_of(name).map(|folder| folder.and_then(|folder| folder.canonicalize().ok()));
        let (own, other) = (place(&self.pipeline)?, place(other)?);
        Ok(own.is_some() && own == other)
    }
}

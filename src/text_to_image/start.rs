//! What a run of `train` starts from.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use super::training::TextBase;
use crate::assets;
use crate::config::{Config, ModelSource};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::StoredModel;
use crate::run::Verbosity;

/// The model that a configuration names, before anything large is read.
#[derive(Debug)]
pub enum StartingModel {
    /// A native model.
    Native(Box<StoredModel>),
    /// A pipeline with its prompts.
    Text(Box<TextBase>),
}

impl StartingModel {
    /// Opens the model of a run.
    ///
    /// # Errors
    /// [`Error::Input`] if it is damaged or not supported, or does not suit the configuration.
    pub fn open(config: &Config) -> Result<Self> {
        match config.model.source()? {
            ModelSource::File(file) => {
                assets::load_configured(&config.model, file).map(|model| Self::Native(Box::new(model)))
            }
            ModelSource::Folder(folder) => Ok(Self::Text(Box::new(TextBase::open(folder, &config.into())?))),
            ModelSource::New(_) | ModelSource::NewText(..) => {
                Err(Error::input("a run starts from a trained model: set `model.file` or `model.folder`"))
            }
        }
    }

    /// Checks that it suits another configuration with the same model and prompts.
    ///
    /// # Errors
    /// [`Error::Input`] if it does not.
    pub fn check(&self, config: &Config) -> Result<()> {
        match self {
            Self::Native(_) => Ok(()),
            Self::Text(text) => text.check(&config.into()),
        }
    }

    /// The pipeline, if it is one.
    pub fn text(&self) -> Option<&TextBase> {
        match self {
            Self::Native(_) => None,
            Self::Text(text) => Some(text),
        }
    }

    /// The model as plans need it.
    ///
    /// # Errors
    /// As [`TextBase::planned`].
    pub fn planned(&self) -> Result<Cow<'_, StoredModel>> {
        match self {
            Self::Native(model) => Ok(Cow::Borrowed(model)),
            Self::Text(text) => text.planned().map(Cow::Owned),
        }
    }

    /// Checks that the device has room to encode the prompts, unless they are in a file in `folder`.
    ///
    /// # Errors
    /// As [`TextBase::check_room`].
    pub fn check_room(&self, gpu: &Gpu, folder: &Path) -> Result<()> {
        match self {
            Self::Native(_) => Ok(()),
            Self::Text(text) => text.check_room(gpu, folder),
        }
    }

    /// The model as runs need it; `folder` is for the embeddings of many prompts. `warn` is given what a user should know of
    /// the prompts and of the configuration.
    ///
    /// # Errors
    /// As [`TextBase::encoded`].
    pub fn loaded(
        &self,
        gpu: &Arc<Gpu>,
        config: &Config,
        (folder, verbosity): (&Path, Verbosity),
        warn: impl Fn(&str),
    ) -> Result<Cow<'_, StoredModel>> {
        match self {
            Self::Native(model) => Ok(Cow::Borrowed(model)),
            Self::Text(text) => {
                text.schedule_warning(&config.into()).into_iter().for_each(&warn);
                text.encoded(gpu, folder, verbosity, warn).map(Cow::Owned)
            }
        }
    }
}

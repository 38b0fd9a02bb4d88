//! How users name a text-to-image model.

use std::path::{Path, PathBuf};

use super::pipeline::{TextToImage, folder_of};
use crate::assets::{BaseRecord, is_base_of, model_file, pipeline_of};
use crate::config::{TRANSFORMER_BASE, adapter_in};
use crate::error::{Error, Result};
use crate::model::Adapter;

/// A text-to-image model that a user names: a pipeline, or a run that trained a part of one.
#[derive(Clone, Debug)]
pub struct NamedModel {
    /// What the user wrote.
    name: String,
    /// The pipeline: its folder, or `org/name` in the cache of the hub.
    pub pipeline: String,
    /// What a run trained.
    pub trained: Option<Trained>,
}

/// What a run trained of a pipeline.
#[derive(Clone, Debug)]
pub enum Trained {
    /// An adapter, in this folder, and the record of its base.
    Adapter(PathBuf, BaseRecord),
    /// The transformer, in this file, and the record of the pipeline.
    Transformer(PathBuf, BaseRecord),
}

impl NamedModel {
    /// The model that a user names; `None` if it is of another kind. The directory of a run, of its best model or of a
    /// checkpoint stands for the pipeline with what the run trained.
    ///
    /// # Errors
    /// As [`folder_of`], and if the record of a run's base cannot be read.
    pub fn of(model: &str) -> Result<Option<Self>> {
        let named = |pipeline: &str, trained| Self { name: model.to_owned(), pipeline: pipeline.to_owned(), trained };
        let transformer = |file: PathBuf, base: BaseRecord, place: &Path| match folder_of(&base.model)? {
            Some(_) => Ok(Some(named(&base.model.clone(), Some(Trained::Transformer(file, base))))),
            None => Err(Error::input(format!(
                "{} names the model {}, which is not there: put it back{}",
                place.display(),
                base.model,
                if place.ends_with(TRANSFORMER_BASE) { ", or correct `model` in that file" } else { "" }
            ))),
        };
        let record = Path::new(model).join(TRANSFORMER_BASE);
        if record.is_file() {
            let base = BaseRecord::read_file(&record)?;
            return transformer(model_file(Path::new(model))?.into_owned(), base, &record);
        }
        if let Some(base) = pipeline_of(Path::new(model))? {
            return transformer(PathBuf::from(model), base, Path::new(model));
        }
        let Some(folder) = adapter_in(Path::new(model)) else {
            return Ok(folder_of(model)?.map(|_| named(model, None)));
        };
        let base = BaseRecord::read(&folder)?;
        let pipeline = folder_of(&base.model).map_err(|cause| is_base_of(&folder, cause))?;
        Ok(pipeline.map(|_| named(&base.model.clone(), Some(Trained::Adapter(folder, base)))))
    }

    /// Opens the pipeline, with the transformer that was trained. `variant` chooses among weights, see
    /// [`TextToImage::open`].
    ///
    /// # Errors
    /// As there, and if the trained transformer cannot be read.
    pub fn open(&self, variant: Option<&str>) -> Result<TextToImage> {
        let folder = folder_of(&self.pipeline)?.expect("it was one when it was named");
        match (&self.trained, variant) {
            (Some(Trained::Transformer(file, _)), None) => TextToImage::open(&folder, None)?.with_transformer(file),
            (Some(Trained::Transformer(file, _)), Some(variant)) => Err(Error::input(format!(
                "the variant {variant} is of the weights in {}, but {} has its own: leave out --variant",
                self.pipeline,
                file.display()
            ))),
            (_, variant) => TextToImage::open(&folder, variant),
        }
    }

    /// The adapter, and its scale: that of the run, or the one that was given.
    ///
    /// # Errors
    /// If there are two, or it does not fit the model.
    pub fn adapter(&self, model: &TextToImage, given: Option<(&Path, f64)>) -> Result<Option<(Adapter, f64)>> {
        match (&self.trained, given) {
            (Some(Trained::Adapter(own, _)), Some((other, _))) => Err(Error::input(format!(
                "{} has an adapter already, {}: to use {} in its place, give --model {}",
                self.name,
                own.display(),
                other.display(),
                self.pipeline
            ))),
            (Some(Trained::Adapter(own, _)), None) => Ok(Some((model.adapter(own)?, 1.0))),
            (_, Some((given, scale))) => Ok(Some((model.adapter(given)?, scale))),
            (_, None) => Ok(None),
        }
    }

    /// The pipeline as it was before the run.
    #[must_use]
    pub fn untrained(&self) -> Self {
        Self { trained: None, ..self.clone() }
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

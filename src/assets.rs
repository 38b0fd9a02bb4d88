//! Loads models by name.

mod words;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::{self, ADAPTER_BASE, MODEL, adapter_in, builtin};
use crate::error::{Error, Result};
use crate::files::read_file;
use crate::model::folder::{MODEL_INDEX, is_hub_name, locate};
use crate::model::{ADAPTER_CONFIG, Adapter, Model, PictureDecoder, Shared, StoredModel};
#[cfg(feature = "cli")]
use crate::run::inputs::InputFile;

pub use words::{WordFiles, pipeline_of, word_model};

/// How many adapters may be on top of each other. More are a loop.
const MOST_BASES: usize = 16;

/// Channels of a picture that is not latents: at most red, green and blue.
const MOST_COLOURS: usize = 3;

/// What a run started from: [`ADAPTER_BASE`] beside the adapter that it trained, or
/// [`TRANSFORMER_BASE`](config::TRANSFORMER_BASE) beside the transformer of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// Its file or directory as an absolute path, or `builtin:NAME`.
    pub model: String,
    /// CRC-32 of its weights, see [`Model::crc32`].
    pub crc32: u32,
}

impl BaseRecord {
    /// Reads the record in the folder of an adapter.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        Self::read_file(&folder.join(ADAPTER_BASE))
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read.
    pub fn read_file(record: &Path) -> Result<Self> {
        serde_json::from_slice(&read_file(record)?).map_err(|cause| Error::unreadable(record, cause))
    }

    /// Checks that weights with this CRC-32 are those that the adapter in `folder` was trained on.
    ///
    /// # Errors
    /// [`Error::Input`] if they are not.
    pub fn check(&self, folder: &Path, found: u32) -> Result<()> {
        if found == self.crc32 {
            return Ok(());
        }
        Err(Error::input(format!(
            "the adapter {} was trained on weights with the CRC-32 {:08x}, but those of {} have {found:08x}: {}",
            folder.display(),
            self.crc32,
            self.model,
            remedy(folder)
        )))
    }
}

impl BaseRecord {
    /// Checks that weights with this CRC-32 are those that a run of all weights started from.
    ///
    /// # Errors
    /// [`Error::Input`] if they are not.
    pub fn check_original(&self, found: u32) -> Result<()> {
        if found == self.crc32 {
            return Ok(());
        }
        Err(Error::input(format!(
            "the run started from weights with the CRC-32 {:08x}, but those of {} have {found:08x}: put the original \
             weights back to measure the distance to them, or leave out --base",
            self.crc32, self.model
        )))
    }
}

/// What helps if the base of the adapter in a folder cannot be used.
fn remedy(folder: &Path) -> String {
    format!("put the base back, or name it, with --model BASE --adapter {}", folder.display())
}

/// Says of an error with a model that it is the base of the adapter in `folder`.
pub fn is_base_of(folder: &Path, cause: Error) -> Error {
    cause.followed_by(&format!("; it is the base of the adapter {}: {}", folder.display(), remedy(folder)))
}

/// Loads a native model: a file, `builtin:NAME`, or the directory of a run, of its best model or of a checkpoint. A
/// directory stands for its `model.safetensors`, or for its adapter on the base that the run recorded. Weights in files
/// stay there until they are needed.
///
/// # Errors
/// [`Error::Input`] naming the file, tensor or built-in name that is wrong.
pub fn load_model(file: &str) -> Result<StoredModel> {
    load(file, MOST_BASES)
}

/// Loads the model that a configuration names as `file`, with its `vae`.
///
/// # Errors
/// As [`load_model`] and [`with_vae`].
pub fn load_configured(model: &config::Model, file: &str) -> Result<StoredModel> {
    with_vae(load_model(file)?, file, model.vae.as_deref(), "`model.vae`")
}

/// A model of latents, which messages call `name`, with the autoencoder that makes pictures of them, if there is one: a
/// folder, a file, or a name in the hub's cache. `key` is where it is from, in messages. Its weights are read once to
/// check them, and then when they are needed.
///
/// # Errors
/// [`Error::Input`] if it cannot be read, is damaged or not supported, or does not fit the model.
pub fn with_vae(model: StoredModel, name: &str, vae: Option<&str>, key: &str) -> Result<StoredModel> {
    let Some(vae) = vae else { return Ok(model) };
    let channels = model.dit(name)?.channels;
    if channels <= MOST_COLOURS {
        return Err(Error::input(format!(
            "{key} is {vae}, but {name} makes images itself, of {channels} channels: an autoencoder is only for models \
             of latents; leave it out"
        )));
    }
    let decoder = PictureDecoder::open(&vae_in(vae)?, channels, &format!("those of {name}"))?;
    decoder.check()?;
    Ok(StoredModel { decoder: Some(Shared(Arc::new(decoder))), ..model })
}

/// The file or folder of the autoencoder that a name stands for: itself, or the one in the folder of a pipeline.
fn vae_in(name: &str) -> Result<PathBuf> {
    let (path, sizes) = (locate(name)?, "config.json");
    let inside = path.join("vae");
    Ok(if !path.join(sizes).is_file() && inside.join(sizes).is_file() { inside } else { path })
}

/// The files of the autoencoder that a configuration names; none if it names none.
///
/// # Errors
/// [`Error::Input`] if its weights are missing or damaged.
#[cfg(feature = "cli")]
pub fn vae_files(model: &config::Model) -> Result<Vec<InputFile>> {
    let Some(named) = model.vae.as_deref() else { return Ok(Vec::new()) };
    let folder = locate(named)?;
    let files = PictureDecoder::files(&vae_in(named)?)?.into_iter();
    Ok(files.map(|place| input_file("model.vae", named, &folder, place)).collect())
}

/// A file of the model that `key` of a configuration names as `named`, which stands for this folder.
#[cfg(feature = "cli")]
pub fn input_file(key: &str, named: &str, folder: &Path, place: PathBuf) -> InputFile {
    // A snapshot in the hub's cache has another path once the model is downloaded anew.
    let inside = place.strip_prefix(folder).ok().filter(|_| is_hub_name(named));
    let path = inside.map_or_else(|| place.clone(), |inside| Path::new(named).join(inside));
    InputFile { key: key.to_owned(), path, place }
}

fn load(file: &str, most_bases: usize) -> Result<StoredModel> {
    if let Some(bytes) = builtin(file)? {
        return Model::from_bytes(file, bytes).map(StoredModel::from);
    }
    let path = Path::new(file);
    match adapter_in(path) {
        Some(folder) => load_adapted(&folder, most_bases),
        None => StoredModel::open(&model_file(path)?),
    }
}

/// The base that a run recorded beside an adapter, with the adapter merged in.
fn load_adapted(folder: &Path, most_bases: usize) -> Result<StoredModel> {
    let base = BaseRecord::read(folder)?;
    let Some(most_bases) = most_bases.checked_sub(1) else {
        return Err(Error::input(format!(
            "{} names a base that is an adapter itself, and so on for {MOST_BASES} adapters: name the base and the \
             adapter, with --model and --adapter",
            folder.join(ADAPTER_BASE).display()
        )));
    };
    let model = load(&base.model, most_bases).map_err(|cause| is_base_of(folder, cause))?;
    base.check(folder, model.crc32()?)?;
    let adapter = Adapter::load(folder, &model.flow_model(&base.model)?)?;
    model.with_adapter(&base.model, adapter, 1.0)
}

/// The model file that a path stands for: the path itself, or the file in that directory.
///
/// # Errors
/// [`Error::Input`] if it is a directory without a model.
pub fn model_file(path: &Path) -> Result<Cow<'_, Path>> {
    if !path.is_dir() {
        return Ok(Cow::Borrowed(path));
    }
    let inside = path.join(MODEL);
    if inside.is_file() {
        return Ok(Cow::Owned(inside));
    }
    let cause = if path.join("checkpoints").is_dir() {
        format!(
            "it is the directory of a run that has not written its {MODEL} yet: finish the run with --resume, or name \
             the model in one of its checkpoints"
        )
    } else if path.join(ADAPTER_CONFIG).is_file() {
        "it is an adapter without a record of its base: name the base with --model, and it with --adapter".to_owned()
    } else if path.join(MODEL_INDEX).is_file() {
        "it is a text-to-image pipeline, but a model with classes is needed here".to_owned()
    } else {
        format!("it is a directory without a {MODEL}: name the file of a model, or the directory of a run")
    };
    Err(Error::unreadable(path, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stands_for_the_model_in_it() {
        let run = tempfile::tempdir().unwrap();
        let message = || model_file(run.path()).unwrap_err().to_string();
        assert!(message().contains("a directory without a model.safetensors"), "{}", message());
        std::fs::create_dir(run.path().join("checkpoints")).unwrap();
        assert!(message().contains("has not written its model.safetensors yet"), "{}", message());
        std::fs::write(run.path().join(MODEL), "").unwrap();
        assert_eq!(model_file(run.path()).unwrap(), run.path().join(MODEL));
        assert_eq!(model_file(Path::new("a.safetensors")).unwrap(), Path::new("a.safetensors"));
    }
}

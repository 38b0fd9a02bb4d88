//! Identifies a file or folder: models of this and other programs, adapters, runs and their checkpoints.

mod adapter;
mod own;
mod planned;
mod published;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::assets::pipeline_of;
use crate::config::MODEL;
use crate::error::{Error, Result};
use crate::model::folder::{MODEL_INDEX, Pipeline, SingleFile, StoredTensor, StoredTensors, locate};
use crate::model::{ADAPTER_CONFIG, NATIVE};
use crate::run::checkpoint;
use crate::text_to_image::folder_of;

/// The result of an inspection.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The file or folder.
    pub path: String,
    /// One of: pipeline, component, single-file, flow-model, classifier, sit-checkpoint, adapter, checkpoint, run.
    pub kind: &'static str,
    /// The same in words, with sizes.
    pub what: String,
    /// Number of parameters of everything that is present.
    pub parameters: u64,
    /// Bytes of the files that contain them.
    pub bytes_on_disk: u64,
    /// Parts, of a model that has several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<Part>,
    /// Number of elements by the type in which they are stored.
    pub stored_as: BTreeMap<String, u64>,
    /// Bytes that the weights of a text-to-image model take in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_memory: Option<WeightsMemory>,
    /// Bytes that a flow model of this program takes on a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory: Option<DeviceMemory>,
    /// Bytes that a text-to-image model takes on a device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_memory: Vec<ImageMemory>,
    /// A command that draws pictures with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_command: Option<String>,
    /// A command that trains it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_command: Option<String>,
    /// Further notes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A part of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Part {
    /// Its name, which is that of its folder.
    pub name: String,
    /// "present", "missing", or "none" if the model does not use it.
    pub state: &'static str,
    /// Its class in diffusers or transformers.
    pub class: Option<String>,
    /// Its sizes in words.
    pub sizes: String,
    /// Its parameters.
    pub parameters: u64,
    /// Number of elements by the type in which they are stored.
    pub stored_as: BTreeMap<String, u64>,
    /// Bytes of its files.
    pub bytes_on_disk: u64,
}

/// Bytes of weights by their type in memory, without the position table, of which only the part for one image size is
/// needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WeightsMemory {
    /// All in 32 bits.
    pub f32: u64,
    /// All in 16 bits.
    pub f16: u64,
    /// Matrices whose rows are multiples of 32 in blocks of 34 bytes for 32 numbers (GGUF's q8_0), the rest in 32 bits.
    pub q8_0: u64,
    /// Numbers of the position table, which are not counted.
    pub position_table: u64,
}

/// Bytes on a device, planned without opening one: other kernels may need a little more or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceMemory {
    /// For drawing as `sample` does, with this many images at a time.
    pub sampling: u64,
    /// Images that are drawn at a time.
    pub sampling_batch: u64,
    /// For training with the default configuration; `None` if it does not fit the model.
    pub training: Option<u64>,
}

/// Bytes of a text-to-image model on a device, planned without opening one: the most of its parts that is there at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ImageMemory {
    /// Width and height of the pictures, in pixels.
    pub size: [usize; 2],
    /// How the matrices of the transformer are stored.
    pub weights: &'static str,
    /// For drawing one picture at a time, with guidance.
    pub sampling: u64,
    /// For training with the settings of the command that the report shows.
    pub training: u64,
}

/// Identifies a file, a folder, `builtin:NAME` or a name on the hub (`org/name`).
///
/// # Errors
/// [`Error::Input`] if it is damaged or not of a known kind.
pub fn inspect(text: &str) -> Result<Report> {
    if text.starts_with("builtin:") {
        return folder_of(text)?.map_or_else(|| own::model(text), |folder| published::pipeline(&folder));
    }
    let path = locate(text)?;
    let found = std::fs::metadata(&path).map_err(|cause| Error::unreadable(&path, cause))?;
    if found.is_dir() { directory(&path) } else { file(&path) }
}

fn directory(path: &Path) -> Result<Report> {
    let has = |name: &str| path.join(name).exists();
    if Pipeline::is_at(path) {
        published::pipeline(path)
    } else if checkpoint::is_checkpoint(path) {
        own::checkpoint(path)
    } else if has("config.toml") && (has("checkpoints") || has(MODEL)) {
        own::run(path)
    } else if has(ADAPTER_CONFIG) {
        adapter::folder(path)
    } else if has(adapter::DIFFUSERS) {
        adapter::file(&StoredTensors::open(&path.join(adapter::DIFFUSERS))?)
    } else if has("config.json") {
        published::component(path)
    } else if has(MODEL) {
        file(&path.join(MODEL))
    } else {
        Err(unknown(path))
    }
}

/// The error for a folder of something else.
fn unknown(path: &Path) -> Error {
    let names = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let hint = if names.iter().any(|name| name == "transformer") {
        format!("; it has a folder `transformer`, but the {MODEL_INDEX} that belongs to it is missing")
    } else {
        let file = names.iter().find(|name| name.ends_with(".safetensors") || name.ends_with(".gguf"));
        file.map_or_else(String::new, |file| format!("; name the file in it, such as {file}"))
    };
    Error::input(format!(
        "{} is a directory of something else: expected a pipeline ({MODEL_INDEX}), a component (config.json), an adapter \
         ({ADAPTER_CONFIG}), or a run (config.toml){hint}",
        path.display()
    ))
}

fn file(path: &Path) -> Result<Report> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if [MODEL_INDEX, ADAPTER_CONFIG, "config.json"].contains(&&*name) {
        return directory(folder);
    }
    let is_index = name.ends_with(".json") && name.contains(".safetensors.index");
    let tensors = if is_index { StoredTensors::open_index(path)? } else { StoredTensors::open(path)? };
    if tensors.metadata().contains_key(NATIVE) {
        return own::model(&path.display().to_string());
    }
    if adapter::is_adapter(&tensors) {
        return adapter::file(&tensors);
    }
    if tensors.tensors().contains_key("y_embedder.embedding_table.weight") {
        return own::sit(path, &tensors);
    }
    match pipeline_of(path)? {
        Some(base) => own::transformer(path, path, &base),
        None => published::single_file(path, &tensors, &SingleFile::of(&tensors)?),
    }
}

/// Number of elements by the type in which they are stored.
fn stored_as<'a>(tensors: impl Iterator<Item = &'a StoredTensor>) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for tensor in tensors {
        *found.entry(tensor.stored_as().name()).or_default() += tensor.elements() as u64;
    }
    found
}

/// Bytes of the files that contain the tensors.
fn bytes_on_disk(tensors: &StoredTensors) -> u64 {
    tensors.files().map(|(_, length)| length).sum()
}

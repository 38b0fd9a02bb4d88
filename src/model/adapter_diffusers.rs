//! Adapters in the file that diffusers' pipelines write and read, `pytorch_lora_weights.safetensors`: the matrices,
//! with the name of the pipeline's part as prefix, and PEFT's configuration in the header.

use std::path::Path;

use serde_json::{Map, Value};

use super::adapter::Adapter;
use super::file::{ModelKind, Tensors, gather, parse, scatter, serialize};
use super::lora::{Adaptable, Lora};
use crate::error::{Error, Result};
use crate::files::{read_file, write_atomically};

/// The file's name in a folder.
pub const DIFFUSERS_ADAPTER: &str = "pytorch_lora_weights.safetensors";

/// The part of a pipeline that an adapter belongs to.
const PREFIX: &str = "transformer.";

/// The entry of the header with the configuration, as JSON.
const KEY: &str = "lora_adapter_metadata";

/// Suffixes of the names of an adapter's matrices.
const ENDS: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];

impl Adapter {
    /// The files of [`Adapter::files`] and, for a text-to-image model, [`DIFFUSERS_ADAPTER`], which diffusers and ComfyUI
    /// load.
    pub fn all_files(&self, kind: &ModelKind) -> Vec<(&'static str, Vec<u8>)> {
        let base = kind.layout();
        let mut files = self.files(&base).to_vec();
        if let ModelKind::Mmdit(_) = kind {
            files.push((DIFFUSERS_ADAPTER, self.to_diffusers(&base)));
        }
        files
    }

    /// Reads a file of diffusers' `save_lora_weights`.
    ///
    /// # Errors
    /// As [`Adapter::from_diffusers`], and if it cannot be read.
    pub fn load_diffusers(path: &Path, base: &impl Adaptable) -> Result<Self> {
        Self::from_diffusers(&path.display().to_string(), &read_file(path)?, base)
    }

    /// [`Adapter::load_diffusers`] from the bytes of the file, which messages call `name`.
    ///
    /// Without a configuration in the header, every layer has the rank of its matrices and the same number as alpha, as
    /// in diffusers.
    ///
    /// # Errors
    /// [`Error::Input`] with the key or tensor that does not fit the network, or is not plain LoRA of a transformer.
    pub fn from_diffusers(name: &str, bytes: &[u8], base: &impl Adaptable) -> Result<Self> {
        let (tensors, metadata) = parse(name, bytes)?;
        if let Some(tensor) = tensors.keys().find(|tensor| !is_matrix(tensor)) {
            return Err(Error::input(format!(
                "{name} has a tensor `{tensor}`, but only those named `{PREFIX}LAYER{}` and `{PREFIX}LAYER{}` can be \
                 read: save only the adapter of the transformer, with a current version of diffusers",
                ENDS[0], ENDS[1]
            )));
        }
        let lora = match metadata.get(KEY) {
            Some(text) => Lora::from_peft(&format!("{name}: `{KEY}`"), &configuration(name, text)?, base)?,
            None => of_tensors(name, &tensors, base)?,
        };
        let weights = gather(name, &lora.layout_named(base, PREFIX), tensors)?;
        Ok(Self { lora, weights })
    }

    /// The bytes of such a file.
    pub fn to_diffusers(&self, base: &impl Adaptable) -> Vec<u8> {
        let Value::Object(keys) = self.lora.to_peft() else { unreachable!("a configuration is an object") };
        let keys: Map<String, Value> = keys.into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value)).collect();
        let text = serde_json::to_string_pretty(&keys).expect("names and numbers are JSON");
        serialize(&scatter(&self.lora.layout_named(base, PREFIX), &self.weights), Some((KEY, text)))
    }

    /// Writes such a file atomically.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save_diffusers(&self, path: &Path, base: &impl Adaptable) -> Result<()> {
        write_atomically(path, &self.to_diffusers(base))
    }
}

fn is_matrix(tensor: &str) -> bool {
    tensor.starts_with(PREFIX) && ENDS.iter().any(|end| tensor.ends_with(end))
}

/// The configuration as in PEFT's own file: without the name of the part, and with the type, which is implied here.
fn configuration(name: &str, text: &str) -> Result<Vec<u8>> {
    let keys: Map<String, Value> = serde_json::from_str(text).map_err(|cause| {
        Error::input(format!("{name} has an entry `{KEY}` in its header that is not JSON: {cause}"))
    })?;
    let mut inner: Map<String, Value> =
        keys.into_iter().filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?.to_owned(), value))).collect();
    inner.entry("peft_type").or_insert_with(|| "LORA".into());
    Ok(serde_json::to_vec(&inner).expect("it was JSON"))
}

/// The layers that the tensors belong to.
fn of_tensors(name: &str, tensors: &Tensors, base: &impl Adaptable) -> Result<Lora> {
    let layers = tensors.keys().filter_map(|tensor| tensor.strip_prefix(PREFIX)?.strip_suffix(ENDS[0]));
    let targets: Vec<String> = layers.map(str::to_owned).collect();
    let rank = |layer: &str| tensors.get(&format!("{PREFIX}{layer}{}", ENDS[0])).map_or(0, |(shape, _)| shape[0]);
    // A scalar has no rank.
    if let Some((tensor, _)) = tensors.iter().find(|(_, (shape, _))| shape.len() < 2 || shape.contains(&0)) {
        return Err(Error::input(format!(
            "{name}: tensor `{tensor}` has shape {:?}, but a matrix is expected",
            tensors[tensor].0
        )));
    }
    let lora = Lora::new(name, base, &targets, |layer| (rank(layer), rank(layer) as f32))?;
    if lora.layers().is_empty() {
        return Err(Error::input(format!("{name} has no tensors of an adapter")));
    }
    Ok(lora)
}

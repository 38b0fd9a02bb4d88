//! Models that are compiled into the program, and the one way to load a model by name.

use std::path::Path;

use crate::error::{Error, Result};
use crate::model::Model;

macro_rules! models {
    ($($name:literal),*) => {
        &[$(($name, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/models/", $name, ".safetensors")))),*]
    };
}

/// Names and bytes of the built-in models; assets/models/README.md says how each was made.
const BUILTIN: &[(&str, &[u8])] =
    models!["digits8-base", "digits8-classifier", "digits8-judge", "rings-base", "rings-classifier", "rings-judge"];

/// Loads a native model: a file, or `builtin:NAME`.
///
/// # Errors
/// [`Error::Input`] naming the file, tensor or built-in name that is wrong.
pub fn load_model(file: &str) -> Result<Model> {
    let Some(name) = file.strip_prefix("builtin:") else {
        return Model::load(Path::new(file));
    };
    match BUILTIN.iter().find(|(known, _)| *known == name) {
        Some((_, bytes)) => Model::from_bytes(file, bytes),
        None => {
            let names: Vec<String> = BUILTIN.iter().map(|(name, _)| format!("builtin:{name}")).collect();
            Err(Error::input(format!("there is no model `{file}`: use {}, or a file", names.join(", "))))
        }
    }
}

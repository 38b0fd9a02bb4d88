//! Models that are compiled into the program, and the one way to load a model by name.

use std::path::Path;

use crate::error::{Error, Result};
use crate::model::Model;

/// Names and bytes of the built-in models.
const BUILTIN: &[(&str, &[u8])] = &[];

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

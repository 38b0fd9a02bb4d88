//! The one way to load a model by name.

use std::path::Path;

use crate::config::builtin;
use crate::error::Result;
use crate::model::Model;

/// Loads a native model: a file, or `builtin:NAME`.
///
/// # Errors
/// [`crate::Error::Input`] naming the file, tensor or built-in name that is wrong.
pub fn load_model(file: &str) -> Result<Model> {
    match builtin(file)? {
        Some(bytes) => Model::from_bytes(file, bytes),
        None => Model::load(Path::new(file)),
    }
}

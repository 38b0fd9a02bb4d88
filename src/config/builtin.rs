//! Models that are compiled into the program: `builtin:NAME` instead of a file.

use super::decode::nearest;
use crate::error::{Error, Result};

macro_rules! models {
    ($($name:literal),*) => {
        &[$(($name, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/models/", $name, ".safetensors")))),*]
    };
}

/// Names and bytes; assets/models/README.md says how each was made.
const MODELS: &[(&str, &[u8])] =
    models!["digits8-base", "digits8-classifier", "digits8-judge", "rings-base", "rings-classifier", "rings-judge"];

/// The bytes of `builtin:NAME`; `None` if `file` is a file.
///
/// # Errors
/// [`Error::Input`] if there is no model of that name.
pub fn builtin(file: &str) -> Result<Option<&'static [u8]>> {
    let Some(name) = file.strip_prefix("builtin:") else { return Ok(None) };
    if let Some((_, bytes)) = MODELS.iter().find(|(known, _)| *known == name) {
        return Ok(Some(bytes));
    }
    let names: Vec<&str> = MODELS.iter().map(|(name, _)| *name).collect();
    Err(Error::input(match nearest(name, &names) {
        Some(known) => format!("there is no model `{file}`; did you mean `builtin:{known}`?"),
        None => format!("there is no model `{file}`: use builtin:{}, or a file", names.join(", builtin:")),
    }))
}

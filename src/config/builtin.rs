//! What is compiled into the program: `builtin:NAME` instead of a file.

use std::borrow::Cow;
use std::path::Path;

use super::decode::nearest;
use crate::error::{Error, Result};
use crate::files::read_text;
use crate::shapes::Split;

/// How built-in things are named.
const PREFIX: &str = "builtin:";

macro_rules! asset {
    ($path:expr) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/models/", $path))
    };
}

macro_rules! models {
    ($($name:literal),*) => {
        &[$(($name, asset!(concat!($name, ".safetensors")))),*]
    };
}

/// A file of a folder: its path in it, and its bytes.
pub type BuiltinFile = (&'static str, &'static [u8]);

macro_rules! folders {
    ($($name:literal: $($file:literal),*);*) => {
        &[$(($name, &[$(($file, asset!(concat!($name, "/", $file)))),*])),*]
    };
}

/// Names and bytes; assets/models/README.md says how each was made.
const MODELS: &[(&str, &[u8])] = models![
    "digits8-base",
    "digits8-classifier",
    "digits8-judge",
    "rings-base",
    "rings-classifier",
    "rings-judge",
    "shapes-judge"
];

/// Text-to-image models, with the files of their folders.
const FOLDERS: &[(&str, &[BuiltinFile])] = folders![
    "shapes-base": "model_index.json", "tokenizer/vocab.txt", "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors"
];

/// Configurations.
const CONFIGS: &[(&str, &str)] =
    &[("shapes", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/shapes/train.toml")))];

/// Lists of prompts: captions of these splits, one after the other.
const PROMPTS: &[(&str, &[Split])] = &[
    ("shapes", &[Split::Trained, Split::Forgotten, Split::HeldOut]),
    ("shapes-trained", &[Split::Trained]),
    ("shapes-forgotten", &[Split::Forgotten]),
    ("shapes-held-out", &[Split::HeldOut]),
];

/// The thing of that name in a table of `what`; `None` if `file` is a file.
fn find<T>(file: &str, what: &str, table: &'static [(&str, T)]) -> Result<Option<&'static T>> {
    let Some(name) = file.strip_prefix(PREFIX) else { return Ok(None) };
    if let Some((_, found)) = table.iter().find(|(known, _)| *known == name) {
        return Ok(Some(found));
    }
    let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
    Err(Error::input(match nearest(name, &names) {
        Some(known) => format!("there is no {what} `{file}`; did you mean `{PREFIX}{known}`?"),
        None => format!("there is no {what} `{file}`: use {PREFIX}{}, or a file", names.join(&format!(", {PREFIX}"))),
    }))
}

/// The bytes of the model `builtin:NAME`; `None` if `file` is a file.
///
/// # Errors
/// [`Error::Input`] if there is no model of that name, or it is a text-to-image model.
pub fn builtin(file: &str) -> Result<Option<&'static [u8]>> {
    if builtin_folder(file).is_some() {
        return Err(Error::input(format!(
            "`{file}` is a text-to-image model, but a model with classes is needed here: a configuration names it as \
             `model.folder`"
        )));
    }
    Ok(find(file, "model", MODELS)?.copied())
}

/// The files of the text-to-image model `builtin:NAME`; `None` if it is something else.
pub fn builtin_folder(model: &str) -> Option<&'static [BuiltinFile]> {
    let name = model.strip_prefix(PREFIX)?;
    FOLDERS.iter().find(|(known, _)| *known == name).map(|(_, files)| *files)
}

/// The text of a configuration: a file, or `builtin:NAME`.
///
/// # Errors
/// [`Error::Input`] if the file cannot be read, or there is no configuration of that name.
pub(super) fn config_text(file: &Path) -> Result<Cow<'static, str>> {
    match find(&file.to_string_lossy(), "configuration", CONFIGS)? {
        Some(text) => Ok(Cow::Borrowed(text)),
        None => read_text(file).map(Cow::Owned),
    }
}

/// The splits of captions that the list of prompts `builtin:NAME` is made of; `None` if `file` is a file.
///
/// # Errors
/// [`Error::Input`] if there is no list of that name.
pub fn builtin_prompts(file: &Path) -> Result<Option<&'static [Split]>> {
    Ok(find(&file.to_string_lossy(), "list of prompts", PROMPTS)?.copied())
}

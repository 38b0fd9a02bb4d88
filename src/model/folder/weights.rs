//! The files with a component's weights: one or several shards, and variants of other types next to each other.

use std::path::{Path, PathBuf};

use super::tensors::StoredTensors;
use crate::error::{Error, Result};

/// The beginnings of the names of weight files: in diffusers, and in transformers.
pub const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// The variant that is used if there is no file without one.
const SECOND: &str = "fp16";

/// A file with the weights of a component, or the index of its shards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WeightFile {
    /// The variant in its name, such as `fp16`; empty if it has none.
    pub variant: String,
    /// Whether it is an index.
    pub is_index: bool,
    /// Where it is.
    pub path: PathBuf,
}

/// The weight files in the folder of a component, by variant; an index before a single file.
///
/// # Errors
/// [`Error::Input`] if the folder cannot be read.
pub fn weight_files(folder: &Path) -> Result<Vec<WeightFile>> {
    let entries = std::fs::read_dir(folder).map_err(|cause| Error::unreadable(folder, cause))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|cause| Error::unreadable(folder, cause))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((variant, is_index)) = STEMS.iter().find_map(|stem| parse(name.strip_prefix(stem)?)) {
            found.push(WeightFile { variant, is_index, path: entry.path() });
        }
    }
    found.sort_by(|a, b| (&a.variant, !a.is_index, &a.path).cmp(&(&b.variant, !b.is_index, &b.path)));
    Ok(found)
}

/// The variant in what follows the stem of a name, and whether it is an index; `None` for a shard or another file.
fn parse(rest: &str) -> Option<(String, bool)> {
    let is_variant = |text: &str| !text.is_empty() && !text.contains('.') && !text.contains("-of-");
    let dotted = |text: &str| match text.strip_prefix('.') {
        None if text.is_empty() => Some(String::new()),
        found => found.filter(|variant| is_variant(variant)).map(str::to_owned),
    };
    if let Some(variant) = rest.strip_suffix(".safetensors") {
        return Some((dotted(variant)?, false));
    }
    // The current names of an index with a variant, and those of older programs.
    if let Some(variant) = rest.strip_prefix(".safetensors.index").and_then(|rest| rest.strip_suffix(".json")) {
        return Some((dotted(variant)?, true));
    }
    Some((dotted(rest.strip_suffix(".safetensors.index.json")?)?, true))
}

/// Chooses the weights in the folder of a component: those of a `variant`; without one the files whose names have none,
/// then `fp16`, then the only other ones.
///
/// # Errors
/// [`Error::Input`] if there are none, if there is no such variant or no preferred one, or as [`StoredTensors::open`].
pub fn open_weights(folder: &Path, variant: Option<&str>) -> Result<StoredTensors> {
    let files = weight_files(folder)?;
    let place = folder.display();
    if files.is_empty() {
        return Err(none(folder));
    }
    let of = |wanted: &str| files.iter().find(|file| file.variant == wanted);
    let mut variants: Vec<&str> = files.iter().map(|file| file.variant.as_str()).collect();
    variants.dedup();
    let shown = || {
        variants.iter().map(|variant| if variant.is_empty() { "none" } else { variant }).collect::<Vec<_>>().join(", ")
    };
    let chosen = match variant {
        Some(wanted) => of(wanted).ok_or_else(|| {
            Error::input(format!("{place} has no weights of the variant \"{wanted}\": its variants are {}", shown()))
        })?,
        None => match of("").or_else(|| of(SECOND)) {
            Some(file) => file,
            None if variants.len() == 1 => &files[0],
            None => {
                let shown = shown();
                return Err(Error::input(format!("{place} has weights of the variants {shown}: choose one of them")));
            }
        },
    };
    match chosen.is_index {
        true => StoredTensors::open_index(&chosen.path),
        false => StoredTensors::open(&chosen.path),
    }
}

/// The error for a folder without readable weights.
fn none(folder: &Path) -> Error {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    let place = folder.display();
    let shard = names.iter().find(|name| name.contains("-of-") && name.ends_with(".safetensors"));
    let pickle =
        names.iter().find(|name| name.ends_with(".bin") || name.ends_with(".msgpack") || name.ends_with(".h5"));
    Error::input(match (shard, pickle) {
        (Some(shard), _) => format!(
            "{place} has the shard {shard}, but no index (*.safetensors.index.json) of the tensors in each shard: \
             download the index as well"
        ),
        (None, Some(other)) => format!(
            "{place} has its weights in {other}, but only safetensors can be read: download the model's *.safetensors"
        ),
        (None, None) => format!(
            "{place} has no weights: expected {} or their shards",
            STEMS.map(|stem| format!("{stem}.safetensors")).join(", ")
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_of_weight_files() {
        let cases = [
            (".safetensors", Some(("", false))),
            (".fp16.safetensors", Some(("fp16", false))),
            (".safetensors.index.json", Some(("", true))),
            (".safetensors.index.fp16.json", Some(("fp16", true))),
            (".fp16.safetensors.index.json", Some(("fp16", true))),
            ("-00001-of-00002.safetensors", None),
            (".fp16-00001-of-00002.safetensors", None),
            (".bin", None),
            ("s.safetensors", None),
            ("..safetensors", None),
        ];
        for (rest, expected) in cases {
            let found = parse(rest);
            assert_eq!(found.as_ref().map(|(variant, is_index)| (variant.as_str(), *is_index)), expected, "{rest}");
        }
    }
}

//! The cache of the Hugging Face hub on this machine. Nothing is downloaded, and nothing is written there.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::pipeline::{CONFIG, MODEL_INDEX};
use crate::error::{Error, Result};
pub use crate::files::is_hub_name;

/// A cache: a folder with `models--ORG--NAME/{refs,snapshots,blobs}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hub(pub PathBuf);

/// The file or folder that a path or a name on the hub stands for.
///
/// # Errors
/// [`Error::Input`] if it looks like a name on the hub and is not in the cache of this machine.
pub fn locate(text: &str) -> Result<PathBuf> {
    match is_hub_name(text) {
        true => Hub::of_environment()?.find(text),
        false => Ok(PathBuf::from(text)),
    }
}

#[cfg(feature = "cli")]
fn home() -> Option<PathBuf> {
    dirs::home_dir()
}

#[cfg(not(feature = "cli"))]
fn home() -> Option<PathBuf> {
    None
}

impl Hub {
    /// The cache of this user: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`, as in
    /// huggingface_hub.
    ///
    /// # Errors
    /// [`Error::Input`] if the user has no home directory.
    pub fn of_environment() -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(home()?.join(".cache")));
        variable("HF_HUB_CACHE")
            .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(variable("HF_HOME")?.join("hub")))
            .or_else(|| Some(cache()?.join("huggingface").join("hub")))
            .map(Self)
            .ok_or_else(|| Error::input("there is no home directory with a cache of the hub: set HF_HOME"))
    }

    /// The folder of a model, `org/name`: the snapshot that `refs/main` names, else the newest one with a model.
    ///
    /// # Errors
    /// [`Error::Input`] if it is missing, with how to download it.
    pub fn find(&self, model: &str) -> Result<PathBuf> {
        let folder = self.0.join(format!("models--{}", model.replace('/', "--")));
        let snapshots = folder.join("snapshots");
        let commit = std::fs::read_to_string(folder.join("refs").join("main")).unwrap_or_default();
        let commit = commit.trim();
        let is_plain = !commit.is_empty() && commit.chars().all(|letter| letter.is_ascii_alphanumeric());
        let referred = Some(snapshots.join(commit)).filter(|path| is_plain && path.is_dir());
        referred.or_else(|| newest(&snapshots)).ok_or_else(|| {
            let parent = self.0.display();
            let name = model.split('/').next_back().unwrap_or(model);
            Error::input(format!(
                "{model} is neither a file nor in the cache {parent}, and nothing is downloaded here: accept its licence \
                 at https://huggingface.co/{model}, then fetch it with `huggingface-cli download {model}` (or `hf \
                 download {model}`), or with `git clone https://huggingface.co/{model}` (with git-lfs) and use the \
                 directory {name}"
            ))
        })
    }
}

/// The newest folder that contains a model.
fn newest(snapshots: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(snapshots).into_iter().flatten().flatten().map(|entry| entry.path());
    let has_model = |path: &PathBuf| path.join(MODEL_INDEX).exists() || path.join(CONFIG).exists();
    let time =
        |path: &PathBuf| std::fs::metadata(path).and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut found: Vec<PathBuf> = entries.filter(has_model).collect();
    found.sort();
    found.into_iter().max_by_key(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_hub_are_distinguished_from_paths() {
        for name in ["stabilityai/stable-diffusion-3.5-medium", "a/b", "MiniT2I/MiniT2I"] {
            assert!(is_hub_name(name), "{name}");
        }
        // The last one exists here.
        let paths =
            ["model", "/a/b", "a/b/c", "./a", "../a", "a/", "a/model.safetensors", "a b/c", "builtin:a/b", "src/model"];
        for path in paths {
            assert!(!is_hub_name(path), "{path}");
        }
    }
}

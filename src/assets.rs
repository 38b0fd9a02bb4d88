//! Loads models by name.

use std::borrow::Cow;
use std::path::Path;

use crate::config::builtin;
use crate::error::{Error, Result};
use crate::model::Model;

/// The file that a run writes at its end.
const MODEL: &str = "model.safetensors";

/// Loads a native model: a file, `builtin:NAME`, or the directory of a run or of its best model, which stands for its
/// `model.safetensors`.
///
/// # Errors
/// [`Error::Input`] naming the file, tensor or built-in name that is wrong.
pub fn load_model(file: &str) -> Result<Model> {
    match builtin(file)? {
        Some(bytes) => Model::from_bytes(file, bytes),
        None => Model::load(&model_file(Path::new(file))?),
    }
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

//! Text-to-image models that are compiled into the program, as folders like any other.

use std::path::{Path, PathBuf};

use crate::cache;
use crate::config::{BuiltinFile, builtin_folder};
use crate::error::{Error, Result};
use crate::files::write_atomically;

/// The folder of the model `builtin:NAME`, which is unpacked into the user's cache folder unless it is there; `None` if
/// `model` is something else.
///
/// # Errors
/// If it cannot be unpacked.
pub(super) fn unpacked(model: &str) -> Result<Option<PathBuf>> {
    let Some(files) = builtin_folder(model) else { return Ok(None) };
    let cache = cache::directory().unwrap_or_else(std::env::temp_dir);
    unpack(&cache, model, files).map(Some)
}

/// The folder in a cache that has exactly these files.
fn unpack(cache: &Path, model: &str, files: &[BuiltinFile]) -> Result<PathBuf> {
    // Another version of the program has another model.
    let mut crc32 = crc32fast::Hasher::new();
    files.iter().for_each(|(_, bytes)| crc32.update(bytes));
    let folder = cache.join(format!("{}-{:08x}", model.replace(':', "-"), crc32.finalize()));
    for (name, bytes) in files {
        let path = folder.join(name);
        // Whatever happened to the file, the model is the one in the program.
        if std::fs::read(&path).is_ok_and(|found| found == *bytes) {
            continue;
        }
        let inside = path.parent().expect("it is in the folder");
        let written = std::fs::create_dir_all(inside).map_err(|cause| Error::unwritable(inside, cause));
        written.and_then(|()| write_atomically(&path, bytes)).map_err(|cause| {
            cause.followed_by(&format!(
                "; {model} is unpacked there: set FLOWDPPO_CACHE_DIR to a folder that can be written"
            ))
        })?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_has_the_files_of_the_program_whatever_was_there() {
        let cache = tempfile::tempdir().unwrap();
        let files: [BuiltinFile; 2] = [("index", b"1"), ("part/weights", b"23")];
        let folder = unpack(cache.path(), "builtin:it", &files).unwrap();
        assert_eq!(std::fs::read(folder.join("part/weights")).unwrap(), b"23");
        std::fs::write(folder.join("index"), "changed").unwrap();
        assert_eq!(unpack(cache.path(), "builtin:it", &files).unwrap(), folder);
        assert_eq!(std::fs::read(folder.join("index")).unwrap(), b"1");
        assert_ne!(
            unpack(cache.path(), "builtin:it", &files[..1]).unwrap(),
            folder,
            "another model has another folder"
        );
        std::fs::write(cache.path().join("file"), "").unwrap();
        let message = unpack(&cache.path().join("file"), "builtin:it", &files).unwrap_err().to_string();
        assert!(message.contains("set FLOWDPPO_CACHE_DIR"), "{message}");
        assert_eq!(unpacked("builtin:digits8-base").unwrap(), None);
    }
}

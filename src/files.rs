//! Files that are either whole or absent, whatever moment the power goes, and files that are really where they seem.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Replaces the file at `path` by one that holds `bytes`.
///
/// A reader sees the old file or the new one and never a part of either: the bytes go to a temporary
/// file in the same folder, reach the disk, and take the name in one step.
///
/// # Errors
/// [`Error::Failed`] if the folder is missing or not writable, or the disk is full. What stood at `path`
/// is then untouched.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = parent(path);
    let write = || -> std::io::Result<()> {
        let mut file = temporary_file(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        sync_folder(folder)
    };
    write().map_err(|cause| Error::unwritable(path, cause))
}

/// Writes a file that nobody reads until something else names it, and waits until it is on the disk.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|cause| Error::unwritable(path, cause))
}

/// Makes renames and removals in `folder` survive a power cut.
///
/// Only Unix lets a folder be opened and synced; elsewhere the file system's own journal orders them.
pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    std::fs::File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// What is called `name` within `folder`, if it is there and no link: one could lead anywhere. A `/` leads into folders,
/// which must be none either.
pub(crate) fn own(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut path = folder.to_owned();
    for part in name.split('/') {
        path.push(part);
        if std::fs::symlink_metadata(&path).ok()?.is_symlink() {
            return None;
        }
    }
    Some(path)
}

/// As [`own`], of an ordinary file.
pub(crate) fn own_file(folder: &Path, name: &str) -> Option<PathBuf> {
    own(folder, name).filter(|path| path.is_file())
}

/// All bytes of an ordinary file. A device or a pipe could be read for ever.
///
/// # Errors
/// [`Error::Input`] if it is not there, not an ordinary file, or cannot be read.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let kind = std::fs::metadata(path).map_err(|cause| Error::unreadable(path, cause))?.file_type();
    if !kind.is_file() {
        let what = if kind.is_dir() { "a directory" } else { "a device or a pipe" };
        return Err(Error::unreadable(path, format!("it is {what}, but a file is needed")));
    }
    std::fs::read(path).map_err(|cause| Error::unreadable(path, cause))
}

/// The folder that holds `path`; the current one for a bare file name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A temporary file is private by default; this one becomes an ordinary file, so the umask decides.
fn temporary_file(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.prefix(".writing-").tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_a_file_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        write_atomically(&path, b"a much longer first version").unwrap();
        write_atomically(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(names(folder.path()), ["state.json"]);
    }

    #[test]
    fn a_failed_write_names_the_file_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("nowhere").join("grid.png");
        let message = write_atomically(&missing, b"x").unwrap_err().to_string();
        assert!(message.contains("grid.png"), "{message}");

        // A folder cannot be replaced by a file: the write fails at its last step.
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        std::fs::write(taken.join("inside"), b"kept").unwrap();
        write_atomically(&taken, b"x").unwrap_err();
        assert_eq!(names(folder.path()), ["taken"]);
        assert_eq!(std::fs::read(taken.join("inside")).unwrap(), b"kept");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_behind_a_link_is_not_a_folders_own() {
        use std::os::unix::fs::symlink;
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = folder.path();
        std::fs::create_dir(path.join("inner")).unwrap();
        for file in [path.join("a"), path.join("inner/b"), outside.path().join("c")] {
            std::fs::write(file, b"x").unwrap();
        }
        symlink(outside.path(), path.join("out")).unwrap();
        symlink(outside.path().join("c"), path.join("inner/link")).unwrap();
        for name in ["a", "inner/b"] {
            assert_eq!(own_file(path, name), Some(path.join(name)));
        }
        assert_eq!((own(path, "inner"), own_file(path, "inner")), (Some(path.join("inner")), None));
        for name in ["out", "out/c", "inner/link", "nowhere", "a/nowhere"] {
            assert_eq!(own(path, name), None, "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_written_file_has_the_permissions_of_an_ordinary_one() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write_atomically(&ours, b"x").unwrap();
        std::fs::write(&plain, b"x").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}

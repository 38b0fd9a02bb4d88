//! Files that are either whole or absent, whatever moment the power goes, and files that are really where they seem.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Text that a user wrote, from the bytes of a file: UTF-8, with or without a byte order mark in front, which is left out.
///
/// # Errors
/// Which other encoding it is in, or where it is no text, and how to fix it.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, String> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("it is text in UTF-16: save it as UTF-8".into());
    }
    let bytes = without_mark(bytes);
    std::str::from_utf8(bytes).map_err(|cause| {
        let at = cause.valid_up_to();
        let line = 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count();
        format!("line {line} is not UTF-8 (it has the byte 0x{:02X}): save the file as UTF-8", bytes[at])
    })
}

/// Bytes without the mark of UTF-8 at their beginning, which Windows' programs like to write.
pub(crate) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The text of a user's file: see [`text`].
///
/// # Errors
/// [`Error::Input`] naming the file if it cannot be read or is no text.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|cause| Error::unreadable(path, cause))?;
    text(&bytes).map(str::to_owned).map_err(|cause| Error::unreadable(path, cause))
}

/// Replaces the file at `path` by one that holds `bytes`.
///
/// A reader sees the old file or the new one and never a part of either: the bytes go to a temporary
/// file in the same folder, reach the disk, and take the name in one step.
///
/// # Errors
/// [`Error::Failed`] if the folder is missing or not writable, or the disk is full. What stood at `path`
/// is then untouched.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    fill_atomically(path, |file| file.write_all(bytes).map_err(|cause| Error::unwritable(path, cause)))
}

/// As [`write_atomically`] for a file that is too large for the memory: `fill` writes it piece by piece.
///
/// # Errors
/// As [`write_atomically`], and whatever `fill` returns.
pub(crate) fn fill_atomically(path: &Path, fill: impl FnOnce(&mut std::fs::File) -> Result<()>) -> Result<()> {
    let unwritable = |cause| Error::unwritable(path, cause);
    let folder = parent(path);
    let mut file = temporary_file(folder).map_err(unwritable)?;
    // Tells `remove_abandoned` that the writer lives. Where there are no locks, nothing is lost without one.
    let _ = file.as_file().try_lock();
    fill(file.as_file_mut())?;
    let finish = || -> std::io::Result<()> {
        file.as_file().sync_all()?;
        file.persist(path)?;
        sync_folder(folder)
    };
    finish().map_err(unwritable)
}

/// Writes a file that is not read until something else refers to it, and waits until it is on the disk.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|cause| Error::unwritable(path, cause))
}

/// Appends to a file that others read line by line or record by record: all of `bytes` or, if the disk refuses, nothing.
pub(crate) fn append_whole(file: &mut std::fs::File, bytes: &[u8]) -> std::io::Result<()> {
    let before = file.metadata()?.len();
    // One unbuffered write: a crash truncates at most the last record.
    file.write_all(bytes).inspect_err(|_| drop(file.set_len(before)))
}

/// Removes the temporary files of [`write_atomically`] that a killed process left in `folder`. Those of a process that
/// is still writing stay. Failing to remove one is no failure.
pub(crate) fn remove_abandoned(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(TEMPORARY)) {
        let path = entry.path();
        let is_abandoned = || {
            let file = std::fs::File::options().read(true).write(true).open(&path).ok()?;
            file.try_lock().ok()
        };
        if entry.file_type().is_ok_and(|kind| kind.is_file()) && is_abandoned().is_some() {
            match std::fs::remove_file(&path) {
                Ok(()) => log::info!("removed {}, which a killed process left", path.display()),
                Err(cause) => log::warn!("cannot remove {}: {cause}", path.display()),
            }
        }
    }
}

/// What the names of temporary files begin with.
const TEMPORARY: &str = ".writing-";

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
/// which must not be links either.
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
    builder.prefix(TEMPORARY).tempfile_in(folder)
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
    fn text_is_utf_8_with_or_without_a_mark() {
        assert_eq!(text("\u{feff}größe".as_bytes()), Ok("größe"));
        assert_eq!(text(b""), Ok(""));
        // A mark that is not in front is a character like any other.
        assert_eq!(text("a\u{feff}".as_bytes()), Ok("a\u{feff}"));
        for (bytes, expected) in [
            (b"\xff\xfe0\0".as_slice(), "UTF-16"),
            (b"\xfe\xff\x000", "UTF-16"),
            (b"a\nb\ngr\xf6\xdfe\n", "line 3 is not UTF-8 (it has the byte 0xF6): save the file as UTF-8"),
            // Cut within a character.
            (b"\xef\xbb\xbfgr\xc3", "line 1 is not UTF-8 (it has the byte 0xC3)"),
        ] {
            let cause = text(bytes).unwrap_err();
            assert!(cause.contains(expected), "{cause}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.txt");
        std::fs::write(&path, b"\xff\xfe0\0").unwrap();
        let message = read_text(&path).unwrap_err().to_string();
        assert!(message.contains("labels.txt: it is text in UTF-16"), "{message}");
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

    #[test]
    fn only_abandoned_temporary_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".writing-dead", ".writing-live", ".other", "metrics.jsonl"] {
            std::fs::write(folder.path().join(name), b"x").unwrap();
        }
        let live = std::fs::File::options().write(true).open(folder.path().join(".writing-live")).unwrap();
        live.lock().unwrap();
        remove_abandoned(folder.path());
        assert_eq!(names(folder.path()), [".other", ".writing-live", "metrics.jsonl"]);
        drop(live);
        remove_abandoned(folder.path());
        assert_eq!(names(folder.path()), [".other", "metrics.jsonl"]);
        remove_abandoned(&folder.path().join("nowhere"));
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

//! Repairs append-only files after a crash: truncated parts are cut off and reported.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::DAMAGE;
use crate::files::write_atomically;
use crate::{Error, Result};

/// Removes every incomplete line of a file, and adds a missing line end to the last one. A missing file is fine.
///
/// # Errors
/// [`Error::Failed`] if the file cannot be read or written.
pub(super) fn lines(path: &Path, is_complete: impl Fn(&[u8]) -> bool) -> Result<()> {
    lines_from(path, 0, |line, _| is_complete(line))
}

/// As [`lines`], for the lines after the first `start` bytes. `is_complete` is also told whether the line has its end.
pub(super) fn lines_from(path: &Path, start: usize, is_complete: impl Fn(&[u8], bool) -> bool) -> Result<()> {
    let Some(bytes) = read(path)? else { return Ok(()) };
    let mut kept = bytes[..start].to_vec();
    let mut removed = Vec::new();
    let first = 1 + kept.iter().filter(|byte| **byte == b'\n').count();
    for (number, line) in (first..).zip(bytes[start..].split_inclusive(|byte| *byte == b'\n')) {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if is_complete(text, text.len() < line.len()) {
            kept.extend_from_slice(text);
            kept.push(b'\n');
        } else if !text.iter().all(u8::is_ascii_whitespace) {
            removed.push(number);
        }
    }
    if kept == bytes {
        return Ok(());
    }
    write_atomically(path, &kept)?;
    if let [first, more @ ..] = &removed[..] {
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        log::warn!(target: DAMAGE, "{}: line {first}{more} was truncated by a crash and is cut off", path.display());
    }
    Ok(())
}

/// Cuts off what was truncated at the end of the event files in a folder.
///
/// # Errors
/// [`Error::Failed`] if a file cannot be read or written.
pub(super) fn event_files(folder: &Path) -> Result<()> {
    for path in files(folder)? {
        let Some(bytes) = read(&path)? else { continue };
        let whole = super::tensorboard::complete_records(&bytes);
        if whole < bytes.len() {
            let cut = || fs::File::options().write(true).open(&path)?.set_len(whole as u64);
            cut().map_err(|cause| Error::unwritable(&path, cause))?;
            let lost = bytes.len() - whole;
            log::warn!(target: DAMAGE, "{}: its last {lost} bytes, truncated by a crash, are cut off", path.display());
        }
    }
    Ok(())
}

/// The event files in a folder, which may be missing.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|cause| Error::unwritable(folder, cause))?,
    };
    let is_event_file = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("events.out.tfevents."))
            && path.is_file()
    };
    Ok(entries.flatten().map(|entry| entry.path()).filter(is_event_file).collect())
}

/// The content of a file, if it is there.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::unwritable(path, cause)),
    }
}

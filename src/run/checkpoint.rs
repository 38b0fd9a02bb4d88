//! Checkpoints that survive a crash at any moment.
//!
//! A checkpoint is a folder `NNNNNN` (the number of finished iterations) of files and a
//! `manifest.json` with the size and CRC-32 of each. It is written under a hidden name, every file
//! synced and the manifest last, and then renamed in one step. A checkpoint is complete if its manifest
//! agrees with its files; the folder's name only says which iteration it is. So a complete folder that a
//! crash left under its hidden name is as good as any other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::DAMAGE;
use crate::files::{Content, measure, read_file, sync_folder, write_synced};
use crate::{Error, Result};

const MANIFEST: &str = "manifest.json";

/// What a complete checkpoint consists of.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    iteration: u64,
    files: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    size: u64,
    crc32: u32,
}

/// A complete, verified checkpoint. Its files stay on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedCheckpoint {
    /// How many iterations were finished when it was written.
    pub iteration: u64,
    /// The folder it was read from.
    pub path: PathBuf,
    files: BTreeSet<String>,
}

impl LoadedCheckpoint {
    /// Whether it has a file of that name.
    pub fn has(&self, name: &str) -> bool {
        self.files.contains(name)
    }

    /// Where one of its files is.
    ///
    /// # Errors
    /// [`Error::Input`] if the checkpoint has no file of that name.
    pub fn path_of(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        match self.has(name) {
            true => Ok(path),
            false => Err(Error::unreadable(&path, "this checkpoint was written without it")),
        }
    }

    /// The bytes of one of its files, a small one.
    ///
    /// # Errors
    /// As [`LoadedCheckpoint::path_of`], and if it can no longer be read.
    pub fn file(&self, name: &str) -> Result<Vec<u8>> {
        read_file(&self.path_of(name)?)
    }
}

/// Writes the checkpoint of `iteration` into the folder `checkpoints`, replacing one of the same iteration, and then
/// removes all but the `keep` newest up to this one (0 keeps all). The folder is created if missing, but its parent
/// must exist: the directory of a deleted run does not come back in part.
///
/// # Errors
/// [`Error::Failed`] if a file cannot be written, and those of the files' contents; existing checkpoints then stay.
pub fn save<C: Content>(checkpoints: &Path, iteration: u64, files: &[(&str, C)], keep: usize) -> Result<()> {
    let target = checkpoints.join(folder_name(iteration));
    let hidden = |kind: &str| checkpoints.join(format!(".{}.{kind}-{}", folder_name(iteration), std::process::id()));
    let (temporary, replaced) = (hidden("tmp"), hidden("old"));
    let unwritable = |cause| Error::unwritable(&target, cause);

    remove_if_present(&temporary).map_err(unwritable)?;
    create_if_missing(checkpoints).and_then(|()| fs::create_dir(&temporary)).map_err(unwritable)?;
    // Leave nothing behind: the disk may be full.
    write_all(&temporary, iteration, files).inspect_err(|_| drop(remove_if_present(&temporary)))?;

    let publish = || -> std::io::Result<()> {
        sync_folder(&temporary)?;
        // A rename cannot replace a folder with files. Between these two renames the new checkpoint has only
        // its hidden name, under which `latest` also finds it.
        if target.exists() {
            remove_if_present(&replaced)?;
            fs::rename(&target, &replaced)?;
        }
        fs::rename(&temporary, &target)?;
        sync_folder(checkpoints)
    };
    publish().map_err(unwritable)?;
    tidy(checkpoints, iteration, keep);
    Ok(())
}

/// Writes the files of a checkpoint, the manifest last.
fn write_all(folder: &Path, iteration: u64, files: &[(&str, impl Content)]) -> Result<()> {
    let mut manifest = Manifest { iteration, files: Vec::new() };
    for (name, content) in files {
        let written = write_synced(&folder.join(name), content)?;
        let (size, crc32) = (written.size, written.crc32.finalize());
        manifest.files.push(Entry { name: (*name).to_owned(), size, crc32 });
    }
    let path = folder.join(MANIFEST);
    let manifest = serde_json::to_vec_pretty(&manifest).map_err(|cause| Error::unwritable(&path, cause))?;
    write_synced(&path, &manifest).map(drop)
}

/// After a kill: publishes a complete checkpoint that has only its hidden name, and removes incomplete ones. Only for
/// the process that holds the lock. Failures are only logged.
pub(super) fn recover(checkpoints: &Path) {
    let hidden = list(checkpoints).unwrap_or_default().into_iter().filter(|entry| !entry.published);
    for found in hidden.rev() {
        let target = checkpoints.join(folder_name(found.iteration));
        let tidied = match !target.exists() && load(&found).is_ok() {
            true => fs::rename(&found.path, &target),
            false => remove_if_present(&found.path),
        };
        if let Err(cause) = tidied {
            log::warn!("cannot tidy up {}: {cause}", found.path.display());
        }
    }
}

/// The newest iteration with a published checkpoint, judging by names.
pub fn newest_published(checkpoints: &Path) -> Option<u64> {
    let published = list(checkpoints).unwrap_or_default().into_iter().filter(|entry| entry.published);
    published.filter(|entry| entry.path.join(MANIFEST).is_file()).map(|entry| entry.iteration).max()
}

/// Reads the newest checkpoint that is complete and whose files have the recorded sizes and hashes.
/// A damaged one is skipped with a warning, and the one before it is tried.
///
/// # Errors
/// [`Error::Input`] if the folder exists but cannot be listed, or it contains checkpoints and every one
/// of them is damaged.
pub fn latest(checkpoints: &Path) -> Result<Option<LoadedCheckpoint>> {
    let mut damaged = 0_usize;
    for found in list(checkpoints)?.into_iter().rev() {
        match load(&found) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            // Losing an unfinished checkpoint is fine.
            Err(cause) if !found.published => log::debug!("{}: {cause}", found.path.display()),
            Err(cause) => {
                damaged += 1;
                log::warn!(target: DAMAGE, "checkpoint {} is damaged, skipped: {cause}", found.path.display());
            }
        }
    }
    if damaged > 0 {
        return Err(Error::input(format!(
            "no checkpoint in {} is intact: restore one from a copy, or start over with another --out",
            checkpoints.display()
        )));
    }
    Ok(None)
}

/// Whether a folder is a checkpoint, by its name and its manifest.
pub fn is_checkpoint(folder: &Path) -> bool {
    found_in(folder).is_some() && folder.join(MANIFEST).is_file()
}

/// Reads one checkpoint, and verifies sizes and hashes of its files.
///
/// # Errors
/// [`Error::Input`] if it is not a checkpoint, or is damaged.
pub fn read(folder: &Path) -> Result<LoadedCheckpoint> {
    let damaged = |cause: &str| Error::input(format!("{} is not a complete checkpoint: {cause}", folder.display()));
    let found = found_in(folder).ok_or_else(|| damaged("its name is not the number of an iteration"))?;
    load(&found).map_err(|cause| damaged(&cause))
}

fn found_in(folder: &Path) -> Option<Found> {
    // A path like `.` needs the name of its folder.
    let whole = fs::canonicalize(folder).ok()?;
    let (iteration, published) = whole.file_name()?.to_str().and_then(parse_folder_name)?;
    Some(Found { iteration, published, path: folder.to_owned() })
}

/// A folder with the name of a checkpoint, or of one that was being written or replaced.
///
/// The order is oldest first; of one iteration, the published folder comes after the hidden ones.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    iteration: u64,
    published: bool,
    path: PathBuf,
}

/// Every checkpoint folder, complete or not, oldest first. A missing parent folder has none.
fn list(checkpoints: &Path) -> Result<Vec<Found>> {
    let entries = match fs::read_dir(checkpoints) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(Error::unreadable(checkpoints, cause)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|cause| Error::unreadable(checkpoints, cause))?;
        let name = entry.file_name();
        if let Some((iteration, published)) = name.to_str().and_then(parse_folder_name) {
            found.push(Found { iteration, published, path: entry.path() });
        }
    }
    found.sort();
    Ok(found)
}

/// Reads and verifies one checkpoint; the error says what is wrong with it.
fn load(found: &Found) -> std::result::Result<LoadedCheckpoint, String> {
    let unreadable = |name: &str, cause| format!("{name} cannot be read: {cause}");
    let manifest = fs::read(found.path.join(MANIFEST)).map_err(|cause| unreadable(MANIFEST, cause))?;
    let manifest: Manifest =
        serde_json::from_slice(&manifest).map_err(|cause| format!("{MANIFEST} does not parse: {cause}"))?;
    if manifest.iteration != found.iteration {
        return Err(format!("{MANIFEST} is for iteration {}", manifest.iteration));
    }
    let mut files = BTreeSet::new();
    for Entry { name, size, crc32 } in manifest.files {
        let measured = measure(&found.path.join(&name)).map_err(|cause| unreadable(&name, cause))?;
        if measured.size != size {
            return Err(format!("{name} has {} bytes instead of {size}", measured.size));
        }
        if measured.crc32.finalize() != crc32 {
            return Err(format!("the content of {name} does not match its recorded checksum"));
        }
        files.insert(name);
    }
    Ok(LoadedCheckpoint { iteration: found.iteration, path: found.path.clone(), files })
}

/// After a successful save: removes what crashes left half-written, and all but the `keep` newest
/// checkpoints up to `iteration`. A newer one (such as a damaged one that was skipped on resume) stays
/// until its iteration is saved again. Failing to remove something is not an error.
fn tidy(checkpoints: &Path, iteration: u64, keep: usize) {
    let Ok(found) = list(checkpoints) else { return };
    let (published, hidden): (Vec<_>, Vec<_>) = found.into_iter().partition(|entry| entry.published);
    let older = published.into_iter().rev().filter(|entry| entry.iteration <= iteration);
    let surplus = older.skip(if keep == 0 { usize::MAX } else { keep });
    for Found { path, .. } in surplus.chain(hidden) {
        if let Err(cause) = remove_if_present(&path) {
            log::warn!("cannot remove {}: {cause}", path.display());
        }
    }
}

pub(super) fn create_if_missing(folder: &Path) -> std::io::Result<()> {
    match fs::create_dir(folder) {
        Err(cause) if cause.kind() != std::io::ErrorKind::AlreadyExists => Err(cause),
        _ => Ok(()),
    }
}

fn remove_if_present(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

fn folder_name(iteration: u64) -> String {
    format!("{iteration:06}")
}

/// The iteration, and whether the name is the published one: `000012` or `.000012.tmp-4711`.
fn parse_folder_name(name: &str) -> Option<(u64, bool)> {
    let (digits, published) = match name.strip_prefix('.') {
        None => (name, true),
        Some(rest) => {
            let (digits, kind) = rest.split_once('.')?;
            if !kind.starts_with("tmp-") && !kind.starts_with("old-") {
                return None;
            }
            (digits, false)
        }
    };
    let iteration = digits.parse().ok()?;
    // Only the exact spelling: `12` or `+00012` is somebody else's folder.
    (folder_name(iteration) == digits).then_some((iteration, published))
}

#[cfg(test)]
mod tests;

//! Checkpoints that a crash at any moment cannot spoil.
//!
//! A checkpoint is a folder `NNNNNN` (the number of finished iterations) of files and a
//! `manifest.json` with the size and CRC-32 of each. It is written under a hidden name, every file
//! synced and the manifest last, and then takes its name in one step. What makes a checkpoint complete
//! is the manifest that agrees with the files; the folder's name only says which iteration it is. So a
//! complete folder that a crash left under its hidden name is as good as any.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::DAMAGE;
use crate::files::{sync_folder, write_synced};
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

/// A complete, verified checkpoint in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedCheckpoint {
    /// How many iterations were finished when it was written.
    pub iteration: u64,
    /// The folder it was read from.
    pub path: PathBuf,
    files: BTreeMap<String, Vec<u8>>,
}

impl LoadedCheckpoint {
    /// Whether it has a file of that name.
    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The bytes of one of its files.
    ///
    /// # Errors
    /// [`Error::Input`] if the checkpoint has no file of that name.
    pub fn file(&self, name: &str) -> Result<&[u8]> {
        self.files.get(name).map(Vec::as_slice).ok_or_else(|| {
            let path = self.path.join(name);
            Error::unreadable(&path, "this checkpoint was written without it")
        })
    }
}

/// Writes the checkpoint of `iteration` into the folder `checkpoints` (created if missing, within one that exists: a run
/// whose directory was deleted does not come back as a part of itself), replacing
/// one of the same iteration, and then removes all but the `keep` newest up to this one (0 keeps all).
///
/// # Errors
/// [`Error::Failed`] if the disk refuses; the checkpoints that were there are then still there.
pub fn save(checkpoints: &Path, iteration: u64, files: &[(&str, Vec<u8>)], keep: usize) -> Result<()> {
    let target = checkpoints.join(folder_name(iteration));
    let hidden = |kind: &str| checkpoints.join(format!(".{}.{kind}-{}", folder_name(iteration), std::process::id()));
    let (temporary, replaced) = (hidden("tmp"), hidden("old"));
    let unwritable = |cause| Error::unwritable(&target, cause);

    remove_if_present(&temporary).map_err(unwritable)?;
    create_if_missing(checkpoints).and_then(|()| fs::create_dir(&temporary)).map_err(unwritable)?;
    // A disk that refuses must not be left fuller than it was.
    write_all(&temporary, iteration, files).inspect_err(|_| drop(remove_if_present(&temporary)))?;

    let publish = || -> std::io::Result<()> {
        sync_folder(&temporary)?;
        // A full folder cannot be renamed over. Between these two renames the new checkpoint has only
        // its hidden name, under which `latest` finds it too.
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
fn write_all(folder: &Path, iteration: u64, files: &[(&str, Vec<u8>)]) -> Result<()> {
    let mut manifest = Manifest { iteration, files: Vec::new() };
    for (name, bytes) in files {
        write_synced(&folder.join(name), bytes)?;
        manifest.files.push(Entry {
            name: (*name).to_owned(),
            size: bytes.len() as u64,
            crc32: crc32fast::hash(bytes),
        });
    }
    let path = folder.join(MANIFEST);
    let manifest = serde_json::to_vec_pretty(&manifest).map_err(|cause| Error::unwritable(&path, cause))?;
    write_synced(&path, &manifest)
}

/// After a kill: gives a complete checkpoint that has only its hidden name the published one, and removes what is
/// incomplete. For the process that alone works here. Failing to do so is no failure.
pub(super) fn recover(checkpoints: &Path) {
    let hidden = list(checkpoints).unwrap_or_default().into_iter().filter(|it| !it.published);
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

/// The newest iteration with a published checkpoint, as far as names tell.
pub fn newest_published(checkpoints: &Path) -> Option<u64> {
    let published = list(checkpoints).unwrap_or_default().into_iter().filter(|it| it.published);
    published.filter(|it| it.path.join(MANIFEST).is_file()).map(|it| it.iteration).max()
}

/// Reads the newest checkpoint that is complete and whose files have the recorded sizes and hashes.
/// A damaged one is skipped with a warning, and the one before it is tried.
///
/// # Errors
/// [`Error::Input`] if the folder exists but cannot be listed, or it holds checkpoints and every one
/// of them is damaged.
pub fn latest(checkpoints: &Path) -> Result<Option<LoadedCheckpoint>> {
    let mut damaged = 0_usize;
    for found in list(checkpoints)?.into_iter().rev() {
        match load(&found) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            // Losing what was never finished is fine.
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

/// Whether a folder is, by its name and its manifest, a checkpoint.
pub fn is_checkpoint(folder: &Path) -> bool {
    found_in(folder).is_some() && folder.join(MANIFEST).is_file()
}

/// Reads one checkpoint, and verifies sizes and hashes of its files.
///
/// # Errors
/// [`Error::Input`] if it is none, or is damaged.
pub fn read(folder: &Path) -> Result<LoadedCheckpoint> {
    let damaged = |cause: &str| Error::input(format!("{} is not a complete checkpoint: {cause}", folder.display()));
    let found = found_in(folder).ok_or_else(|| damaged("its name is not the number of an iteration"))?;
    load(&found).map_err(|cause| damaged(&cause))
}

fn found_in(folder: &Path) -> Option<Found> {
    // The name of a path like `.` is that of the place.
    let whole = fs::canonicalize(folder).ok()?;
    let (iteration, published) = whole.file_name()?.to_str().and_then(parse_folder_name)?;
    Some(Found { iteration, published, path: folder.to_owned() })
}

/// A folder that is, by its name, a checkpoint, or was about to become or to cease to be one.
///
/// The order is oldest first; of one iteration, the published folder comes after the hidden ones.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    iteration: u64,
    published: bool,
    path: PathBuf,
}

/// Every checkpoint folder, whole or not, oldest first. A missing parent folder holds none.
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
    let read = |name: &str| fs::read(found.path.join(name)).map_err(|cause| format!("{name} cannot be read: {cause}"));
    let manifest: Manifest =
        serde_json::from_slice(&read(MANIFEST)?).map_err(|cause| format!("{MANIFEST} does not parse: {cause}"))?;
    if manifest.iteration != found.iteration {
        return Err(format!("{MANIFEST} is of iteration {}", manifest.iteration));
    }
    let mut files = BTreeMap::new();
    for Entry { name, size, crc32 } in manifest.files {
        let bytes = read(&name)?;
        if bytes.len() as u64 != size {
            return Err(format!("{name} has {} bytes instead of {size}", bytes.len()));
        }
        if crc32fast::hash(&bytes) != crc32 {
            return Err(format!("the content of {name} does not match its recorded checksum"));
        }
        files.insert(name, bytes);
    }
    Ok(LoadedCheckpoint { iteration: found.iteration, path: found.path.clone(), files })
}

/// After a successful save: removes what crashes left half-written, and all but the `keep` newest
/// checkpoints up to `iteration`. A newer one is not ours to judge (a damaged one that was skipped on
/// resume, say) and stays until its iteration comes round again. Failing to remove it is not an error.
fn tidy(checkpoints: &Path, iteration: u64, keep: usize) {
    let Ok(found) = list(checkpoints) else { return };
    let (published, hidden): (Vec<_>, Vec<_>) = found.into_iter().partition(|it| it.published);
    let older = published.into_iter().rev().filter(|it| it.iteration <= iteration);
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

//! `inputs.json`: the files that a run depends on, with their checksums, so that a resumed run never continues with
//! different ones unnoticed.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{Command, Config};
use crate::files::write_atomically;
use crate::text::quoted;
use crate::{Error, Result};

/// How deep folders are searched: a folder of pictures has one per class.
const DEPTH: usize = 3;
/// The size up to which all bytes of a file count. A larger one, such as a text encoder of gigabytes, is read in pieces.
const WHOLE: u64 = 256 << 20;
/// Pieces of a larger file, from its first byte to its last.
const PIECES: u64 = 64;
/// Bytes of a piece.
const PIECE: u64 = 1 << 20;
/// How many changed files a message names.
const NAMED: usize = 8;

/// What a command depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// The command, as on the command line.
    pub command: String,
    /// The files.
    pub files: Vec<Input>,
}

/// A file or a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The key of the configuration that names it.
    pub key: String,
    /// Its path, absolute; of a model in the hub's cache, below its name there.
    pub path: PathBuf,
    /// Size in bytes; for a folder, of all files in it.
    pub size: u64,
    /// CRC-32C, of a file above 256 MiB of 64 pieces of 1 MiB, evenly spaced; for a folder, of the names, sizes and
    /// checksums of all files in it.
    pub crc32c: u32,
}

/// A file inside a folder that a configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// The key of the configuration that names the folder.
    pub key: String,
    /// Its path, as [`Input`] has it.
    pub path: PathBuf,
    /// Where it is.
    pub place: PathBuf,
}

impl Inputs {
    /// What `command` depends on with this configuration, and `more`, as it is now. Missing files are left out: whatever
    /// needs them reports them.
    pub fn of(config: &Config, command: Command, more: Vec<InputFile>) -> Self {
        let named = config.anchored().inputs(command).into_iter();
        let named = named.map(|(key, path)| InputFile { key, place: path.clone(), path });
        let measured = |InputFile { key, path, place }: InputFile| {
            let (size, crc32c) = measure(&place).ok()?;
            Some(Input { key, path, size, crc32c })
        };
        Self { command: command.name().to_owned(), files: named.chain(more).filter_map(measured).collect() }
    }

    /// Reads them back; `None` for a run of a version that wrote none.
    ///
    /// # Errors
    /// [`Error::Input`] if the file cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match fs::read(path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(Error::unreadable(path, cause)),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|cause| {
                Error::unreadable(
                    path,
                    format!("{cause}; restore it from a copy, or remove it to continue without checks"),
                )
            }),
        }
    }

    /// Writes them.
    ///
    /// # Errors
    /// [`Error::Failed`] if the disk cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|cause| Error::unwritable(path, cause))?;
        write_atomically(path, &text)
    }

    /// Checks that a run in `directory` is resumed by the command that started it.
    ///
    /// # Errors
    /// [`Error::Input`] that names the right command.
    pub fn check_command(&self, command: Command, directory: &Path) -> Result<()> {
        if self.command == command.name() {
            return Ok(());
        }
        let (path, started, quoted) = (directory.display(), &self.command, quoted(directory));
        Err(Error::input(format!(
            "{path} contains a run of {started}, not of {command}: continue with: flowdppo-wgpu {started} --resume --out \
             {quoted}"
        )))
    }

    /// The files that both name with the same key and whose content differs now, one line each.
    pub fn changes(&self, now: &Self) -> Vec<String> {
        let change = |then: &Input| {
            let now = now.files.iter().find(|now| now.key == then.key && now.path == then.path)?;
            (now != then).then(|| {
                format!(
                    "`{}` names {}, which has changed since the run started ({} bytes with CRC-32C {:08x} then, {} \
                     bytes with {:08x} now)",
                    then.key,
                    then.path.display(),
                    then.size,
                    then.crc32c,
                    now.size,
                    now.crc32c
                )
            })
        };
        self.files.iter().filter_map(change).collect()
    }
}

/// All changes in one error; `remedy` says how to continue.
pub fn changed(changes: &[String], remedy: &str) -> Error {
    let mut text = changes[..changes.len().min(NAMED)].join("; ");
    if changes.len() > NAMED {
        text += &format!("; and {} more", changes.len() - NAMED);
    }
    Error::input(format!("{text}: {remedy}"))
}

/// Size and CRC-32C of a file or a folder, as [`Input`] has them.
///
/// # Errors
/// If it cannot be read.
pub fn measure(path: &Path) -> std::io::Result<(u64, u32)> {
    measure_to(path, DEPTH)
}

/// Size and CRC-32C of a file or, up to a depth, of all files in a folder.
fn measure_to(path: &Path, depth: usize) -> std::io::Result<(u64, u32)> {
    let kind = fs::metadata(path)?;
    if kind.is_file() {
        return measure_file(path);
    }
    if !kind.is_dir() || depth == 0 {
        return Ok((0, 0));
    }
    let mut entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    entries.sort();
    let (mut total, mut crc) = (0, 0);
    for entry in entries {
        let (size, inner) = measure_to(&entry, depth - 1)?;
        let name = entry.file_name().unwrap_or_default().as_encoded_bytes();
        crc = [name, &[0], &size.to_le_bytes(), &inner.to_le_bytes()].into_iter().fold(crc, crc32c::crc32c_append);
        total += size;
    }
    Ok((total, crc))
}

fn measure_file(path: &Path) -> std::io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > WHOLE {
        return Ok((length, measure_pieces(&mut file, length)?));
    }
    let mut piece = vec![0; 1 << 18];
    let (mut size, mut crc) = (0, 0);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok((size, crc));
        }
        size += read as u64;
        crc = crc32c::crc32c_append(crc, &piece[..read]);
    }
}

/// Where a piece of a large file begins.
fn start_of_piece(number: u64, length: u64) -> u64 {
    (length - PIECE) * number / (PIECES - 1)
}

/// CRC-32C of the pieces of a large file.
fn measure_pieces(file: &mut File, length: u64) -> std::io::Result<u32> {
    let mut piece = vec![0; PIECE as usize];
    let mut crc = 0;
    for number in 0..PIECES {
        file.seek(SeekFrom::Start(start_of_piece(number, length)))?;
        file.read_exact(&mut piece)?;
        crc = crc32c::crc32c_append(crc, &piece);
    }
    Ok(crc)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a file with holes, which takes no room.
    #[test]
    fn a_large_file_is_read_in_pieces_from_its_first_byte_to_its_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        let length = WHOLE + 12_345;
        let with = |at: u64| {
            let mut file = File::create(&path).unwrap();
            file.set_len(length).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            std::io::Write::write_all(&mut file, &[1]).unwrap();
            measure(&path).unwrap()
        };
        let second = start_of_piece(1, length);
        // What lies between two pieces does not count.
        let unseen = with(second - 1);
        assert_eq!((unseen.0, with(second + PIECE)), (length, unseen));
        let seen: Vec<u32> = [0, PIECE - 1, second, length - 1].map(|at| with(at).1).into();
        assert!(!seen.contains(&unseen.1) && seen[0] != seen[1], "{seen:?} {unseen:?}");
        File::create(&path).unwrap().set_len(length + 1).unwrap();
        assert_ne!(measure(&path).unwrap().0, length);
    }

    #[test]
    fn every_change_is_detected_and_a_copy_is_not_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir_all(path.join("data/cat")).unwrap();
        fs::write(path.join("data/cat/1.png"), b"123456789").unwrap();
        // The check value of CRC-32C.
        assert_eq!(measure(&path.join("data/cat/1.png")).unwrap(), (9, 0xe306_9283));
        let before = measure(&path.join("data")).unwrap();
        assert_eq!(before.0, 9);
        for (name, text) in [("cat/1.png", "123456780"), ("cat/2.png", ""), ("cat/1.png", "12345678")] {
            let file = path.join("data").join(name);
            let old = fs::read(&file).ok();
            fs::write(&file, text).unwrap();
            assert_ne!(measure(&path.join("data")).unwrap(), before, "{name}");
            match old {
                Some(old) => fs::write(&file, old).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            assert_eq!(measure(&path.join("data")).unwrap(), before, "{name}");
        }
        fs::rename(path.join("data/cat/1.png"), path.join("data/cat/3.png")).unwrap();
        assert_ne!(measure(&path.join("data")).unwrap(), before);
    }

    #[test]
    fn setting_a_key_to_another_file_is_not_a_change() {
        let input = |path: &str, crc32c| Input { key: "model.file".into(), path: path.into(), size: 1, crc32c };
        let inputs = |input: Input| Inputs { command: "train".into(), files: vec![input] };
        let then = inputs(input("/a", 1));
        assert!(then.changes(&then).is_empty() && then.changes(&inputs(input("/b", 2))).is_empty());
        let changes = then.changes(&inputs(input("/a", 2)));
        assert!(changes.len() == 1 && changes[0].contains("`model.file` names /a"), "{changes:?}");
        let many = changed(&vec![changes[0].clone(); 10], "restore it").to_string();
        assert!(many.ends_with("; and 2 more: restore it"), "{many}");
    }
}

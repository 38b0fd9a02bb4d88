//! Atomic writes, which leave a complete file or none even after a power cut, and lookups that do not follow links.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The text of a user's file from its bytes: UTF-8, with or without a byte order mark, which is removed.
///
/// # Errors
/// Which other encoding it has, or which line is not text, and how to fix it.
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

/// Whether text is the name of a model on the hub, `org/name`, and not that of an existing file or folder.
pub fn is_hub_name(text: &str) -> bool {
    let is_part = |part: &str| {
        let is_plain = part.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter));
        !part.is_empty() && is_plain && !part.starts_with('.') && !part.contains("--")
    };
    let is_file = [".safetensors", ".json", ".gguf"].iter().any(|ending| text.ends_with(ending));
    let parts = text.split_once('/');
    parts.is_some_and(|(org, name)| is_part(org) && is_part(name)) && !is_file && !Path::new(text).exists()
}

/// Bytes without the UTF-8 byte order mark, which Windows programs often write.
pub(crate) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The longest text that a user writes, in bytes. A device has no end.
const LONGEST_TEXT: u64 = 64 << 20;

/// The text of a user's file, which may be a pipe: see [`text`].
///
/// # Errors
/// [`Error::Input`] naming the file if it cannot be read or is not text.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(LONGEST_TEXT + 1).read_to_end(&mut bytes));
    read.map_err(|cause| Error::unreadable(path, cause))?;
    if bytes.len() as u64 > LONGEST_TEXT {
        let cause = format!("it has more than {} MiB, so it is no text that somebody wrote", LONGEST_TEXT >> 20);
        return Err(Error::unreadable(path, cause));
    }
    text(&bytes).map(str::to_owned).map_err(|cause| Error::unreadable(path, cause))
}

/// Takes the bytes of a file, piece by piece.
pub trait Sink {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the file if the disk refuses them.
    fn put(&mut self, bytes: &[u8]) -> Result<()>;
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// What a file is to hold. It may be made while it is written, so that it is never in memory as a whole.
pub trait Content {
    /// Gives all bytes in order.
    ///
    /// # Errors
    /// Those of the sink, and of what the bytes are made from.
    fn write_to(&self, sink: &mut dyn Sink) -> Result<()>;

    /// All bytes in memory.
    ///
    /// # Errors
    /// Those of what the bytes are made from.
    fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes)?;
        Ok(bytes)
    }
}

impl Content for [u8] {
    fn write_to(&self, sink: &mut dyn Sink) -> Result<()> {
        sink.put(self)
    }
}

impl Content for Vec<u8> {
    fn write_to(&self, sink: &mut dyn Sink) -> Result<()> {
        sink.put(self)
    }
}

type Writing<'a> = Box<dyn Fn(&mut dyn Sink) -> Result<()> + 'a>;

/// [`Content`] that a function makes each time it is written.
pub struct Streamed<'a>(Writing<'a>);

impl<'a> Streamed<'a> {
    /// What `write` gives to a sink.
    pub fn new(write: impl Fn(&mut dyn Sink) -> Result<()> + 'a) -> Self {
        Self(Box::new(write))
    }
}

impl From<Vec<u8>> for Streamed<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(move |sink| sink.put(&bytes))
    }
}

impl Content for Streamed<'_> {
    fn write_to(&self, sink: &mut dyn Sink) -> Result<()> {
        (self.0)(sink)
    }
}

impl std::fmt::Debug for Streamed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Streamed")
    }
}

/// What was written to a file.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Bytes.
    pub size: u64,
    /// Their CRC-32.
    pub crc32: crc32fast::Hasher,
}

/// A file that is being written.
struct FileSink<'a> {
    path: &'a Path,
    file: BufWriter<&'a File>,
    written: Written,
}

impl Sink for FileSink<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.written.size += bytes.len() as u64;
        self.written.crc32.update(bytes);
        self.file.write_all(bytes).map_err(|cause| Error::unwritable(self.path, cause))
    }
}

/// Writes a file that `path` stands for in messages, and waits until it is on the disk.
fn fill(file: &File, path: &Path, content: &(impl Content + ?Sized)) -> Result<Written> {
    let mut sink = FileSink { path, file: BufWriter::with_capacity(1 << 20, file), written: Written::default() };
    content.write_to(&mut sink)?;
    let synced = sink.file.flush().and_then(|()| file.sync_all());
    synced.map_err(|cause| Error::unwritable(path, cause))?;
    Ok(sink.written)
}

/// Replaces the file at `path` by one that contains `bytes`.
///
/// # Errors
/// As [`stream_atomically`].
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    stream_atomically(path, bytes).map(drop)
}

/// Replaces the file at `path` by one with this content.
///
/// A reader sees either the old file or the new one, never a part: the bytes are written to a temporary file in the
/// same folder, synced, and renamed.
///
/// # Errors
/// [`Error::Failed`] if the folder is missing or not writable, or the disk is full; and those of the content. The old
/// file at `path` is then unchanged.
pub fn stream_atomically(path: &Path, content: &(impl Content + ?Sized)) -> Result<Written> {
    replace_atomically(path, |file| fill(file, path, content))
}

/// [`stream_atomically`] for a file that is not written from front to back.
///
/// # Errors
/// As [`stream_atomically`], and whatever `fill` returns.
pub(crate) fn fill_atomically(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    replace_atomically(path, |file| {
        fill(file)?;
        file.sync_all().map_err(|cause| Error::unwritable(path, cause))
    })
}

fn replace_atomically<T>(path: &Path, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let unwritable = |cause| Error::unwritable(path, cause);
    let folder = parent(path);
    let mut temporary = temporary_file(folder).map_err(unwritable)?;
    // Tells `remove_abandoned` that the writer is alive. On systems without locks, nothing is lost.
    let _ = temporary.as_file().try_lock();
    let written = fill(temporary.as_file_mut())?;
    temporary.persist(path).map_err(|cause| unwritable(cause.error))?;
    sync_folder(folder).map_err(unwritable)?;
    Ok(written)
}

/// Writes a file to which nothing refers yet, and waits until it is on the disk.
pub(crate) fn write_synced(path: &Path, content: &(impl Content + ?Sized)) -> Result<Written> {
    let file = File::create(path).map_err(|cause| Error::unwritable(path, cause))?;
    fill(&file, path, content)
}

/// Size and CRC-32 of a file, which is read piece by piece.
pub(crate) fn measure(path: &Path) -> std::io::Result<Written> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; 1 << 18];
    let mut found = Written::default();
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(found);
        }
        found.size += read as u64;
        found.crc32.update(&piece[..read]);
    }
}

/// Appends to a file that others read line by line or record by record: all of `bytes` or, if that fails, nothing.
pub(crate) fn append_whole(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    let before = file.metadata()?.len();
    // One unbuffered write: a crash truncates at most the last record.
    file.write_all(bytes).inspect_err(|_| drop(file.set_len(before)))
}

/// Removes the temporary files of [`write_atomically`] that a killed process left in `folder`. Those of a process that
/// is still writing stay. If one cannot be removed, that is not an error.
pub(crate) fn remove_abandoned(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(TEMPORARY)) {
        let path = entry.path();
        let is_abandoned = || {
            let file = File::options().read(true).write(true).open(&path).ok()?;
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

/// The prefix of the names of temporary files.
const TEMPORARY: &str = ".writing-";

/// Makes renames and removals in `folder` survive a power cut.
///
/// Only Unix lets a folder be opened and synced; elsewhere the file system's own journal orders them.
pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// The entry `name` of `folder`, if it exists and is not a link, which could point anywhere. `name` may contain `/`; the
/// folders in it must not be links either.
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

/// As [`own`], for a regular file.
pub(crate) fn own_file(folder: &Path, name: &str) -> Option<PathBuf> {
    own(folder, name).filter(|path| path.is_file())
}

/// Opens a regular file. Reading a device or a pipe might never end. The cause of a failure does not name the file.
fn open_ordinary(path: &Path) -> std::io::Result<File> {
    let kind = std::fs::metadata(path)?.file_type();
    if !kind.is_file() {
        let what = if kind.is_dir() { "a directory" } else { "a device or a pipe" };
        return Err(std::io::Error::other(format!("it is {what}, but a file is needed")));
    }
    File::open(path)
}

fn open(path: &Path) -> Result<File> {
    open_ordinary(path).map_err(|cause| Error::unreadable(path, cause))
}

/// All bytes of an ordinary file.
///
/// # Errors
/// [`Error::Input`] if it does not exist, is not a regular file, or cannot be read.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    read_ordinary(path).map_err(|cause| Error::unreadable(path, cause))
}

/// [`read_file`] with a cause that does not name the file.
pub(crate) fn read_ordinary(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_ordinary(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first bytes of an ordinary file, at most `most` of them.
///
/// # Errors
/// As [`read_file`].
pub(crate) fn head(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most).read_to_end(&mut bytes).map_err(|cause| Error::unreadable(path, cause))?;
    Ok(bytes)
}

/// The folder that contains `path`; the current one for a bare file name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A temporary file is private by default. This one becomes a regular file, so its permissions follow the umask.
fn temporary_file(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.prefix(TEMPORARY).tempfile_in(folder).map_err(|cause| {
        // The crate adds a name that nobody knows.
        let text = cause.to_string();
        let text = text.split(" at path ").next().unwrap_or_default();
        std::io::Error::new(cause.kind(), text)
    })
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
        // A mark that is not at the beginning is an ordinary character.
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
    fn a_failed_write_names_the_file_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("nowhere").join("grid.png");
        let message = write_atomically(&missing, b"x").unwrap_err().to_string();
        assert!(message.contains("grid.png") && !message.contains(TEMPORARY), "{message}");

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
        let live = File::options().write(true).open(folder.path().join(".writing-live")).unwrap();
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
    fn links_are_not_entries_of_a_folder() {
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
    fn a_written_file_has_the_usual_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write_atomically(&ours, b"x").unwrap();
        std::fs::write(&plain, b"x").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}

//! What commands print and which files they may write.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::assets::BaseRecord;
use crate::config::adapter_in;
use crate::error::{Error, Result};
use crate::ranks::rank_log;
use crate::text::printable;

/// Why writing to standard output failed, if it did.
static FAILED: Mutex<Option<String>> = Mutex::new(None);

/// Prints a line. A reader that has gone away (`| head`) is not an error. Anything else, such as a full disk, must not
/// stop the work that is under way either: [`check_printed`] reports it at the end.
pub(super) fn say(text: impl Display) {
    let (text, mut out) = (text.to_string(), std::io::stdout());
    // One of several ranks talks to the user.
    if rank_log::take(format!("{text}\n").as_bytes()) {
        return;
    }
    // Piped output is not changed.
    let shown = if out.is_terminal() { printable(&text) } else { text.as_str().into() };
    match writeln!(out, "{shown}") {
        Err(cause) if cause.kind() != ErrorKind::BrokenPipe => {
            if let Ok(mut failed) = FAILED.lock() {
                failed.get_or_insert_with(|| cause.to_string());
            }
        }
        _ => {}
    }
}

/// Checks that everything was printed.
///
/// # Errors
/// If standard output could not be written, except if its reader has gone away.
pub(super) fn check_printed() -> Result<()> {
    let flushed = std::io::stdout().flush();
    let failed = FAILED.lock().ok().and_then(|mut failed| failed.take());
    let cause = match (failed, flushed) {
        (Some(cause), _) => cause,
        (None, Err(cause)) if cause.kind() != ErrorKind::BrokenPipe => cause.to_string(),
        _ => return Ok(()),
    };
    Err(Error::failed(format!("cannot write to standard output: {cause}")))
}

/// The files that a command writes, checked before the work begins.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    /// Replace files that exist.
    pub force: bool,
    /// What the command reads.
    inputs: Vec<PathBuf>,
    outputs: Vec<PathBuf>,
}

impl Outputs {
    /// The outputs of a command; `force` lets it replace files.
    pub fn new(force: bool) -> Self {
        Self { force, ..Self::default() }
    }

    /// Declares a file or folder that the command reads and therefore may not write to. It may be missing, as
    /// `builtin:NAME` is.
    pub fn reads(mut self, input: impl AsRef<Path>) -> Self {
        let input = input.as_ref();
        if self.inputs.iter().any(|other| other == input) {
            return self;
        }
        self.inputs.push(input.to_owned());
        if input.is_dir() {
            let files = std::fs::read_dir(input).into_iter().flatten().flatten().map(|entry| entry.path());
            self.inputs.extend(files.filter(|path| path.is_file()));
        }
        // What an adapter stands for is in its folder and its base.
        let Some(folder) = adapter_in(input) else { return self };
        let base = BaseRecord::read(&folder).map(|base| base.model);
        let read = self.reads(folder);
        match base {
            Ok(base) if Path::new(&base).exists() => read.reads(base),
            _ => read,
        }
    }

    /// Checks that a file can be written.
    ///
    /// # Errors
    /// If it is one of the inputs or another output, if it is not an ordinary file, if it exists and may not be
    /// replaced, or if its folder is missing or cannot be written.
    pub fn file(&mut self, path: &Path) -> Result<()> {
        let refused = |problem: String| Error::input(format!("cannot write {}: {problem}", path.display()));
        let same = |other: &&PathBuf| {
            same_file::is_same_file(path, other).unwrap_or(false)
                || matches!((std::path::absolute(path), std::path::absolute(other)), (Ok(a), Ok(b)) if a == b)
        };
        if let Some(input) = self.inputs.iter().find(same) {
            let input = input.display();
            return Err(refused(format!("it is the input {input}, which would be lost; choose another name")));
        }
        // Of the directory of a run only the files above are read, but of data every picture.
        let holds = |folder: &&PathBuf| {
            let within = || Some(path.canonicalize().ok()?.starts_with(folder.canonicalize().ok()?));
            folder.is_dir() && !folder.join("config.toml").exists() && path.is_file() && within() == Some(true)
        };
        if let Some(input) = self.inputs.iter().find(holds) {
            let input = input.display();
            return Err(refused(format!(
                "it is a part of the input {input}, which would be lost; choose another name"
            )));
        }
        if self.outputs.iter().any(|other| same(&other)) {
            return Err(refused("two results would have this name; choose another one".to_owned()));
        }
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(refused("it is a directory; choose another name".to_owned())),
            Ok(found) if !found.is_file() => {
                return Err(refused("it is a device or a pipe, not a file; choose another name".to_owned()));
            }
            Ok(_) if !self.force => {
                return Err(refused("it exists already; choose another name, or replace it with --force".to_owned()));
            }
            _ => {}
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        tempfile::tempfile_in(folder).map_err(|cause| refused(format!("{cause}; choose another folder")))?;
        self.outputs.push(path.to_owned());
        Ok(())
    }

    /// As [`Outputs::file`], for an image.
    ///
    /// # Errors
    /// Also if its name does not end in `.png`.
    pub fn image(&mut self, path: &Path) -> Result<()> {
        match path.extension() {
            Some(ending) if ending.eq_ignore_ascii_case("png") => self.file(path),
            _ => Err(Error::input(format!(
                "cannot write {}: images are written as PNG; choose a name that ends in .png",
                path.display()
            ))),
        }
    }
}

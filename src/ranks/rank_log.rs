//! Where the ranks that do not talk to the user write what they would tell: `rank-N.log` in the run's directory.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Seat;
use crate::error::{Error, Result};

/// Where the log of this process goes.
#[derive(Debug)]
enum Sink {
    /// To the user.
    User,
    /// Into memory, until the directory of the run is known.
    Memory(Vec<u8>),
    File(File),
}

static SINK: Mutex<Sink> = Mutex::new(Sink::User);

fn sink() -> MutexGuard<'static, Sink> {
    SINK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process talks to the user.
pub fn is_open() -> bool {
    matches!(*sink(), Sink::User)
}

/// From now on, this process is one that does not talk to the user.
pub fn withhold() {
    let mut sink = sink();
    if matches!(*sink, Sink::User) {
        *sink = Sink::Memory(Vec::new());
    }
}

/// From now on, its log goes into a file of the run's directory, with what it has said before. Of a process that talks to
/// the user, nothing does.
///
/// # Errors
/// [`Error::Failed`] if the file cannot be written.
pub fn write_into(directory: &Path, Seat { rank, size }: Seat) -> Result<()> {
    let mut sink = sink();
    if let Sink::Memory(before) = &*sink {
        let path: PathBuf = directory.join(format!("rank-{rank}.log"));
        let unwritable = |cause| Error::unwritable(&path, cause);
        let mut file = File::options().append(true).create(true).open(&path).map_err(unwritable)?;
        let header = format!("rank {rank} of {size}, process {}\n", std::process::id());
        file.write_all(&[header.as_bytes(), before].concat()).map_err(unwritable)?;
        *sink = Sink::File(file);
    }
    Ok(())
}

/// Writes into the log of a process that does not talk to the user; `false` if this one does.
pub fn take(bytes: &[u8]) -> bool {
    match &mut *sink() {
        Sink::User => return false,
        Sink::Memory(before) => before.extend_from_slice(bytes),
        // A full disk must not stop the work: rank 0 will notice.
        Sink::File(file) => drop(file.write_all(bytes)),
    }
    true
}

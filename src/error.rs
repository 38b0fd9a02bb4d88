//! The one error type, and what each kind means for the exit code.
//!
//! A message is one sentence that the user can act on: what is wrong, where (file, key or tensor),
//! what was expected, and how to fix it.

use std::path::Path;

/// Target of log messages about data that was lost or found damaged: `-q` shows them, too.
pub const DAMAGE: &str = "flowdppo_wgpu::damage";

/// Everything that can go wrong, by what the user has to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bad usage, configuration or input file: the user corrects it and runs again (exit code 2).
    #[error("{0}")]
    Input(String),
    /// No usable adapter (exit code 3).
    #[error("{0}")]
    Device(String),
    /// Not enough memory on the device (exit code 3). Which key or option would help depends on the command, which adds
    /// it.
    #[error("{shortage}{more}")]
    Memory {
        /// What there is no room for.
        shortage: Shortage,
        /// What else the message says.
        more: String,
    },
    /// The device was lost or stopped answering in the middle of the work (exit code 4).
    #[error("{0}")]
    DeviceLost(String),
    /// Training diverged: numbers are not finite and would not recover (exit code 1).
    #[error("{0}")]
    NotFinite(String),
    /// A reward could not score images: the model is as good as before, and the run can continue once the reward works
    /// (exit code 1).
    #[error("{0}")]
    Reward(String),
    /// A guard rail stopped a run that was not worth continuing; it is saved (exit code 1).
    #[error("{0}")]
    Guarded(String),
    /// Everything else: a full disk, a broken invariant (exit code 1).
    #[error("{0}")]
    Failed(String),
}

/// What a device has no room for; sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// The driver reported it.
    #[error("the device is out of memory")]
    Reported,
    /// All the memory that is planned.
    #[error("the plan needs {} of device memory, but {device} has {}", mebibytes(*needed), mebibytes(*available))]
    Total {
        /// What is planned.
        needed: u64,
        /// What there is.
        available: u64,
        /// The name of the device.
        device: String,
    },
    /// One tensor or buffer, which the limits of the device do not allow.
    #[error("{name} needs {} in one piece, but the device allows {}", mebibytes(*needed), mebibytes(*limit))]
    Piece {
        /// What it is.
        name: String,
        /// Its size.
        needed: u64,
        /// The largest size.
        limit: u64,
        /// Whether it is smaller if fewer samples are computed together.
        of_batch: bool,
    },
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

impl From<Shortage> for Error {
    fn from(shortage: Shortage) -> Self {
        Self::Memory { shortage, more: String::new() }
    }
}

/// A `Result` whose error is [`Error`] by default.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Input`] from anything that prints.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into())
    }

    /// An [`Error::Failed`] from anything that prints.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// A file of the user's that could not be read: names the file and the cause.
    pub fn unreadable(path: &Path, cause: impl std::fmt::Display) -> Self {
        Self::Input(format!("cannot read {}: {cause}", path.display()))
    }

    /// A file of ours that could not be written: names the file and the cause.
    pub fn unwritable(path: &Path, cause: impl std::fmt::Display) -> Self {
        Self::Failed(format!("cannot write {}: {cause}", path.display()))
    }

    /// An output path that cannot be written: [`Error::Input`] if another path would help (it is missing, forbidden, or
    /// something else is there), [`Error::Failed`] if the disk itself fails.
    pub fn unusable(message: impl Into<String>, cause: &std::io::Error) -> Self {
        use std::io::ErrorKind::*;
        match cause.kind() {
            NotFound | PermissionDenied | AlreadyExists | NotADirectory | IsADirectory | ReadOnlyFilesystem
            | InvalidInput | InvalidFilename | Unsupported => Self::Input(message.into()),
            _ => Self::Failed(message.into()),
        }
    }

    /// The same error with text appended to its message.
    #[must_use]
    pub fn followed_by(mut self, more: &str) -> Self {
        let (Self::Input(message)
        | Self::Device(message)
        | Self::DeviceLost(message)
        | Self::NotFinite(message)
        | Self::Reward(message)
        | Self::Guarded(message)
        | Self::Failed(message)
        | Self::Memory { more: message, .. }) = &mut self;
        message.push_str(more);
        self
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFinite(_) | Self::Reward(_) | Self::Guarded(_) | Self::Failed(_) => 1,
            Self::Input(_) => 2,
            Self::Device(_) | Self::Memory { .. } => 3,
            Self::DeviceLost(_) => 4,
        }
    }
}

/// A character as messages show it: unchanged, or as its code point if it is invisible.
pub(crate) fn character(c: char) -> String {
    match c {
        ' ' => "a space".to_owned(),
        '\t' => "a tab (U+0009)".to_owned(),
        '\n' => "a line break (U+000A)".to_owned(),
        '"' | '\'' | '\\' => format!("`{c}`"),
        // Characters that Rust would escape are not visible.
        c if c == '`' || c.escape_debug().count() > 1 => format!("U+{:04X}", u32::from(c)),
        c => format!("`{c}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_shown_as_code_points() {
        let named = [':', ' ', '\t', '\u{200b}', '\u{202e}', '\0', '\u{feff}', '"', 'é'].map(character);
        let expected = ["`:`", "a space", "a tab (U+0009)", "U+200B", "U+202E", "U+0000", "U+FEFF", "`\"`", "`é`"];
        assert_eq!(named, expected);
    }

    #[test]
    fn only_the_choice_of_a_bad_place_is_bad_input() {
        use std::io::{Error as Cause, ErrorKind};
        let code = |kind: ErrorKind| Error::unusable("no", &Cause::from(kind)).exit_code();
        let input = [ErrorKind::NotFound, ErrorKind::PermissionDenied, ErrorKind::NotADirectory];
        assert_eq!(input.map(code), [2; 3]);
        let disk = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge, ErrorKind::Other];
        assert_eq!(disk.map(code), [1; 4]);
    }
}

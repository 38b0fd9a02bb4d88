//! How ranks agree about errors: all continue, or all end with the same error.

use super::Team;
use crate::error::{Error, Result};

/// The first byte of what a rank says that works, and of one that has failed.
const WORKED: u8 = 0xA6;
const FAILED: u8 = 0xA7;

/// An error as other ranks learn of it: its kind by its number, and its message.
fn packed(error: &Error) -> Vec<u8> {
    let kind = match error {
        Error::Input(_) => 0,
        Error::Device(_) | Error::Memory { .. } => 1,
        Error::DeviceLost(_) => 2,
        Error::NotFinite(_) => 3,
        Error::Reward(_) => 4,
        Error::Guarded(_) => 5,
        Error::Failed(_) => 6,
    };
    [&[FAILED, kind], error.to_string().as_bytes()].concat()
}

/// Why the ranks of a team end.
pub(super) enum Failure {
    /// All have failed in the same way.
    OfAll,
    /// This one has failed, with this error.
    Of(usize, Error),
    /// They no longer reach each other.
    Connection(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Of(_, error) | Failure::Connection(error) => error,
            // Only a rank that has failed says so.
            Failure::OfAll => Self::failed("all ranks have failed"),
        }
    }
}

/// The kind of an error and its message.
fn unpacked(kind: u8, message: String) -> Error {
    match kind {
        0 => Error::Input(message),
        1 => Error::Device(message),
        2 => Error::DeviceLost(message),
        3 => Error::NotFinite(message),
        4 => Error::Reward(message),
        5 => Error::Guarded(message),
        _ => Error::Failed(message),
    }
}

/// What is sent before the bytes of a rank that works.
pub(super) fn framed(bytes: &[u8]) -> Vec<u8> {
    [&[WORKED], bytes].concat()
}

impl Team {
    /// What this rank has computed, if every rank goes on; otherwise every rank gets the error of the first that has failed,
    /// which names that rank unless it is rank 0, or all have failed in the same way. A rank that fails must come here before
    /// it ends: the others learn of it wherever they meet next.
    ///
    /// # Errors
    /// That error.
    pub fn agree<T>(&self, own: Result<T>) -> Result<T> {
        if !self.is_many() || self.has_failed() {
            return own;
        }
        let said = match &own {
            Ok(_) => framed(&[]),
            Err(error) => packed(error),
        };
        match self.meet(&said) {
            Err(Failure::Of(rank, error)) if rank != self.seat().rank => Err(error),
            Err(Failure::Connection(error)) => Err(error),
            _ => own,
        }
    }

    /// Meets the others, each of which says what it has or that it has failed.
    pub(super) fn meet(&self, said: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
        let all = self.members.gather(said).map_err(Failure::Connection)?;
        let Some(first) = all.iter().position(|said| said.first() != Some(&WORKED)) else {
            return Ok(all.into_iter().map(|mut said| said.split_off(1)).collect());
        };
        self.has_failed.set(true);
        if all.iter().all(|said| *said == all[first]) {
            return Err(Failure::OfAll);
        }
        let error = match all[first].split_first_chunk::<2>() {
            Some(([FAILED, kind], message)) => {
                let message = String::from_utf8_lossy(message);
                // Rank 0 speaks for all.
                unpacked(*kind, if first == 0 { message.into_owned() } else { format!("rank {first}: {message}") })
            }
            // A fault of the program, not of the user: better an end than wrong numbers.
            _ => Error::failed(format!("rank {first} is doing something else than the others")),
        };
        Err(Failure::Of(first, error))
    }

    /// Checks that all ranks have the same of everything that must not differ between them: names and values.
    ///
    /// # Errors
    /// [`Error::Input`] that names the first rank that differs from rank 0, and in what; `remedy` is what to do.
    pub fn check_same(&self, what: &[(&str, String)], remedy: &str) -> Result<()> {
        let different = self.different(what, remedy);
        self.agree(different)
    }

    fn different(&self, what: &[(&str, String)], remedy: &str) -> Result<()> {
        let own: Vec<&str> = what.iter().map(|(_, value)| value.as_str()).collect();
        let all = self.gather(own.join("\0").as_bytes())?;
        let all: Vec<Vec<String>> =
            all.iter().map(|said| String::from_utf8_lossy(said).split('\0').map(str::to_owned).collect()).collect();
        for (rank, values) in all.iter().enumerate() {
            for (index, (name, _)) in what.iter().enumerate() {
                let [here, there] = [&all[0], values].map(|values| values.get(index).map_or("nothing", String::as_str));
                if here != there {
                    return Err(Error::input(format!(
                        "rank {rank} has another {name} ({there}) than rank 0 ({here}), but all ranks must have the same: \
                         {remedy}"
                    )));
                }
            }
        }
        Ok(())
    }
}

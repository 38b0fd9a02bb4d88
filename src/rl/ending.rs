//! How a run ends early.

use super::run::RunOptions;
use crate::config::Command;
use crate::error::{Error, Result};
use crate::run::checkpoint;

/// What to do, and to tell the user, when a run ends early that is saved up to an iteration and has done more. If a reward
/// has failed, the model is intact, and is saved as it was after the last complete iteration.
pub(super) fn ended(
    cause: Error,
    options: &RunOptions<'_>,
    [saved, done]: [u64; 2],
    save: impl FnOnce() -> Result<()>,
) -> Error {
    let directory = options.directory;
    let mut more = String::new();
    if matches!(cause, Error::Reward(_))
        && saved < done
        && let Err(cause) = save()
    {
        more = format!("; and what was learned after iteration {saved} is lost: {cause}");
    }
    let here = directory.path();
    if !directory.config().is_file() {
        let gone = format!("; nothing of the run is left, because {} was deleted: start it again", here.display());
        return cause.followed_by(&(more + &gone));
    }
    let kept = match checkpoint::newest_published(&directory.checkpoints()).unwrap_or(0) {
        0 => "nothing has been saved, so the run will start over".to_owned(),
        saved => format!("the run is saved up to iteration {saved}"),
    };
    let resume = directory.resume_command(Command::Train);
    more += &match &cause {
        Error::Reward(_) if saved.max(done) == 0 => {
            "; nothing has been trained yet: fix the reward, then run the same command again".to_owned()
        }
        // A reward that was fixed is another file, which resuming itself asks about by name.
        Error::Reward(_) => format!("; {kept}: fix the reward, then resume with: {resume}"),
        Error::NotFinite(_) | Error::Guarded(_) if options.in_sweep => format!("; {kept}"),
        Error::NotFinite(_) | Error::Guarded(_) => {
            format!("; {kept}: choose other values, then resume with: {resume} --set KEY=VALUE")
        }
        _ => format!("; {kept}: resume with: {resume}"),
    };
    let error = cause.followed_by(&more);
    if matches!(error, Error::NotFinite(_) | Error::Guarded(_))
        && let Err(cause) = directory.record_failure(&error.to_string())
    {
        log::warn!("{cause}");
    }
    error
}

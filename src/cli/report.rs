//! `report`: writes a run as one page.

use std::path::PathBuf;

use clap::Args;

use super::say;
use crate::error::Result;
use crate::report;
use crate::run::directory::in_progress;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Directory of a run: finished, running or crashed
    #[arg(value_name = "RUN")]
    run: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let file = report::write(&arguments.run, in_progress(&arguments.run))?;
    say(format_args!("report: {}", file.display()));
    Ok(())
}

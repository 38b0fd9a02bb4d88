//! `data`: shows the data that a configuration would train on.

use std::path::PathBuf;

use clap::Args;

use super::{ConfigArguments, Global, say};
use crate::config::Command;
use crate::data;
use crate::error::Result;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Contact sheet to write (PNG): one row of images per class
    #[arg(long, value_name = "FILE", default_value = "data.png")]
    out: PathBuf,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    // The command that needs the fewest sections besides `[data]`.
    let config = arguments.config.load(Command::FitClassifier)?;
    arguments.config.outputs(global, &config).image(&arguments.out)?;
    let data = data::load(&config.data)?;
    say(data::summary::summary(&data).trim_end());
    data::contact::write(&arguments.out, &data)?;
    say(format_args!("images: {}", arguments.out.display()));
    Ok(())
}

//! `completions`: what makes a shell complete commands and options.

use clap::{Args, CommandFactory};

use super::{Cli, say};
use crate::error::Result;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Shell to write for
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "flowdppo-wgpu", &mut script);
    say(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}

//! `compare`: runs side by side.

use std::path::PathBuf;

use clap::Args;

use super::{Global, say};
use crate::compare::{Comparison, Source};
use crate::error::Result;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Directories of runs; LABEL=PATH names one. Runs that differ only in their seed are grouped
    #[arg(required = true, value_name = "[LABEL=]RUN")]
    runs: Vec<String>,
    /// Folder for the table (Markdown and JSON) and the charts (SVG)
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let sources: Vec<Source> = arguments.runs.iter().map(|text| Source::parse(text)).collect();
    write(global, &Comparison::read(&sources)?, &arguments.out)
}

/// Writes a comparison and prints its table.
pub(super) fn write(global: &Global, comparison: &Comparison, folder: &std::path::Path) -> Result<()> {
    let written = comparison.write(folder)?;
    say(comparison.table().trim_end());
    global.announce(format_args!("\n{} files in {}", written.len(), folder.display()));
    Ok(())
}

//! `export`: writes native models as checkpoints of other programs.

use std::path::PathBuf;

use clap::Args;

use super::import::Format;
use super::{Global, say};
use crate::assets;
use crate::error::Result;
use crate::files::stream_atomically;
use crate::model::check_export_sit;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Format of the output
    #[arg(long, value_enum)]
    format: Format,
    /// Model to convert: a file, or builtin:NAME
    model: String,
    /// File to write (safetensors)
    output: PathBuf,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let model = assets::load_model(&arguments.model)?;
    match arguments.format {
        Format::Sit => check_export_sit(&arguments.model, &model)?,
    }
    global.outputs().reads(&arguments.model).file(&arguments.output)?;
    stream_atomically(&arguments.output, &model.plain_file())?;
    say(format_args!("{}: {} tensors", arguments.output.display(), model.kind.layout().entries().len()));
    Ok(())
}

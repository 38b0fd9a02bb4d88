//! `export`: writes native models as checkpoints of other programs.

use std::path::PathBuf;

use clap::Args;

use super::import::Format;
use super::{Global, say};
use crate::assets;
use crate::error::Result;
use crate::model::{export_sit, write_tensors};

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
    let tensors = match arguments.format {
        Format::Sit => export_sit(&arguments.model, &model)?,
    };
    global.outputs().reads(&arguments.model).file(&arguments.output)?;
    write_tensors(&arguments.output, &tensors)?;
    say(format_args!("{}: {} tensors", arguments.output.display(), tensors.len()));
    Ok(())
}

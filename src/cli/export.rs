//! `export`: writes models as files of other programs, or as folders to pass on.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Global, say};
use crate::assets;
use crate::error::{Error, Result};
use crate::files::stream_atomically;
use crate::model::check_export_sit;
use crate::text_to_image::NamedModel;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Format of the output
    #[arg(long, value_enum)]
    format: Format,
    /// With `words`: keep the transformer in 16 bits
    #[arg(long)]
    half: bool,
    /// Model to convert: a file, builtin:NAME, or the directory of a run
    model: String,
    /// File to write (safetensors), or with `words` the folder
    output: PathBuf,
}

/// Formats that can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// SiT or DiT from Facebook Research
    Sit,
    /// The folder of a text-to-image model that knows words, such as builtin:shapes-base
    Words,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    match arguments.format {
        Format::Sit => sit(global, arguments),
        Format::Words => words(global, arguments),
    }
}

fn sit(global: &Global, arguments: &Arguments) -> Result<()> {
    if arguments.half {
        return Err(Error::input("--half is for --format words: leave it out"));
    }
    let model = assets::load_model(&arguments.model)?;
    check_export_sit(&arguments.model, &model)?;
    global.outputs().reads(&arguments.model).file(&arguments.output)?;
    stream_atomically(&arguments.output, &model.plain_file())?;
    say(format_args!("{}: {} tensors", arguments.output.display(), model.kind.layout().entries().len()));
    Ok(())
}

fn words(global: &Global, arguments: &Arguments) -> Result<()> {
    let Arguments { model, output, half, .. } = arguments;
    let named = NamedModel::of(model)?.ok_or_else(|| {
        Error::input(format!("{model} is no text-to-image model, which --format words is for: use --format sit"))
    })?;
    let pipeline = named.open(None)?;
    if named.adapter(&pipeline, None)?.is_some() {
        return Err(Error::input(format!(
            "{model} is an adapter on a model: add it to the transformer with `flowdppo-wgpu merge`"
        )));
    }
    let outputs = global.outputs().reads(&pipeline.pipeline().folder);
    pipeline.export(output, *half, outputs.force)?;
    say(format_args!("{}: {model}, with all of its pipeline", output.display()));
    Ok(())
}

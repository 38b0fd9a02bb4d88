//! `encode`: prompts for a text-to-image model, encoded once.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::sample_text::T5Arguments;
use super::{Global, ranks, say};
use crate::error::{Error, Result};
use crate::run::Progress;
use crate::text_to_image::{FileOptions, TextToImage, counted, cut_warnings, encode_to_file, folder_of, read_prompts};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Text-to-image pipeline: its folder, or org/name in the cache of the hub
    #[arg(long, value_name = "DIR|NAME")]
    model: String,
    /// File of prompts: one a line, or JSON lines with `prompt`, whose further fields are kept
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// What guidance leads away from
    #[arg(long, value_name = "TEXT", default_value = "")]
    negative_prompt: String,
    #[command(flatten)]
    t5: T5Arguments,
    /// How the embeddings are stored
    #[arg(long, value_enum, default_value = "f16")]
    precision: Precision,
    /// Prompts that are encoded together: more need more memory, and the encoders are read less often
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    group: u16,
    /// File to write (safetensors)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Precision {
    /// Rounded to 16 bits
    F16,
    /// As they are: `sample` draws the same bits as from the prompts themselves
    F32,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let Some(folder) = folder_of(&arguments.model)? else {
        return Err(Error::input(format!(
            "{} is no text-to-image pipeline: give its folder, with a model_index.json or a transformer",
            arguments.model
        )));
    };
    let model = TextToImage::open(&folder, None)?;
    let prompts = read_prompts(&arguments.prompts)?;
    let encoders = model.encoders(arguments.t5.choice())?;
    let team = &global.team;
    ranks::check_same_command(global, &[("command line", format!("{arguments:?}"))])?;
    global.outputs().reads(&folder).reads(&arguments.prompts).file(&arguments.out)?;
    let gpu = global.open("")?;
    ranks::check_equal_devices(team, &gpu)?;
    let half = arguments.precision == Precision::F16;
    let options = FileOptions { path: &arguments.out, half, group: arguments.group.into() };
    let mut progress = Progress::new("encoding", prompts.len() as u64, global.verbosity());
    let cut = encode_to_file(&gpu, &encoders, &prompts, &arguments.negative_prompt, options, team, &mut |done| {
        progress.update(done as u64, "");
    })?;
    progress.finish(&format!("{} encoded", counted(prompts.len(), "prompt")));
    cut_warnings(&cut).iter().for_each(|warning| log::warn!("{warning}"));
    say(format_args!("{}: {}", counted(prompts.len(), "prompt"), arguments.out.display()));
    Ok(())
}

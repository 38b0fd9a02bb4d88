//! `data`: shows the data that a configuration would train on.

use std::path::PathBuf;

use clap::Args;

use super::{ConfigArguments, Global, say};
use crate::config::{Command, DataKind};
use crate::data::{self, Shown};
use crate::error::Result;
use crate::preflight::{self, Lesson};
use crate::text_to_image::Captioned;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Contact sheet to write (PNG): one row of images per class
    #[arg(long, value_name = "FILE", default_value = "data.png")]
    out: PathBuf,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let config = arguments.config.read()?;
    let is_captioned = config.data.kind == DataKind::Captions;
    // The size of images with captions depends on the model; for others, the command that needs the fewest sections.
    let has_captions = is_captioned || config.data.kind == DataKind::Shapes;
    config.validate(if has_captions { Command::Pretrain } else { Command::FitClassifier })?;
    arguments.config.outputs(global, &config).image(&arguments.out)?;
    let data: Box<dyn Shown> = match (is_captioned, &config.model.folder) {
        (true, Some(folder)) => {
            let captioned = Captioned::open(&config, folder)?;
            let found = captioned.images().check()?;
            say(data::summary::of_captions(captioned.images(), Some(&found)).trim_end());
            Box::new(captioned.images().clone())
        }
        _ if has_captions => {
            let Lesson::Scenes(lesson) = preflight::pretrain(&config)? else { unreachable!("the data are scenes") };
            say(lesson.scenes.summary().trim_end());
            Box::new(lesson.scenes)
        }
        _ => {
            let data = data::load(&config.data)?;
            say(data.summary().trim_end());
            Box::new(data)
        }
    };
    data.write_sheet(&arguments.out)?;
    say(format_args!("images: {}", arguments.out.display()));
    Ok(())
}

//! The files that a run depends on, those in the folders of published models included.

use std::path::Path;

use crate::config::{Command, Config, RewardKind};
use crate::error::Result;
use crate::model::text::ClipScorer;
use crate::run::inputs::{InputFile, Inputs};
use crate::text_to_image;

/// What a run of `train` with this configuration depends on, as it is now.
///
/// # Errors
/// If the folder of a model lacks what it must have.
pub fn inputs(config: &Config) -> Result<Inputs> {
    let config = config.anchored();
    let mut more = text_to_image::files_of(&config)?;
    let rewards = config.reward.iter().enumerate();
    for (index, reward) in rewards.filter(|(_, reward)| reward.kind == RewardKind::ClipScore) {
        let files = ClipScorer::files(Path::new(&reward.file))?.into_iter();
        let key = format!("reward.{index}.file");
        more.extend(files.map(|path| InputFile { key: key.clone(), place: path.clone(), path }));
    }
    Ok(Inputs::of(&config, Command::Train, more))
}

//! Everything that a command would reject before it needs a device, a program or a service: what `config check` accepts,
//! the command accepts.

use std::collections::HashSet;

use crate::config::{Command, Config, DataKind, ModelSource};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::graph::{DeviceProfile, PartMemory};
use crate::model::{ClassifierConfig, FlowModel, Weights};
use crate::ranks::Seat;
use crate::reward;
use crate::rl::TrainingRun;
use crate::supervised::Pretrainer;
use crate::text_to_image::{Captioned, SceneLesson, StartingModel};
use crate::{assets, data, fit_classifier, pretrain};

/// The errors that the commands would report for these configurations, such as the runs of a sweep, each once.
pub fn refusals(configs: &[(Command, Config)]) -> Vec<Error> {
    let mut messages = HashSet::new();
    let found = distinct(configs).filter_map(|(command, config)| check(*command, config).err());
    found.filter(|error| messages.insert(error.to_string())).collect()
}

/// One of each set of configurations that differ only in `[run]`, such as the seeds of a sweep, so that their files are
/// read once.
fn distinct(configs: &[(Command, Config)]) -> impl Iterator<Item = &(Command, Config)> {
    let mut seen = HashSet::new();
    configs.iter().filter(move |(command, config)| seen.insert((command.name(), config.without_run().to_toml())))
}

/// Reads the files of a configuration, and checks that they match each other.
///
/// # Errors
/// The error that the command would report.
pub fn check(command: Command, config: &Config) -> Result<()> {
    match command {
        Command::Train => check_train(config),
        Command::Pretrain => check_pretrain(config),
        Command::FitClassifier => fit_classifier(config).map(drop),
        // The model, on which the rest depends, is given on the command line.
        Command::Eval => reward::check_addresses(&config.reward),
    }
}

fn check_train(config: &Config) -> Result<()> {
    if let ModelSource::New(_) | ModelSource::NewText(..) = config.model.source()? {
        return Ok(());
    }
    TrainingRun::check(config, &*StartingModel::open(config)?.planned()?, &DeviceProfile::default(), Seat::default())
        .map(drop)
}

fn check_pretrain(config: &Config) -> Result<()> {
    let input = pretrain(config)?;
    Pretrainer::plan(config, &input.planned()?, &DeviceProfile::default())?;
    input.check()
}

/// What pretraining learns from, and what it starts from.
#[derive(Debug)]
pub enum Lesson {
    /// Images with classes, a network, and its weights if they are in a file.
    Classes(Box<(Dataset, FlowModel, Option<Weights>)>),
    /// Images with captions, and a text-to-image model.
    Captions(Box<Captioned>),
    /// Scenes with captions, and a text-to-image model that knows their words.
    Scenes(Box<SceneLesson>),
}

impl Lesson {
    /// The model as plans need it.
    ///
    /// # Errors
    /// If the file of a transformer does not fit its configuration.
    pub fn planned(&self) -> Result<FlowModel> {
        match self {
            Self::Classes(classes) => Ok(classes.1.clone()),
            Self::Captions(captioned) => captioned.planned()?.flow_model("`model.folder`"),
            Self::Scenes(lesson) => lesson.model.flow_model("[model]"),
        }
    }

    /// What encodes images and captions before training, each alone on such a device, in words.
    ///
    /// # Errors
    /// As [`Captioned::planned_encoders`].
    pub fn planned_encoders(&self, profile: &DeviceProfile) -> Result<Vec<(String, PartMemory)>> {
        match self {
            Self::Classes(_) | Self::Scenes(_) => Ok(Vec::new()),
            Self::Captions(captioned) => captioned.planned_encoders(profile),
        }
    }

    /// Checks all images that have not been read yet.
    ///
    /// # Errors
    /// [`Error::Input`] naming those that cannot be read.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Classes(_) | Self::Scenes(_) => Ok(()),
            Self::Captions(captioned) => captioned.images().check().map(drop),
        }
    }
}

/// The input of pretraining. Images with captions and the weights of a text-to-image model are not read yet; every other
/// file is read once.
///
/// # Errors
/// If a file cannot be read, or data, network and settings do not match.
pub fn pretrain(config: &Config) -> Result<Lesson> {
    let (data, model, weights) = match config.model.source()? {
        ModelSource::Folder(folder) if config.data.kind == DataKind::Shapes => {
            return Ok(Lesson::Scenes(Box::new(SceneLesson::open(config, folder)?)));
        }
        ModelSource::NewText(sizes, text) => {
            return Ok(Lesson::Scenes(Box::new(SceneLesson::new(config, sizes, text)?)));
        }
        ModelSource::Folder(folder) => return Ok(Lesson::Captions(Box::new(Captioned::open(config, folder)?))),
        ModelSource::File(file) => {
            let mut data = data::load(&config.data)?;
            let loaded = assets::load_model(file)?;
            let model = loaded.flow_model(file)?;
            pretrain::check_shape(&data, &model)?;
            data.take_classes_of(loaded.classes(file))?;
            (data, model, Some(loaded.weights))
        }
        ModelSource::New(sizes) => (data::load(&config.data)?, FlowModel::new(&config.model, sizes), None),
    };
    model.check()?;
    pretrain::check_data(&data, &model, &config.pretrain)?;
    Ok(Lesson::Classes(Box::new((data, model, weights))))
}

/// The data of a classifier, and a suitable network.
///
/// # Errors
/// If the data cannot be read, or sizes are too large.
pub fn fit_classifier(config: &Config) -> Result<(Dataset, ClassifierConfig)> {
    let data = data::load(&config.data)?;
    let network = fit_classifier::network(&data, &config.classifier);
    network.check()?;
    Ok((data, network))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_differ_only_in_their_seed_are_checked_once() {
        let with = |command: Command, seed: u64, groups: usize| {
            let mut config = Config::default();
            (config.run.seed, config.run.name, config.rollout.groups) = (seed, format!("run-{seed}"), groups);
            (command, config)
        };
        let configs = [
            with(Command::Train, 1, 2),
            with(Command::Train, 2, 2),
            with(Command::Train, 2, 3),
            with(Command::Eval, 1, 2),
            with(Command::Train, 3, 3),
        ];
        let checked: Vec<(Command, usize)> =
            distinct(&configs).map(|(command, config)| (*command, config.rollout.groups)).collect();
        assert_eq!(checked, [(Command::Train, 2), (Command::Train, 3), (Command::Eval, 2)]);
    }
}

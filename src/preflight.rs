//! Everything that a command would refuse before it needs a device, a program or a service: what `config check` accepts,
//! the command accepts.

use crate::config::{Command, Config, ModelSource};
use crate::error::{Error, Result};
use crate::graph::DeviceProfile;
use crate::model::DitConfig;
use crate::reward::{Rewards, check_classifier};
use crate::rl::Trainer;
use crate::{assets, data, fit_classifier, pretrain};

/// What the commands would say to these configurations, such as the runs of a sweep: each message once.
pub fn refusals(configs: &[(Command, Config)]) -> Vec<Error> {
    let mut found: Vec<Error> = Vec::new();
    for error in configs.iter().filter_map(|(command, config)| check(*command, config).err()) {
        if found.iter().all(|other| other.to_string() != error.to_string()) {
            found.push(error);
        }
    }
    found
}

/// Reads what a configuration refers to, and checks that it fits together.
///
/// # Errors
/// What the command would say.
pub fn check(command: Command, config: &Config) -> Result<()> {
    match command {
        Command::Train => check_train(config),
        Command::Pretrain => check_pretrain(config),
        Command::FitClassifier => {
            let data = data::load(&config.data)?;
            fit_classifier::network(&data, &config.classifier).check()
        }
        // Its model is named on the command line.
        Command::Eval => Ok(()),
    }
}

fn check_train(config: &Config) -> Result<()> {
    let ModelSource::File(file) = config.model.source()? else { return Ok(()) };
    let model = assets::load_model(file)?;
    let dit = model.dit(file)?;
    Trainer::cost(config, dit, &DeviceProfile::default())?;
    dit.check_guidance("`eval.guidance_scale`", config.eval.guidance_scale)?;
    Rewards::check(&config.reward, dit, &model.class_names)?;
    match config.eval.judge.as_str() {
        "" => Ok(()),
        judge => check_classifier(judge, dit, &model.class_names),
    }
}

fn check_pretrain(config: &Config) -> Result<()> {
    let mut data = data::load(&config.data)?;
    let dit = match config.model.source()? {
        ModelSource::File(file) => {
            let model = assets::load_model(file)?;
            let dit = model.dit(file)?.clone();
            pretrain::check_shape(&data, &dit)?;
            data.take_classes_of(model.classes(file))?;
            dit
        }
        ModelSource::New(sizes) => DitConfig::new(&config.model, sizes),
    };
    dit.check()?;
    pretrain::check_data(&data, &dit, &config.pretrain)
}

//! `pretrain`: flow matching from scratch, or further on from a file.

use clap::Args;

use super::resume::Begun;
use super::{Global, RunArguments, supervised};
use crate::config::{Command, ModelSource};
use crate::data;
use crate::error::Result;
use crate::graph::DeviceProfile;
use crate::supervised::Pretrainer;
use crate::{assets, pretrain};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let begun = Begun::of(&arguments.run, Command::Pretrain)?;
    let config = begun.config.clone();
    begun.check_length("pretrain.steps", config.pretrain.steps)?;
    let mut data = data::load(&config.data)?;
    if let ModelSource::File(file) = config.model.source()? {
        let model = assets::load_model(file)?;
        pretrain::check_shape(&data, model.dit(file)?)?;
        data.take_classes_of(model.classes(file))?;
    }
    let pace = Pretrainer::pace(&config);
    let gpu = global.open(&config.run.device)?;
    if arguments.run.dry_run {
        let dit = Pretrainer::network(&config)?;
        pretrain::check_data(&data, &dit, &config.pretrain)?;
        return supervised::dry_run(&gpu, &config, &pace, &Pretrainer::cost(&config, &dit, &DeviceProfile::of(&gpu)));
    }
    arguments.run.start_profiling(&gpu, &mut arguments.run.config.outputs(global, &config))?;
    let mut pretrainer = Pretrainer::new(&gpu, &config, &data)?;
    let (arguments, command) = (&arguments.run, Command::Pretrain);
    let work = supervised::Work { global, arguments, command, gpu: &gpu, data: &data, pace };
    supervised::train(&work, begun, &mut pretrainer)
}

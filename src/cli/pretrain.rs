//! `pretrain`: flow matching from scratch or from an existing model.

use clap::Args;

use super::resume::RunStart;
use super::{Global, RunArguments, supervised};
use crate::config::Command;
use crate::error::Result;
use crate::graph::DeviceProfile;
use crate::preflight;
use crate::supervised::Pretrainer;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let start = RunStart::of(&arguments.run, Command::Pretrain)?;
    let config = start.config.clone();
    start.check_length("pretrain.steps", config.pretrain.steps)?;
    let (data, model, weights) = preflight::pretrain(&config)?;
    let pace = Pretrainer::pace(&config);
    let gpu = global.open(&config.run.device)?;
    if arguments.run.dry_run {
        return supervised::dry_run(&gpu, &config, &pace, &Pretrainer::cost(&config, &model, &DeviceProfile::of(&gpu)));
    }
    arguments.run.start_profiling(&gpu, &mut arguments.run.config.outputs(global, &config))?;
    let mut pretrainer = Pretrainer::new(&gpu, &config, &data, model, weights)?;
    let (arguments, command) = (&arguments.run, Command::Pretrain);
    let work = supervised::Work { global, arguments, command, gpu: &gpu, data: &data, pace };
    supervised::train(&work, start, &mut pretrainer)
}

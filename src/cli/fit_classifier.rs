//! `fit-classifier`: trains the small classifier that scores or judges images.

use clap::Args;

use super::resume::RunStart;
use super::{Global, RunArguments, supervised};
use crate::config::Command;
use crate::error::Result;
use crate::graph::DeviceProfile;
use crate::memory::OtherParts;
use crate::preflight;
use crate::supervised::Fitter;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let start = RunStart::of(&arguments.run, Command::FitClassifier, &global.team)?;
    let config = start.config.clone();
    start.check_length("classifier.steps", config.classifier.steps)?;
    let (data, network) = preflight::fit_classifier(&config)?;
    let pace = Fitter::pace(&config);
    let gpu = global.open(&config.run.device)?;
    if arguments.run.dry_run {
        let cost = Fitter::cost(&config, &network, &DeviceProfile::of(&gpu))?;
        return supervised::dry_run(&gpu, &config, &pace, &cost, &OtherParts::default());
    }
    arguments.run.start_profiling(&gpu, &mut arguments.run.config.outputs(global, &config))?;
    let mut fitter = Fitter::new(&gpu, &config, &data, network)?;
    let (arguments, command) = (&arguments.run, Command::FitClassifier);
    let work = supervised::Work { global, arguments, command, gpu: &gpu, data: &data, pace };
    supervised::train(&work, start, &mut fitter)
}

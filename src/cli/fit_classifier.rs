//! `fit-classifier`: trains the small classifier that scores or judges images.

use clap::Args;

use super::resume::RunStart;
use super::{Global, RunArguments, ranks, supervised};
use crate::config::Command;
use crate::error::Result;
use crate::fit_classifier;
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
    let team = &global.team;
    let mut start = RunStart::of(&arguments.run, Command::FitClassifier, team)?;
    start.check_length("classifier.steps", start.config.classifier.steps)?;
    let is_resumed = start.newest.is_some();
    ranks::settle_reduction(team, &mut start.config.classifier.reduction, "classifier.reduction", is_resumed);
    fit_classifier::check_share(&start.config.classifier, team.seat())?;
    let files = || supervised::inputs(&start.config, Command::FitClassifier);
    ranks::check_same(global, &start.config, start.newest.as_ref(), files)?;
    let config = start.config.clone();
    let (data, network) = preflight::fit_classifier(&config)?;
    let pace = Fitter::pace(&config);
    let gpu = global.open(&config.run.device)?;
    if arguments.run.dry_run {
        let cost = Fitter::cost(&config, &network, &DeviceProfile::of(&gpu))?;
        return supervised::dry_run(&gpu, &config, &pace, &cost, &OtherParts::default());
    }
    ranks::check_equal_devices(team, &gpu)?;
    arguments.run.start_profiling(&gpu, &mut arguments.run.config.outputs(global, &config))?;
    let mut fitter = Fitter::new(&gpu, &config, &data, network)?;
    fitter.join(team);
    let (arguments, command) = (&arguments.run, Command::FitClassifier);
    let work = supervised::Work { global, arguments, command, gpu: &gpu, data: &data, pace };
    supervised::train(&work, start, &mut fitter)
}

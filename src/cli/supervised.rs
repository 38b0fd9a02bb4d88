//! What `pretrain` and `fit-classifier` have in common.

use std::path::Path;
use std::sync::Arc;

use super::resume::RunStart;
use super::{Global, RunArguments, memory, say, stop_at_interrupt};
use crate::config::{Command, Config};
use crate::data::Shown;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::memory::OtherParts;
use crate::ranks::rank_log;
use crate::run::RunDirectory;
use crate::run::inputs::Inputs;
use crate::supervised::{self, Cost, Learner, Options, Pace};
use crate::text::quoted;
use crate::text_to_image::files_of;

/// Prints the resolved configuration, and what training with it will cost; `parts` are on the device as well.
///
/// # Errors
/// If the device does not have enough memory.
pub(super) fn dry_run(gpu: &Gpu, config: &Config, pace: &Pace, cost: &Cost, parts: &OtherParts) -> Result<()> {
    let gigaflops = cost.flops as f64 / 1e9;
    say(config.to_toml().trim_end());
    say("");
    say(format_args!("device                 {}", gpu.description().name));
    match cost.trainable == cost.parameters {
        true => say(format_args!("parameters             {}", cost.parameters)),
        false => say(format_args!("parameters             {} ({} trained)", cost.parameters, cost.trainable)),
    }
    say(format_args!("per step               {gigaflops:.2} GFLOP, {} dispatches", cost.dispatches));
    say(format_args!("{:<22} {:.1} GFLOP", format!("{} steps", pace.steps), gigaflops * pace.steps as f64));
    memory::print(&cost.memory, "training", parts);
    memory::check(gpu, &cost.memory, parts)
}

/// Says what a run has trained of a text-to-image model, and how to draw with it.
pub(super) fn say_tuned(what: &str, config: &Config, directory: &RunDirectory) {
    let model = config.model.name();
    let trained = match config.lora.is_used() {
        true => format!("{model} with the adapter in {}", quoted(&directory.adapter())),
        false => format!("{model} with the transformer {}", quoted(&directory.model())),
    };
    let draw = format!("flowdppo-wgpu sample --model {} --prompt TEXT", quoted(directory.path()));
    say(format_args!("{what}: {trained}; draw with: {draw}"));
}

/// What a run of supervised training with this configuration depends on, as it is now.
///
/// # Errors
/// If the folder of a model lacks what it must have.
pub(super) fn inputs(config: &Config, command: Command) -> Result<Inputs> {
    let config = config.anchored();
    let of_model = match command {
        Command::Pretrain => files_of(&config)?,
        _ => Vec::new(),
    };
    Ok(Inputs::of(&config, command, of_model))
}

/// The folder that contains the directory of a run, if that has been named.
pub(super) fn beside<'a>(directory: Option<&'a Path>, config: &'a Config) -> &'a Path {
    match directory.map(Path::parent) {
        None => &config.run.out_dir,
        Some(Some(parent)) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
    }
}

/// What a command trains with.
pub(super) struct Work<'a> {
    pub global: &'a Global,
    pub arguments: &'a RunArguments,
    pub command: Command,
    pub gpu: &'a Arc<Gpu>,
    pub data: &'a dyn Shown,
    pub pace: Pace,
}

/// Trains a learner to the end, in a new directory or in that of the resumed run.
///
/// # Errors
/// Those of [`supervised::train`], and a directory that cannot be created.
pub(super) fn train(work: &Work<'_>, start: RunStart, learner: &mut impl Learner) -> Result<()> {
    let Work { global, arguments, command, gpu, data, pace } = work;
    let RunStart { config, directory, newest } = start;
    let team = &global.team;
    let start = supervised::begin(learner, newest.as_ref())?;
    // The input is checked on all ranks; only now write to the disk.
    team.agree(Ok(()))?;
    let directory = match directory {
        Some(directory) => {
            if team.leads() {
                directory.recover()?;
            }
            let changes = Config::of_run(&directory.config(), &[])?.changes(&config.anchored());
            if !changes.is_empty() {
                global.announce(format_args!("changed: {}", changes.join(", ")));
            }
            directory
        }
        None => RunDirectory::of_team(team, || RunDirectory::create_for(&config.run, arguments.out.as_deref()))?,
    };
    rank_log::write_into(directory.path(), team.seat())?;
    global.announce(data.summary().trim_end());
    if team.leads() {
        directory.record_start(&config, &inputs(&config, *command)?, gpu.description())?;
        data.write_sheet(&directory.data())?;
    }
    global.announce(format_args!("{} on {} into {}", pace.label, data.counted(), directory.path().display()));
    team.on_death(format!("; what was saved is intact, continue with: {}", directory.resume_command(*command)));
    let stop = stop_at_interrupt(team)?;
    let options = Options { gpu, directory: &directory, verbosity: global.verbosity(), stop: &stop, team };
    let outcome = supervised::train(learner, pace, start, &options)?;
    if !team.leads() {
        return Ok(());
    }
    if outcome.finished {
        match learner.saved().is_adapter() {
            _ if config.model.folder.is_some() => say_tuned("model", &config, &directory),
            _ if config.model.text.is_some() => {
                let folder = quoted(directory.path());
                say(format_args!("model: {folder}; draw with: flowdppo-wgpu sample --model {folder} --prompt TEXT"));
            }
            false => say(format_args!("model: {}", directory.model().display())),
            true => say(format_args!("model: {}, with {}", directory.path().display(), directory.adapter().display())),
        }
    } else {
        let resume = directory.resume_command(*command);
        say(format_args!("stopped after step {}; continue with: {resume}", outcome.done));
    }
    arguments.report_profile(gpu, &directory)
}

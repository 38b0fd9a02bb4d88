//! `train`: tunes a model with Flow-DPPO or another `objective`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::HumanDuration;

use super::memory::{self, mebibytes};
use super::resume::RunStart;
use super::supervised::{beside, say_tuned};
use super::{Global, RunArguments, eval, ranks, say, stop_at_interrupt};
use crate::config::{Command, Config, Train, WeightType};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::DeviceProfile;
use crate::memory::OtherParts;
use crate::model::{FlowModel, Network, Pictures, StoredModel};
use crate::ranks::{Seat, rank_log};
use crate::reward::{Judge, Rewards};
use crate::rl::{self, Cost, RunOptions, RunSummary, TrainingRun, UpdateSettings};
use crate::run::directory::REPORT;
use crate::run::{LoadedCheckpoint, RunDirectory};
use crate::saved::going_on;
use crate::text::quoted;
use crate::text_to_image::{StartingModel, TextBase};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    /// Write the first two updates of the first rollout to a safetensors file: inputs, velocities, losses, gradients,
    /// weights before and after (docs/method.md names them)
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    dump_update: Option<PathBuf>,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let team = &global.team;
    let RunStart { config, directory: existing, newest } = team.agree(begin(global, arguments))?;
    if arguments.run.dry_run {
        // The others would print the same.
        return if team.leads() { print_cost(global, &config, newest.as_ref()) } else { Ok(()) };
    }
    ranks::check_same(global, &config, newest.as_ref(), || rl::inputs(&config))?;
    let prepared = prepare(global, arguments, &config, existing.as_ref(), newest);
    let (gpu, run) = team.agree(prepared)?;
    let is_resumed = existing.is_some();
    let directory = match existing {
        Some(directory) => directory,
        None => RunDirectory::of_team(team, || RunDirectory::create_for(&config.run, arguments.run.out.as_deref()))?,
    };
    rank_log::write_into(directory.path(), team.seat())?;
    if is_resumed {
        let changes = Config::of_run(&directory.config(), &[])?.changes(&config.anchored());
        if !changes.is_empty() {
            global.announce(format_args!("changed: {}", changes.join(", ")));
        }
    }
    announce(global, &config, &directory, &gpu);
    team.on_death(format!("; what was saved is intact, continue with: {}", directory.resume_command(Command::Train)));
    let stop = stop_at_interrupt(team)?;
    let verbosity = global.verbosity();
    let outcome = run.execute(&RunOptions { directory: &directory, verbosity, stop: &stop, in_sweep: false })?;
    if !team.leads() {
        return Ok(());
    }
    say_outcome(&config, &outcome, &directory);
    arguments.run.report_profile(&gpu, &directory)
}

/// What a run starts with, checked as far as that needs no model.
fn begin(global: &Global, arguments: &Arguments) -> Result<RunStart> {
    let team = &global.team;
    let mut start = RunStart::of(&arguments.run, Command::Train, team)?;
    start.check_length("train.iterations", start.config.train.iterations)?;
    let is_resumed = start.newest.is_some();
    ranks::settle_reduction(team, &mut start.config.train.reduction, "train.reduction", is_resumed);
    let updates = UpdateSettings { seat: team.seat(), ..UpdateSettings::from(&start.config) };
    updates.check_share()?;
    if arguments.dump_update.is_some() && (team.is_many() || updates.sums_in_tree()) {
        return Err(Error::input(
            "--dump-update writes the terms of one process in the order in which it sums them: start it once, without \
             mpirun, with `train.reduction` = \"fast\"",
        ));
    }
    Ok(start)
}

/// Binds everything, and checks that the checkpoint fits, before anything is written.
fn prepare(
    global: &Global,
    arguments: &Arguments,
    config: &Config,
    existing: Option<&RunDirectory>,
    newest: Option<LoadedCheckpoint>,
) -> Result<(Arc<Gpu>, TrainingRun)> {
    let team = &global.team;
    let base = StartingModel::open(config)?;
    let (planned, trained) = (base.planned()?, going_on(config, newest.as_ref()));
    if let (None, Some(out)) = (existing, &arguments.run.out) {
        RunDirectory::check_free(out)?;
    }
    let mut outputs = arguments.run.config.outputs(global, config);
    if let Some(file) = &arguments.dump_update {
        outputs.file(file)?;
    }
    let gpu = global.open_in(trained.train.precision, &config.run.device)?;
    arguments.run.start_profiling(&gpu, &mut outputs)?;
    let folder = beside(existing.map(RunDirectory::path).or(arguments.run.out.as_deref()), config);
    if base.text().is_some() {
        // Encoding takes a while: what does not suit the model is found before.
        TrainingRun::check_on(&gpu, &trained, &planned, team.seat())?;
        base.check_room(&gpu, folder)?;
    }
    let load = || base.loaded(&gpu, config, (folder, global.verbosity()), |warning| log::warn!("{warning}"));
    let model = ranks::leader_first(team, load)?;
    let run = TrainingRun::prepare(&gpu, config, &*model, newest, arguments.dump_update.clone(), team)?;
    Ok((gpu, run))
}

/// Says what is about to happen.
fn announce(global: &Global, config: &Config, directory: &RunDirectory, gpu: &Gpu) {
    let (file, name, path) = (config.model.name(), &gpu.description().name, directory.path().display());
    let ranks = match global.team.seat() {
        Seat { size: 1, .. } => String::new(),
        Seat { rank, size } => format!(" as rank {rank} of {size}"),
    };
    global.announce(format_args!("training {file} on {name}{ranks}; run directory {path}"));
}

/// Says how a run ended, and what can be done with its results.
fn say_outcome(config: &Config, outcome: &RunSummary, directory: &RunDirectory) {
    if let Some(tuned) = &outcome.tuned {
        let file = config.model.name();
        say(eval::table(&[(config.lora.reference_name(), &outcome.base), ("tuned", tuned)]).trim_end());
        match config.lora.is_used() {
            _ if config.model.folder.is_some() => say_tuned("tuned model", config, directory),
            false => say(format_args!("tuned model: {}", directory.model().display())),
            true => {
                let (run, adapter) = (directory.path().display(), directory.adapter());
                say(format_args!("tuned model: {run}, which is {file} with the adapter in {}", adapter.display()));
            }
        }
        if let Some(vae) = &config.model.vae {
            let [model, vae] = [directory.path(), Path::new(vae)].map(quoted);
            say(format_args!("draw with: flowdppo-wgpu sample --model {model} --vae {vae} --class N"));
        }
        if let Some(best) = &outcome.best {
            let (by, iteration, value) = (&best.by, best.iteration, best.value);
            say(format_args!("best by {by}: iteration {iteration} ({value:.3}), {}", directory.best().display()));
        }
        say(format_args!("before and after: {}", directory.before_after().display()));
        say(format_args!("report: {}", directory.path().join(REPORT).display()));
        say(format_args!("samples: {}", directory.path().join("samples").display()));
    } else {
        let (iterations, resume) = (outcome.iterations, directory.resume_command(Command::Train));
        say(format_args!("stopped after iteration {iterations}; continue with: {resume}"));
    }
    if outcome.warnings > 0 {
        say(format_args!("warnings: {}, in {}", outcome.warnings, directory.warnings().display()));
    }
}

/// Loads the rewards, and the judge to find its problems before anything is written.
fn load_scorers(gpu: &Arc<Gpu>, config: &Config, pictures: &Pictures<'_>) -> Result<Rewards> {
    if !config.eval.judge.is_empty() {
        Judge::new(gpu, &config.eval.judge, pictures)?;
    }
    Rewards::new(gpu, &config.reward, pictures)
}

/// Prints a configuration and what training with it would cost.
fn print_cost(global: &Global, config: &Config, newest: Option<&LoadedCheckpoint>) -> Result<()> {
    let base = StartingModel::open(config)?;
    let planned = base.planned()?;
    dry_run(global, config, &going_on(config, newest), base.text(), &planned)
}

/// Prints `config` and what training with it would cost; for a resumed run, `trained` is what training will use.
fn dry_run(
    global: &Global,
    config: &Config,
    trained: &Config,
    text: Option<&TextBase>,
    planned: &StoredModel,
) -> Result<()> {
    let gpu = global.open_in(trained.train.precision, &config.run.device)?;
    let model = &planned.flow_model("`model.file`")?;
    let rewards = load_scorers(&gpu, config, &model.pictures(&planned.class_names))?.memory();
    let profile = DeviceProfile::of(&gpu);
    // The last rank has the largest share.
    let size = global.team.seat().size;
    let seat = Seat { rank: size - 1, size };
    let cost: Cost = TrainingRun::cost(trained, model, &profile, seat)?;
    let encoders = text.map(|text| text.planned_encoder(&profile)).transpose()?.flatten().into_iter().collect();
    let parts = OtherParts::of(model, &cost.memory, encoders, rewards, &profile, |bytes| gpu.check_memory(bytes))?;
    say(config.to_toml().trim_end());
    let gigaflops = |flops: u64| flops as f64 / 1e9;
    say("");
    say(format_args!("device                 {}", gpu.description().name));
    say(format_args!("parameters             {} ({} trained)", cost.parameters, cost.trainable));
    say(format_args!(
        "per iteration          {:.1} GFLOP: rollout {:.1}, updates {:.1}",
        gigaflops(cost.rollout_flops + cost.update_flops),
        gigaflops(cost.rollout_flops),
        gigaflops(cost.update_flops)
    ));
    let flops = (cost.rollout_flops + cost.update_flops) as f64 * trained.train.iterations as f64;
    let times = SPEEDS.map(|speed| {
        let time = HumanDuration(Duration::from_secs_f64(flops / (speed * 1e12)));
        format!("{time} at {speed} TFLOP/s")
    });
    say(format_args!("{:<23}{}", format!("{} iterations", trained.train.iterations), times.join(", ")));
    say(format_args!("dispatches             {}", cost.dispatches));
    memory::print(&cost.memory, "rollout, update and optimizer", &parts);
    print_alternatives(trained, model, &parts, &profile, seat)?;
    let frozen = Network::base(model, trained.model.weights).frozen();
    let by_type = frozen.bytes_by_type();
    let by_type = by_type.iter().map(|(dtype, bytes)| format!("{:.1} in {dtype}", mebibytes(*bytes)));
    say(format_args!(
        "frozen base            {:.1} MiB: {}",
        mebibytes(frozen.bytes()),
        by_type.collect::<Vec<String>>().join(", ")
    ));
    memory::check(&gpu, &cost.memory, &parts)
}

/// Prints what would be on the device with other settings.
fn print_alternatives(
    trained: &Config,
    model: &FlowModel,
    parts: &OtherParts,
    profile: &DeviceProfile,
    seat: Seat,
) -> Result<()> {
    let with = |other: &Config, setting: &str| -> Result<()> {
        if other.validate(Command::Train).is_ok() {
            let bytes = parts.most(&TrainingRun::cost(other, model, profile, seat)?.memory);
            say(format_args!("                       {:.1} MiB with {setting}", mebibytes(bytes)));
        }
        Ok(())
    };
    type Switch = fn(&mut Train) -> &mut bool;
    let switches: [(&str, Switch); 2] = [
        ("activation_checkpointing", |train| &mut train.activation_checkpointing),
        ("half_activations", |train| &mut train.half_activations),
    ];
    for (key, switch) in switches {
        let mut other = trained.clone();
        let on = switch(&mut other.train);
        *on = !*on;
        let setting = format!("train.{key} = {on}");
        with(&other, &setting)?;
    }
    for weights in WeightType::ALL.into_iter().filter(|weights| *weights != trained.model.weights) {
        let mut other = trained.clone();
        other.model.weights = weights;
        with(&other, &format!("model.weights = \"{}\"", weights.name()))?;
    }
    Ok(())
}

/// What laptop, desktop and data-centre GPUs reach, in TFLOP/s.
const SPEEDS: [f64; 3] = [2.0, 10.0, 50.0];

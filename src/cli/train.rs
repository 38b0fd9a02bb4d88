//! `train`: tunes a model with Flow-DPPO or another `objective`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::HumanDuration;

use super::memory::{self, mebibytes};
use super::resume::RunStart;
use super::supervised::{beside, say_tuned};
use super::{Global, RunArguments, eval, say, stop_at_interrupt};
use crate::config::{Command, Config, Train, WeightType};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::DeviceProfile;
use crate::memory::OtherParts;
use crate::model::{FlowModel, Network, Pictures, StoredModel};
use crate::reward::{Judge, Rewards};
use crate::rl::{Cost, RunOptions, RunSummary, TrainingRun};
use crate::run::RunDirectory;
use crate::run::directory::REPORT;
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
    let start = RunStart::of(&arguments.run, Command::Train)?;
    start.check_length("train.iterations", start.config.train.iterations)?;
    let RunStart { config, directory: existing, newest } = start;
    let (file, base) = (config.model.name(), StartingModel::open(&config)?);
    let (planned, trained) = (base.planned()?, going_on(&config, newest.as_ref()));
    if arguments.run.dry_run {
        return dry_run(global, &config, &trained, base.text(), &planned);
    }
    if let (None, Some(out)) = (&existing, &arguments.run.out) {
        RunDirectory::check_free(out)?;
    }
    let mut outputs = arguments.run.config.outputs(global, &config);
    if let Some(file) = &arguments.dump_update {
        outputs.file(file)?;
    }
    // Bind everything, and check that the checkpoint fits, before anything is written.
    let gpu = global.open(&config.run.device)?;
    arguments.run.start_profiling(&gpu, &mut outputs)?;
    let folder = beside(existing.as_ref().map(RunDirectory::path).or(arguments.run.out.as_deref()), &config);
    if base.text().is_some() {
        // Encoding takes a while: what does not suit the model is found before.
        TrainingRun::check_on(&gpu, &trained, &planned)?;
        base.check_room(&gpu, folder)?;
    }
    let model = base.loaded(&gpu, &config, (folder, global.verbosity()), |warning| log::warn!("{warning}"))?;
    let run = TrainingRun::prepare(&gpu, &config, &*model, newest, arguments.dump_update.clone())?;
    // Closes its file, which may be one that the run replaces.
    drop((planned, model));
    drop(base);
    let directory = match existing {
        Some(directory) => {
            let changes = Config::of_run(&directory.config(), &[])?.changes(&config.anchored());
            if !changes.is_empty() {
                global.announce(format_args!("changed: {}", changes.join(", ")));
            }
            directory
        }
        None => RunDirectory::create_for(&config.run, arguments.run.out.as_deref())?,
    };
    global.announce(format_args!(
        "training {file} on {}; run directory {}",
        gpu.description().name,
        directory.path().display()
    ));
    let stop = stop_at_interrupt()?;
    let verbosity = global.verbosity();
    let outcome = run.execute(&RunOptions { directory: &directory, verbosity, stop: &stop, in_sweep: false })?;
    say_outcome(&config, &outcome, &directory);
    arguments.run.report_profile(&gpu, &directory)
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

/// Prints `config` and what training with it would cost; for a resumed run, `trained` is what training will use.
fn dry_run(
    global: &Global,
    config: &Config,
    trained: &Config,
    text: Option<&TextBase>,
    planned: &StoredModel,
) -> Result<()> {
    let gpu = global.open(&config.run.device)?;
    let model = &planned.flow_model("`model.file`")?;
    let rewards = load_scorers(&gpu, config, &model.pictures(&planned.class_names))?.memory();
    let profile = DeviceProfile::of(&gpu);
    let cost: Cost = TrainingRun::cost(trained, model, &profile)?;
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
    print_alternatives(trained, model, &parts, &profile)?;
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
fn print_alternatives(trained: &Config, model: &FlowModel, parts: &OtherParts, profile: &DeviceProfile) -> Result<()> {
    let with = |other: &Config, setting: &str| -> Result<()> {
        if other.validate(Command::Train).is_ok() {
            let bytes = parts.most(&TrainingRun::cost(other, model, profile)?.memory);
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

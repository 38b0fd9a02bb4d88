//! The commands: one file each; they talk to the user and contain no logic.

mod advice;
mod bench;
mod compare;
mod completions;
mod config;
mod dashboard;
mod data;
mod devices;
mod doctor;
mod encode;
mod eval;
mod eval_text;
mod export;
mod fit_classifier;
mod import;
mod inspect;
mod interrupt;
mod memory;
mod merge;
mod output;
mod pretrain;
mod ranks;
mod report;
mod resume;
mod sample;
mod sample_text;
mod supervised;
mod sweep;
mod train;
mod web;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};

use crate::assets;
use crate::config::{Command as ConfigCommand, Config, Precision, Preset};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, LimitsMode, Options};
use crate::model::StoredModel;
use crate::ops;
use crate::profile::Profile;
use crate::ranks::Team;
use crate::run::{RunDirectory, Verbosity};
use interrupt::stop_at_interrupt;
use output::{Outputs, say};

/// First steps, below the list of commands.
const EXAMPLES: &str = "\
First steps:
  flowdppo-wgpu devices                                # the devices, and whether they compute correctly
  flowdppo-wgpu train --preset quick                   # a quick look at training, with built-in models
  flowdppo-wgpu train                                  # the complete example: before and after
  flowdppo-wgpu config init --for train --out my.toml  # your own file, every key explained
  flowdppo-wgpu train --dry-run --config my.toml       # what it will cost";

/// Tunes small flow-matching image models by reinforcement learning (Flow-DPPO) on any GPU.
#[derive(Debug, Parser)]
#[command(name = "flowdppo-wgpu", version, about, propagate_version = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// Print more; twice for everything (RUST_LOG overrides)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Print only results, errors, and warnings of damaged files
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Adapter to use: part of its name, or its index in `devices`; of several ranks on a machine, indices such as 0,1,2,3
    #[arg(long, value_name = "NAME|INDEX", global = true)]
    device: Option<String>,
    /// Limits to request from the device
    #[arg(long, value_enum, default_value = "adapter", global = true)]
    limits: LimitsMode,
    /// Turn on every run-time check in shaders (slower)
    #[arg(long, global = true)]
    checked: bool,
    /// Replace existing output files
    #[arg(long, global = true)]
    force: bool,
    /// The processes that were started together.
    #[arg(skip)]
    team: Team,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tune a flow model with Flow-DPPO or another policy objective; without arguments, the built-in example
    Train(train::Arguments),
    /// Draw images from a model
    Sample(Box<sample::Arguments>),
    /// Encode prompts for a text-to-image model, once for many `sample --conditions`
    Encode(encode::Arguments),
    /// Measure a model: reward, independent judge, diversity, drift
    Eval(eval::Arguments),
    /// Pretrain a flow model by flow matching
    Pretrain(pretrain::Arguments),
    /// Train the small classifier that scores or judges images
    FitClassifier(fit_classifier::Arguments),
    /// Show the images that pretrain and fit-classifier would learn from
    Data(data::Arguments),
    /// Train a set of runs and compare them
    Sweep(sweep::Arguments),
    /// Compare runs: a table and figures
    Compare(compare::Arguments),
    /// Write a run as one page, report.html in its directory; training also does this
    Report(report::Arguments),
    /// Show runs in the browser, live
    Dashboard(dashboard::Arguments),
    /// Serve the trainer as a page that trains in the browser
    Web(web::Arguments),
    /// Show what a file or folder is: a model, an adapter, a run or a checkpoint
    Inspect(inspect::Arguments),
    /// Convert a checkpoint from another program
    Import(import::Arguments),
    /// Convert a model to a checkpoint of another program
    Export(export::Arguments),
    /// Add an adapter to the weights of its model
    Merge(merge::Arguments),
    /// Write, show, check and explain configurations
    Config(config::Arguments),
    /// List adapters and test that they compute correctly
    Devices(devices::Arguments),
    /// Write a report about a device: what it is, whether it computes correctly, how fast
    Doctor(doctor::Arguments),
    /// Measure kernels, training steps and iterations on a device
    Bench(bench::Arguments),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
}

/// The configuration file and the changes to it.
#[derive(Clone, Debug, Args)]
struct ConfigArguments {
    /// Configuration file (TOML); by default the built-in one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    changes: Changes,
}

/// Changes to a configuration.
#[derive(Clone, Debug, Args)]
struct Changes {
    /// Named settings that override the file, repeatable; `config presets` lists them
    #[arg(long = "preset", value_name = "NAME", value_parser = completions::PresetNames)]
    presets: Vec<String>,
    /// Set a key, overriding file and presets; repeatable, for instance train.iterations=3
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

/// An adapter on a model.
#[derive(Clone, Debug, Args)]
struct AdapterArguments {
    /// Adapter to add to the model: a directory that PEFT or a run wrote; for prompts also one that diffusers wrote
    #[arg(long, visible_alias = "lora", value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Factor of the adapter; 0 is the model alone
    #[arg(long, value_name = "S", default_value_t = 1.0, requires = "adapter", allow_negative_numbers = true)]
    adapter_scale: f64,
}

impl AdapterArguments {
    /// The model in a file, or builtin:NAME, with the adapter added to its weights.
    fn load_model(&self, file: &str) -> Result<StoredModel> {
        let model = assets::load_model(file)?;
        match &self.adapter {
            None => Ok(model),
            Some(folder) => merge::merged(file, model, folder, self.scale()?),
        }
    }

    /// How much of the adapter is added.
    fn scale(&self) -> Result<f64> {
        merge::checked_scale(self.adapter_scale)
    }
}

/// What makes images of latents.
#[derive(Clone, Debug, Args)]
struct VaeArguments {
    /// Autoencoder of a model of latents, such as SiT, which then makes images: a folder of diffusers, a file, or org/name
    /// in the hub's cache
    #[arg(long, value_name = "FILE|DIR|NAME")]
    vae: Option<String>,
}

impl VaeArguments {
    /// Refuses it for a text-to-image model; `remedy` is what the user can do.
    ///
    /// # Errors
    /// If it is given.
    fn refuse(&self, model: &str, remedy: &str) -> Result<()> {
        match &self.vae {
            None => Ok(()),
            Some(_) => Err(Error::input(format!(
                "--vae is for models with classes, and {model} is a text-to-image model, which has its own: {remedy}"
            ))),
        }
    }

    /// The model, which messages call `name`, with this autoencoder or else the `configured` one.
    fn attach(&self, model: StoredModel, name: &str, configured: Option<&str>) -> Result<StoredModel> {
        match self.vae.as_deref() {
            Some(vae) => assets::with_vae(model, name, Some(vae), "--vae"),
            None => assets::with_vae(model, name, configured, "`model.vae`"),
        }
    }
}

/// The configuration of a run, and where the run goes.
#[derive(Clone, Debug, Args)]
struct RunArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// The run's directory; by default run.out_dir/run.name
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in --out (or run.out_dir/run.name) from its newest checkpoint
    #[arg(long)]
    resume: bool,
    /// Resume even if files that the run depends on have changed since it was started
    #[arg(long, requires = "resume")]
    accept_changes: bool,
    /// Only print the resolved configuration and what it will cost
    #[arg(long)]
    dry_run: bool,
    /// Time every dispatch (slower, same results): tables at the end, profile.json, and a trace for Perfetto,
    /// trace.json in the run's directory or FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    profile: Option<Option<PathBuf>>,
}

impl RunArguments {
    /// Turns profiling on if requested. Must be called before any plan is made.
    fn start_profiling(&self, gpu: &Gpu, outputs: &mut Outputs) -> Result<()> {
        if let Some(trace) = &self.profile {
            if let Some(file) = trace {
                outputs.file(file)?;
            }
            gpu.start_profiling();
        }
        Ok(())
    }

    /// Prints and writes what was recorded, if anything.
    fn report_profile(&self, gpu: &Gpu, directory: &RunDirectory) -> Result<()> {
        let Some(profile) = Profile::of(gpu)? else { return Ok(()) };
        let trace = self.profile.clone().flatten().unwrap_or_else(|| directory.trace());
        profile.write(&trace, &directory.profile())?;
        say(profile.tables().trim_end());
        say(format_args!("trace: {} (open it in https://ui.perfetto.dev)", trace.display()));
        Ok(())
    }
}

impl Changes {
    /// The settings of presets, then those of `--set`, all written like `--set`.
    fn overrides(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for name in &self.presets {
            all.extend(Preset::named(name)?.overrides());
        }
        all.extend_from_slice(&self.overrides);
        Ok(all)
    }
}

impl ConfigArguments {
    /// The overrides of the file.
    fn overrides(&self) -> Result<Vec<String>> {
        self.changes.overrides()
    }

    /// The configuration, not yet validated.
    fn read(&self) -> Result<Config> {
        Config::load(self.config.as_deref(), &self.overrides()?)
    }

    /// The files that a command with this configuration writes; it may not overwrite those that it reads.
    fn outputs(&self, global: &Global, config: &Config) -> Outputs {
        let rewards = config.reward.iter().flat_map(|reward| [reward.file.as_str(), reward.head.as_str()]);
        let models = rewards
            .chain(config.model.file.as_deref())
            .chain(config.model.folder.as_deref())
            .chain(config.model.vae.as_deref())
            .chain([config.eval.judge.as_str()]);
        let named = models.filter(|file| !file.is_empty()).map(Path::new);
        let paths = [&config.data.path, &config.data.labels, &config.prompts.file, &config.lora.adapter, &self.config];
        named.chain(paths.into_iter().flatten().map(PathBuf::as_path)).fold(global.outputs(), Outputs::reads)
    }

    fn load(&self, command: ConfigCommand) -> Result<Config> {
        let config = self.read()?;
        config.validate(command)?;
        Ok(config)
    }
}

impl Global {
    fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) => Verbosity::Normal,
            (false, _) => Verbosity::Verbose,
        }
    }

    /// The files that a command writes.
    fn outputs(&self) -> Outputs {
        Outputs::new(self.force)
    }

    /// Prints what is about to happen, unless `--quiet`.
    fn announce(&self, text: impl Display) {
        if !self.quiet {
            say(text);
        }
    }

    /// Opens the device; `--device` overrides the configuration's.
    fn open(&self, config_device: &str) -> Result<Arc<Gpu>> {
        self.open_in(Precision::F32, config_device)
    }

    /// The same for matrix products of this precision.
    fn open_in(&self, precision: Precision, config_device: &str) -> Result<Arc<Gpu>> {
        Ok(self.open_with_options(precision, config_device)?.0)
    }

    /// The device, and how it was opened.
    fn open_with_options(&self, precision: Precision, config_device: &str) -> Result<(Arc<Gpu>, Options)> {
        let from_config = Some(config_device.to_owned()).filter(|name| !name.is_empty());
        let options = Options {
            device: self.device.clone().or(from_config),
            limits: self.limits,
            checked: self.checked,
            pipeline_cache: true,
            matrices: precision == Precision::F16,
            chunk_bytes: None,
        };
        let mut options = options.or_environment();
        options.device = ranks::device(&self.team, options.device)?;
        ops::check_forced()?;
        Ok((Gpu::open(&options)?, options))
    }
}

impl Cli {
    /// The log level that `-v` and `-q` ask for.
    pub fn log_filter(&self) -> &'static str {
        match (self.global.quiet, self.global.verbose) {
            // Quiet, except about damaged data.
            (true, _) => "error,flowdppo_wgpu::damage=warn",
            (false, 0) => "warn",
            (false, 1) => "warn,flowdppo_wgpu=info",
            (false, _) => "info,flowdppo_wgpu=debug",
        }
    }

    /// Runs the command. An error is given to `tell` while the other ranks still wait, if there are any: a launcher ends them
    /// all as soon as one has ended.
    ///
    /// # Errors
    /// Whatever stopped it; [`crate::Error::exit_code`] is the code to exit with.
    pub fn run(self, tell: impl Fn(&Error)) -> Result<()> {
        let Self { mut global, command } = self;
        global.team = Team::start().inspect_err(&tell)?;
        let less = command.with_less_memory();
        let outcome = ranks::check_command(&global.team, &command)
            .and_then(|()| Self::dispatch(&global, command))
            .map_err(|error| advice::advised(error, &less))
            .and_then(|()| output::check_printed());
        ranks::ended(&global.team, outcome).inspect_err(tell)
    }

    fn dispatch(global: &Global, command: Command) -> Result<()> {
        match command {
            Command::Train(arguments) => train::run(global, &arguments),
            Command::Sample(arguments) => sample::run(global, &arguments),
            Command::Encode(arguments) => encode::run(global, &arguments),
            Command::Eval(arguments) => eval::run(global, &arguments),
            Command::Sweep(arguments) => sweep::run(global, &arguments),
            Command::Compare(arguments) => compare::run(global, &arguments),
            Command::Report(arguments) => report::run(&arguments),
            Command::Dashboard(arguments) => dashboard::run(global, &arguments),
            Command::Web(arguments) => web::run(global, &arguments),
            Command::Data(arguments) => data::run(global, &arguments),
            Command::Inspect(arguments) => inspect::run(&arguments),
            Command::Import(arguments) => import::run(global, &arguments),
            Command::Export(arguments) => export::run(global, &arguments),
            Command::Merge(arguments) => merge::run(global, &arguments),
            Command::Config(arguments) => config::run(global, &arguments),
            Command::Completions(arguments) => completions::run(&arguments),
            Command::Devices(arguments) => devices::run(global, &arguments),
            Command::Doctor(arguments) => doctor::run(global, &arguments),
            Command::Bench(arguments) => bench::run(global, &arguments),
            Command::Pretrain(arguments) => pretrain::run(global, &arguments),
            Command::FitClassifier(arguments) => fit_classifier::run(global, &arguments),
        }
    }
}

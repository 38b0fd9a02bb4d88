//! `train`: Flow-DPPO.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;

use super::{ConfigArguments, Global, eval};
use crate::config::{Command, Config, ModelSource};
use crate::error::{Error, Result};
use crate::graph::Profile;
use crate::model::DitConfig;
use crate::rl::{Cost, RunOptions, Trainer};
use crate::run::RunDirectory;
use crate::{assets, files, rl};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Continue the run in --out (or run.out_dir/run.name) from its newest checkpoint
    #[arg(long)]
    resume: bool,
    /// Only print the resolved configuration and what training will cost
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let (config, directory) = match arguments.resume {
        true => resumed(&arguments.config)?,
        false => (arguments.config.load(Command::Train)?, None),
    };
    let ModelSource::File(file) = config.model.source()? else {
        return Err(Error::input("train starts from a trained model: give `model.file`"));
    };
    let model = assets::load_model(file)?;
    let dit = model.dit(file)?;
    if arguments.dry_run {
        return dry_run(global, &config, dit);
    }
    // The plan is checked before anything is written.
    let gpu = global.open(&config.run.device)?;
    gpu.check_memory(Trainer::cost(&config, dit, &Profile::of(&gpu))?.bytes)?;
    let directory = match directory {
        Some(directory) => directory,
        None => {
            let directory = RunDirectory::create_for(&config.run, arguments.config.out.as_deref())?;
            files::write_atomically(&directory.config(), config.to_toml().as_bytes())?;
            directory
        }
    };
    if !global.quiet {
        println!("training {file} on {}; run directory {}", gpu.description().name, directory.path().display());
    }
    let stop = Arc::new(AtomicBool::new(false));
    listen_for_interrupts(&stop)?;
    let options =
        RunOptions { directory: &directory, resume: arguments.resume, verbosity: global.verbosity(), stop: &stop };
    let outcome = rl::run(&gpu, &config, &model, &options)?;
    if let Some(tuned) = &outcome.tuned {
        print!("{}", eval::table(&[("base", &outcome.base), ("tuned", tuned)]));
        println!("tuned model: {}", directory.path().join("model.safetensors").display());
        println!("before and after: {}", directory.path().join("before_after.png").display());
    } else {
        println!("stopped after iteration {}; continue with --resume", outcome.iterations);
    }
    Ok(())
}

/// The configuration that a run was begun with, changed by `--set`, and its directory.
fn resumed(arguments: &ConfigArguments) -> Result<(Config, Option<RunDirectory>)> {
    let path: PathBuf = match &arguments.out {
        Some(out) => out.clone(),
        None => {
            let run = Config::load(arguments.config.as_deref(), &arguments.overrides)?.run;
            Path::new(&run.out_dir).join(run.name)
        }
    };
    let directory = RunDirectory::open(&path)?;
    let config = Config::load(Some(&directory.config()), &arguments.overrides)?;
    config.validate(Command::Train)?;
    Ok((config, Some(directory)))
}

/// The first Ctrl-C ends the run after the iteration, saved; the second ends the program at once.
fn listen_for_interrupts(stop: &Arc<AtomicBool>) -> Result<()> {
    let stop = stop.clone();
    ctrlc::set_handler(move || {
        if stop.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nfinishing this iteration and saving it; once more to stop at once");
    })
    .map_err(|cause| Error::failed(format!("cannot listen for Ctrl-C: {cause}")))
}

fn dry_run(global: &Global, config: &Config, dit: &DitConfig) -> Result<()> {
    let gpu = global.open(&config.run.device)?;
    let cost: Cost = Trainer::cost(config, dit, &Profile::of(&gpu))?;
    println!("{}", config.to_toml().trim_end());
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let gigaflops = |flops: u64| flops as f64 / 1e9;
    println!();
    println!("device                 {}", gpu.description().name);
    println!("parameters             {} ({} trained)", cost.parameters, cost.trainable);
    println!(
        "an iteration           {:.1} GFLOP: rollout {:.1}, updates {:.1}",
        gigaflops(cost.rollout_flops + cost.update_flops),
        gigaflops(cost.rollout_flops),
        gigaflops(cost.update_flops)
    );
    println!("dispatches             {}", cost.dispatches);
    println!(
        "planned device memory  {:.1} MiB ({:.1} MiB if nothing were reused)",
        mebibytes(cost.bytes),
        mebibytes(cost.naive_bytes)
    );
    if let Some(memory) = gpu.description().memory_bytes {
        println!("device memory          {:.0} MiB", mebibytes(memory));
    }
    gpu.check_memory(cost.bytes)
}

//! `--resume`, for every command that makes a run.

use std::path::{Path, PathBuf};

use super::{RunArguments, supervised};
use crate::config::{self, Command, Config, Reduction};
use crate::error::{Error, Result};
use crate::ranks::Team;
use crate::rl;
use crate::run::inputs::{self, Inputs};
use crate::run::{LoadedCheckpoint, RunDirectory, checkpoint};

/// What a run continues from: its configuration, its directory, and the newest complete checkpoint. A new run has only
/// the first.
#[derive(Debug)]
pub(super) struct RunStart {
    pub config: Config,
    pub directory: Option<RunDirectory>,
    pub newest: Option<LoadedCheckpoint>,
}

impl RunStart {
    /// A new run or, with `--resume`, the one in the directory, where rank 0 of a team works.
    ///
    /// # Errors
    /// If the configuration is wrong, there is nothing to resume, or what the run depends on has changed.
    pub fn of(arguments: &RunArguments, command: Command, team: &Team) -> Result<Self> {
        match arguments.resume {
            true => resumed(arguments, command, team),
            false => Ok(Self { config: arguments.config.load(command)?, directory: None, newest: None }),
        }
    }

    /// Rejects a number of steps or iterations below what is already done.
    ///
    /// # Errors
    /// [`Error::Input`] naming the key and both numbers.
    pub fn check_length(&self, key: &str, wanted: usize) -> Result<()> {
        match (&self.newest, &self.directory) {
            (Some(newest), Some(directory)) if (wanted as u64) < newest.iteration => Err(Error::input(format!(
                "`{key}` must be at least {}, the number already done in {}, not {wanted}",
                newest.iteration,
                directory.path().display(),
            ))),
            _ => Ok(()),
        }
    }
}

/// The run in the directory: its configuration, changed by `--set`, and its newest checkpoint.
fn resumed(arguments: &RunArguments, command: Command, team: &Team) -> Result<RunStart> {
    let path: PathBuf = match &arguments.out {
        Some(out) => out.clone(),
        None => {
            let run = arguments.config.read()?.run;
            Path::new(&run.out_dir).join(run.name)
        }
    };
    let directory = if team.leads() { RunDirectory::open(&path)? } else { RunDirectory::seen(&path) };
    let then = Inputs::read(&directory.inputs())?;
    if let Some(then) = &then {
        then.check_command(command, &path)?;
    }
    let overrides = &arguments.config.overrides()?;
    let original = Config::of_run(&directory.config(), &[])?;
    let mut config = Config::of_run(&directory.config(), overrides)?;
    if let Some(file) = &arguments.config.config
        && same_start(Config::load(Some(file), overrides)?.anchored(), &config) != config
    {
        log::warn!(
            "a resumed run keeps its own configuration, {}: differences in {} are ignored; change keys with --set or --preset",
            directory.config().display(),
            file.display()
        );
    }
    let place = |run: &config::Run| (run.name.clone(), run.out_dir.clone());
    if arguments.out.is_some() && place(&config.run) != place(&original.run) {
        return Err(Error::input(format!(
            "`run.name` and `run.out_dir` cannot change in a resumed run, which stays in {}: leave them as they are",
            path.display()
        )));
    }
    // Without --out, these keys have only located the run.
    (config.run.name, config.run.out_dir) = place(&original.run);
    config.validate(command)?;
    let newest = checkpoint::latest(&directory.checkpoints())?;
    if newest.is_some() && config.lora.adapter != original.lora.adapter {
        return Err(Error::input(format!(
            "`lora.adapter` cannot change in a resumed run: the checkpoints in {} contain the trained adapter; leave \
             it as it is, or start another run",
            path.display()
        )));
    }
    if let Some(mut then) = then.filter(|_| !arguments.accept_changes) {
        // The checkpoint contains the trained adapter, so the original files are no longer needed.
        then.files.retain(|file| newest.is_none() || file.key != "lora.adapter");
        let now = match command {
            Command::Train => rl::inputs(&config)?,
            _ => supervised::inputs(&config, command)?,
        };
        let changes = then.changes(&now);
        if !changes.is_empty() {
            let remedy = "restore what the run was started with, set the key to another file with --set, or continue \
                          with the files as they are now with --accept-changes";
            return Err(inputs::changed(&changes, remedy));
        }
    }
    Ok(RunStart { config, directory: Some(directory), newest })
}

/// A configuration with the order of sums that a run has begun with, if it leaves that open.
fn same_start(mut file: Config, begun: &Config) -> Config {
    let pairs = [
        (&mut file.train.reduction, begun.train.reduction),
        (&mut file.pretrain.reduction, begun.pretrain.reduction),
        (&mut file.classifier.reduction, begun.classifier.reduction),
    ];
    for (open, begun) in pairs.into_iter().filter(|(open, _)| **open == Reduction::Auto) {
        *open = begun;
    }
    file
}

//! `--resume`, of every command that makes a run.

use std::path::{Path, PathBuf};

use super::RunArguments;
use crate::config::{self, Command, Config};
use crate::error::{Error, Result};
use crate::run::inputs::{self, Inputs};
use crate::run::{LoadedCheckpoint, RunDirectory, checkpoint};

/// What a run continues from: its configuration, its directory, and the newest whole checkpoint. A new run has the first
/// alone.
#[derive(Debug)]
pub(super) struct Begun {
    pub config: Config,
    pub directory: Option<RunDirectory>,
    pub newest: Option<LoadedCheckpoint>,
}

impl Begun {
    /// A new run, or with `--resume` the one in the directory.
    ///
    /// # Errors
    /// If the configuration is wrong, there is nothing to resume, or what the run depends on has changed.
    pub fn of(arguments: &RunArguments, command: Command) -> Result<Self> {
        match arguments.resume {
            true => resumed(arguments, command),
            false => Ok(Self { config: arguments.config.load(command)?, directory: None, newest: None }),
        }
    }

    /// Rejects fewer steps, or iterations, than are done.
    ///
    /// # Errors
    /// [`Error::Input`] naming the key and both numbers.
    pub fn check_length(&self, key: &str, wanted: usize) -> Result<()> {
        match (&self.newest, &self.directory) {
            (Some(newest), Some(directory)) if (wanted as u64) < newest.iteration => Err(Error::input(format!(
                "`{key}` must be at least {}, as so many are done in {}, not {wanted}",
                newest.iteration,
                directory.path().display(),
            ))),
            _ => Ok(()),
        }
    }
}

/// The configuration that a run was begun with, changed by `--set`, and what there is of it.
fn resumed(arguments: &RunArguments, command: Command) -> Result<Begun> {
    let path: PathBuf = match &arguments.out {
        Some(out) => out.clone(),
        None => {
            let run = arguments.config.read()?.run;
            Path::new(&run.out_dir).join(run.name)
        }
    };
    let directory = RunDirectory::open(&path)?;
    let then = Inputs::read(&directory.inputs())?;
    if let Some(then) = &then {
        then.check_command(command, &path)?;
    }
    let overrides = &arguments.config.overrides()?;
    let begun = Config::of_run(&directory.config(), &[])?;
    let mut config = Config::of_run(&directory.config(), overrides)?;
    if let Some(file) = &arguments.config.config
        && Config::load(Some(file), overrides)?.anchored() != config
    {
        log::warn!(
            "a resumed run keeps its own configuration, {}: what is different in {} is not used; change keys with --set or --preset",
            directory.config().display(),
            file.display()
        );
    }
    let place = |run: &config::Run| (run.name.clone(), run.out_dir.clone());
    if arguments.out.is_some() && place(&config.run) != place(&begun.run) {
        return Err(Error::input(format!(
            "`run.name` and `run.out_dir` cannot change in a resumed run, which stays in {}: leave them as they are",
            path.display()
        )));
    }
    // Without --out they have said where it is, and no more.
    (config.run.name, config.run.out_dir) = place(&begun.run);
    config.validate(command)?;
    let newest = checkpoint::latest(&directory.checkpoints())?;
    if newest.is_some() && config.lora.adapter != begun.lora.adapter {
        return Err(Error::input(format!(
            "`lora.adapter` cannot change in a resumed run: the checkpoints in {} contain it as it was trained; leave it as it \
             is, or begin another run",
            path.display()
        )));
    }
    if let Some(mut then) = then.filter(|_| !arguments.accept_changes) {
        // What became of the adapter is in the checkpoint, and its own files are needed no more.
        then.files.retain(|file| newest.is_none() || file.key != "lora.adapter");
        let changes = then.changes(&Inputs::of(&config.anchored(), command));
        if !changes.is_empty() {
            let remedy = "restore what the run was started with, set the key to another file with --set, or continue \
                          with the files as they are now with --accept-changes";
            return Err(inputs::changed(&changes, remedy));
        }
    }
    Ok(Begun { config, directory: Some(directory), newest })
}

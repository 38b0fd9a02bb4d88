//! A set of training runs, one after another on one device, or spread over ranks; finished runs are not repeated.
//!
//! Every run has its own directory with the usual checkpoints. Whatever ends a sweep (Ctrl-C, a crash, a power cut), the
//! same command continues it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::compare::{Comparison, Source};
use crate::config::{Config, Model, Prompts, SweepRun, WeightType};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::DeviceProfile;
use crate::ranks::{Seat, Team};
use crate::rl::{self, Cost, RunOptions, RunSummary, TrainingRun};
use crate::run::directory::{BEFORE_AFTER, FAILURE, RunDirectory};
use crate::run::inputs::{self, Inputs};
use crate::run::{Verbosity, checkpoint, metrics};
use crate::saved::going_on;
use crate::text_to_image::StartingModel;

/// How far a run of a sweep has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Not started, or interrupted: it will run.
    Open,
    /// Finished, with everything written.
    Finished,
    /// Its numbers were not finite, or a guard rail stopped it, with this message. Runs are deterministic, so a retry
    /// would fail in the same way.
    Failed(String),
}

/// The outcome of one run.
#[derive(Debug)]
pub enum Ended {
    /// It was trained to its end, or stopped by the user.
    Trained(Box<RunSummary>),
    /// Its numbers were not finite, or a guard rail stopped it; the message is saved in its directory.
    Failed(String),
}

/// A sweep whose runs are known and match the directories on disk.
#[derive(Debug)]
pub struct SweepPlan {
    runs: Vec<SweepRun>,
    models: Vec<((Model, Prompts), StartingModel)>,
}

impl SweepPlan {
    /// Opens every model that the runs start from, once each, and checks the existing directories.
    ///
    /// # Errors
    /// [`Error::Input`] if a model is invalid, or a run was started with another configuration.
    pub fn new(runs: Vec<SweepRun>) -> Result<Self> {
        let mut plan = Self { runs: Vec::new(), models: Vec::new() };
        for run in runs {
            let started = started_from(&run.config);
            match plan.models.iter().find(|(key, _)| *key == started) {
                Some((_, model)) => model.check(&run.config)?,
                None => plan.models.push((started, StartingModel::open(&run.config)?)),
            }
            check_unchanged(&run.config)?;
            plan.runs.push(run);
        }
        Ok(plan)
    }

    /// The model that a run starts from.
    fn model(&self, run: &SweepRun) -> &StartingModel {
        let started = started_from(&run.config);
        let found = self.models.iter().find(|(key, _)| *key == started);
        found.map(|(_, model)| model).expect("the models of all runs are open")
    }

    /// The runs in their order.
    pub fn runs(&self) -> &[SweepRun] {
        &self.runs
    }

    /// How far a run has come.
    pub fn progress(&self, run: &SweepRun) -> RunState {
        let path = path(&run.config);
        if let Ok(message) = std::fs::read_to_string(path.join(FAILURE)) {
            return RunState::Failed(message.trim().to_owned());
        }
        match path.join(crate::run::directory::BEFORE_AFTER).is_file() {
            true => RunState::Finished,
            false => RunState::Open,
        }
    }

    /// What an iteration of a run will cost on such a device.
    ///
    /// # Errors
    /// If the configuration does not fit the model.
    pub fn cost(&self, run: &SweepRun, profile: &DeviceProfile) -> Result<Cost> {
        let model = self.model(run).planned()?;
        TrainingRun::cost(&run.config, &model.flow_model(&run.config.model.name())?, profile, Seat::default())
    }

    /// Checks that every run that is still to do suits its model, and that the device has room for it: a mistake in the last
    /// must not be found after the others have been trained, or prompts have been encoded for it.
    ///
    /// # Errors
    /// That of the first run that would be refused, with its name.
    pub fn check(&self, gpu: &Gpu) -> Result<()> {
        let mut checked = HashSet::new();
        for run in self.open().into_iter().map(|index| &self.runs[index]) {
            // Not again for each seed.
            if checked.insert(run.config.without_run().to_toml()) {
                let name = format!(" (the run {}, seed {})", run.label, run.config.run.seed);
                self.check_run(gpu, run).map_err(|cause| cause.followed_by(&name))?;
            }
        }
        Ok(())
    }

    fn check_run(&self, gpu: &Gpu, run: &SweepRun) -> Result<()> {
        let (config, model, path) = (&run.config, self.model(run), path(&run.config));
        // Only an adapter to start from may be gone; checkpoints are large.
        let begun = if config.lora.adapter.is_some() { begun(&path)? } else { None };
        let newest = begun.map(|directory| checkpoint::latest(&directory.checkpoints())).transpose()?.flatten();
        TrainingRun::check_on(gpu, &going_on(config, newest.as_ref()), &*model.planned()?, Seat::default())?;
        model.check_room(gpu, path.parent().unwrap_or(&path))
    }

    /// Starts a run, or continues it.
    ///
    /// # Errors
    /// As [`TrainingRun::prepare`] and [`TrainingRun::execute`], except non-finite numbers and guard rails, which end only this run.
    pub fn execute(
        &self,
        gpu: &Arc<Gpu>,
        run: &SweepRun,
        verbosity: Verbosity,
        stop: &Arc<AtomicBool>,
    ) -> Result<Ended> {
        let config = &run.config;
        let path = path(config);
        let begun = begun(&path)?;
        let newest = begun.as_ref().map(|directory| checkpoint::latest(&directory.checkpoints())).transpose()?;
        let folder = path.parent().unwrap_or(&path);
        let warn = |warning: &str| log::warn!("{warning}");
        let model = self.model(run).loaded(gpu, config, (folder, verbosity), warn)?;
        let prepared = TrainingRun::prepare(gpu, config, &*model, newest.flatten(), None, &Team::default())?;
        drop(model);
        let directory = match begun {
            Some(directory) => directory,
            None => RunDirectory::create_for(&config.run, Some(&path))?,
        };
        match prepared.execute(&RunOptions { directory: &directory, verbosity, stop, in_sweep: true }) {
            Ok(outcome) => Ok(Ended::Trained(Box::new(outcome))),
            Err(Error::NotFinite(message) | Error::Guarded(message)) => Ok(Ended::Failed(message)),
            Err(other) => Err(other),
        }
    }

    /// The indices of the runs that are still to do.
    pub fn open(&self) -> Vec<usize> {
        let is_open = |index: &usize| self.progress(&self.runs[*index]) == RunState::Open;
        (0..self.runs.len()).filter(is_open).collect()
    }

    /// Encodes the prompts of runs into files, which all of them then read.
    ///
    /// # Errors
    /// As [`StartingModel::loaded`].
    pub fn encode_prompts(&self, gpu: &Arc<Gpu>, runs: &[usize], verbosity: Verbosity) -> Result<()> {
        let mut encoded = HashSet::new();
        for run in runs.iter().map(|index| &self.runs[*index]) {
            let (model, path) = (self.model(run), path(&run.config));
            let is_new = encoded.insert(std::ptr::from_ref(model));
            if is_new && model.text().is_some() {
                let folder = path.parent().unwrap_or(&path);
                // What there is to warn of is said when the run begins.
                model.loaded(gpu, &run.config, (folder, verbosity), |_| ())?;
            }
        }
        Ok(())
    }

    /// Does these runs in order, until all are done or `stop` is set. `tell` is called when a run starts and when it ends.
    ///
    /// # Errors
    /// As [`SweepPlan::execute`].
    pub fn execute_all(
        &self,
        gpu: &Arc<Gpu>,
        runs: &[usize],
        verbosity: Verbosity,
        stop: &Arc<AtomicBool>,
        mut tell: impl FnMut(usize, &SweepRun, Option<&Ended>),
    ) -> Result<()> {
        for index in runs.iter().copied() {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let run = &self.runs[index];
            tell(index, run, None);
            tell(index, run, Some(&self.execute(gpu, run, verbosity, stop)?));
        }
        Ok(())
    }

    /// All runs that have metrics or failed, side by side; `None` if none has.
    ///
    /// # Errors
    /// As [`Comparison::read`].
    pub fn comparison(&self) -> Result<Option<Comparison>> {
        let begun = self.runs.iter().filter(|run| {
            let log = path(&run.config).join("metrics.jsonl");
            let has_metrics = || metrics::read(&log).is_ok_and(|records| !records.is_empty());
            matches!(self.progress(run), RunState::Failed(_)) || has_metrics()
        });
        let sources: Vec<Source> =
            begun.map(|run| Source { label: Some(run.label.clone()), path: path(&run.config) }).collect();
        if sources.is_empty() { Ok(None) } else { Comparison::read(&sources).map(Some) }
    }
}

/// The directory of a run that has been started.
fn begun(path: &Path) -> Result<Option<RunDirectory>> {
    path.join("config.toml").is_file().then(|| RunDirectory::open(path)).transpose()
}

fn path(config: &Config) -> PathBuf {
    config.run.out_dir.join(&config.run.name)
}

/// What the model of a run depends on: runs with the same start from the same model, whose prompts are encoded once.
fn started_from(config: &Config) -> (Model, Prompts) {
    (Model { weights: WeightType::default(), ..config.model.clone() }, config.prompts.clone())
}

/// Rejects a run that was started with another configuration: its directory would become a mixture.
fn check_unchanged(config: &Config) -> Result<()> {
    let path = path(config).join("config.toml");
    if !Path::is_file(&path) {
        return Ok(());
    }
    let mut begun = Config::of_run(&path, &[])?;
    // The same path may be written in several ways.
    begun.run.out_dir.clone_from(&config.run.out_dir);
    begun.run.device.clone_from(&config.run.device);
    let differences = begun.differences(&config.anchored());
    if differences.is_empty() {
        return check_inputs(config, &path);
    }
    Err(Error::input(format!(
        "{} was started with another configuration, which differs in {}: choose another --out, or undo the change",
        path.parent().unwrap_or(&path).display(),
        differences.join(", ")
    )))
}

/// Rejects other files than those that a run was started with. A run that has finished or failed is not checked.
fn check_inputs(config: &Config, config_file: &Path) -> Result<()> {
    let folder = config_file.parent().unwrap_or(config_file);
    if [BEFORE_AFTER, FAILURE].iter().any(|file| folder.join(file).is_file()) {
        return Ok(());
    }
    let Some(then) = Inputs::read(&folder.join("inputs.json"))? else { return Ok(()) };
    match then.changes(&rl::inputs(config)?) {
        changes if changes.is_empty() => Ok(()),
        changes => Err(inputs::changed(&changes, "restore what it was, or choose another --out")),
    }
}

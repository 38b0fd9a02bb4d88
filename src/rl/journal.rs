//! What a run writes while it trains. Of several ranks, only the first keeps a journal: for the others nothing happens.

use super::guard::{RunGuard, Watch};
use super::line::Line;
use super::trainer::Trainer;
use crate::config::Config;
use crate::error::Result;
use crate::ranks::Team;
use crate::report::LiveReport;
use crate::run::best::{Best, BestKeeper, Selection};
use crate::run::evaluation::Evaluation;
use crate::run::{MetricsLog, Progress, RunDirectory, checkpoint, metrics};

/// The files of a run that grow.
#[derive(Debug)]
pub(super) struct Journal<'a> {
    kept: Option<Kept<'a>>,
}

#[derive(Debug)]
struct Kept<'a> {
    directory: &'a RunDirectory,
    log: MetricsLog,
    guard: RunGuard,
    keeper: BestKeeper,
    live: LiveReport,
}

/// The lines of metrics before a run begins or continues.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Those of the iterations that are done.
    pub lines: Vec<Line>,
    /// That of an iteration that was not measured: it ends again.
    pub unmeasured: Option<Line>,
}

impl Past {
    /// Reads the lines of a run with `done` iterations; of the last one, `measured` says whether it had to be measured.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(directory: &RunDirectory, done: u64, measured: bool) -> Result<Self> {
        if done == 0 {
            return Ok(Self::default());
        }
        let mut lines: Vec<Line> = metrics::read(&directory.metrics())?.into_iter().map(Line::from).collect();
        lines.retain(|line| line.iteration <= done);
        let unmeasured = lines.pop_if(|line| line.iteration == done && measured && line.evaluation.is_none());
        Ok(Self { lines, unmeasured })
    }
}

impl<'a> Journal<'a> {
    /// Opens the files of a run that has done `done` iterations, on the rank that writes. `holdouts` are the names of the
    /// rewards of weight 0; `dim` is the number of elements of an image.
    ///
    /// # Errors
    /// If a file cannot be opened.
    pub fn open(
        team: &Team,
        directory: &'a RunDirectory,
        config: &Config,
        holdouts: Vec<String>,
        (past, done, dim): (&[Line], u64, usize),
    ) -> Result<Self> {
        if !team.leads() {
            return Ok(Self { kept: None });
        }
        let Config { guard, objective, train, .. } = config;
        let watch = Watch::new(guard, objective, train.max_grad_norm, holdouts.clone(), dim);
        let kept = Kept {
            directory,
            log: MetricsLog::open(directory, done)?,
            guard: RunGuard::new(watch, past, directory.warnings()),
            keeper: BestKeeper::open(directory.best(), Selection::from(config), holdouts),
            live: LiveReport::default(),
        };
        Ok(Self { kept: Some(kept) })
    }

    /// Why the run should stop, if a guard rail says so.
    pub fn stop(&self) -> Option<&String> {
        self.kept.as_ref()?.guard.stop.as_ref()
    }

    /// The best model so far.
    pub fn best(&self) -> Option<&Best> {
        self.kept.as_ref()?.keeper.best()
    }

    /// Warnings so far.
    pub fn warnings(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.guard.warnings)
    }

    /// Appends a line of metrics.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, line: &Line) -> Result<()> {
        self.kept.as_mut().map_or(Ok(()), |kept| kept.log.append(line))
    }

    /// Watches a line.
    ///
    /// # Errors
    /// If a warning cannot be written.
    pub fn observe(&mut self, line: &Line, progress: &Progress) -> Result<()> {
        self.kept.as_mut().map_or(Ok(()), |kept| kept.guard.observe(line, progress))
    }

    /// Keeps the model if it is the best of those evaluated.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn offer(&mut self, done: u64, evaluation: Option<&Evaluation>, trainer: &Trainer) -> Result<()> {
        match (&mut self.kept, evaluation) {
            (Some(kept), Some(evaluation)) => kept.keeper.offer(done, evaluation, || trainer.averaged_files()),
            _ => Ok(()),
        }
    }

    /// Appends a preview.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn picture(&mut self, iteration: u64) -> Result<()> {
        match &mut self.kept {
            Some(kept) => kept.log.append_picture(iteration, &kept.directory.sample(iteration)),
            None => Ok(()),
        }
    }

    /// Writes a checkpoint, of which the newest `keep` stay.
    ///
    /// # Errors
    /// If the device is lost or the disk full.
    pub fn save(&self, trainer: &Trainer, done: u64, keep: usize) -> Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        // The metrics of an iteration must not be lost where its checkpoint is kept.
        kept.log.sync()?;
        checkpoint::save(&kept.directory.checkpoints(), done, &trainer.checkpoint(done)?, keep)
    }

    /// Writes the report, if it is time.
    pub fn refresh(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.live.refresh(kept.directory);
        }
    }
}

//! The loop of a run: iterations, previews, evaluations, checkpoints, and the closing table.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ending::ended;
use super::inputs::inputs;
use super::journal::{Journal, Past};
use super::line::Line;
use super::method::Method;
use super::metrics::IterationMetrics;
use super::settings::TrainerSettings;
use super::trainer::{Cost, Trainer};
use crate::config::{Config, WeightType};
use crate::data::panel::before_after;
use crate::error::{Error, Result};
use crate::evaluate::{Evaluation, Evaluator, Reference};
use crate::files;
use crate::gpu::{AdapterDescription, Gpu};
use crate::graph::{DType, DeviceProfile, Stores};
use crate::model::{BASE, FlowModel, Model, Network, START, WeightSource};
use crate::optimizer::PARAMETERS;
use crate::preview::Preview;
use crate::ranks::{Seat, Team};
use crate::report;
use crate::reward::Rewards;
use crate::run::best::Best;
use crate::run::{LoadedCheckpoint, Progress, RunDirectory, Verbosity};
use crate::sampling::{ModelOnDevice, SamplerTable};
use crate::saved::{going_on, write_files};

/// Where a run happens and how.
#[derive(Debug)]
pub struct RunOptions<'a> {
    /// Its directory.
    pub directory: &'a RunDirectory,
    /// How much to say.
    pub verbosity: Verbosity,
    /// Set when the user wants to stop: the iteration is finished, saved, and the run ends.
    pub stop: &'a Arc<AtomicBool>,
    /// Whether this run is part of a sweep, whose file has the configuration: it should not be changed in the run's
    /// directory.
    pub in_sweep: bool,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunSummary {
    /// Iterations done.
    pub iterations: u64,
    /// The base model, evaluated.
    pub base: Evaluation,
    /// The tuned model, evaluated; `None` if the user stopped the run.
    pub tuned: Option<Evaluation>,
    /// The best of the evaluated models, if there is one.
    pub best: Option<Best>,
    /// Warnings that were given.
    pub warnings: usize,
}

/// A run with everything bound, and nothing computed or written yet.
#[derive(Debug)]
pub struct TrainingRun {
    gpu: Arc<Gpu>,
    config: Config,
    trainer: Trainer,
    evaluator: Evaluator,
    preview: Preview,
    /// `Some` until the base has been drawn: its plans are not kept.
    base_preview: Option<Preview>,
    table: SamplerTable,
    /// Elements of an image.
    dim: usize,
    /// Where the first updates are written out, and the configuration to put there.
    dump: Option<(PathBuf, String)>,
    /// Iterations that are done and have their line of metrics.
    done: u64,
    /// Iterations that the newest checkpoint contains.
    saved: u64,
    team: Team,
}

/// The initial model of a run, as it is evaluated and previewed.
struct Base {
    evaluation: Evaluation,
    images: Vec<f32>,
    captions: Vec<String>,
}

/// Checks that a model has the classes that rollouts, evaluations and previews name and can be guided as they are, and that
/// an evaluation is not too large.
fn check(config: &Config, model: &FlowModel) -> Result<()> {
    let classes = model.conditions();
    config.rollout.chosen_classes(classes)?;
    config.eval.chosen_classes(classes)?;
    model.check_evaluation(&config.eval)?;
    model.groups(&config.eval.group_by)?;
    model.check_trained_steps(&config.rollout)?;
    config.preview.chosen_classes(classes)?;
    model.check_guidance("`eval.guidance_scale`", config.eval.guidance_scale)
}

impl TrainingRun {
    /// The cost of an iteration on such a device at a place in a team, after a check that the configuration fits the
    /// model.
    ///
    /// # Errors
    /// If it does not.
    pub fn cost(config: &Config, model: &FlowModel, profile: &DeviceProfile, seat: Seat) -> Result<Cost> {
        check(config, model)?;
        let mut settings = TrainerSettings::from(config);
        settings.updates.seat = seat;
        let mut cost = Trainer::cost(&settings, model, profile)?;
        // Drift is measured from the base, which is drawn as it is in its file.
        let base = Network::base(model, config.model.weights).frozen().bytes();
        let is_rounded = !config.lora.is_used() && config.model.weights != WeightType::F32;
        let more = if settings.keeps_base() { 0 } else { base }
            + if is_rounded { DType::F32.bytes(&[model.layout().elements()]) } else { 0 };
        cost.memory.fixed += more;
        Ok(cost)
    }

    /// Binds every plan that the run will need, so that a lack of memory or an unsuitable file is reported now; and
    /// goes back to the `newest` checkpoint of a run that is resumed. The first two updates of the first rollout are
    /// written to the file `dump`, with everything needed to recompute them. The ranks of a team train together.
    ///
    /// # Errors
    /// Everything of [`Trainer::new`], [`Trainer::restore`], [`Evaluator::new`] and [`Preview::new`], on any rank.
    pub fn prepare(
        gpu: &Arc<Gpu>,
        config: &Config,
        base: &Model<impl WeightSource>,
        newest: Option<LoadedCheckpoint>,
        dump: Option<PathBuf>,
        team: &Team,
    ) -> Result<Self> {
        let mut run = team.agree(Self::bind(gpu, config, base, newest, dump, team))?;
        let AdapterDescription { name, driver, .. } = gpu.description();
        if let Some([first, other]) = team.differing(&format!("{name}, {driver}"))? {
            log::warn!(
                "ranks have different devices ({first}; {other}), which round differently: results depend on which rank has \
                 which, and all ranks take the weights of rank 0 after each iteration"
            );
            run.trainer.expect_mixed_devices();
        }
        Ok(run)
    }

    fn bind(
        gpu: &Arc<Gpu>,
        config: &Config,
        base: &Model<impl WeightSource>,
        newest: Option<LoadedCheckpoint>,
        dump: Option<PathBuf>,
        team: &Team,
    ) -> Result<Self> {
        let _phase = gpu.phase("preparation");
        let model = base.flow_model("`model.file`")?;
        check(config, &model)?;
        let trained = going_on(config, newest.as_ref());
        let settings = TrainerSettings::from(&trained);
        let mut trainer = match dump {
            None => Trainer::of_team(gpu, settings, base, team)?,
            Some(_) => Trainer::observed(gpu, settings, base)?,
        };
        let done = newest.map(|newest| trainer.restore(&newest)).transpose()?.unwrap_or(0);
        // The reference for drift stays, as the trainer's penalty may need it too.
        let frozen = match trainer.base() {
            Some(store) => store.clone(),
            None => Network::base(&model, config.model.weights).frozen().upload(gpu, BASE.0, &base.weights)?,
        };
        let mut stores = trainer.optimizer.average_stores();
        stores.insert(BASE, frozen.clone());
        // The model that the run begins with, until it is measured: an adapter begins with its base as it is stored, all
        // weights begin as they are in the file.
        let precision = trained.train.precision;
        let reference = match (trainer.start(), config.lora.is_used(), config.model.weights) {
            (Some(start), ..) => {
                stores.insert(START, start.clone());
                let stores = Stores::from([(PARAMETERS, start.clone()), (BASE, frozen)]);
                Reference { network: trainer.network().clone(), stores }
            }
            (None, true, weights) => {
                let network = Network::base(&model, weights).in_precision(precision);
                Reference { network, stores: Stores::from([(BASE, frozen)]) }
            }
            (None, false, WeightType::F32) => {
                let network = Network::from(&model).in_precision(precision);
                Reference { network, stores: Stores::from([(PARAMETERS, frozen)]) }
            }
            (None, false, _) => {
                let whole = model.layout().upload(gpu, "base model", &base.weights)?;
                let network = Network::from(&model).in_precision(precision);
                Reference { network, stores: Stores::from([(PARAMETERS, whole)]) }
            }
        };

        let Config { eval, preview, rollout, .. } = config;
        let of = |network, stores| ModelOnDevice { network, class_names: &base.class_names, stores };
        let tuned = of(trainer.network(), &stores);
        let preview_of = |model: ModelOnDevice<'_>| {
            Preview::new(gpu, preview, &rollout.classes, model, rollout.effective_micro_batch(), eval.guidance_scale)
        };
        let mut evaluator = Evaluator::new(gpu, eval, rollout, tuned, Some(&reference))?;
        evaluator.join(team);
        let preview_of = |drawn| -> Result<Preview> {
            let mut preview = preview_of(drawn)?;
            preview.join(team);
            Ok(preview)
        };
        Ok(Self {
            gpu: gpu.clone(),
            preview: preview_of(tuned)?,
            base_preview: Some(preview_of(of(&reference.network, &reference.stores))?),
            evaluator,
            table: SamplerTable::ode(&model.schedule(), preview.steps)?,
            dim: model.dim(),
            config: config.clone(),
            trainer,
            dump: dump.map(|file| (file, trained.to_toml())),
            done,
            saved: done,
            team: team.clone(),
        })
    }

    /// The rewards that score its samples.
    pub fn rewards(&mut self) -> &mut Rewards {
        self.trainer.rewards()
    }

    /// Trains as the configuration says. However it ends, `report.html` is written, and `failed.txt` if the
    /// run stopped early on its own.
    ///
    /// # Errors
    /// Everything of [`Trainer::iteration`], a guard rail that stops the run, and files that cannot be written; the
    /// message says what is saved, and how to continue. Saved data stays intact.
    pub fn execute(mut self, options: &RunOptions<'_>) -> Result<RunSummary> {
        let (directory, team) = (options.directory, self.team.clone());
        let mut past = team.agree(self.begin(directory))?;
        // If an iteration could not be measured, it ends again.
        let ends_again = team.any(past.unmeasured.is_some())?;
        if ends_again {
            self.done -= 1;
        }
        let again = ends_again.then(|| past.unmeasured.take().unwrap_or_default());
        let rewards = self.trainer.rewards();
        rewards.stop_at(options.stop);
        // What explains a reward is no second opinion.
        let unweighted = rewards.headlines().into_iter().filter(|component| rewards.weights()[*component] == 0.0);
        let holdouts: Vec<String> = unweighted.map(|component| rewards.names()[component].clone()).collect();
        // With a checkpoint the base's numbers are already in the log: they are not written again.
        let before = (&past.lines[..], self.done.max(self.saved.min(1)), self.dim);
        let journal = Journal::open(&team, directory, &self.config, holdouts, before);
        let mut journal = team.agree(journal)?;
        let outcome = team.agree(self.work(options, &mut journal, again));
        if !team.leads() {
            return outcome;
        }
        let outcome = outcome.map_err(|cause| {
            let (saved, done) = (self.saved, self.done);
            ended(cause, options, [saved, done], || self.save(&journal))
        });
        let _phase = self.gpu.phase("report");
        match report::conclude(directory) {
            Err(cause) if outcome.is_err() => log::warn!("{cause}"),
            concluded => concluded?,
        }
        outcome
    }

    /// Prepares the directory, and reads what was written before, on the rank that writes.
    fn begin(&mut self, directory: &RunDirectory) -> Result<Past> {
        if !self.team.leads() {
            return Ok(Past::default());
        }
        if self.done > 0 || self.saved > 0 {
            directory.recover()?;
        }
        directory.record_start(&self.config, &inputs(&self.config)?, self.gpu.description())?;
        self.trainer.rewards().record_in(directory.path())?;
        Past::read(directory, self.done, self.due(self.config.eval.every, self.done))
    }

    /// The loop. It begins with the end of the iteration `again`, if there is one.
    fn work(
        &mut self,
        options: &RunOptions<'_>,
        journal: &mut Journal<'_>,
        mut again: Option<Line>,
    ) -> Result<RunSummary> {
        let (directory, begin, team) = (options.directory, self.saved, self.team.clone());
        let total = self.config.train.iterations as u64;
        let mut progress = Progress::new("training", total, options.verbosity).starting_at(begin);
        if begin > 0 {
            progress.println(&format!("resumed after iteration {begin}"));
        }
        // The base is measured each time a run begins: same seeds, same numbers. But a user first wants to see
        // that training works, so it waits until the first iteration is done.
        let mut base = None;
        let mut tuned = None;
        let mut shown = None;
        loop {
            // All ranks end in the same iteration, whoever was asked to.
            let stops = team.any(journal.stop().is_some() || options.stop.load(Ordering::Relaxed))?;
            let line = match again.take() {
                Some(line) => Some(line),
                None => (self.done < total && !stops).then(|| self.iterate(&mut progress)).transpose()?,
            };
            if let Some(preview) = self.base_preview.take() {
                let found = self.measure_base(preview, directory, begin == 0)?;
                let line = Line { evaluation: Some(found.evaluation.clone()), ..Line::default() };
                let written = match begin {
                    0 => journal.picture(0).and_then(|()| journal.append(&line)),
                    _ => Ok(()),
                };
                team.agree(written.and_then(|()| journal.observe(&line, &progress)))?;
                base = Some(found);
            }
            let Some(mut line) = line else { break };
            let done = self.done + 1;
            let evaluation = self.due(self.config.eval.every, done).then(|| -> Result<Evaluation> {
                let _phase = self.gpu.phase("evaluation");
                let mut found = self.evaluator.evaluate(self.trainer.rewards(), done)?;
                found.kl_efficiency = base.as_ref().and_then(|base| found.kl_efficiency(&base.evaluation));
                Ok(found)
            });
            if let Some(Ok(evaluation)) = &evaluation {
                line.evaluation = Some(evaluation.clone());
            }
            // The iteration is done, whether it could be measured or not.
            let appended = journal.append(&line);
            self.done = done;
            tuned = evaluation.transpose()?.or(tuned);
            let kept = appended
                .and_then(|()| journal.observe(&line, &progress))
                .and_then(|()| journal.offer(done, line.evaluation.as_ref(), &self.trainer));
            team.agree(kept)?;
            let [show, save] = [self.config.preview.every, self.config.checkpoint.every].map(|it| self.due(it, done));
            if show {
                let _phase = self.gpu.phase("preview");
                let (file, heading) = (directory.sample(done), format!("iteration {done}"));
                let rewards = Some((self.trainer.rewards(), done));
                shown = Some(self.preview.write(&file, &self.table, &heading, rewards)?);
                team.agree(journal.picture(done))?;
            }
            if save && self.saved < done {
                let saved = self.save(journal);
                team.agree(saved)?;
            }
            if done < total && (show || save) {
                let _phase = self.gpu.phase("report");
                journal.refresh();
            }
        }
        let base = base.expect("the first pass measures it");
        if self.saved < self.done {
            let saved = self.save(journal);
            team.agree(saved)?;
        }
        let (done, best, warnings) = (self.done, journal.best().cloned(), journal.warnings());
        if done < total {
            progress.finish(&format!("stopped after iteration {done}"));
            let guarded =
                journal.stop().map(|reason| Error::Guarded(format!("stopped after iteration {done}: {reason}")));
            team.agree(guarded.map_or(Ok(()), Err))?;
            return Ok(RunSummary { iterations: done, base: base.evaluation, tuned: None, best, warnings });
        }
        if tuned.is_none() {
            let _phase = self.gpu.phase("evaluation");
            tuned = Some(self.evaluator.evaluate(self.trainer.rewards(), done)?);
        }
        progress.finish(&format!("{done} iterations"));
        // The last iteration has drawn them, unless a finished run is resumed.
        let (images, captions) = match shown {
            Some(shown) => shown,
            None => {
                let images = self.preview.draw(&self.table)?;
                let captions = self.preview.captions(&images, self.trainer.rewards(), done)?;
                (images, captions)
            }
        };
        team.agree(self.write_results(directory, &base, (&images, &captions)))?;
        Ok(RunSummary { iterations: done, base: base.evaluation, tuned, best, warnings })
    }

    /// Draws and evaluates the initial model; writes its preview if a run begins.
    fn measure_base(&mut self, mut preview: Preview, directory: &RunDirectory, begins: bool) -> Result<Base> {
        let _phase = self.gpu.phase("base");
        let rewards = self.trainer.rewards();
        let images = preview.draw(&self.table)?;
        let captions = preview.captions(&images, rewards, 0)?;
        let evaluation = self.evaluator.evaluate_base(rewards)?.expect("the base is among the stores");
        let written = match begins && self.team.leads() {
            true => preview.panel(&images, "iteration 0", &captions).write(&directory.sample(0)),
            false => Ok(()),
        };
        self.team.agree(written)?;
        Ok(Base { evaluation, images, captions })
    }

    /// Writes what a finished run leaves, on the rank that writes.
    fn write_results(
        &self,
        directory: &RunDirectory,
        base: &Base,
        (images, captions): (&[f32], &[String]),
    ) -> Result<()> {
        if !self.team.leads() {
            return Ok(());
        }
        self.write_result(directory)?;
        before_after(
            &directory.before_after(),
            &self.preview.panel(&base.images, self.config.lora.reference_name(), &base.captions),
            &self.preview.panel(images, "tuned", captions),
        )
    }

    /// The next iteration, as a line of metrics.
    fn iterate(&mut self, progress: &mut Progress) -> Result<Line> {
        let found = self.trainer.iteration(self.done);
        // First of all, and also if the iteration has failed: then it is needed most.
        if let Some((file, config)) = &self.dump
            && let Some(bytes) = self.trainer.take_dump(config)
        {
            files::write_atomically(file, &bytes)?;
        }
        let found = found?;
        tell(progress, self.done + 1, &found);
        let learned = Some(found.line(self.config.train.learning_rate));
        Ok(Line { iteration: found.iteration, learned, ..Line::default() })
    }

    /// Whether something done every `every` iterations is due after this one.
    fn due(&self, every: usize, done: u64) -> bool {
        done == self.config.train.iterations as u64 || (every > 0 && done.is_multiple_of(every as u64))
    }

    /// Writes the model, or the adapter alone if one is trained.
    fn write_result(&self, directory: &RunDirectory) -> Result<()> {
        let folder = match self.config.lora.is_used() {
            true => directory.adapter(),
            false => directory.path().to_owned(),
        };
        if self.config.lora.is_used() && directory.model().exists() {
            log::warn!(
                "{} is not what was trained now, of which {} is kept alone: remove it, or make it again with \
                 `flowdppo-wgpu merge`",
                directory.model().display(),
                folder.display()
            );
        }
        write_files(&folder, &self.trainer.averaged_files()?)
    }

    /// Writes a checkpoint.
    fn save(&mut self, journal: &Journal<'_>) -> Result<()> {
        let _phase = self.gpu.phase("checkpoint");
        journal.save(&self.trainer, self.done, self.config.checkpoint.keep)?;
        self.saved = self.done;
        Ok(())
    }
}

/// Reports an iteration to the user.
fn tell(progress: &mut Progress, done: u64, found: &IterationMetrics) {
    let moved = Method::from(found.objective).change(found);
    let (reward, rate) = (found.reward[0], found.images_per_second());
    progress.update(done, &format!("reward {reward:.3}  {moved}  {rate:.0} images/s"));
    if found.skipped() > 0 {
        progress.println(&format!("{} updates of iteration {done} were skipped: not finite", found.skipped()));
    }
}

//! The loop of a run: iterations, previews, evaluations, checkpoints, and the closing table.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

use super::guard::{Guard, Watch};
use super::metrics::IterationMetrics;
use super::trainer::Trainer;
use crate::config::{Config, ObjectiveName};
use crate::data::panel::before_after;
use crate::error::{Error, Result};
use crate::evaluate::{BASE, Evaluation, Evaluator, upload_base};
use crate::files;
use crate::gpu::Gpu;
use crate::graph::Stores;
use crate::model::{Model, Network};
use crate::optimizer::PARAMETERS;
use crate::preview::Preview;
use crate::report;
use crate::reward::Rewards;
use crate::run::best::{Best, BestKeeper};
use crate::run::{MetricsLog, Progress, RunDirectory, Verbosity, checkpoint, metrics};
use crate::sampling::Table;

/// Where a run happens and how.
#[derive(Debug)]
pub struct RunOptions<'a> {
    /// Its directory.
    pub directory: &'a RunDirectory,
    /// Continue from the newest checkpoint, if there is one.
    pub resume: bool,
    /// How much to say.
    pub verbosity: Verbosity,
    /// Set when the person wants to stop: the iteration is finished, saved, and the run ends.
    pub stop: &'a Arc<AtomicBool>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Iterations done.
    pub iterations: u64,
    /// The base model, evaluated.
    pub base: Evaluation,
    /// The tuned model, evaluated; `None` if the person stopped the run.
    pub tuned: Option<Evaluation>,
    /// The best of the evaluated models, if there is one.
    pub best: Option<Best>,
    /// Warnings that were given.
    pub warnings: usize,
}

/// A run with everything bound, but nothing computed or written yet.
#[derive(Debug)]
pub struct Run {
    gpu: Arc<Gpu>,
    config: Config,
    trainer: Trainer,
    evaluator: Evaluator,
    preview: Preview,
    base_preview: Preview,
    table: Table,
    /// Elements of an image.
    dim: usize,
    /// Where the first updates are written out.
    dump: Option<PathBuf>,
}

/// The model that a run begins with, as it is measured and shown.
struct Base {
    evaluation: Evaluation,
    images: Vec<f32>,
    captions: Vec<String>,
}

impl Run {
    /// Binds every plan that the run will need, so that a lack of memory or a file that does not fit shows now.
    /// The first two updates of the first rollout are written to the file `dump`, with all that is needed to compute
    /// them again.
    ///
    /// # Errors
    /// Everything of [`Trainer::new`], [`Evaluator::new`] and [`Preview::new`].
    pub fn prepare(gpu: &Arc<Gpu>, config: &Config, base: &Model, dump: Option<PathBuf>) -> Result<Self> {
        let _phase = gpu.phase("preparation");
        let dit = base.dit("`model.file`")?.clone();
        let trainer = match dump {
            None => Trainer::new(gpu, config, base)?,
            Some(_) => Trainer::observed(gpu, config, base)?,
        };
        // What drift is measured against stays, as the trainer's penalty may need it too; the weights as they are
        // only until the base is measured.
        let frozen = match trainer.base() {
            Some(store) => store.clone(),
            None => upload_base(gpu, config, &dit, &base.weights)?,
        };
        let base_store = match config.train.half_base {
            false => frozen.clone(),
            true => {
                let store = gpu.allocate("base model", 4 * base.weights.len() as u64)?;
                gpu.write(&store, 0, &base.weights);
                store
            }
        };
        let only_base = Stores::from([(PARAMETERS, base_store.clone())]);
        let mut stores = trainer.optimizer.average_stores();
        stores.insert(BASE, frozen);

        let guidance_scale = config.eval.guidance_scale;
        let micro_batch = config.rollout_micro_batch();
        let network = trainer.network();
        let preview_of = |network: &Network, stores: &Stores| {
            Preview::new(gpu, &config.preview, network, &base.class_names, micro_batch, guidance_scale, stores)
        };
        Ok(Self {
            gpu: gpu.clone(),
            preview: preview_of(network, &stores)?,
            base_preview: preview_of(&(&dit).into(), &only_base)?,
            evaluator: Evaluator::new(gpu, config, network, &stores, Some(&base_store))?,
            table: Table::ode(1.0, config.preview.steps)?,
            dim: dit.dim(),
            config: config.clone(),
            trainer,
            dump,
        })
    }

    /// What scores its samples.
    pub fn rewards(&mut self) -> &mut Rewards {
        self.trainer.rewards()
    }

    /// Trains as the configuration says.
    ///
    /// # Errors
    /// Everything of [`Trainer::iteration`], a guard rail that stops the run, and files that cannot be written. What was
    /// saved stays whole.
    pub fn execute(self, options: &RunOptions<'_>) -> Result<Outcome> {
        let Self { gpu, config, mut trainer, mut evaluator, mut preview, base_preview, table, dim, dump } = self;
        let directory = options.directory;
        directory.record_device(gpu.description())?;
        let mut done = 0;
        if options.resume
            && let Some(found) = checkpoint::latest(&directory.checkpoints())?
        {
            done = trainer.restore(&found)?;
        }
        trainer.rewards().record_in(directory.path())?;
        trainer.rewards().stop_at(options.stop);
        let mut metrics = MetricsLog::open(directory, done)?;
        let begin = done;
        let rewards = trainer.rewards();
        let holdouts = rewards.names().iter().zip(rewards.weights()).filter(|(_, weight)| **weight == 0.0);
        let holdouts: Vec<String> = holdouts.map(|(name, _)| name.clone()).collect();
        let mut past = if begin > 0 { metrics::read(&directory.metrics())? } else { Vec::new() };
        past.retain(|line| line["iteration"].as_u64() <= Some(begin));
        let mut keeper = BestKeeper::open(directory.best(), &config, holdouts.clone());
        let mut guard = Guard::new(Watch::new(&config, holdouts, dim), &past, directory.warnings());
        let total = config.train.iterations as u64;
        let mut progress = Progress::new("training", total, options.verbosity).starting_at(done);
        if done > 0 {
            progress.println(&format!("resumed after iteration {done}"));
        }
        // The base is measured each time a run begins: same seeds, same numbers. But a person first wants to see
        // that training works, so it waits until the first iteration is done. Its plans are not kept.
        let mut base_preview = Some(base_preview);
        let mut base = None;
        let mut tuned = None;
        let mut shown = None;
        let mut saved = done;
        loop {
            let working = done < total && guard.stop.is_none() && !options.stop.load(Ordering::Relaxed);
            let found = working.then(|| trainer.iteration(done));
            // First of all, and also if the iteration has failed: then it is wanted most.
            if let (Some(file), Some(bytes)) = (&dump, trainer.take_dump()) {
                files::write_atomically(file, &bytes)?;
            }
            let keep = config.checkpoint.keep;
            let found = match found.transpose() {
                Ok(found) => found,
                Err(cause) => return Err(keep_work(cause, &trainer, &mut metrics, directory, [saved, done], keep)),
            };
            if let Some(found) = &found {
                done += 1;
                tell(&mut progress, done, found);
            }
            if let Some(mut preview) = base_preview.take() {
                let _phase = gpu.phase("base");
                let images = preview.draw(&table)?;
                let captions = preview.captions(&images, trainer.rewards(), 0)?;
                let evaluation = evaluator.evaluate_base(trainer.rewards())?.expect("the base is among the stores");
                let line = evaluation_line(0, &evaluation);
                if begin == 0 {
                    preview.panel(&images, "iteration 0", &captions).write(&directory.sample(0))?;
                    metrics.append_picture(0, &directory.sample(0))?;
                    metrics.append(&line)?;
                }
                guard.observe(&line, &progress)?;
                base = Some(Base { evaluation, images, captions });
            }
            let Some(found) = found else { break };
            let due = |every: usize| done == total || (every > 0 && done.is_multiple_of(every as u64));
            let mut line = found.to_json(config.train.learning_rate);
            if due(config.eval.every) {
                let _phase = gpu.phase("evaluation");
                let evaluation = match evaluator.evaluate(trainer.rewards(), done) {
                    Ok(evaluation) => evaluation,
                    Err(cause) => {
                        metrics.append(&line)?;
                        return Err(keep_work(cause, &trainer, &mut metrics, directory, [saved, done], keep));
                    }
                };
                line.append(&mut evaluation_line(done, &evaluation));
                line.extend(base.as_ref().and_then(|base| kl_efficiency(&base.evaluation, &evaluation)));
                tuned = Some(evaluation);
            }
            metrics.append(&line)?;
            guard.observe(&line, &progress)?;
            keeper.offer(&line, || Ok(trainer.averaged_model()?.to_bytes()))?;
            if due(config.preview.every) {
                let _phase = gpu.phase("preview");
                let (file, heading) = (directory.sample(done), format!("iteration {done}"));
                match preview.write(&file, &table, &heading, Some((trainer.rewards(), done))) {
                    Ok(written) => shown = Some(written),
                    Err(cause) => return Err(keep_work(cause, &trainer, &mut metrics, directory, [saved, done], keep)),
                }
                metrics.append_picture(done, &file)?;
            }
            if due(config.checkpoint.every) {
                let _phase = gpu.phase("checkpoint");
                save(&trainer, &mut metrics, directory, done, keep)?;
                saved = done;
            }
            if done < total && (due(config.preview.every) || due(config.checkpoint.every)) {
                let _phase = gpu.phase("report");
                report::refresh(directory, true);
            }
        }
        let base = base.expect("the first pass measures it");
        if saved < done {
            let _phase = gpu.phase("checkpoint");
            save(&trainer, &mut metrics, directory, done, config.checkpoint.keep)?;
        }
        let (best, warnings) = (keeper.best().cloned(), guard.warnings);
        if done < total {
            progress.finish(&format!("stopped after iteration {done}"));
            report::refresh(directory, false);
            return match guard.stop {
                Some(reason) => {
                    Err(Error::Guarded(format!("stopped after iteration {done}, which is saved: {reason}")))
                }
                None => Ok(Outcome { iterations: done, base: base.evaluation, tuned: None, best, warnings }),
            };
        }
        if tuned.is_none() {
            let _phase = gpu.phase("evaluation");
            tuned = Some(evaluator.evaluate(trainer.rewards(), done)?);
        }
        progress.finish(&format!("{done} iterations"));
        trainer.averaged_model()?.save(&directory.path().join("model.safetensors"))?;
        if let Some(adapter) = trainer.averaged_adapter()? {
            adapter.save(&directory.adapter(), &trainer.network().dit)?;
        }
        // The last iteration has drawn them, unless a finished run is resumed.
        let (images, captions) = match shown {
            Some(shown) => shown,
            None => {
                let images = preview.draw(&table)?;
                let captions = preview.captions(&images, trainer.rewards(), done)?;
                (images, captions)
            }
        };
        before_after(
            &directory.before_after(),
            &preview.panel(&base.images, "base", &base.captions),
            &preview.panel(&images, "tuned", &captions),
        )?;
        report::refresh(directory, false);
        Ok(Outcome { iterations: done, base: base.evaluation, tuned, best, warnings })
    }
}

/// What a person wants to know of an iteration.
fn tell(progress: &mut Progress, done: u64, found: &IterationMetrics) {
    let change = found.last_kl();
    let moved = match found.objective {
        // It has neither densities nor a mask.
        ObjectiveName::Nft => format!("velocity moved {change:.2e}"),
        _ => format!("kl {change:.2e}  masked {:4.1} %", 100.0 * found.mean(|update| update.masked_fraction)),
    };
    let (reward, rate) = (found.reward[0], found.images_per_second());
    progress.update(done, &format!("reward {reward:.3}  {moved}  {rate:.0} images/s"));
    if found.skipped() > 0 {
        progress.println(&format!("{} updates of iteration {done} were skipped: not finite", found.skipped()));
    }
}

fn save(trainer: &Trainer, metrics: &mut MetricsLog, directory: &RunDirectory, done: u64, keep: usize) -> Result<()> {
    // The metrics of an iteration must not be lost where its checkpoint is kept.
    metrics.sync()?;
    checkpoint::save(&directory.checkpoints(), done, &trainer.checkpoint(done)?, keep)
}

/// What is to be done where an iteration has failed: if it is a reward that has, the model is whole, and is saved as it
/// was after the last whole iteration.
fn keep_work(
    cause: Error,
    trainer: &Trainer,
    metrics: &mut MetricsLog,
    directory: &RunDirectory,
    [saved, done]: [u64; 2],
    keep: usize,
) -> Error {
    let Error::Reward(message) = cause else { return cause };
    if saved < done
        && let Err(cause) = save(trainer, metrics, directory, done, keep)
    {
        return Error::Reward(format!("{message}; and what was learned up to iteration {done} is lost: {cause}"));
    }
    Error::Reward(format!(
        "{message}; the run is saved up to iteration {done}: mend the reward, and go on with: train --resume --out {}",
        directory.path().display()
    ))
}

/// Reward gained for each nat an element of distance from the base, once there is one.
fn kl_efficiency(base: &Evaluation, evaluation: &Evaluation) -> Option<(String, Value)> {
    let distance = evaluation.drift.as_ref()?.kl_mean;
    let gain = evaluation.reward_mean - base.reward_mean;
    (distance > 0.0).then(|| ("eval/kl_efficiency".into(), json!(gain / distance)))
}

/// An evaluation as keys of `metrics.jsonl`.
fn evaluation_line(iteration: u64, evaluation: &Evaluation) -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("iteration".into(), json!(iteration));
    if let Value::Object(values) = json!(evaluation) {
        line.extend(values.into_iter().map(|(key, value)| (format!("eval/{key}"), value)));
    }
    line
}

//! The loop of supervised training (`pretrain`, `fit-classifier`): steps, metrics, checkpoints and the final model.

mod learners;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, ITERATION, STAGING_BYTES};
use crate::graph::{DeviceProfile, Graph, Store, check_tensors, planned_bytes};
use crate::memory::TrainingMemory;
use crate::model::Layout;
use crate::model::folder::StoredTensors;
use crate::optimizer::{self, Optimizer, PARAMETERS, STEPS_AT_ONCE, StepRecord, StepReport};
use crate::ranks::Team;
use crate::report::{self, LiveReport};
use crate::run::{LoadedCheckpoint, MetricsLog, Progress, RunDirectory, Verbosity, checkpoint};
use crate::saved::{Saved, check_base, write_files};

pub use learners::{Fitter, Pretrainer, PretrainingPlan};

/// Checkpoints that are kept: the newest, and one to fall back to.
const KEEP: usize = 2;

/// The progress shows a loss that is not much older than this.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// File of a checkpoint with AdamW's moments.
const MOMENTS: &str = "optimizer.safetensors";
/// File of a checkpoint with [`State`].
const STATE: &str = "state.json";

/// A model in training.
pub trait Learner {
    /// Trains on one batch; `step` counts from 0 and determines what is drawn. Does not wait for the outcome.
    ///
    /// # Errors
    /// If the device is lost.
    fn step(&mut self, step: usize) -> Result<()>;

    /// The outcomes of the steps since the last call, which comes before any step that is a multiple of
    /// [`STEPS_AT_ONCE`]. Waits for them.
    ///
    /// # Errors
    /// If the device is lost, or more than `train.max_skipped_updates` updates in a row were skipped.
    fn outcomes(&mut self) -> Result<Vec<StepReport>>;

    /// Weights and moments.
    fn optimizer(&self) -> &Optimizer;

    /// The same, to go back to a checkpoint.
    fn optimizer_mut(&mut self) -> &mut Optimizer;

    /// The weights that are the result: those in training, or their average.
    fn result(&self) -> Store;

    /// What the weights belong to.
    fn saved(&self) -> Saved<'_>;

    /// Draws samples of the model after `done` steps into a file, if it can draw.
    ///
    /// # Errors
    /// If the device is lost, or the file cannot be written.
    fn preview(&mut self, file: &Path, done: u64) -> Result<bool>;

    /// What to report about the model at the end, besides the loss.
    ///
    /// # Errors
    /// If the device is lost.
    fn verdict(&mut self) -> Result<Option<String>>;
}

/// The number of steps, and the intervals of what happens between them; 0 means only at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Name of the progress bar.
    pub label: &'static str,
    /// Number of steps.
    pub steps: usize,
    /// Steps between lines of metrics.
    pub log_every: usize,
    /// Steps between previews.
    pub preview_every: usize,
    /// Steps between checkpoints, each with the model so far.
    pub save_every: usize,
}

/// The cost of training, known in advance.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// Parameters of the model.
    pub parameters: usize,
    /// Those that are trained.
    pub trainable: usize,
    /// Floating-point operations of a step.
    pub flops: u64,
    /// Dispatches of a step.
    pub dispatches: u64,
    /// The memory that training holds; its plan is that of a micro-batch.
    pub memory: TrainingMemory,
}

impl Cost {
    /// The cost of a step with a batch in micro-batches of this size: it replays `graph` for each, and then updates the
    /// parameters of `layout`.
    ///
    /// # Errors
    /// [`Error::Device`] if a tensor is too large for such a device.
    pub fn of(
        layout: &Layout,
        graph: &Graph,
        [batch, micro_batch]: [usize; 2],
        profile: &DeviceProfile,
    ) -> Result<Self> {
        check_tensors(graph, profile)?;
        let replays = batch / micro_batch;
        let fixed = optimizer::planned_bytes(layout, profile) + StepRecord::bytes(batch) + STAGING_BYTES;
        Ok(Self {
            parameters: layout.parameter_count(),
            trainable: layout.entries().iter().filter(|entry| entry.trainable).map(|entry| entry.elements()).sum(),
            flops: graph.flops() * replays as u64,
            dispatches: (graph.dispatch_count(profile) * replays) as u64,
            memory: TrainingMemory { fixed, plans: vec![planned_bytes(graph, profile)] },
        })
    }

    /// The same for an adapter, whose base has so many other parameters and bytes.
    #[must_use]
    pub fn on_base(mut self, parameters: usize, bytes: u64) -> Self {
        self.parameters += parameters;
        self.memory.fixed += bytes;
        self
    }
}

/// Where training happens and how.
#[derive(Debug)]
pub struct Options<'a> {
    /// The device.
    pub gpu: &'a Arc<Gpu>,
    /// The directory of the run.
    pub directory: &'a RunDirectory,
    /// How much to print.
    pub verbosity: Verbosity,
    /// Set when the user asks to stop: the step is finished and saved, and training ends.
    pub stop: &'a Arc<AtomicBool>,
    /// The ranks that train together, of which one writes.
    pub team: &'a Team,
}

/// How training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Number of steps done.
    pub done: usize,
    /// Whether all steps are done.
    pub finished: bool,
}

/// What a checkpoint contains besides tensors. Random draws are functions of seed and step, so there is no generator
/// state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    /// Number of steps done.
    step: usize,
    /// Optimizer steps done.
    optimizer_step: u64,
    /// Updates skipped in a row, including the last.
    skipped_in_a_row: usize,
    /// Skipped updates that the optimizer still counts as steps.
    #[serde(default)]
    uncounted: u64,
    /// The bits of the sum of losses since the last line of metrics: JSON would round it.
    loss_sum_bits: u64,
    /// How many losses are in the sum.
    loss_count: u32,
    /// CRC-32 of the base of an adapter; absent if all weights are trained.
    #[serde(default)]
    base_crc32: Option<u32>,
    /// Version of the program.
    version: String,
}

/// The start of training; only [`begin`] creates one.
#[derive(Debug)]
pub struct Start(State);

/// Goes back to the `newest` checkpoint if there is one, before anything is written.
///
/// # Errors
/// [`Error::Input`] if it belongs to another network.
pub fn begin(learner: &mut impl Learner, newest: Option<&LoadedCheckpoint>) -> Result<Start> {
    newest.map_or_else(|| Ok(State::default()), |newest| restore(learner, newest)).map(Start)
}

/// Trains from a start until all steps are done or the user stops it.
///
/// # Errors
/// As [`Learner::step`], or if a file cannot be written. Saved files stay intact.
pub fn train(
    learner: &mut impl Learner,
    pace: &Pace,
    Start(mut state): Start,
    options: &Options<'_>,
) -> Result<Outcome> {
    let Options { gpu, directory, verbosity, stop, team } = options;
    let mut metrics = match team.leads() {
        true => Some(MetricsLog::open(directory, state.step as u64)?),
        false => None,
    };
    let mut progress = Progress::new(pace.label, pace.steps as u64, *verbosity).starting_at(state.step as u64);
    let mut saved = state.step;
    // The mean loss in the last line of metrics, and the newest outcome.
    let (mut last, mut newest) = (None, None);
    let (mut live, mut looked) = (LiveReport::default(), Instant::now());
    while state.step < pace.steps && !team.any(stop.load(Ordering::Relaxed))? {
        let _iteration = gpu.phase(ITERATION);
        let update = gpu.phase("update");
        learner.step(state.step)?;
        state.step += 1;
        let done = state.step;
        let due = |every: usize| done == pace.steps || (every > 0 && done.is_multiple_of(every));
        // Ranks read outcomes together, so only a process alone may go by its clock.
        let is_late = !team.is_many() && looked.elapsed() >= LOOK_AFTER;
        if is_late || [STEPS_AT_ONCE, pace.log_every, pace.preview_every, pace.save_every].into_iter().any(due) {
            newest = state.add(&learner.outcomes()?).or(newest);
            looked = Instant::now();
        }
        drop(update);
        if due(pace.log_every) {
            let mean = f64::from_bits(state.loss_sum_bits) / f64::from(state.loss_count);
            (state.loss_sum_bits, state.loss_count, last) = (0, 0, Some(mean));
            if let (Some(metrics), Some(newest)) = (&mut metrics, newest) {
                metrics.append(&json!({
                    "iteration": done,
                    "loss": mean,
                    "grad_norm": newest.norm.norm,
                    "lr": newest.learning_rate,
                }))?;
            }
        }
        progress.update(done as u64, &newest.map_or_else(String::new, |newest| format!("loss {:.4}", newest.loss)));
        if due(pace.preview_every) {
            let _phase = gpu.phase("preview");
            let file = directory.sample(done as u64);
            if learner.preview(&file, done as u64)?
                && let Some(metrics) = &mut metrics
            {
                metrics.append_picture(done as u64, &file)?;
                live.refresh(directory);
            }
        }
        if due(pace.save_every) {
            let _phase = gpu.phase("checkpoint");
            save(learner, &state, directory, metrics.as_ref())?;
            saved = done;
        }
    }
    if saved < state.step {
        state.add(&learner.outcomes()?);
        save(learner, &state, directory, metrics.as_ref())?;
    }
    let finished = state.step == pace.steps;
    if finished {
        let verdict = learner.verdict()?;
        let loss = last.map(|last| format!("loss {last:.4} over the last steps"));
        progress.finish(&[loss, verdict].into_iter().flatten().collect::<Vec<_>>().join(", "));
        if team.leads() {
            write_result(learner, directory)?;
        }
    } else {
        progress.finish(&format!("stopped after step {}", state.step));
    }
    if team.leads() {
        report::conclude(directory)?;
    }
    Ok(Outcome { done: state.step, finished })
}

impl State {
    /// Adds the losses of steps; returns the last of them.
    fn add(&mut self, reports: &[StepReport]) -> Option<StepReport> {
        for report in reports {
            self.loss_sum_bits = (f64::from_bits(self.loss_sum_bits) + report.loss).to_bits();
            self.loss_count += 1;
        }
        reports.last().copied()
    }
}

/// Writes the current model, or the adapter alone if one is trained.
fn write_result(learner: &impl Learner, directory: &RunDirectory) -> Result<()> {
    let saved = learner.saved();
    let folder = if saved.is_adapter() { directory.adapter() } else { directory.path().to_owned() };
    write_files(&folder, &saved.result(learner.optimizer().source(learner.result()))?)
}

/// The store of the result, if that is not the one in training.
fn averaged(learner: &impl Learner) -> Option<Store> {
    Some(learner.result()).filter(|store| *store != PARAMETERS)
}

/// Writes a checkpoint, and the model so far, on the rank that has the metrics.
fn save(learner: &impl Learner, state: &State, directory: &RunDirectory, metrics: Option<&MetricsLog>) -> Result<()> {
    let Some(metrics) = metrics else { return Ok(()) };
    // The metrics of a step must not be lost if its checkpoint is kept.
    metrics.sync()?;
    let (optimizer, saved) = (learner.optimizer(), learner.saved());
    let state = State {
        optimizer_step: optimizer.step,
        skipped_in_a_row: optimizer.skipped_in_a_row,
        uncounted: optimizer.uncounted,
        base_crc32: saved.base_crc32(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..state.clone()
    };
    let average = averaged(learner).map(|store| optimizer.source(store));
    let mut files = saved.files(optimizer.source(PARAMETERS), average)?;
    files.push((MOMENTS, optimizer.moments()));
    files.push((STATE, serde_json::to_vec_pretty(&state).expect("numbers and text are JSON").into()));
    checkpoint::save(&directory.checkpoints(), state.step as u64, &files, KEEP)?;
    write_result(learner, directory)
}

/// Goes back to a checkpoint.
fn restore(learner: &mut impl Learner, checkpoint: &LoadedCheckpoint) -> Result<State> {
    let state: State = serde_json::from_slice(&checkpoint.file(STATE)?)
        .map_err(|cause| Error::unreadable(&checkpoint.path.join(STATE), cause))?;
    let saved = learner.saved();
    let (then, now) = ((state.base_crc32.is_some(), state.base_crc32), (saved.is_adapter(), saved.base_crc32()));
    check_base(&checkpoint.path.display().to_string(), then, now)?;
    learner.optimizer().load(PARAMETERS, &saved.read(checkpoint)?)?;
    if let Some(store) = averaged(learner) {
        learner.optimizer().load(store, &saved.read_average(checkpoint)?)?;
    }
    let optimizer = learner.optimizer_mut();
    optimizer.restore_moments(&StoredTensors::open(&checkpoint.path_of(MOMENTS)?)?)?;
    optimizer.step = state.optimizer_step;
    optimizer.skipped_in_a_row = state.skipped_in_a_row;
    optimizer.uncounted = state.uncounted;
    Ok(state)
}

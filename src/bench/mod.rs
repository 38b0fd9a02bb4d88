//! How fast the program is on a device: kernels, training steps and complete iterations, each compared with the limits
//! of the same device. Nothing here asserts a speed.

mod all_reduce;
pub mod cases;
mod iteration;
mod kernels;
mod large;
mod measure;
mod network;
mod results;
mod scaling;
pub mod shapes;
mod tune;

pub use all_reduce::{Sum, all_reduce};
pub use iteration::built_in;
pub use network::BenchmarkStep;
pub use results::{Limit, Measurement, Results, now};
pub use scaling::plot;
pub use tune::{Tuned, tune};

use std::sync::Arc;

use crate::config::Precision;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Options};
use crate::model::products_in;
use crate::roofline::Roofline;
use crate::text::duration;
use measure::Pace;

/// The names of the benchmarks, in the order in which they run.
pub const NAMES: [&str; 15] = [
    "fma",
    "copy",
    "dispatch",
    "readback",
    "matmul",
    "attention",
    "conv2d",
    "layer_norm",
    "gelu",
    "memory-bound",
    "adamw",
    "philox",
    "dit-step",
    "rollout",
    "rl-iteration",
];

/// Benchmarks of large models, which run only if they are asked for: on small devices they take minutes.
pub const LARGE_NAMES: [&str; 2] = ["large", "sd35-block"];

/// A single run should not take longer than this; a benchmark that would is skipped with a note.
const LONGEST_RUN: f64 = 10.0;

/// What a suite reports while it runs.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A measurement.
    Measured(&'a Measurement),
    /// A note: something was skipped, or is remarkable.
    Noted(&'a str),
}

/// Benchmarks on one device. Each method measures and adds rows to the results.
pub struct Suite<'a> {
    gpu: Arc<Gpu>,
    pace: Pace,
    is_quick: bool,
    longest_run: f64,
    precision: Precision,
    listener: &'a mut dyn FnMut(Event<'_>),
    /// From the fastest runs of `fma` and `copy`: disturbances can only slow them down.
    limits: Roofline,
    results: Results,
}

impl std::fmt::Debug for Suite<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suite").field("results", &self.results).finish_non_exhaustive()
    }
}

impl<'a> Suite<'a> {
    /// A suite that has measured nothing yet. `options` are those that the device was opened with; `quick` spends a
    /// tenth of a second on each benchmark instead of a second, and reduces large ones.
    pub fn new(gpu: &Arc<Gpu>, options: &Options, quick: bool, listener: &'a mut dyn FnMut(Event<'_>)) -> Self {
        let pace = if quick { Pace::QUICK } else { Pace::NORMAL };
        let (limits, results) = (Roofline::default(), Results::new(gpu, options));
        Self {
            gpu: gpu.clone(),
            pace,
            is_quick: quick,
            longest_run: LONGEST_RUN,
            precision: Precision::F32,
            listener,
            limits,
            results,
        }
    }

    /// The same, which skips kernels that would take longer than this many seconds a run.
    #[must_use]
    pub fn with_longest_run(self, seconds: f64) -> Self {
        Self { longest_run: seconds, ..self }
    }

    /// The same with matrix products of this precision, for which the device should have been opened.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Runs the benchmarks with these names from [`NAMES`] and [`LARGE_NAMES`]; the limits come first if others need them and they have not
    /// been measured before. `batch` is that of `dit-step`.
    ///
    /// # Errors
    /// If the device is lost, or the training step returns unexpected losses.
    pub fn run(&mut self, names: &[&str], batch: usize) -> Result<()> {
        let has_shares = names.iter().any(|name| !["fma", "copy", "dispatch", "readback"].contains(name));
        for name in NAMES.into_iter().chain(LARGE_NAMES) {
            let is_missing = match name {
                "fma" => self.limits.flops_per_second == 0.0,
                "copy" => self.limits.bytes_per_second == 0.0,
                _ => false,
            };
            if !(names.contains(&name) || is_missing && has_shares) {
                continue;
            }
            match name {
                "fma" => self.fma()?,
                "copy" => self.copy()?,
                "dispatch" => self.dispatch()?,
                "readback" => self.readback()?,
                "matmul" => self.kernels(cases::matmuls(products_in(self.precision)))?,
                "attention" => {
                    self.kernels(cases::attentions(false))?;
                    self.kernels(cases::attentions(true))?;
                }
                "conv2d" => self.kernels(cases::convolutions())?,
                "layer_norm" => self.kernels(cases::layer_norms())?,
                "gelu" => self.kernels(cases::gelus())?,
                "memory-bound" => self.kernels(cases::memory_bound())?,
                "adamw" => self.kernels(cases::adamws())?,
                "philox" => self.kernels(cases::philoxes())?,
                "dit-step" => self.dit_step(batch)?,
                "rollout" => self.rollout()?,
                "rl-iteration" => self.rl_iteration()?,
                "large" => self.large()?,
                "sd35-block" => self.sd35_block()?,
                _ => unreachable!("{name} is among the names"),
            }
        }
        Ok(())
    }

    /// What was measured.
    pub fn results(&self) -> &Results {
        &self.results
    }

    fn add(&mut self, row: Measurement) {
        (self.listener)(Event::Measured(&row));
        self.results.rows.push(row);
    }

    fn note(&mut self, text: String) {
        (self.listener)(Event::Noted(&text));
        self.results.notes.push(text);
    }

    /// Whether a run of `seconds` is short enough; if not, adds a note.
    fn is_short_enough(&mut self, name: &str, seconds: f64) -> bool {
        if seconds > self.longest_run {
            self.note(format!("{name}: skipped, one run would take about {}", duration(seconds)));
        }
        seconds <= self.longest_run
    }

    /// The value; `None` and a note if the device is too small for it.
    fn or_too_large<T>(&mut self, name: &str, made: Result<T>) -> Result<Option<T>> {
        match made {
            Ok(made) => Ok(Some(made)),
            Err(Error::Memory { shortage, .. }) => {
                self.note(format!("{name}: skipped, {shortage}"));
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }
}

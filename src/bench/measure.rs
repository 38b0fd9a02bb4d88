//! Repeats a piece of work until its time is known.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::gpu::{BoundDispatch, Command, Gpu};

/// How long to repeat.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    seconds: f64,
    most: usize,
    least: usize,
}

/// Dispatches shorter than this share a submission, so that what is timed is long enough
/// for the host's clock, and the cost of submitting it is small.
const SAMPLE_SECONDS: f64 = 0.02;

/// More dispatches per submission do not help.
const MAX_REPETITIONS: f64 = 1000.0;

/// The measured times, in seconds per run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Timing {
    /// Lower quartile, median, upper quartile.
    pub quartiles: [f64; 3],
    pub fastest: f64,
    pub runs: usize,
}

impl Timing {
    pub(super) fn new(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[(share * (times.len() - 1) as f64).round() as usize];
        Self { quartiles: [0.25, 0.5, 0.75].map(at), fastest: times[0], runs: times.len() }
    }

    pub(super) fn median(&self) -> f64 {
        self.quartiles[1]
    }

    /// The time per part of a run that consists of `parts` equal ones.
    pub(super) fn per(self, parts: usize) -> Self {
        let part = |time: f64| time / parts as f64;
        Self { quartiles: self.quartiles.map(part), fastest: part(self.fastest), ..self }
    }
}

impl Pace {
    pub(super) const NORMAL: Self = Self { seconds: 1.0, most: 100, least: 3 };
    /// For tuning: many kernels are measured, and only their order matters.
    pub(super) const TUNING: Self = Self { seconds: 0.2, most: 50, least: 3 };
    pub(super) const QUICK: Self = Self { seconds: 0.1, most: 20, least: 2 };

    /// Calls `run`, which returns its time in seconds, until the time is up: at least a few times, unless that
    /// would take several times as long.
    pub(super) fn repeat(&self, mut run: impl FnMut() -> Result<f64>) -> Result<Timing> {
        let start = Instant::now();
        let mut times = Vec::new();
        while times.len() < self.most {
            times.push(run()?);
            let spent = start.elapsed().as_secs_f64();
            if spent >= 5.0 * self.seconds || (spent >= self.seconds && times.len() >= self.least) {
                break;
            }
        }
        Ok(Timing::new(times))
    }

    /// The time of running dispatches one after the other, as in a replay. The first round, which compiles, is
    /// not counted.
    pub(super) fn dispatches(&self, gpu: &Gpu, dispatches: &[BoundDispatch]) -> Result<Timing> {
        for dispatch in dispatches {
            seconds(|| submit(gpu, [dispatch]))?;
        }
        let once = seconds(|| dispatches.iter().try_for_each(|dispatch| submit(gpu, [dispatch])))?;
        if once > SAMPLE_SECONDS {
            // Too long to share a submission: drivers kill long submissions.
            return self.repeat(|| seconds(|| dispatches.iter().try_for_each(|dispatch| submit(gpu, [dispatch]))));
        }
        // An estimate from a single dispatch is mostly the cost of its submission, so it is refined once.
        let mut repetitions = 1;
        for _ in 0..2 {
            let time = seconds(|| submit(gpu, repeated(dispatches, repetitions)))? / repetitions as f64;
            repetitions = (SAMPLE_SECONDS / time).clamp(1.0, MAX_REPETITIONS) as usize;
        }
        Ok(self.repeat(|| seconds(|| submit(gpu, repeated(dispatches, repetitions))))?.per(repetitions))
    }
}

fn repeated(dispatches: &[BoundDispatch], times: usize) -> impl Iterator<Item = &BoundDispatch> {
    std::iter::repeat_n(dispatches, times).flatten()
}

/// Submits dispatches as one submission and waits for them.
pub(super) fn submit<'a>(gpu: &Gpu, dispatches: impl IntoIterator<Item = &'a BoundDispatch>) -> Result<()> {
    gpu.submit(dispatches.into_iter().map(Command::Dispatch))?;
    gpu.wait()
}

/// How long something took.
pub(super) fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    // A clock may stand still for a moment; rates must stay finite.
    Ok(start.elapsed().max(Duration::from_nanos(1)).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_few_and_many() {
        assert_eq!(Timing::new(vec![3.0]), Timing { quartiles: [3.0; 3], fastest: 3.0, runs: 1 });
        let timing = Timing::new(vec![5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(timing, Timing { quartiles: [2.0, 3.0, 4.0], fastest: 1.0, runs: 5 });
        assert_eq!(timing.per(2).quartiles, [1.0, 1.5, 2.0]);
    }

    #[test]
    fn repeating_ends_at_the_most_runs() {
        let mut runs = 0;
        let pace = Pace { seconds: f64::INFINITY, most: 7, least: 3 };
        let timing = pace.repeat(|| {
            runs += 1;
            Ok(f64::from(runs))
        });
        assert_eq!(timing.expect("nothing fails"), Timing { quartiles: [3.0, 4.0, 6.0], fastest: 1.0, runs: 7 });
    }
}

//! The benchmarks of a report: those of `bench`, with its quick settings.

use super::{Row, Work};
use crate::bench::Suite;
use crate::error::{Error, Result};

/// In the order of their importance, and the limits first.
const NAMES: [&str; 8] = ["fma", "copy", "matmul", "attention", "dit-step", "rl-iteration", "dispatch", "readback"];

/// How many of them a quick report has.
const QUICK: usize = 4;

/// The batch of `dit-step` for which losses are known.
const BATCH: usize = 32;

pub(super) fn run(work: &mut Work<'_>) -> Result<()> {
    let names = if work.quick { &NAMES[..QUICK] } else { &NAMES };
    // A GPU skips none of the kernels.
    let longest = if work.quick { 0.03 } else { 1.0 };
    let (gpu, options) = (work.gpu.clone(), work.options.clone());
    let mut keep_still = |_: crate::bench::Event<'_>| {};
    let mut suite = Suite::new(&gpu, &options, true, &mut keep_still).with_longest_run(longest);
    let mut outcome = Ok(());
    for (index, name) in names.iter().enumerate() {
        if !work.has_time(names.len() - index) {
            break;
        }
        match suite.run(&[name], BATCH) {
            Err(cause @ Error::DeviceLost(_)) => {
                outcome = Err(cause);
                break;
            }
            // The others can still be measured.
            Err(cause) if outcome.is_ok() => outcome = Err(cause),
            _ => {}
        }
    }
    work.rows.extend(suite.results().rows.iter().cloned().map(Row::Measured));
    work.notes.extend(suite.results().notes.iter().cloned());
    outcome
}

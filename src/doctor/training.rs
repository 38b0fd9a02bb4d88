//! The beginning of the default run, compared with the same run on another device.

use std::time::Instant;

use serde::Serialize;

use super::{Row, Work};
use crate::bench::built_in;
use crate::error::Result;
use crate::rl::{Trainer, TrainerSettings};

/// Iterations of a quick report.
const QUICK: usize = 2;

/// Mean reward and mean loss of each iteration of the default run: seed 0, recorded on Mesa 25.0.7's lavapipe with
/// subgroups of 8. Another kernel for attention gave the same to 1e-7 in the first ten iterations, and to 2e-5 in the last.
const REFERENCE: [[f64; 2]; 20] = [
    [0.749012, -0.044000],
    [0.843739, -0.021112],
    [0.831269, -0.012242],
    [0.891517, -0.040181],
    [0.880964, -0.019538],
    [0.932665, -0.032985],
    [0.913327, -0.019227],
    [0.908453, -0.025155],
    [0.952297, -0.024995],
    [0.936131, -0.034107],
    [0.951942, -0.038210],
    [0.955804, -0.038679],
    [0.979444, -0.039556],
    [0.982212, -0.040861],
    [0.973867, -0.033077],
    [0.961201, -0.035390],
    [0.981219, -0.051537],
    [0.979029, -0.056588],
    [0.958757, -0.027201],
    [0.979462, -0.067561],
];

/// How far the numbers of an iteration may be off; counted from 0.
///
/// The noise is the same on every device and the host computes in f64, so in the first iteration only the rounding in the
/// network differs: 1e-7 of a reward. Each update begins with the weights that the last one has left, and AdamW divides by
/// the size of gradients, so differences grow, by 1.4 in an iteration where that was measured. Sometimes a single term is
/// just on the other side of the mask's threshold; it is one of 480 in an update, and moves the next rewards by some 1e-4.
/// A thousand times the rounding and a factor of 2 allow for both. The end is half the standard error of the mean of 160
/// rewards (0.3 / √160): two runs that differ by more have not learned the same. A run that learns nothing is off by 0.05
/// in the second iteration, where 2e-4 are allowed.
fn tolerance(iteration: usize) -> f64 {
    (1e-4 * 2.0_f64.powi(iteration as i32)).min(0.01)
}

/// An iteration and its reference.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ComparedIteration {
    /// From 1.
    pub(super) iteration: u64,
    pub(super) reward: f64,
    pub(super) reward_expected: f64,
    pub(super) loss: f64,
    pub(super) loss_expected: f64,
    pub(super) tolerance: f64,
    pub(super) passed: bool,
    pub(super) seconds: f64,
}

pub(super) fn run(work: &mut Work<'_>) -> Result<()> {
    let (mut config, model) = built_in()?;
    config.train.iterations = REFERENCE.len();
    let mut trainer = Trainer::new(&work.gpu, TrainerSettings::from(&config), &model)?;
    let count = if work.quick { QUICK } else { REFERENCE.len() };
    for (index, expected) in REFERENCE.iter().enumerate().take(count) {
        if !work.has_time(count - index) {
            break;
        }
        let start = Instant::now();
        let metrics = trainer.iteration(index as u64)?;
        let found = [metrics.reward[0], metrics.mean(|update| update.policy_loss)];
        let seconds = start.elapsed().as_secs_f64();
        work.rows.push(Row::Iteration(compare(index, found, *expected, seconds)));
    }
    Ok(())
}

fn compare(index: usize, found: [f64; 2], expected: [f64; 2], seconds: f64) -> ComparedIteration {
    let tolerance = tolerance(index);
    // Whatever is not a number is not near either.
    let is_near = |index: usize| (found[index] - expected[index]).abs() <= tolerance;
    ComparedIteration {
        iteration: index as u64 + 1,
        reward: found[0],
        reward_expected: expected[0],
        loss: found[1],
        loss_expected: expected[1],
        tolerance,
        passed: is_near(0) && is_near(1),
        seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_learns_nothing_or_something_else_does_not_pass() {
        let compare = |index: usize, found: [f64; 2]| compare(index, found, REFERENCE[index], 1.0).passed;
        for (index, [reward, loss]) in REFERENCE.into_iter().enumerate() {
            assert!(compare(index, [reward + 2e-5, loss - 2e-5]));
            assert!(!compare(index, [reward - 0.015, loss]) && !compare(index, [reward, loss + 0.015]));
            assert!(!compare(index, [f64::NAN, loss]) && !compare(index, [reward, f64::NAN]));
        }
        // The rewards of the first iteration again.
        assert!((1..20).all(|index| !compare(index, REFERENCE[0])));
    }
}

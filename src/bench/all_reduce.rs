//! How long ranks take to meet, and to sum gradients.

use super::measure::{Timing, seconds};
use crate::error::Result;
use crate::ranks::{PartialSums, Team};

/// Sizes of gradients, in numbers of f32: a small model's, an adapter's, a large adapter's.
const SIZES: [usize; 4] = [1 << 10, 1 << 18, 1 << 22, 1 << 24];

/// Repetitions: every rank must make the same number.
const RUNS: usize = 9;

/// A measured sum.
#[derive(Clone, Copy, Debug)]
pub struct Sum {
    /// Bytes of the gradient of each rank; 0 for a meeting without one.
    pub bytes: usize,
    /// The median time.
    pub seconds: f64,
    /// Bytes that each rank has sent and received.
    pub moved: usize,
}

/// Measures a meeting, and then sums of gradients of several sizes, with one node of the tree per rank.
///
/// # Errors
/// If a rank fails.
pub fn all_reduce(team: &Team, mut tell: impl FnMut(Sum)) -> Result<()> {
    let timing = time(|| team.gather(&[]).map(drop))?;
    tell(Sum { bytes: 0, seconds: timing.median(), moved: 0 });
    let (seat, size) = (team.seat(), team.seat().size);
    for elements in SIZES {
        let timing = time(|| {
            let mut sums = PartialSums::new(seat, size);
            sums.push(vec![seat.rank as f32; elements]);
            sums.over(team, elements).map(drop)
        })?;
        let bytes = elements * size_of::<f32>();
        // All slices but the own one go out, and the own slice to all others; as much comes in.
        tell(Sum { bytes, seconds: timing.median(), moved: 2 * bytes * (size - 1) / size });
    }
    Ok(())
}

fn time(mut run: impl FnMut() -> Result<()>) -> Result<Timing> {
    run()?;
    (0..RUNS).map(|_| seconds(&mut run)).collect::<Result<Vec<f64>>>().map(Timing::new)
}

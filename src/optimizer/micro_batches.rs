//! The micro-batches of a step of supervised training: how their gradients are added up, and shared by the ranks of a team.

use std::ops::Range;

use super::Optimizer;
use crate::config::Reduction;
use crate::error::Result;
use crate::ranks::{PartialSums, Team};

/// How the samples of each step are cut into micro-batches, of which every rank computes consecutive ones.
#[derive(Clone, Debug)]
pub struct MicroBatches {
    /// Samples of a step.
    batch: usize,
    /// Samples of a micro-batch, which divides `batch`.
    size: usize,
    reduction: Reduction,
    team: Team,
}

impl MicroBatches {
    /// Steps of `batch` samples in micro-batches of `size`, all computed by this process.
    pub fn new(batch: usize, size: usize, reduction: Reduction) -> Self {
        Self { batch, size, reduction, team: Team::default() }
    }

    /// From now on, each step is shared with the other ranks of a team.
    pub fn join(&mut self, team: &Team) {
        self.team = team.clone();
    }

    /// The ranks that share a step.
    pub fn team(&self) -> &Team {
        &self.team
    }

    /// Leaves the gradient of a step in the accumulator of the learner's `optimizer`, the same on every rank; returns the sum
    /// of the losses.
    ///
    /// `compute` is called for the samples of every micro-batch, in order, and told whether it is this rank's: then it adds
    /// its gradient to the accumulator and returns its losses. For others it only draws, where each choice follows the one
    /// before.
    ///
    /// # Errors
    /// Those of `compute`, on any rank; or if the device is lost, or the connection fails.
    pub fn gradient<L>(
        &self,
        learner: &mut L,
        optimizer: impl Fn(&L) -> &Optimizer,
        compute: impl FnMut(&mut L, Range<usize>, bool) -> Result<Vec<f32>>,
    ) -> Result<f64> {
        let (team, seat, count) = (&self.team, self.team.seat(), self.batch / self.size);
        let in_tree = self.reduction.is_tree(seat.size);
        let mut sums = PartialSums::new(seat, if in_tree { count } else { seat.size });
        let computed = self.compute(learner, &optimizer, compute, in_tree.then_some(&mut sums));
        let losses = team.agree(computed)?;
        let optimizer = optimizer(learner);
        if !in_tree && team.is_many() {
            sums.push(team.agree(optimizer.take_gradients())?);
        }
        if in_tree || team.is_many() {
            optimizer.put_gradients(&sums.over(team, optimizer.gradient_elements())?);
        }
        let losses = team.gather(bytemuck::cast_slice(&losses))?;
        let losses: Vec<f32> = losses.iter().flat_map(|part| bytemuck::pod_collect_to_vec::<u8, f32>(part)).collect();
        let of_batch = |losses: &[f32]| losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        Ok(losses.chunks(self.size).map(of_batch).sum())
    }

    /// Computes the micro-batches of this rank; their gradients are added up on the device, or given to `sums` one by one.
    fn compute<L>(
        &self,
        learner: &mut L,
        optimizer: impl Fn(&L) -> &Optimizer,
        mut compute: impl FnMut(&mut L, Range<usize>, bool) -> Result<Vec<f32>>,
        mut sums: Option<&mut PartialSums>,
    ) -> Result<Vec<f32>> {
        let count = self.batch / self.size;
        let own = self.team.seat().range(count);
        let mut losses = Vec::new();
        for batch in 0..count {
            let is_own = own.contains(&batch);
            let computed = compute(learner, batch * self.size..(batch + 1) * self.size, is_own)?;
            if is_own {
                losses.extend(computed);
                if let Some(sums) = &mut sums {
                    sums.push(optimizer(learner).take_gradients()?);
                }
            }
        }
        Ok(losses)
    }
}

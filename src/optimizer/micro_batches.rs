//! The micro-batches of a step of supervised training: how their gradients are added up, and shared by the ranks of a team;
//! and how the outcomes of several steps are read together.

use std::ops::Range;
use std::sync::Arc;

use super::{GradientNorm, Optimizer, check_norms};
use crate::config::Reduction;
use crate::error::Result;
use crate::gpu::{Buffer, Command, Gpu, Region, Throttle};
use crate::graph::DType;
use crate::ranks::{PartialSums, Team};

/// Outcomes are read after every step whose number is a multiple of this, and earlier if someone wants to know them. From
/// these steps on, skipped updates do not count as steps: they are the same steps in a run that is interrupted.
pub const STEPS_AT_ONCE: usize = 16;

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

    /// Leaves the gradient of a step in the accumulator of the learner's `optimizer`, the same on every rank.
    ///
    /// `compute` is called for the samples of every micro-batch, in order, and told whether it is this rank's: then it adds
    /// its gradient to the accumulator and its losses to a [`StepRecord`]. For others it only draws, where each choice
    /// follows the one before.
    ///
    /// # Errors
    /// Those of `compute`, on any rank; or if the device is lost, or the connection fails.
    pub fn gradient<L>(
        &self,
        learner: &mut L,
        optimizer: impl Fn(&L) -> &Optimizer,
        compute: impl FnMut(&mut L, Range<usize>, bool) -> Result<()>,
    ) -> Result<()> {
        let (team, seat, count) = (&self.team, self.team.seat(), self.batch / self.size);
        let in_tree = self.reduction.is_tree(seat.size);
        let mut sums = PartialSums::new(seat, if in_tree { count } else { seat.size });
        let computed = self.compute(learner, &optimizer, compute, in_tree.then_some(&mut sums));
        team.agree(computed)?;
        let optimizer = optimizer(learner);
        if !in_tree && team.is_many() {
            sums.push(team.agree(optimizer.take_gradients())?);
        }
        if in_tree || team.is_many() {
            optimizer.put_gradients(&sums.over(team, optimizer.gradient_elements())?);
        }
        Ok(())
    }

    /// Computes the micro-batches of this rank; their gradients are added up on the device, or given to `sums` one by one.
    fn compute<L>(
        &self,
        learner: &mut L,
        optimizer: impl Fn(&L) -> &Optimizer,
        mut compute: impl FnMut(&mut L, Range<usize>, bool) -> Result<()>,
        mut sums: Option<&mut PartialSums>,
    ) -> Result<()> {
        let count = self.batch / self.size;
        let own = self.team.seat().range(count);
        for batch in 0..count {
            let is_own = own.contains(&batch);
            compute(learner, batch * self.size..(batch + 1) * self.size, is_own)?;
            if let Some(sums) = sums.as_mut().filter(|_| is_own) {
                sums.push(optimizer(learner).take_gradients()?);
            }
        }
        Ok(())
    }
}

/// The result of one step of supervised training.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Which step, from 0.
    pub step: usize,
    /// Mean loss over the batch.
    pub loss: f64,
    /// Gradient norm, and whether the update was skipped.
    pub norm: GradientNorm,
    /// Learning rate.
    pub learning_rate: f64,
}

/// Losses and gradient norms of steps, on the device: what waits for every step also keeps the device waiting.
#[derive(Debug)]
pub struct StepRecord {
    gpu: Arc<Gpu>,
    buffer: Arc<Buffer>,
    /// Where the next result goes, in bytes.
    end: u64,
    /// Number and learning rate of the steps whose outcomes have not been read.
    steps: Vec<(usize, f64)>,
    throttle: Throttle,
}

impl StepRecord {
    /// Of steps of `batch` samples.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub fn new(gpu: &Arc<Gpu>, batch: usize) -> Result<Self> {
        let buffer = gpu.allocate("record of steps", Self::bytes(batch))?;
        Ok(Self { gpu: gpu.clone(), buffer, end: 0, steps: Vec::new(), throttle: Throttle::default() })
    }

    /// Its size: a loss for each sample, and two numbers that the norm consists of.
    pub fn bytes(batch: usize) -> u64 {
        DType::F32.bytes(&[STEPS_AT_ONCE, batch + 2])
    }

    /// Appends the losses of a micro-batch.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn push(&mut self, losses: &Region) -> Result<()> {
        let to = Region { buffer: self.buffer.clone(), offset: self.end, bytes: losses.bytes };
        self.end += losses.bytes;
        self.gpu.encode([Command::Copy { from: losses, to: &to }])
    }

    /// Ends a step with the norm of the optimizer's update. Waits only if the device is far behind.
    ///
    /// # Errors
    /// If the device is lost.
    ///
    /// # Panics
    /// If outcomes should have been read before this step.
    pub fn end_step(&mut self, optimizer: &Optimizer, step: usize, learning_rate: f64) -> Result<()> {
        assert!(self.steps.is_empty() || !step.is_multiple_of(STEPS_AT_ONCE), "outcomes are read before step {step}");
        self.push(optimizer.sum_squares())?;
        self.steps.push((step, learning_rate));
        self.throttle.pass(&self.gpu)
    }

    /// The outcomes of the steps since the last call, which all ranks of a team have made.
    ///
    /// # Errors
    /// If a device is lost, or the norms of the same gradient differ.
    pub fn take(&mut self, batches: &MicroBatches) -> Result<Vec<StepReport>> {
        if self.steps.is_empty() {
            return Ok(Vec::new());
        }
        let record = Region { buffer: self.buffer.clone(), offset: 0, bytes: self.end };
        self.end = 0;
        let team = &batches.team;
        let own: Vec<f32> = team.agree(self.gpu.read(&[&record]))?;
        let all = team.gather(bytemuck::cast_slice(&own))?;
        let all: Vec<Vec<f32>> = all.iter().map(|part| bytemuck::pod_collect_to_vec(part)).collect();
        let count = self.steps.len();
        let report = |(index, (step, learning_rate)): (usize, (usize, f64))| {
            let parts = all.iter().map(|part| part.chunks(part.len() / count).nth(index).expect("steps are alike"));
            let parts = parts.map(|part| part.split_at(part.len() - 2));
            let of_batch = |losses: &[f32]| losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
            let loss = parts.clone().flat_map(|(losses, _)| losses.chunks(batches.size)).map(of_batch).sum();
            let norms: Vec<[f32; 2]> = parts.map(|(_, norm)| [norm[0], norm[1]]).collect();
            check_norms(&norms.iter().map(|norm| norm.map(f32::to_bits)).collect::<Vec<_>>())?;
            Ok(StepReport { step, loss, norm: GradientNorm::from_sums(norms[0]), learning_rate })
        };
        std::mem::take(&mut self.steps).into_iter().enumerate().map(report).collect()
    }
}

impl Optimizer {
    /// Records the outcomes of steps. Skipped ones stop counting as steps after multiples of [`STEPS_AT_ONCE`].
    ///
    /// # Errors
    /// If more than `most` in a row were skipped; `key` is the learning rate to lower.
    pub fn note_steps(&mut self, reports: &[StepReport], most: usize, key: &str) -> Result<()> {
        for StepReport { step, norm, .. } in reports {
            let done = step + 1;
            self.note(*norm, most, &format!("step {done}"), key)?;
            if done.is_multiple_of(STEPS_AT_ONCE) {
                self.discount_skipped();
            }
        }
        Ok(())
    }
}

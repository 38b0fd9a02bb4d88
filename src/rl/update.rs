//! Learning from a rollout: forward, S1 and S2 per (sample, step), objective, backward, optimizer.

use std::sync::Arc;

use super::rollout::{Rollout, STATES, VELOCITIES, trained_slots};
use crate::autodiff::{Activations, backward_with};
use crate::config::Config;
use crate::error::Result;
use crate::flow::noise::{NoiseKey, SHUFFLE, Stream};
use crate::flow::objective::{LogProb, Mask, Objective};
use crate::gpu::{Buffer, Command, Gpu, Region, Throttle};
use crate::graph::{Graph, Plan, Stores, Tensor};
use crate::model::{Dit, DitConfig};
use crate::ops::{AdamWSettings, Embedding, PhiloxNormal, PolicyObjective, PolicyStats};
use crate::optimizer::{GRADIENTS, GradientNorm, Optimizer, PARAMETERS, average_decay};
use crate::sampling::words;

/// Numbers of an outcome: loss, ln ratio, ratio, KL, kept, ∂L/∂S1, ∂L/∂S2, beyond the trust region.
pub const OUTCOME: usize = 8;

/// The objective of a configuration, its threshold in mean units for this model.
pub fn objective(config: &Config, dit: &DitConfig) -> Objective {
    let it = &config.objective;
    match it.name {
        crate::config::ObjectiveName::FlowDppo => Objective::FlowDppo {
            kl_mask_threshold: it.threshold_unit.to_mean(it.kl_mask_threshold, dit.dim()),
            mask: Mask::Asymmetric,
        },
    }
}

/// Forward and backward pass of one micro-batch at one trained step.
#[derive(Debug)]
pub struct UpdateGraph {
    /// The computation.
    pub graph: Graph,
    /// Rows of the trajectory stores, `[B]`: slot · samples + sample.
    pub indices: Tensor,
    /// The network's time, `[B]`, from [`DitConfig::time_of`].
    pub time: Tensor,
    /// Classes, `[B]`.
    pub labels: Tensor,
    /// Noise keys of the step, `[B, 5]`.
    pub keys: Tensor,
    /// Transitions (a, b, s), `[B, 3]`.
    pub rows: Tensor,
    /// Advantages, `[B]`.
    pub advantages: Tensor,
    /// Factors of the losses in the sum that is differentiated, `[B]`.
    pub weight: Tensor,
    /// What came out, `[B, OUTCOME]`.
    pub outcomes: Tensor,
}

impl UpdateGraph {
    /// Records it.
    ///
    /// # Errors
    /// If the trained steps do not fit the number of steps.
    pub fn record(config: &Config, dit: &DitConfig) -> Result<Self> {
        let batch = config.update_micro_batch();
        let mut graph = Graph::new();
        let indices = graph.input("rows of the trajectory", &[batch]);
        let time = graph.input("time", &[batch]);
        let labels = graph.input("labels", &[batch]);
        let keys = graph.input("noise keys", &[batch, 5]);
        let rows = graph.input("sampler rows", &[batch, 3]);
        let advantages = graph.input("advantages", &[batch]);
        let weight = graph.input("weight", &[batch]);
        let objective = objective(config, dit);
        objective.check()?;
        let settings = PolicyObjective::settings(objective, dit.dim()).to_vec();
        let settings = graph.constant("objective settings", &[settings.len()], settings);
        let step_weight = graph.constant("step weight", &[batch], vec![1.0; batch]);

        let stored = dit.image_shape(trained_slots(config)? * config.samples_per_rollout());
        let states = graph.stored(STATES.0, &stored, STATES, 0);
        let velocities = graph.stored(VELOCITIES.0, &stored, VELOCITIES, 0);
        let x = graph.apply(Embedding, &[states, indices]);
        let v_old = graph.apply(Embedding, &[velocities, indices]);
        // The noise of the rollout is not stored: its key gives it again, bit for bit.
        let epsilon = graph.apply(PhiloxNormal::new(&stored[1..]), &[keys]);

        let parameters = dit.layout().declare(&mut graph, PARAMETERS, Some(GRADIENTS));
        let network = Dit::new(dit, parameters);
        let v_new = network.guided_velocity(&mut graph, x, time, labels, config.rollout.guidance_scale as f32);
        let found = graph.scope("loss", |graph| {
            let stats = graph.apply(PolicyStats, &[v_new, v_old, epsilon]);
            let op = PolicyObjective::new(objective, LogProb::Gaussian);
            graph.push(op, &[stats, advantages, rows, step_weight, settings])
        });
        let (loss, outcomes) = (found[0], found[1]);
        graph.keep(outcomes);
        let activations =
            Activations { recompute: config.train.activation_checkpointing, half: config.train.half_activations };
        backward_with(&mut graph, &[(loss, weight)], &[], activations);
        Ok(Self { graph, indices, time, labels, keys, rows, advantages, weight, outcomes })
    }
}

/// What one optimizer step saw: a row for every sample and trained step.
#[derive(Clone, Debug)]
pub struct UpdateRecord {
    /// Sample of the rollout and trained step of each row.
    pub rows: Vec<(usize, usize)>,
    /// Outcome of each row.
    pub outcomes: Vec<[f32; OUTCOME]>,
    /// Gradient norm, and whether the update was skipped.
    pub norm: GradientNorm,
}

/// Updates the policy from rollouts.
#[derive(Debug)]
pub struct Updater {
    gpu: Arc<Gpu>,
    config: Config,
    dit: DitConfig,
    tensors: UpdateGraph,
    plan: Plan,
    /// Outcomes of all updates of an iteration, and behind them the norms of each: read once, at its end.
    record: Arc<Buffer>,
}

/// Bytes of the record of an iteration.
pub(super) fn record_bytes(config: &Config) -> Result<u64> {
    let updates = config.train.updates_per_rollout * config.train.inner_epochs;
    let outcomes = updates * trained_slots(config)? * config.samples_per_update() * OUTCOME;
    Ok(4 * (outcomes + 2 * updates) as u64)
}

impl Updater {
    /// Binds the update to the optimizer's stores and the collector's.
    ///
    /// # Errors
    /// If the device has not enough memory.
    pub fn new(
        gpu: &Arc<Gpu>,
        config: &Config,
        dit: &DitConfig,
        optimizer: &Optimizer,
        trajectories: Stores,
    ) -> Result<Self> {
        let tensors = UpdateGraph::record(config, dit)?;
        let mut stores = optimizer.stores().clone();
        stores.extend(trajectories);
        let plan = Plan::new(gpu, &tensors.graph, &stores)?;
        let record = gpu.allocate("record of an iteration", record_bytes(config)?)?;
        Ok(Self { gpu: gpu.clone(), config: config.clone(), dit: dit.clone(), tensors, plan, record })
    }

    /// All updates of one rollout. Nothing is read back until the last one is submitted.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn learn(
        &mut self,
        rollout: &Rollout,
        advantages: &[f64],
        optimizer: &mut Optimizer,
    ) -> Result<Vec<UpdateRecord>> {
        let train = self.config.train.clone();
        // The averaged weights follow once a rollout, with its last update.
        let average_decay = average_decay(train.ema_decay, u64::from(rollout.index));
        let updates = train.inner_epochs * train.updates_per_rollout;
        let settings = |update: usize| AdamWSettings {
            learning_rate: train.learning_rate,
            beta1: train.beta1,
            beta2: train.beta2,
            epsilon: train.epsilon,
            weight_decay: train.weight_decay,
            max_grad_norm: train.max_grad_norm,
            average_decay: if update + 1 == updates { average_decay } else { 1.0 },
        };
        let mut rows_of_updates: Vec<Vec<(usize, usize)>> = Vec::new();
        let mut throttle = Throttle::default();
        let mut at = 0;
        for epoch in 0..train.inner_epochs {
            let order = self.order(rollout, epoch);
            for samples in order.chunks(self.config.samples_per_update()) {
                let mut rows = Vec::new();
                for slot in 0..rollout.trained.len() {
                    for batch in samples.chunks(self.config.update_micro_batch()) {
                        let weight = 1.0 / (samples.len() * rollout.trained.len()) as f32;
                        self.accumulate(rollout, advantages, slot, batch, weight)?;
                        at += self.record_region(self.plan.region(self.tensors.outcomes), at)?;
                        rows.extend(batch.iter().map(|sample| (*sample, rollout.trained[slot])));
                    }
                }
                optimizer.update(&settings(rows_of_updates.len()))?;
                at += self.record_region(optimizer.sum_squares(), at)?;
                throttle.pass(&self.gpu)?;
                rows_of_updates.push(rows);
            }
        }
        self.read_record(rows_of_updates, at)
    }

    /// The order in which an epoch visits the samples: shuffled, so that every update sees all classes.
    fn order(&self, rollout: &Rollout, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..rollout.requests.len()).collect();
        let seed = self.config.run.seed;
        Stream::new(NoiseKey { seed, rollout: rollout.index, sample: epoch as u32, step: SHUFFLE }).shuffle(&mut order);
        order
    }

    /// Adds the gradient of a micro-batch at one trained step.
    fn accumulate(
        &mut self,
        rollout: &Rollout,
        advantages: &[f64],
        slot: usize,
        batch: &[usize],
        weight: f32,
    ) -> Result<()> {
        let step = rollout.trained[slot];
        let samples = rollout.requests.len();
        let requests = || batch.iter().map(|sample| rollout.requests[*sample]);
        let row = rollout.table.rows[step];
        let it = &self.tensors;
        let indices: Vec<u32> = batch.iter().map(|sample| (slot * samples + sample) as u32).collect();
        self.plan.write(it.indices, &indices);
        self.plan.write(it.time, &vec![self.dit.time_of(rollout.table.sigmas[step]); batch.len()]);
        self.plan.write(it.labels, &requests().map(|request| request.label).collect::<Vec<u32>>());
        self.plan.write(it.keys, &words(requests(), step as u32));
        self.plan.write(it.rows, &[row.a as f32, row.b as f32, row.s as f32].repeat(batch.len()));
        self.plan.write(it.advantages, &batch.iter().map(|sample| advantages[*sample] as f32).collect::<Vec<f32>>());
        self.plan.write(it.weight, &vec![weight; batch.len()]);
        self.plan.run()
    }

    /// Copies a small result behind the others; returns how many bytes it took.
    fn record_region(&self, from: &Region, at: u64) -> Result<u64> {
        let to = Region { buffer: self.record.clone(), offset: at, bytes: from.bytes };
        self.gpu.encode([Command::Copy { from, to: &to }])?;
        Ok(from.bytes)
    }

    fn read_record(&self, rows_of_updates: Vec<Vec<(usize, usize)>>, bytes: u64) -> Result<Vec<UpdateRecord>> {
        let all: Vec<f32> = self.gpu.read(&[&Region { buffer: self.record.clone(), offset: 0, bytes }])?;
        let mut rest = all.as_slice();
        let mut take = |count: usize| {
            let (head, tail) = rest.split_at(count);
            rest = tail;
            head
        };
        let records = rows_of_updates.into_iter().map(|rows| {
            let outcomes = take(rows.len() * OUTCOME).as_chunks::<OUTCOME>().0.to_vec();
            let sums = take(2);
            UpdateRecord { rows, outcomes, norm: GradientNorm::from_sums([sums[0], sums[1]]) }
        });
        Ok(records.collect())
    }
}

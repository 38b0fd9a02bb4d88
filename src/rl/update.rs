//! Learning from a rollout: forward, S1 and S2 per (sample, step), objective, backward, optimizer.

use std::sync::Arc;

use super::dump::UpdateDump;
use super::method::Term;
use super::rollout::Rollout;
use super::settings::UpdateSettings;
use super::update_graph::{UpdateGraph, policy_objective};
use crate::autodiff::LostInHalf;
use crate::config::{ObjectiveName, Order};
use crate::error::Result;
use crate::flow::noise::{NoiseKey, SHUFFLE, Stream};
use crate::gpu::{Buffer, Command, Gpu, Region, ShaderStruct, Throttle};
use crate::graph::{DType, Plan, Store, StoreMemory, Stores, Tensor};
use crate::model::{FlowModel, Network};
use crate::ops::{AdamWSettings, Outcome, PolicyObjective, SamplerRow};
use crate::optimizer::{GradientNorm, Optimizer};
use crate::sampling::noise_words;

/// What one optimizer step saw: one row per sample and trained step.
#[derive(Clone, Debug)]
pub struct UpdateRecord {
    /// Sample of the rollout and trained step of each row.
    pub rows: Vec<(usize, usize)>,
    /// Outcome of each row.
    pub outcomes: Vec<Outcome>,
    /// Penalty on the distance to the base of each row; empty without one.
    pub penalties: Vec<f32>,
    /// Gradient norm, and whether the update was skipped.
    pub norm: GradientNorm,
}

/// Updates the policy from rollouts.
#[derive(Debug)]
pub struct Updater {
    gpu: Arc<Gpu>,
    settings: UpdateSettings,
    model: FlowModel,
    tensors: UpdateGraph,
    plan: Plan,
    /// The rollout's states and velocities, each with where the plan reads a micro-batch of it.
    trajectory: Vec<(StoreMemory, Region)>,
    /// What 16 bits could not represent in the newest iteration; `None` if nothing is stored in 16 bits.
    pub(super) lost_in_half: Option<Vec<LostInHalf>>,
    /// Outcomes of all updates of an iteration, followed by the norms of each: read once, at its end.
    record: Arc<Buffer>,
    /// Observer of the first updates, if they are to be recomputed elsewhere.
    pub(super) dump: Option<UpdateDump>,
}

/// Bytes of the record of an iteration: for each micro-batch its outcomes and penalties, for each update its norm.
pub(super) fn record_bytes(settings: &UpdateSettings) -> Result<u64> {
    let UpdateSettings { train, rollout, objective, .. } = settings;
    let updates = train.updates_per_rollout * train.inner_epochs;
    let terms = updates * settings.of_rollouts().trained_slots()? * train.samples_per_update(rollout);
    let numbers = Outcome::WORDS + usize::from(objective.reference.beta > 0.0);
    Ok(DType::F32.bytes(&[terms * numbers + 2 * updates]))
}

impl Updater {
    /// Binds the update to the optimizer's stores and to `others`: with LoRA or a penalty on the distance to the base
    /// [`crate::model::BASE`], and [`crate::model::START`] where that is measured from it. `others` also contains the
    /// collector's stores, which are copied from.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub fn new(
        gpu: &Arc<Gpu>,
        settings: &UpdateSettings,
        network: &Network,
        optimizer: &Optimizer,
        others: Stores,
    ) -> Result<Self> {
        Self::bind(gpu, settings, network, optimizer, others, None)
    }

    /// The same, keeping everything that [`UpdateDump`] reads readable.
    ///
    /// # Errors
    /// As [`Updater::new`].
    pub(super) fn observed(
        gpu: &Arc<Gpu>,
        settings: &UpdateSettings,
        network: &Network,
        optimizer: &Optimizer,
        others: Stores,
    ) -> Result<Self> {
        Self::bind(gpu, settings, network, optimizer, others, Some(UpdateDump::default()))
    }

    fn bind(
        gpu: &Arc<Gpu>,
        settings: &UpdateSettings,
        network: &Network,
        optimizer: &Optimizer,
        others: Stores,
        dump: Option<UpdateDump>,
    ) -> Result<Self> {
        let mut tensors = UpdateGraph::record(settings, network)?;
        if dump.is_some() {
            tensors.keep_terms();
        }
        let is_copied = |store: &Store| tensors.stored.iter().any(|(stored, _)| stored == store);
        let (copied, bound): (Stores, Stores) = others.into_iter().partition(|(store, _)| is_copied(store));
        let mut stores = optimizer.stores().clone();
        stores.extend(bound);
        let plan = Plan::new(gpu, &tensors.graph, &stores)?;
        let read = |(store, tensor): &(Store, Tensor)| (copied[store].clone(), plan.region(*tensor).clone());
        let trajectory = tensors.stored.iter().map(read).collect();
        tensors.condition.write_common(&plan, &network.model, settings.micro_batch())?;
        let record = gpu.allocate("record of an iteration", record_bytes(settings)?)?;
        Ok(Self {
            gpu: gpu.clone(),
            settings: settings.clone(),
            model: network.model.clone(),
            tensors,
            plan,
            trajectory,
            lost_in_half: None,
            record,
            dump,
        })
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
        let train = self.settings.train.clone();
        // The averaged weights are updated once per rollout, with its last update.
        let average_decay = train.ema_warm_up.decay(train.ema_decay, u64::from(rollout.index));
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
        if let Some(settings) = self.tensors.settings {
            let progress = f64::from(rollout.index) / train.iterations as f64;
            let objective =
                policy_objective(&self.settings.objective, self.model.dim(), progress.min(1.0 - f64::EPSILON))?;
            self.plan.write_structs(settings, &[PolicyObjective::settings(objective, self.model.dim())]);
        }
        let mut rows_of_updates: Vec<Vec<(usize, usize)>> = Vec::new();
        let mut throttle = Throttle::default();
        let mut at = 0;
        for epoch in 0..train.inner_epochs {
            let order = self.order(rollout, epoch);
            for samples in order.chunks(train.samples_per_update(&self.settings.rollout)) {
                let mut rows = Vec::new();
                let mut dump = self.dump.take_if(|dump| dump.wants_more());
                if let Some(dump) = &mut dump {
                    dump.begin(optimizer)?;
                }
                for slot in 0..rollout.trained.len() {
                    self.write_step(rollout, rollout.trained[slot]);
                    for batch in samples.chunks(self.settings.micro_batch()) {
                        self.accumulate(rollout, advantages, epoch, slot, batch)?;
                        at += self.record_region(self.plan.region(self.tensors.outcomes), at)?;
                        if let Some(dump) = &mut dump {
                            dump.terms(&self.plan, &self.tensors)?;
                        }
                        if let Some(penalty) = self.tensors.penalty {
                            at += self.record_region(self.plan.region(penalty.value), at)?;
                        }
                        rows.extend(batch.iter().map(|sample| (*sample, rollout.trained[slot])));
                    }
                }
                if let Some(dump) = &mut dump {
                    dump.gradients(optimizer)?;
                }
                optimizer.update(&settings(rows_of_updates.len()))?;
                if let Some(mut dump) = dump {
                    dump.end(optimizer)?;
                    self.dump = Some(dump);
                }
                at += self.record_region(optimizer.sum_squares(), at)?;
                throttle.pass(&self.gpu)?;
                rows_of_updates.push(rows);
            }
        }
        let records = self.read_record(rows_of_updates, at)?;
        self.lost_in_half = self.tensors.halves.as_ref().map(|halves| halves.take(&self.plan)).transpose()?;
        Ok(records)
    }

    /// The order in which an epoch visits the samples.
    fn order(&self, rollout: &Rollout, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..rollout.requests.len()).collect();
        if self.settings.train.order == Order::Contiguous {
            return order;
        }
        let seed = self.settings.seed;
        Stream::new(NoiseKey { seed, rollout: rollout.index, sample: epoch as u32, step: SHUFFLE }).shuffle(&mut order);
        order
    }

    /// Writes what depends on the trained step alone. The plan owns its inputs, so they last for all micro-batches.
    fn write_step(&self, rollout: &Rollout, step: usize) {
        let (it, batch) = (&self.tensors, self.settings.micro_batch());
        let (sigma, sigma_next) = (rollout.table.sigmas[step], rollout.table.sigmas[step + 1]);
        let transition = rollout.table.rows[step];
        let row = self.settings.method().transition(rollout, step);
        self.plan.write(it.time, &vec![self.model.time_of(sigma); batch]);
        self.plan.write_structs(it.rows, &vec![SamplerRow::from(row); batch]);
        if let (Some(tensor), ObjectiveName::GrpoGuard) = (it.step_weight, self.settings.objective.name) {
            let step_weight = self.settings.objective.step_weight.of(sigma, sigma_next, transition) as f32;
            self.plan.write(tensor, &vec![step_weight; batch]);
        }
        if let Some(penalty) = it.penalty {
            let factor = self.settings.objective.reference.kind.factor(sigma, sigma_next, transition) as f32;
            self.plan.write(penalty.factor, &vec![factor; batch]);
        }
    }

    /// Adds the gradient of a micro-batch at the trained step that was written.
    fn accumulate(
        &mut self,
        rollout: &Rollout,
        advantages: &[f64],
        epoch: usize,
        slot: usize,
        batch: &[usize],
    ) -> Result<()> {
        let samples = rollout.requests.len();
        let requests = || batch.iter().map(|sample| rollout.requests[*sample]);
        let term = Term { slot, step: rollout.trained[slot], epoch };
        let (slot, noise_step) = self.settings.method().slot_and_noise(rollout, term);
        let it = &self.tensors;
        let conditions: Vec<u32> = requests().map(|request| request.condition).collect();
        it.condition.write(&self.plan, &self.model, &conditions)?;
        self.plan.write_structs(it.keys, &noise_words(requests(), noise_step as u32));
        self.plan.write(it.advantages, &batch.iter().map(|sample| advantages[*sample] as f32).collect::<Vec<f32>>());
        self.load(&batch.iter().map(|sample| slot * samples + sample).collect::<Vec<usize>>())?;
        self.plan.run()
    }

    /// Copies rows of the rollout's stores to where the plan reads a micro-batch. The stores themselves are not bound, so
    /// they may be larger than what a kernel can read.
    fn load(&self, rows: &[usize]) -> Result<()> {
        let bytes = |rows: usize| DType::F32.bytes(&[rows, self.model.dim()]);
        let mut copies = Vec::new();
        for (memory, batch) in &self.trajectory {
            let mut place = 0;
            // Consecutive rows of a chunk are copied as one.
            for run in rows.chunk_by(|row, next| *next == row + 1) {
                let mut row = run[0];
                while row < run[0] + run.len() {
                    let room = (memory.room(bytes(row)) / bytes(1)) as usize;
                    let count = room.clamp(1, run[0] + run.len() - row);
                    let from = memory.region(bytes(row), bytes(count)).expect("rows are not cut");
                    let to = Region { offset: batch.offset + bytes(place), bytes: bytes(count), ..batch.clone() };
                    copies.push((from, to));
                    (row, place) = (row + count, place + count);
                }
            }
        }
        self.gpu.encode(copies.iter().map(|(from, to)| Command::Copy { from, to }))
    }

    /// Appends a small result to the record; returns how many bytes it took.
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
        let batch = self.settings.micro_batch();
        let has_penalty = self.tensors.penalty.is_some();
        let records = rows_of_updates.into_iter().map(|rows| {
            let (mut outcomes, mut penalties) = (Vec::with_capacity(rows.len()), Vec::new());
            while outcomes.len() < rows.len() {
                outcomes.extend_from_slice(bytemuck::cast_slice(take(batch * Outcome::WORDS)));
                penalties.extend_from_slice(take(if has_penalty { batch } else { 0 }));
            }
            let sums = take(2);
            UpdateRecord { rows, outcomes, penalties, norm: GradientNorm::from_sums([sums[0], sums[1]]) }
        });
        Ok(records.collect())
    }
}

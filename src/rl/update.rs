//! Learning from a rollout: forward, S1 and S2 per (sample, step), objective, backward, optimizer.

use std::collections::HashMap;
use std::sync::Arc;

use bytemuck::Zeroable;
use maybe_async::maybe_async;

use super::dump::UpdateDump;
use super::method::Term;
use super::rollout::Rollout;
use super::settings::UpdateSettings;
use super::share::Share;
use super::update_graph::{UpdateGraph, loss_scale, policy_objective};
use crate::autodiff::LostInHalf;
use crate::config::ObjectiveName;
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Command, Gpu, Region, ShaderStruct, Throttle};
use crate::graph::{DType, Plan, Store, StoreMemory, Stores, Tensor};
use crate::model::{FlowModel, Network};
use crate::ops::{AdamWSettings, Outcome, PolicyObjective, SamplerRow};
use crate::optimizer::{GradientNorm, Optimizer, check_norms};
use crate::ranks::{PartialSums, Team};
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
    pub(super) gpu: Arc<Gpu>,
    pub(super) settings: UpdateSettings,
    pub(super) model: FlowModel,
    tensors: UpdateGraph,
    plan: Plan,
    /// The rollout's states and velocities, each with where the plan reads a micro-batch of it.
    pub(super) trajectory: Vec<(StoreMemory, Region)>,
    /// The conditions that the plan was last given.
    written: Vec<u32>,
    /// What 16 bits could not represent in the newest iteration; `None` if nothing is stored in 16 bits.
    pub(super) lost_in_half: Option<Vec<LostInHalf>>,
    /// Outcomes of all updates of an iteration, followed by the norms of each: read once, at its end.
    record: Arc<Buffer>,
    /// Observer of the first updates, if they are to be recomputed elsewhere.
    pub(super) dump: Option<UpdateDump>,
    /// Those who compute the other terms.
    pub(super) team: Team,
    /// Whether they have different devices, which round differently.
    pub(super) is_mixed: bool,
}

/// Where the terms of an update go.
struct Part<'a> {
    optimizer: &'a Optimizer,
    /// The end of the record, in bytes.
    at: &'a mut u64,
    /// The observer, if the update is observed.
    dump: Option<&'a mut UpdateDump>,
}

/// One visit of all samples of a rollout.
struct Pass<'a> {
    rollout: &'a Rollout,
    advantages: &'a [f64],
    /// From 0.
    epoch: usize,
    /// The samples whose trajectories are in the stores, in their order.
    held: Vec<usize>,
}

/// Bytes of the record of an iteration: for each micro-batch its outcomes and penalties, for each update its norm.
pub(super) fn record_bytes(settings: &UpdateSettings) -> Result<u64> {
    let UpdateSettings { train, objective, .. } = settings;
    let updates = train.updates_per_rollout * train.inner_epochs;
    let own = settings.share().count() / train.updates_per_rollout;
    let terms = updates * settings.of_rollouts().trained_slots()? * own;
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
            written: Vec::new(),
            lost_in_half: None,
            record,
            dump,
            team: Team::default(),
            is_mixed: false,
        })
    }

    /// All updates of one rollout, each with the terms of all ranks. Unless gradients are exchanged, nothing is read back
    /// until the last one is submitted.
    ///
    /// # Errors
    /// If the device is lost, or that of another rank, or their connection.
    #[maybe_async]
    pub async fn learn(
        &mut self,
        rollout: &Rollout,
        advantages: &[f64],
        optimizer: &mut Optimizer,
    ) -> Result<Vec<UpdateRecord>> {
        let train = self.settings.train.clone();
        // The averaged weights are updated once per rollout, with its last update.
        let average_decay = train.ema_warm_up.decay(train.ema_decay, u64::from(rollout.index));
        let count = train.inner_epochs * train.updates_per_rollout;
        let loss_scale = f64::from(loss_scale(&self.settings, self.model.dim())?);
        let settings = |update: usize| AdamWSettings {
            learning_rate: train.learning_rate,
            beta1: train.beta1,
            beta2: train.beta2,
            epsilon: train.epsilon,
            weight_decay: train.weight_decay,
            loss_scale,
            max_grad_norm: train.max_grad_norm,
            average_decay: if update + 1 == count { average_decay } else { 1.0 },
        };
        self.write_objective(rollout)?;
        let share = self.settings.share();
        let mut updates: Vec<Vec<usize>> = Vec::new();
        let mut throttle = Throttle::default();
        let mut at = 0;
        for epoch in 0..train.inner_epochs {
            self.fetch(rollout, epoch).await?;
            let pass = Pass { rollout, advantages, epoch, held: share.of_rank(share.seat, rollout.index, epoch) };
            for samples in share.order(rollout.index, epoch).chunks(share.per_update) {
                let mut dump = self.dump.take_if(|dump| dump.wants_more());
                if let Some(dump) = &mut dump {
                    dump.begin(optimizer).await?;
                }
                let part = Part { optimizer, at: &mut at, dump: dump.as_mut() };
                self.add_gradients(&pass, share.of_update(samples), part).await?;
                if let Some(dump) = &mut dump {
                    dump.gradients(optimizer).await?;
                }
                optimizer.update(&settings(updates.len())).await?;
                if let Some(mut dump) = dump {
                    dump.end(optimizer).await?;
                    self.dump = Some(dump);
                }
                at += self.record_region(optimizer.sum_squares(), at)?;
                throttle.pass(&self.gpu).await?;
                updates.push(samples.to_vec());
            }
        }
        let records = self.read_record(rollout, &updates, at).await?;
        self.lost_in_half = match &self.tensors.halves {
            Some(halves) => Some(halves.take(&self.plan, &self.team).await?),
            None => None,
        };
        Ok(records)
    }

    /// Writes what the objective takes in this rollout.
    fn write_objective(&self, rollout: &Rollout) -> Result<()> {
        let Some(settings) = self.tensors.settings else { return Ok(()) };
        let progress = f64::from(rollout.index) / self.settings.train.iterations as f64;
        let objective = policy_objective(&self.settings.objective, self.model.dim(), progress.min(1.0 - f64::EPSILON))?;
        self.plan.write_structs(settings, &[PolicyObjective::settings(objective, self.model.dim())]);
        Ok(())
    }

    /// Sums the gradients of an update, of which this rank computes those of `samples`, over all ranks, and records the
    /// outcomes.
    #[maybe_async]
    async fn add_gradients(&mut self, pass: &Pass<'_>, samples: &[usize], part: Part<'_>) -> Result<()> {
        let (share, optimizer) = (self.settings.share(), part.optimizer);
        let in_tree = self.settings.sums_in_tree();
        let mut sums = PartialSums::new(share.seat, if in_tree { share.batches() } else { share.seat.size });
        let computed = match in_tree {
            true => self.compute_leaves(pass, samples, part, &mut sums).await,
            false => self.compute_sum(pass, samples, part, &mut sums).await,
        };
        // If the device of a rank is lost, the others must not wait for its gradients.
        self.team.agree(computed)?;
        if in_tree || self.team.is_many() {
            optimizer.put_gradients(&sums.over(&self.team, optimizer.gradient_elements())?);
        }
        Ok(())
    }

    /// Computes the gradient of each micro-batch, over all trained steps.
    #[maybe_async]
    async fn compute_leaves(
        &mut self,
        pass: &Pass<'_>,
        samples: &[usize],
        mut part: Part<'_>,
        sums: &mut PartialSums,
    ) -> Result<()> {
        for batch in samples.chunks(self.settings.micro_batch()) {
            for (slot, step) in pass.rollout.trained.iter().enumerate() {
                self.write_step(pass.rollout, *step);
                self.compute_term(pass, slot, batch, &mut part).await?;
            }
            sums.push(part.optimizer.take_gradients().await?);
        }
        Ok(())
    }

    /// Adds up the gradients of all micro-batches on the device, trained step by trained step.
    #[maybe_async]
    async fn compute_sum(
        &mut self,
        pass: &Pass<'_>,
        samples: &[usize],
        mut part: Part<'_>,
        sums: &mut PartialSums,
    ) -> Result<()> {
        for (slot, step) in pass.rollout.trained.iter().enumerate() {
            self.write_step(pass.rollout, *step);
            for batch in samples.chunks(self.settings.micro_batch()) {
                self.compute_term(pass, slot, batch, &mut part).await?;
            }
        }
        if self.team.is_many() {
            sums.push(part.optimizer.take_gradients().await?);
        }
        Ok(())
    }

    /// Adds the gradient of a micro-batch at the trained step that was written, and records its outcomes.
    #[maybe_async]
    async fn compute_term(&mut self, pass: &Pass<'_>, slot: usize, batch: &[usize], part: &mut Part<'_>) -> Result<()> {
        self.accumulate(pass, slot, batch).await?;
        *part.at += self.record_region(self.plan.region(self.tensors.outcomes), *part.at)?;
        if let Some(dump) = &mut part.dump {
            dump.terms(&self.plan, &self.tensors).await?;
        }
        if let Some(penalty) = self.tensors.penalty {
            *part.at += self.record_region(self.plan.region(penalty.value), *part.at)?;
        }
        Ok(())
    }

    /// The terms of `samples`, a rank's part of an update, in the order in which it computes them: (sample, slot).
    fn terms(&self, samples: &[usize], slots: usize) -> Vec<(usize, usize)> {
        let micro_batch = self.settings.share().micro_batch;
        match self.settings.sums_in_tree() {
            true => samples
                .chunks(micro_batch)
                .flat_map(|batch| (0..slots).flat_map(move |slot| batch.iter().map(move |sample| (*sample, slot))))
                .collect(),
            false => (0..slots).flat_map(|slot| samples.iter().map(move |sample| (*sample, slot))).collect(),
        }
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
    #[maybe_async]
    async fn accumulate(&mut self, pass: &Pass<'_>, slot: usize, batch: &[usize]) -> Result<()> {
        let Pass { rollout, advantages, epoch, held } = pass;
        let requests = || batch.iter().map(|sample| rollout.requests[*sample]);
        let term = Term { slot, step: rollout.trained[slot], epoch: *epoch };
        let (slot, noise_step) = self.settings.method().slot_and_noise(rollout, term);
        let it = &self.tensors;
        let conditions: Vec<u32> = requests().map(|request| request.condition).collect();
        // The embeddings of prompts are large, and a micro-batch comes once per trained step.
        if self.written != conditions {
            it.condition.write(&self.plan, &self.model, &conditions)?;
            self.written = conditions;
        }
        self.plan.write_structs(it.keys, &noise_words(requests(), noise_step as u32));
        self.plan.write(it.advantages, &batch.iter().map(|sample| advantages[*sample] as f32).collect::<Vec<f32>>());
        let row = |sample: &usize| slot * held.len() + held.binary_search(sample).expect("its trajectory is here");
        self.load(&batch.iter().map(row).collect::<Vec<usize>>())?;
        self.plan.run().await
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

    /// The record of all ranks: of each update its terms, slot by slot in the order of its samples.
    #[maybe_async]
    async fn read_record(&self, rollout: &Rollout, updates: &[Vec<usize>], bytes: u64) -> Result<Vec<UpdateRecord>> {
        let record = Region { buffer: self.record.clone(), offset: 0, bytes };
        let read = self.gpu.read::<f32>(&[&record]).await;
        let own = self.team.agree(read)?;
        let all = self.team.gather(bytemuck::cast_slice(&own))?;
        let all: Vec<Vec<f32>> = all.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect();
        let mut rest: Vec<&[f32]> = all.iter().map(Vec::as_slice).collect();
        updates.iter().map(|samples| self.record_of(rollout, samples, &mut rest)).collect()
    }

    /// Takes the record of an update from those of all ranks.
    fn record_of(&self, rollout: &Rollout, samples: &[usize], rest: &mut [&[f32]]) -> Result<UpdateRecord> {
        let (share, slots) = (self.settings.share(), rollout.trained.len());
        let places: HashMap<usize, usize> =
            samples.iter().enumerate().map(|(place, sample)| (*sample, place)).collect();
        let rows = (0..slots).flat_map(|slot| samples.iter().map(move |sample| (*sample, rollout.trained[slot])));
        let rows: Vec<(usize, usize)> = rows.collect();
        let has_penalty = self.tensors.penalty.is_some();
        let mut outcomes = vec![Outcome::zeroed(); rows.len()];
        let mut penalties = vec![0.0; if has_penalty { rows.len() } else { 0 }];
        let mut norms: Vec<[f32; 2]> = Vec::new();
        for (seat, rest) in share.seat.all().zip(rest) {
            let mut take = |count: usize| {
                let (head, tail) = rest.split_at_checked(count).ok_or_else(|| {
                    Error::failed(format!("rank {} has recorded less than its part of an update", seat.rank))
                })?;
                *rest = tail;
                Ok::<_, Error>(head)
            };
            let terms = self.terms(Share { seat, ..share }.of_update(samples), slots);
            for batch in terms.chunks(share.micro_batch) {
                let found: &[Outcome] = bytemuck::cast_slice(take(batch.len() * Outcome::WORDS)?);
                let penalty = take(if has_penalty { batch.len() } else { 0 })?;
                for (index, (sample, slot)) in batch.iter().enumerate() {
                    let place = slot * samples.len() + places[sample];
                    outcomes[place] = found[index];
                    if has_penalty {
                        penalties[place] = penalty[index];
                    }
                }
            }
            let norm = take(2)?;
            norms.push([norm[0], norm[1]]);
        }
        if !self.is_mixed {
            check_norms(&norms.iter().map(|norm| norm.map(f32::to_bits)).collect::<Vec<_>>())?;
        }
        let norm = GradientNorm::from_sums(norms[0]).of_loss_times(loss_scale(&self.settings, self.model.dim())?);
        Ok(UpdateRecord { rows, outcomes, penalties, norm })
    }
}

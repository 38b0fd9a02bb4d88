//! One iteration (rollout, rewards, advantages, updates), and the state that is kept between iterations.

#[cfg(feature = "cli")]
mod checkpoint;

use std::sync::Arc;

use maybe_async::maybe_async;
use web_time::Instant;

use super::dump::{Context, DumpFile};
use super::metrics::{IterationMetrics, spread};
use super::rollout::{self, RolloutCollector};
use super::settings::{TrainerSettings, UpdateSettings};
use super::update::{self, UpdateRecord, Updater};
use super::update_graph::{UpdateGraph, loss_scale};
use crate::assets::BaseRecord;
use crate::autodiff::LostInHalf;
use crate::config::{LogProb, ObjectiveName};
use crate::error::Result;
use crate::flow::standard_ratio::StandardRatio;
use crate::gpu::{Buffer, Gpu, ITERATION, STAGING_BYTES};
use crate::graph::{DType, DeviceProfile, Graph, StoreMemory, Stores, check_tensors, planned_bytes, reserve};
use crate::memory::TrainingMemory;
use crate::model::{Adapter, BASE, FlowModel, Model, Network, START, Summed, WeightSource};
use crate::optimizer::{self, AVERAGE, FIRST_MOMENT, Optimizer, PARAMETERS, SECOND_MOMENT};
use crate::ranks::Team;
use crate::reward::{Purpose, Rewards, ScoringContext};
use crate::sampling::{StepGraph, images_bytes};

/// The cost of an iteration, known before it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// Parameters of the model.
    pub parameters: usize,
    /// Those that are trained.
    pub trainable: usize,
    /// Floating-point operations of the rollout.
    pub rollout_flops: u64,
    /// Floating-point operations of all updates.
    pub update_flops: u64,
    /// Dispatches of an iteration.
    pub dispatches: u64,
    /// The memory that training uses; its plans are those of an update, a step and the noise.
    pub memory: TrainingMemory,
}

impl Cost {
    /// Reserves memory for the update before the rollout's plans are bound, so that they share its memory.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub fn reserve(&self, gpu: &Gpu) -> Result<Vec<Arc<Buffer>>> {
        reserve(gpu, &self.memory.plans[0].slots)
    }
}

/// Reinforcement learning of one model, with any objective.
#[derive(Debug)]
pub struct Trainer {
    gpu: Arc<Gpu>,
    settings: UpdateSettings,
    network: Network,
    class_names: Vec<String>,
    collector: RolloutCollector,
    updater: Updater,
    rewards: Rewards,
    base: Option<StoreMemory>,
    /// The adapter that the run started from, if any, as stored in checkpoints.
    began_with: Option<Vec<f32>>,
    /// The same on the device, if distances are measured from it.
    start: Option<StoreMemory>,
    /// What the run started from.
    origin: BaseRecord,
    dumped: Option<DumpFile>,
    team: Team,
    /// Weights, moments and average.
    pub optimizer: Optimizer,
}

/// Constructor of an updater.
type BindUpdater = fn(&Arc<Gpu>, &UpdateSettings, &Network, &Optimizer, Stores) -> Result<Updater>;

/// Checks that the model can be guided as rollouts and updates are.
fn check_guidance(settings: &UpdateSettings, model: &FlowModel) -> Result<()> {
    model.check_guidance("`rollout.guidance_scale`", settings.rollout.guidance_scale)?;
    let reference = &settings.objective.reference;
    match reference.beta > 0.0 {
        true => model.check_guidance("`objective.reference.guidance_scale`", reference.guidance_scale),
        false => Ok(()),
    }
}

impl Trainer {
    /// The cost of an iteration on such a device.
    ///
    /// # Errors
    /// If the settings do not fit the model.
    pub fn cost(settings: &TrainerSettings, model: &FlowModel, profile: &DeviceProfile) -> Result<Cost> {
        let (lora, updates) = (&settings.lora, &settings.updates);
        let (rollout, micro_batch) = (&updates.rollout, updates.of_rollouts().micro_batch());
        check_guidance(updates, model)?;
        updates.check_share()?;
        let adapter = Adapter::begin(lora, updates.seed, model)?;
        let network = Network::new(model, adapter.as_ref(), settings.weights).in_precision(updates.train.precision);
        let step = StepGraph::record(&network, micro_batch, rollout.guidance_scale);
        let noise = crate::sampling::noise_graph(model, micro_batch).0;
        let update = UpdateGraph::record(updates, &network)?;
        let samples = updates.share().count();
        let slots = updates.of_rollouts().trained_slots()?;
        let steps = (samples.div_ceil(micro_batch) * rollout.steps) as u64;
        let passes = (samples / updates.micro_batch() * slots * updates.train.inner_epochs) as u64;
        let (layout, all) = (network.layout(), model.layout().parameter_count());
        for graph in [&update.graph, &step.graph, &noise] {
            check_tensors(graph, profile)?;
        }
        // The largest first: the others fit into its slots.
        let plans = [&update.graph, &step.graph, &noise].map(|graph| planned_bytes(graph, profile));
        let fixed = optimizer::planned_bytes(&layout, profile)
            + rollout::store_bytes(updates.of_rollouts(), model)?.iter().map(|(_, bytes)| bytes).sum::<u64>()
            + if settings.keeps_base() { network.frozen().bytes() } else { 0 }
            + if updates.from_start { DType::F32.bytes(&[layout.elements()]) } else { 0 }
            + images_bytes(model, samples)
            + update::record_bytes(updates)?
            + STAGING_BYTES;
        let dispatches = |graph: &Graph, times: u64| graph.dispatch_count(profile) as u64 * times;
        Ok(Cost {
            parameters: if network.lora.is_some() { all + layout.parameter_count() } else { all },
            trainable: layout.entries().iter().filter(|entry| entry.trainable).map(|entry| entry.elements()).sum(),
            rollout_flops: step.graph.flops() * steps,
            update_flops: update.graph.flops() * passes,
            dispatches: dispatches(&step.graph, steps) + dispatches(&update.graph, passes),
            memory: TrainingMemory { fixed, plans: plans.into() },
        })
    }

    /// Uploads the model and binds every plan: everything that training allocates.
    ///
    /// # Errors
    /// If settings, model and rewards do not fit each other, or the device does not have enough memory.
    pub fn new(gpu: &Arc<Gpu>, settings: TrainerSettings, model: &Model<impl WeightSource>) -> Result<Self> {
        Self::of_team(gpu, settings, model, &Team::default())
    }

    /// The same for a rank of a team, which trains one model together.
    ///
    /// # Errors
    /// As [`Trainer::new`], or if there are more ranks than micro-batches.
    pub fn of_team(
        gpu: &Arc<Gpu>,
        mut settings: TrainerSettings,
        model: &Model<impl WeightSource>,
        team: &Team,
    ) -> Result<Self> {
        settings.updates.seat = team.seat();
        let mut trainer = Self::bind(gpu, settings, model, Updater::new)?;
        trainer.team = team.clone();
        trainer.updater.team = team.clone();
        trainer.rewards.join(team);
        Ok(trainer)
    }

    /// The same, but the first two updates of the first rollout are observed; [`Trainer::take_dump`] returns them.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn observed(gpu: &Arc<Gpu>, settings: TrainerSettings, model: &Model<impl WeightSource>) -> Result<Self> {
        Self::bind(gpu, settings, model, Updater::observed)
    }

    fn bind(
        gpu: &Arc<Gpu>,
        settings: TrainerSettings,
        model: &Model<impl WeightSource>,
        updater: BindUpdater,
    ) -> Result<Self> {
        let flow_model = model.flow_model("`model.file`")?;
        let cost = Self::cost(&settings, &flow_model, &DeviceProfile::of(gpu))?;
        let keeps_base = settings.keeps_base();
        let TrainerSettings { updates, rewards, lora, weights, base: base_name } = settings;
        let conditions = updates.rollout.chosen_classes(flow_model.conditions())?;
        // The device holds its staging buffer already.
        gpu.check_memory(gpu.counters().bytes_held + cost.memory.bytes() - STAGING_BYTES)?;
        let adapter = Adapter::begin(&lora, updates.seed, &flow_model)?;
        let network = Network::new(&flow_model, adapter.as_ref(), weights).in_precision(updates.train.precision);
        // Gigabytes may have to be read, so their checksum is computed while they are uploaded.
        let weights = Summed::new(&model.weights);
        let optimizer = match &adapter {
            Some(adapter) => Optimizer::new(gpu, network.layout(), &adapter.weights)?,
            None => Optimizer::new(gpu, network.layout(), &weights)?,
        };
        let base = match keeps_base {
            true => Some(network.frozen().upload(gpu, BASE.0, &weights)?),
            false => None,
        };
        let began_with = adapter.filter(|_| lora.adapter.is_some()).map(|adapter| adapter.weights);
        let start = match &began_with {
            Some(weights) if updates.from_start => Some(network.layout().upload(gpu, START.0, weights)?),
            _ => None,
        };
        let base_stores = || {
            let stores = [(BASE, &base), (START, &start)].into_iter();
            stores.filter_map(|(store, buffer)| Some((store, buffer.clone()?)))
        };
        let mut drawing = updates.method().drawing_stores(&optimizer);
        drawing.extend(base_stores());
        let _held = cost.reserve(gpu)?;
        let collector = RolloutCollector::new(gpu, updates.of_rollouts(), &network, conditions, &drawing)?;
        let mut others = collector.stores();
        others.extend(base_stores());
        let updater = updater(gpu, &updates, &network, &optimizer, others)?;
        let rewards = Rewards::new(gpu, &rewards, &flow_model.pictures(&model.class_names))?;
        Ok(Self {
            gpu: gpu.clone(),
            settings: updates,
            class_names: model.class_names.clone(),
            network,
            collector,
            updater,
            rewards,
            base,
            began_with,
            start,
            origin: BaseRecord { model: base_name, crc32: weights.crc32() },
            dumped: None,
            team: Team::default(),
            optimizer,
        })
    }

    /// The safetensors file of the updates that were observed, with the configuration (TOML) in its metadata; `None` if
    /// none were, or if it has been taken.
    pub fn take_dump(&mut self, config: &str) -> Option<Vec<u8>> {
        self.dumped.take().map(|file| file.into_bytes(config))
    }

    /// The trained parameters and their network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The weights that training began with, if an adapter on them or a penalty on the distance to them keeps them on
    /// the device.
    pub fn base(&self) -> Option<&StoreMemory> {
        self.base.as_ref()
    }

    /// The adapter that the run started from, if drift and the penalty on the distance are measured from it.
    pub fn start(&self) -> Option<&StoreMemory> {
        self.start.as_ref()
    }

    /// Iteration `index`, counted from 0, which alone determines what is drawn.
    ///
    /// # Errors
    /// If the device is lost, a reward fails or is not finite, the first update is not on-policy, or too many
    /// updates in a row had non-finite gradients.
    #[maybe_async]
    pub async fn iteration(&mut self, index: u64) -> Result<IterationMetrics> {
        let _iteration = self.gpu.phase(ITERATION);
        let (start, phase) = (Instant::now(), self.gpu.phase("rollout"));
        let drawn = self.collector.collect(index as u32).await;
        let rollout = self.team.agree(drawn)?;
        let rollout_seconds = start.elapsed().as_secs_f64();
        drop(phase);

        let (start, phase) = (Instant::now(), self.gpu.phase("reward"));
        let labels: Vec<u32> = rollout.requests.iter().map(|request| request.condition).collect();
        let context = ScoringContext { purpose: Purpose::Training, iteration: index };
        let pictures = self.network.model.decode(&self.gpu, &rollout.images).await;
        let scores = self.rewards.score_part(pictures, &rollout.own, &labels, context).await?;
        let clip = Some(self.settings.advantage.clip).filter(|clip| clip.is_finite());
        let group_size = self.settings.rollout.group_size;
        let advantages =
            self.settings.advantage.kind.advantages(&scores.components, self.rewards.weights(), group_size, clip)?;
        let reward_seconds = start.elapsed().as_secs_f64();
        drop(phase);

        let (start, phase) = (Instant::now(), self.gpu.phase("update"));
        let records = self.updater.learn(&rollout, &advantages.values, &mut self.optimizer).await?;
        let update_seconds = start.elapsed().as_secs_f64();
        drop(phase);
        if let Some(dump) = self.updater.dump.take() {
            let (scores, advantages) = (&scores, advantages.values.as_slice());
            let (settings, model, layout) = (&self.settings, &self.network.model, self.optimizer.layout());
            let loss_scale = loss_scale(settings, model.dim())?;
            let context = Context { settings, model, layout, rollout: &rollout, scores, advantages, loss_scale };
            self.dumped = Some(dump.to_file(&context, &records));
        }

        let component = |(name, scores): (&String, &Vec<f64>)| {
            let [mean, std, ..] = spread(scores);
            (name.clone(), [mean, std])
        };
        let mut metrics = IterationMetrics {
            iteration: index + 1,
            objective: self.settings.objective.name,
            reference_beta: self.settings.objective.reference.beta,
            reward: spread(&scores.totals),
            components: self.rewards.names().iter().zip(&scores.components).map(component).collect(),
            advantage: [0.0; 2],
            zero_std_groups: [advantages.zero_spread_groups, labels.len() / group_size],
            trained_steps: rollout.trained.clone(),
            updates: Vec::new(),
            by_step: Vec::new(),
            on_policy: [0.0; 2],
            standard_ratio: None,
            lost_in_half: self.updater.lost_in_half.take(),
            dim: self.network.model.dim(),
            seconds: [rollout_seconds, reward_seconds, update_seconds],
            images: labels.len(),
        };
        metrics.observe(&records, &advantages);
        metrics.standard_ratio = standard_ratio(&self.settings, &records, self.network.model.dim());
        self.settings.method().check_first_update(&metrics)?;
        let when = format!("iteration {}", metrics.iteration);
        for record in &records {
            let most = self.settings.train.max_skipped_updates;
            let settled = self.optimizer.settle(record.norm, most, &when, "train.learning_rate");
            let lost = metrics.lost_in_half.iter();
            let lost = lost.filter_map(|lost| LostInHalf::explain(lost, "train.half_activations")).next();
            settled.map_err(|cause| match lost {
                Some(lost) => cause.followed_by(&format!("; {lost}")),
                None => cause,
            })?;
        }
        if self.updater.is_mixed {
            self.follow_leader().await?;
        }
        Ok(metrics)
    }

    /// Says that the ranks have different devices, which round differently: after each iteration, all continue with the
    /// weights of rank 0.
    pub fn expect_mixed_devices(&mut self) {
        self.updater.is_mixed = true;
    }

    /// Takes the weights, moments and averaged weights of rank 0.
    #[maybe_async]
    async fn follow_leader(&self) -> Result<()> {
        for store in [PARAMETERS, FIRST_MOMENT, SECOND_MOMENT, AVERAGE] {
            let own = if self.team.leads() { self.optimizer.read(store).await } else { Ok(Vec::new()) };
            let own = self.team.agree(own)?;
            let leaders = self.team.from_leader(bytemuck::cast_slice(&own))?;
            self.optimizer.write(store, &bytemuck::pod_collect_to_vec::<u8, f32>(&leaders));
        }
        Ok(())
    }

    /// The rewards, for captions and evaluation.
    pub fn rewards(&mut self) -> &mut Rewards {
        &mut self.rewards
    }
}

/// How the Gaussian's ratio is distributed over samples that are new to a policy that has moved: those of the first
/// pass after its first update.
fn standard_ratio(settings: &UpdateSettings, records: &[UpdateRecord], dim: usize) -> Option<StandardRatio> {
    let objective = &settings.objective;
    let has_ratio = matches!(objective.name, ObjectiveName::FlowDppo | ObjectiveName::FlowGrpo);
    if !has_ratio || objective.log_prob != LogProb::Gaussian {
        return None;
    }
    let fresh = records.iter().take(settings.train.updates_per_rollout).skip(1).flat_map(|record| &record.outcomes);
    StandardRatio::new(fresh.map(|outcome| [outcome.log_ratio, outcome.kl].map(f64::from)), dim)
}

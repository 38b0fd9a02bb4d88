//! Flow-matching pretraining: the same graph with another loss.
//!
//! `x_sigma = (1 − sigma) x0 + sigma ε`, target `ε − x0`, mean squared error (Lipman et al. 2023, Liu et al.
//! 2023). A share of the conditions is replaced by "no condition", so that guidance is possible. With an adapter, only that
//! is trained.

use std::fmt::Debug;
use std::sync::Arc;

use crate::autodiff::{Activations, Halves, LostInHalf, backward_with};
use crate::config::{self, Config, Decay, EmaWarmUp, TimeSampling};
use crate::data::{Dataset, Scenes};
use crate::error::{Error, Result};
use crate::flow::noise::{
    AUGMENT, DROPOUT, NoiseKey, PRETRAIN_LATENTS, PRETRAIN_NOISE, PRETRAIN_TIME, SHUFFLE, Stream,
};
use crate::gpu::{Gpu, ShaderStruct};
use crate::graph::{Graph, Plan, Stores, Tensor};
use crate::model::{ConditionInput, FlowModel, Network, WeightSource};
use crate::ops::{AdamWSettings, NoiseWords, PhiloxNormal, SamplerRow, mean_squared_error, sampler_step};
use crate::optimizer::{GRADIENTS, MicroBatches, Optimizer, PARAMETERS, StepRecord, StepReport};
use crate::ranks::{Seat, Team};

/// Forward and backward pass of one micro-batch of flow matching.
#[derive(Debug)]
pub struct FlowMatchingGraph {
    /// The computation.
    pub graph: Graph,
    /// Data: images, or latents of them, `[B, C, H, W]`.
    pub images: Tensor,
    /// Conditions of the B images.
    pub condition: ConditionInput,
    /// The network's time, `[B]`, from [`FlowModel::time_of`].
    pub time: Tensor,
    /// [`NoiseWords`] of each image.
    pub keys: Tensor,
    /// Factors (image, 0, noise) of the noisy state, `[B, 3]`.
    pub to_noisy: Tensor,
    /// Factors of the losses in the sum, `[B]`.
    pub weight: Tensor,
    /// Weighted losses, `[B]`.
    pub loss: Tensor,
    /// The tensors kept in 16 bits, if any.
    pub halves: Option<Halves>,
}

impl FlowMatchingGraph {
    /// Records a micro-batch of `batch` images.
    pub fn record(network: &Network, batch: usize, activations: Activations) -> Self {
        let mut graph = Graph::new();
        let shape = network.model.batch_shape(batch);
        let images = graph.input("images", &shape);
        let condition = ConditionInput::declare(&mut graph, &network.model, batch, false);
        let time = graph.input("time", &[batch]);
        let keys = graph.input_indices("noise keys", &[batch, NoiseWords::WORDS]);
        // Both mixtures of image and noise are affine, so the sampler's kernel computes them.
        let to_noisy = graph.input("mixture of the state", &[batch, SamplerRow::WORDS]);
        let to_target = SamplerRow { a: -1.0, b: 0.0, s: 1.0 }.constant(&mut graph, "mixture of the target", batch);
        let weight = graph.input("weight", &[batch]);
        let epsilon = graph.apply(PhiloxNormal::new(&shape[1..]), &[keys]);
        let x = sampler_step(&mut graph, images, images, epsilon, to_noisy);
        let target = sampler_step(&mut graph, images, images, epsilon, to_target);
        let network = network.declare(&mut graph, PARAMETERS, Some(GRADIENTS));
        let velocity = network.velocity(&mut graph, x, time, condition);
        let loss = graph.scope("loss", |graph| mean_squared_error(graph, velocity, target, weight));
        graph.keep(loss);
        let ones = graph.constant("ones", &[batch], vec![1.0; batch]);
        let halves = backward_with(&mut graph, &[(loss, ones)], &[], activations).halves;
        Self { graph, images, condition, time, keys, to_noisy, weight, loss, halves }
    }
}

/// How pretraining stores activations.
pub fn activations(config: &config::Pretrain) -> Activations {
    Activations { recompute: config.activation_checkpointing, half: config.half_activations }
}

/// Checks that a model accepts the images of a data set.
///
/// # Errors
/// [`Error::Input`] with both sizes if it does not.
pub fn check_shape(data: &Dataset, model: &FlowModel) -> Result<()> {
    let shape = model.state_shape();
    if shape == data.shape() {
        return Ok(());
    }
    Err(Error::input(format!(
        "the data has {}, but the model takes {shape}: make `data` and `model` agree",
        data.shape()
    )))
}

/// What pretraining learns from.
pub trait Examples: Debug {
    /// How many there are.
    fn count(&self) -> usize;

    /// What an example shows, as a row of the model's table of conditions.
    fn condition(&self, index: usize) -> u32;

    /// Appends an example as a state of the model, `[C, H, W]`, mirrored left to right if `flip`. What is random in it is
    /// drawn by `key`.
    ///
    /// # Errors
    /// If it cannot be read.
    fn push_state(&self, states: &mut Vec<f32>, index: usize, flip: bool, key: NoiseKey) -> Result<()>;
}

impl Examples for Dataset {
    fn count(&self) -> usize {
        self.len()
    }

    fn condition(&self, index: usize) -> u32 {
        self.labels[index]
    }

    fn push_state(&self, states: &mut Vec<f32>, index: usize, flip: bool, _: NoiseKey) -> Result<()> {
        self.push_image(states, index, flip);
        Ok(())
    }
}

impl Examples for Scenes {
    fn count(&self) -> usize {
        Scenes::count(self)
    }

    fn condition(&self, index: usize) -> u32 {
        self.caption(index)
    }

    fn push_state(&self, states: &mut Vec<f32>, index: usize, _: bool, key: NoiseKey) -> Result<()> {
        self.push(states, index, key);
        Ok(())
    }
}

/// What is random of an example in a batch.
#[derive(Clone, Copy, Debug)]
struct Drawn {
    index: usize,
    flip: bool,
    /// Whether its condition is replaced by "no condition".
    dropped: bool,
    sigma: f64,
}

/// The random choices of a step, each in the order of its samples.
struct Choices {
    times: Stream,
    dropout: Stream,
    choice: Stream,
    augment: Stream,
}

/// What pretraining reads of a configuration.
#[derive(Clone, Debug)]
pub struct PretrainSettings {
    /// How it optimises.
    pub pretrain: config::Pretrain,
    /// Whether images are mirrored at random.
    pub horizontal_flip: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// It stops after more than this many skipped steps in a row.
    pub max_skipped_updates: usize,
}

impl From<&Config> for PretrainSettings {
    fn from(config: &Config) -> Self {
        Self {
            pretrain: config.pretrain.clone(),
            horizontal_flip: config.data.horizontal_flip,
            seed: config.run.seed,
            max_skipped_updates: config.train.max_skipped_updates,
        }
    }
}

/// Flow-matching pretraining of one model on one data set.
#[derive(Debug)]
pub struct Pretraining<'a> {
    settings: PretrainSettings,
    model: FlowModel,
    data: &'a dyn Examples,
    batches: MicroBatches,
    record: StepRecord,
    /// Weights, moments and average.
    pub optimizer: Optimizer,
    step_graph: FlowMatchingGraph,
    plan: Plan,
    /// Whether it was reported that activations do not fit in 16 bits.
    reported: bool,
}

/// Checks that every rank of a team has a micro-batch of each batch.
///
/// # Errors
/// [`Error::Input`] with the numbers, and what to change.
pub fn check_share(config: &config::Pretrain, seat: Seat) -> Result<()> {
    let (batch, micro_batch) = (config.batch_size, config.effective_micro_batch());
    seat.check_batches(batch, micro_batch, "a step", "pretrain.micro_batch", "raise `pretrain.batch_size`")
}

/// Checks that a model can learn from a data set.
///
/// # Errors
/// [`Error::Input`] with both sizes if it does not accept the images, has too few classes, or has no "no class" for the
/// dropout of classes.
pub fn check_data(data: &Dataset, model: &FlowModel, config: &config::Pretrain) -> Result<()> {
    check_shape(data, model)?;
    if data.class_names.len() > model.num_conditions() {
        return Err(Error::input(format!(
            "the data has {} classes, but `model.num_classes` is {}: raise it",
            data.class_names.len(),
            model.num_conditions()
        )));
    }
    if model.null_condition().is_none() && config.class_dropout > 0.0 {
        return Err(Error::input(format!(
            "`pretrain.class_dropout` is {}, but `model.file` has no \"no class\" that it could train: set it to 0",
            config.class_dropout
        )));
    }
    Ok(())
}

impl<'a> Pretraining<'a> {
    /// Prepares training from `weights`, those of the network's trained part; `frozen` has its other stores. The examples
    /// must be states of the model, see [`check_data`].
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub fn new(
        gpu: &Arc<Gpu>,
        settings: PretrainSettings,
        network: &Network,
        data: &'a dyn Examples,
        weights: &(impl WeightSource + ?Sized),
        frozen: &Stores,
    ) -> Result<Self> {
        let micro_batch = settings.pretrain.effective_micro_batch();
        let optimizer = Optimizer::new(gpu, network.layout(), weights)?;
        let step_graph = FlowMatchingGraph::record(network, micro_batch, activations(&settings.pretrain));
        let mut stores = optimizer.stores().clone();
        stores.extend(frozen.iter().map(|(store, memory)| (*store, memory.clone())));
        let plan = Plan::new(gpu, &step_graph.graph, &stores)?;
        plan.write(step_graph.weight, &vec![1.0 / settings.pretrain.batch_size as f32; micro_batch]);
        let model = network.model.clone();
        let batches = MicroBatches::new(settings.pretrain.batch_size, micro_batch, settings.pretrain.reduction);
        let record = StepRecord::new(gpu, settings.pretrain.batch_size)?;
        Ok(Self { settings, model, data, batches, record, optimizer, step_graph, plan, reported: false })
    }

    /// From now on, each batch is shared with the other ranks of a team.
    pub fn join(&mut self, team: &Team) {
        self.batches.join(team);
    }

    /// The learning rate of a step: linear warm-up, then constant or half a cosine.
    fn learning_rate(&self, step: usize) -> f64 {
        let config = &self.settings.pretrain;
        if step < config.warmup_steps {
            return config.learning_rate * (step + 1) as f64 / config.warmup_steps as f64;
        }
        match config.decay {
            Decay::Constant => config.learning_rate,
            Decay::Cosine => {
                let progress = (step - config.warmup_steps) as f64 / (config.steps - config.warmup_steps).max(1) as f64;
                config.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
        }
    }

    /// What noise depends on in a sample of a step.
    fn key(&self, step: usize, sample: usize, domain: u32) -> NoiseKey {
        NoiseKey { seed: self.settings.seed, rollout: step as u32, sample: sample as u32, step: domain }
    }

    /// Trains on one batch; `step` counts from 0 and determines what is drawn. Does not wait for the outcome.
    ///
    /// # Errors
    /// If an example cannot be read, or the device is lost.
    ///
    /// # Panics
    /// If `step` is a multiple of [`STEPS_AT_ONCE`](crate::optimizer::STEPS_AT_ONCE) and [`Pretraining::outcomes`] has not
    /// been called since the last one.
    pub fn step(&mut self, step: usize) -> Result<()> {
        let [times, dropout, choice, augment] =
            [PRETRAIN_TIME, DROPOUT, SHUFFLE, AUGMENT].map(|domain| Stream::new(self.key(step, 0, domain)));
        let mut choices = Choices { times, dropout, choice, augment };
        let batches = self.batches.clone();
        batches.gradient(
            self,
            |it| &it.optimizer,
            |it, samples, is_own| {
                let drawn: Vec<Drawn> = samples.clone().map(|_| it.draw(&mut choices)).collect();
                if !is_own {
                    return Ok(());
                }
                it.write_micro_batch(step, samples.start, &drawn)?;
                it.plan.run()?;
                it.record.push(it.plan.region(it.step_graph.loss))
            },
        )?;
        let learning_rate = self.learning_rate(step);
        self.optimizer.update(&AdamWSettings {
            learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: self.settings.pretrain.weight_decay,
            loss_scale: 1.0,
            max_grad_norm: self.settings.pretrain.max_grad_norm,
            average_decay: EmaWarmUp::Rational.decay(self.settings.pretrain.ema_decay, step as u64),
        })?;
        self.record.end_step(&self.optimizer, step, learning_rate)
    }

    /// The outcomes of the steps since the last call. Waits for them.
    ///
    /// # Errors
    /// If the device is lost, or more than `train.max_skipped_updates` updates in a row were skipped.
    pub fn outcomes(&mut self) -> Result<Vec<StepReport>> {
        let reports = self.record.take(&self.batches)?;
        let Some(last) = reports.last() else { return Ok(reports) };
        let lost = match &self.step_graph.halves {
            Some(halves) => {
                LostInHalf::explain(&halves.take(&self.plan, self.batches.team())?, "pretrain.half_activations")
            }
            None => None,
        };
        if let Some(lost) = lost.as_ref().filter(|_| !self.reported) {
            log::warn!("step {}: {lost}", last.step + 1);
            self.reported = true;
        }
        let settled = self.optimizer.note_steps(&reports, self.settings.max_skipped_updates, "pretrain.learning_rate");
        settled.map_err(|cause| match lost {
            Some(lost) => cause.followed_by(&format!("; {lost}")),
            None => cause,
        })?;
        Ok(reports)
    }

    /// The choices of the next example.
    fn draw(&self, choices: &mut Choices) -> Drawn {
        let index = choices.choice.below(self.data.count() as u32) as usize;
        let flip = self.settings.horizontal_flip && choices.augment.uniform() < 0.5;
        let dropped = choices.dropout.uniform() < self.settings.pretrain.class_dropout;
        // Below, the network's velocity cannot be that of its data.
        let sigma = self.draw_sigma(&mut choices.times).max(self.model.velocity_floor().into());
        Drawn { index, flip, dropped, sigma }
    }

    /// Writes the micro-batch that begins with a sample of the batch to the device.
    fn write_micro_batch(&self, step: usize, first: usize, drawn: &[Drawn]) -> Result<()> {
        let (mut images, mut conditions, mut time, mut keys) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut to_noisy = Vec::new();
        for (sample, &Drawn { index, flip, dropped, sigma }) in (first..).zip(drawn) {
            self.data.push_state(&mut images, index, flip, self.key(step, sample, PRETRAIN_LATENTS))?;
            let none = self.model.null_condition().filter(|_| dropped);
            conditions.push(none.unwrap_or_else(|| self.data.condition(index)));
            time.push(self.model.time_of(sigma));
            to_noisy.push(SamplerRow { a: 1.0 - sigma as f32, b: 0.0, s: sigma as f32 });
            keys.push(NoiseWords::from(self.key(step, sample, PRETRAIN_NOISE)));
        }
        let it = &self.step_graph;
        self.plan.write(it.images, &images);
        it.condition.write(&self.plan, &self.model, &conditions)?;
        self.plan.write(it.time, &time);
        self.plan.write_structs(it.keys, &keys);
        self.plan.write_structs(it.to_noisy, &to_noisy);
        Ok(())
    }

    fn draw_sigma(&self, times: &mut Stream) -> f64 {
        match self.settings.pretrain.time_sampling {
            TimeSampling::Uniform => times.uniform(),
            TimeSampling::LogitNormal => {
                let logit = self.settings.pretrain.logit_mean + self.settings.pretrain.logit_std * times.normal();
                1.0 / (1.0 + (-logit).exp())
            }
        }
    }
}

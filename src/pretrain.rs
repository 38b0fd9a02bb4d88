//! Flow-matching pretraining: the same graph with another loss.
//!
//! `x_sigma = (1 − sigma) x0 + sigma ε`, target `ε − x0`, mean squared error (Lipman et al. 2023, Liu et al.
//! 2023). A share of the labels is replaced by the null class, so that guidance is possible.

use std::sync::Arc;

use crate::autodiff::{Activations, Halves, LostInHalf, backward_with};
use crate::config::{self, Config, Decay, EmaWarmUp, TimeSampling};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::flow::noise::{AUGMENT, DROPOUT, NoiseKey, PRETRAIN_NOISE, PRETRAIN_TIME, SHUFFLE, Stream};
use crate::gpu::{Gpu, ShaderStruct};
use crate::graph::{Graph, Plan, Tensor};
use crate::model::{ConditionInput, FlowModel, WeightSource};
use crate::ops::{AdamWSettings, NoiseWords, PhiloxNormal, SamplerRow, mean_squared_error, sampler_step};
use crate::optimizer::{GRADIENTS, Optimizer, PARAMETERS, StepReport};

/// Forward and backward pass of one micro-batch of flow matching.
#[derive(Debug)]
pub struct FlowMatchingGraph {
    /// The computation.
    pub graph: Graph,
    /// Data, `[B, C, S, S]`.
    pub images: Tensor,
    /// Conditions of the B images.
    pub condition: ConditionInput,
    /// The network's time, `[B]`, from [`FlowModel::time_of`].
    pub time: Tensor,
    /// [`NoiseWords`] of each image.
    pub keys: Tensor,
    /// Factors (image, 0, noise) of the noisy state, `[B, 3]`.
    pub to_noisy: Tensor,
    /// Factors (image, 0, noise) of the velocity to learn, `[B, 3]`.
    pub to_target: Tensor,
    /// Factors of the losses in the sum, `[B]`.
    pub weight: Tensor,
    /// Weighted losses, `[B]`.
    pub loss: Tensor,
    /// The tensors kept in 16 bits, if any.
    pub halves: Option<Halves>,
}

impl FlowMatchingGraph {
    /// Records a micro-batch of `batch` images.
    pub fn record(model: &FlowModel, batch: usize, activations: Activations) -> Self {
        let mut graph = Graph::new();
        let shape = model.batch_shape(batch);
        let images = graph.input("images", &shape);
        let condition = ConditionInput::declare(&mut graph, model, batch, false);
        let time = graph.input("time", &[batch]);
        let keys = graph.input_indices("noise keys", &[batch, NoiseWords::WORDS]);
        // Both mixtures of image and noise are affine, so the sampler's kernel computes them.
        let to_noisy = graph.input("mixture of the state", &[batch, SamplerRow::WORDS]);
        let to_target = graph.input("mixture of the target", &[batch, SamplerRow::WORDS]);
        let weight = graph.input("weight", &[batch]);
        let epsilon = graph.apply(PhiloxNormal::new(&shape[1..]), &[keys]);
        let x = sampler_step(&mut graph, images, images, epsilon, to_noisy);
        let target = sampler_step(&mut graph, images, images, epsilon, to_target);
        let parameters = model.layout().declare(&mut graph, PARAMETERS, Some(GRADIENTS));
        let velocity = model.network(parameters).velocity(&mut graph, x, time, condition);
        let loss = graph.scope("loss", |graph| mean_squared_error(graph, velocity, target, weight));
        graph.keep(loss);
        let ones = graph.constant("ones", &[batch], vec![1.0; batch]);
        let halves = backward_with(&mut graph, &[(loss, ones)], &[], activations).halves;
        Self { graph, images, condition, time, keys, to_noisy, to_target, weight, loss, halves }
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
    data: &'a Dataset,
    micro_batch: usize,
    /// Weights, moments and average.
    pub optimizer: Optimizer,
    step_graph: FlowMatchingGraph,
    plan: Plan,
    /// Whether it was reported that activations do not fit in 16 bits.
    reported: bool,
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
    /// Prepares training from `weights`.
    ///
    /// # Errors
    /// If data and model do not match, or the device does not have enough memory.
    pub fn new(
        gpu: &Arc<Gpu>,
        settings: PretrainSettings,
        model: FlowModel,
        data: &'a Dataset,
        weights: &(impl WeightSource + ?Sized),
    ) -> Result<Self> {
        check_data(data, &model, &settings.pretrain)?;
        let micro_batch = settings.pretrain.effective_micro_batch();
        let activations = activations(&settings.pretrain);
        let optimizer = Optimizer::new(gpu, model.layout(), weights)?;
        let step_graph = FlowMatchingGraph::record(&model, micro_batch, activations);
        let plan = Plan::new(gpu, &step_graph.graph, optimizer.stores())?;
        Ok(Self { settings, model, data, micro_batch, optimizer, step_graph, plan, reported: false })
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

    /// Trains on one batch; `step` counts from 0 and determines what is drawn.
    ///
    /// # Errors
    /// If the device is lost, or more than `train.max_skipped_updates` updates in a row were skipped.
    pub fn step(&mut self, step: usize) -> Result<StepReport> {
        let batch = self.settings.pretrain.batch_size;
        let stream = |domain: u32| {
            Stream::new(NoiseKey { seed: self.settings.seed, rollout: step as u32, sample: 0, step: domain })
        };
        let (mut times, mut dropout) = (stream(PRETRAIN_TIME), stream(DROPOUT));
        let (mut choice, mut augment) = (stream(SHUFFLE), stream(AUGMENT));
        let mut loss = 0.0;
        for first in (0..batch).step_by(self.micro_batch) {
            let (mut images, mut conditions, mut time, mut keys) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            let (mut to_noisy, mut to_target) = (Vec::new(), Vec::new());
            for sample in first..first + self.micro_batch {
                let index = choice.below(self.data.len() as u32) as usize;
                let flip = self.settings.horizontal_flip && augment.uniform() < 0.5;
                self.data.push_image(&mut images, index, flip);
                let dropped = dropout.uniform() < self.settings.pretrain.class_dropout;
                let none = self.model.null_condition().filter(|_| dropped);
                conditions.push(none.unwrap_or(self.data.labels[index]));
                let sigma = self.draw_sigma(&mut times);
                time.push(self.model.time_of(sigma));
                to_noisy.push(SamplerRow { a: 1.0 - sigma as f32, b: 0.0, s: sigma as f32 });
                to_target.push(SamplerRow { a: -1.0, b: 0.0, s: 1.0 });
                let key = NoiseKey {
                    seed: self.settings.seed,
                    rollout: step as u32,
                    sample: sample as u32,
                    step: PRETRAIN_NOISE,
                };
                keys.push(NoiseWords::from(key));
            }
            let it = &self.step_graph;
            self.plan.write(it.images, &images);
            it.condition.write(&self.plan, &self.model, &conditions)?;
            self.plan.write(it.time, &time);
            self.plan.write_structs(it.keys, &keys);
            self.plan.write_structs(it.to_noisy, &to_noisy);
            self.plan.write_structs(it.to_target, &to_target);
            self.plan.write(it.weight, &vec![1.0 / batch as f32; self.micro_batch]);
            self.plan.run()?;
            let losses: Vec<f32> = self.plan.read(&[it.loss])?;
            loss += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        }
        let learning_rate = self.learning_rate(step);
        self.optimizer.update(&AdamWSettings {
            learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: self.settings.pretrain.weight_decay,
            max_grad_norm: self.settings.pretrain.max_grad_norm,
            average_decay: EmaWarmUp::Rational.decay(self.settings.pretrain.ema_decay, step as u64),
        })?;
        let norm = self.optimizer.norm()?;
        let when = format!("step {}", step + 1);
        let lost = match &self.step_graph.halves {
            Some(halves) => LostInHalf::explain(&halves.take(&self.plan)?, "pretrain.half_activations"),
            None => None,
        };
        if let Some(lost) = lost.as_ref().filter(|_| !self.reported) {
            log::warn!("{when}: {lost}");
            self.reported = true;
        }
        let settled = self.optimizer.settle(norm, self.settings.max_skipped_updates, &when, "pretrain.learning_rate");
        settled.map_err(|cause| match lost {
            Some(lost) => cause.followed_by(&format!("; {lost}")),
            None => cause,
        })?;
        Ok(StepReport { loss, norm, learning_rate })
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

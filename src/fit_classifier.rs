//! Trains the small classifier: the same graph and shaders, with cross-entropy as the loss.

use std::sync::Arc;

use crate::config::{self, Config};
use crate::data::Dataset;
use crate::error::Result;
use crate::flow::noise::{AUGMENT, NoiseKey, PRETRAIN_NOISE, SHUFFLE, Stream};
use crate::gpu::{Gpu, ShaderStruct};
use crate::graph::{Graph, Plan, Tensor};
use crate::model::{Classifier, ClassifierConfig};
use crate::ops::{AdamWSettings, NoiseWords, PhiloxNormal, SamplerRow, cross_entropy, sampler_step};
use crate::optimizer::{GRADIENTS, MicroBatches, Optimizer, PARAMETERS, StepRecord, StepReport};
use crate::ranks::{Seat, Team};

/// The classifier network for a data set.
pub fn network(data: &Dataset, config: &config::Classifier) -> ClassifierConfig {
    ClassifierConfig {
        image_size: data.image_size,
        channels: data.channels,
        hidden_size: config.hidden_size,
        num_classes: data.class_names.len(),
    }
}

/// Checks that every rank of a team has a micro-batch of each batch.
///
/// # Errors
/// [`Error::Input`](crate::error::Error::Input) with the numbers, and what to change.
pub fn check_share(config: &config::Classifier, seat: Seat) -> Result<()> {
    let (batch, micro_batch) = (config.batch_size, config.effective_micro_batch());
    seat.check_batches(batch, micro_batch, "a step", "classifier.micro_batch", "raise `classifier.batch_size`")
}

/// What fitting reads of a configuration.
#[derive(Clone, Debug)]
pub struct FitSettings {
    /// How it optimises.
    pub classifier: config::Classifier,
    /// Whether images are mirrored at random.
    pub horizontal_flip: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// It stops after more than this many skipped steps in a row.
    pub max_skipped_updates: usize,
}

impl From<&Config> for FitSettings {
    fn from(config: &Config) -> Self {
        Self {
            classifier: config.classifier.clone(),
            horizontal_flip: config.data.horizontal_flip,
            seed: config.run.seed,
            max_skipped_updates: config.train.max_skipped_updates,
        }
    }
}

/// Training of a classifier on one data set.
#[derive(Debug)]
pub struct Fitting<'a> {
    settings: FitSettings,
    data: &'a Dataset,
    batches: MicroBatches,
    record: StepRecord,
    /// Weights and moments.
    pub optimizer: Optimizer,
    plan: Plan,
    images: Tensor,
    labels: Tensor,
    keys: Tensor,
    loss: Tensor,
}

/// Forward and backward pass of one micro-batch.
#[derive(Debug)]
pub struct FittingGraph {
    /// The computation.
    pub graph: Graph,
    images: Tensor,
    labels: Tensor,
    keys: Tensor,
    loss: Tensor,
}

impl FittingGraph {
    /// Records a micro-batch. Normal noise is added to the images, so that the classifier can also handle imperfect samples.
    pub fn record(config: &config::Classifier, network: &ClassifierConfig) -> Self {
        let batch = config.effective_micro_batch();
        let mut graph = Graph::new();
        let images = graph.input("images", &[batch, network.dim()]);
        let labels = graph.input_indices("labels", &[batch]);
        let keys = graph.input_indices("noise keys", &[batch, NoiseWords::WORDS]);
        let mixture = SamplerRow { a: 1.0, b: 0.0, s: config.noise_std as f32 };
        let mixture = mixture.constant(&mut graph, "mixture", batch);
        let epsilon = graph.apply(PhiloxNormal::new(&[network.dim()]), &[keys]);
        let noisy = sampler_step(&mut graph, images, images, epsilon, mixture);
        let parameters = network.layout().declare(&mut graph, PARAMETERS, Some(GRADIENTS));
        let logits = Classifier::new(parameters).logits(&mut graph, noisy);
        let weight = graph.constant("weight", &[batch], vec![1.0 / config.batch_size as f32; batch]);
        let [loss, _, _] = graph.scope("loss", |graph| cross_entropy(graph, logits, labels, weight));
        graph.keep(loss);
        let ones = graph.constant("ones", &[batch], vec![1.0; batch]);
        crate::autodiff::backward(&mut graph, &[(loss, ones)], &[]);
        Self { graph, images, labels, keys, loss }
    }
}

impl<'a> Fitting<'a> {
    /// Prepares training from weights drawn from the seed.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub fn new(gpu: &Arc<Gpu>, settings: FitSettings, network: &ClassifierConfig, data: &'a Dataset) -> Result<Self> {
        let optimizer = Optimizer::new(gpu, network.layout(), &network.initial_weights(settings.seed))?;
        let recorded = FittingGraph::record(&settings.classifier, network);
        let plan = Plan::new(gpu, &recorded.graph, optimizer.stores())?;
        let classifier = &settings.classifier;
        let batches =
            MicroBatches::new(classifier.batch_size, classifier.effective_micro_batch(), classifier.reduction);
        Ok(Self {
            record: StepRecord::new(gpu, classifier.batch_size)?,
            settings,
            data,
            batches,
            optimizer,
            plan,
            images: recorded.images,
            labels: recorded.labels,
            keys: recorded.keys,
            loss: recorded.loss,
        })
    }

    /// From now on, each batch is shared with the other ranks of a team.
    pub fn join(&mut self, team: &Team) {
        self.batches.join(team);
    }

    /// What is random of a sample of a step depends on this.
    fn key(&self, step: usize, sample: usize, domain: u32) -> NoiseKey {
        NoiseKey { seed: self.settings.seed, rollout: step as u32, sample: sample as u32, step: domain }
    }

    /// Trains on one batch; the loss is the mean cross-entropy. Does not wait for the outcome.
    ///
    /// # Errors
    /// If the device is lost.
    ///
    /// # Panics
    /// If `step` is a multiple of [`STEPS_AT_ONCE`](crate::optimizer::STEPS_AT_ONCE) and [`Fitting::outcomes`] has not
    /// been called since the last one.
    pub fn step(&mut self, step: usize) -> Result<()> {
        let [mut choice, mut augment] = [SHUFFLE, AUGMENT].map(|domain| Stream::new(self.key(step, 0, domain)));
        let batches = self.batches.clone();
        batches.gradient(
            self,
            |it| &it.optimizer,
            |it, samples, is_own| {
                let (mut images, mut labels, mut keys) = (Vec::new(), Vec::new(), Vec::new());
                for sample in samples {
                    let index = choice.below(it.data.len() as u32) as usize;
                    let flip = it.settings.horizontal_flip && augment.uniform() < 0.5;
                    if is_own {
                        it.data.push_image(&mut images, index, flip);
                        labels.push(it.data.labels[index]);
                        keys.push(NoiseWords::from(it.key(step, sample, PRETRAIN_NOISE)));
                    }
                }
                if !is_own {
                    return Ok(());
                }
                it.plan.write(it.images, &images);
                it.plan.write(it.labels, &labels);
                it.plan.write_structs(it.keys, &keys);
                it.plan.run()?;
                it.record.push(it.plan.region(it.loss))
            },
        )?;
        self.optimizer.update(&AdamWSettings {
            learning_rate: self.settings.classifier.learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: self.settings.classifier.weight_decay,
            loss_scale: 1.0,
            max_grad_norm: 0.0,
            average_decay: 1.0,
        })?;
        self.record.end_step(&self.optimizer, step, self.settings.classifier.learning_rate)
    }

    /// The outcomes of the steps since the last call. Waits for them.
    ///
    /// # Errors
    /// If the device is lost, or more than `train.max_skipped_updates` updates in a row were skipped.
    pub fn outcomes(&mut self) -> Result<Vec<StepReport>> {
        let reports = self.record.take(&self.batches)?;
        self.optimizer.note_steps(&reports, self.settings.max_skipped_updates, "classifier.learning_rate")?;
        Ok(reports)
    }
}

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
use crate::optimizer::{GRADIENTS, Optimizer, PARAMETERS, StepReport};

/// The classifier network for a data set.
pub fn network(data: &Dataset, config: &config::Classifier) -> ClassifierConfig {
    ClassifierConfig {
        image_size: data.image_size,
        channels: data.channels,
        hidden_size: config.hidden_size,
        num_classes: data.class_names.len(),
    }
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
    /// Weights and moments.
    pub optimizer: Optimizer,
    plan: Plan,
    images: Tensor,
    labels: Tensor,
    keys: Tensor,
    loss: Tensor,
}

/// Forward and backward pass of one batch.
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
    /// Records a batch. Normal noise is added to the images, so that the classifier can also handle imperfect samples.
    pub fn record(config: &config::Classifier, network: &ClassifierConfig) -> Self {
        let batch = config.batch_size;
        let mut graph = Graph::new();
        let images = graph.input("images", &[batch, network.dim()]);
        let labels = graph.input_indices("labels", &[batch]);
        let keys = graph.input_indices("noise keys", &[batch, NoiseWords::WORDS]);
        let mixture = vec![SamplerRow { a: 1.0, b: 0.0, s: config.noise_std as f32 }; batch];
        let mixture = graph.constant("mixture", &[batch, SamplerRow::WORDS], bytemuck::cast_slice(&mixture).to_vec());
        let epsilon = graph.apply(PhiloxNormal::new(&[network.dim()]), &[keys]);
        let noisy = sampler_step(&mut graph, images, images, epsilon, mixture);
        let parameters = network.layout().declare(&mut graph, PARAMETERS, Some(GRADIENTS));
        let logits = Classifier::new(parameters).logits(&mut graph, noisy);
        let weight = graph.constant("weight", &[batch], vec![1.0 / batch as f32; batch]);
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
        Ok(Self {
            settings,
            data,
            optimizer,
            plan,
            images: recorded.images,
            labels: recorded.labels,
            keys: recorded.keys,
            loss: recorded.loss,
        })
    }

    /// Trains on one batch; the loss is the mean cross-entropy.
    ///
    /// # Errors
    /// If the device is lost, or more than `train.max_skipped_updates` updates in a row were skipped.
    pub fn step(&mut self, step: usize) -> Result<StepReport> {
        let stream = |domain: u32| {
            Stream::new(NoiseKey { seed: self.settings.seed, rollout: step as u32, sample: 0, step: domain })
        };
        let (mut choice, mut augment) = (stream(SHUFFLE), stream(AUGMENT));
        let (mut images, mut labels, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for sample in 0..self.settings.classifier.batch_size {
            let index = choice.below(self.data.len() as u32) as usize;
            self.data.push_image(&mut images, index, self.settings.horizontal_flip && augment.uniform() < 0.5);
            labels.push(self.data.labels[index]);
            let key = NoiseKey {
                seed: self.settings.seed,
                rollout: step as u32,
                sample: sample as u32,
                step: PRETRAIN_NOISE,
            };
            keys.push(NoiseWords::from(key));
        }
        self.plan.write(self.images, &images);
        self.plan.write(self.labels, &labels);
        self.plan.write_structs(self.keys, &keys);
        self.plan.run()?;
        self.optimizer.update(&AdamWSettings {
            learning_rate: self.settings.classifier.learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: self.settings.classifier.weight_decay,
            max_grad_norm: 0.0,
            average_decay: 1.0,
        })?;
        let losses: Vec<f32> = self.plan.read(&[self.loss])?;
        let loss = losses.iter().map(|loss| f64::from(*loss)).sum();
        let norm = self.optimizer.norm()?;
        let when = format!("step {}", step + 1);
        self.optimizer.settle(norm, self.settings.max_skipped_updates, &when, "classifier.learning_rate")?;
        Ok(StepReport { loss, norm, learning_rate: self.settings.classifier.learning_rate })
    }
}

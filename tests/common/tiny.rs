//! Networks and configurations so small that a complete run takes seconds on a software driver.

use std::path::Path;

use flowdppo_wgpu::config::{Config, Positions, TimeConvention};
use flowdppo_wgpu::flow::trained_steps::TrainedSteps;
use flowdppo_wgpu::model::{Adapter, ClassifierConfig, DitConfig, FlowModel, Model, ModelKind};

use super::Random;

/// A flow model of 16 tokens. No weight is zero, as in training, so gradients reach every parameter.
pub fn dit(depth: usize) -> Model {
    dit_of_width(depth, 16)
}

/// The same with vectors of another size. Those of 32 fit the blocks of 8-bit weights.
pub fn dit_of_width(depth: usize, hidden_size: usize) -> Model {
    let config = DitConfig {
        image_size: 8,
        channels: 1,
        patch_size: 2,
        hidden_size,
        depth,
        num_heads: 2,
        mlp_ratio: 2.0,
        num_classes: 3,
        has_null_class: true,
        learn_sigma: false,
        time: TimeConvention::Sigma,
        time_scale: 1000.0,
        positions: Positions::Learned,
    };
    let weights = config.initial_weights(1);
    disturbed(ModelKind::Dit(config).with(Vec::new(), weights), 0.15, 2)
}

/// A classifier for the images of [`dit`].
pub fn classifier() -> Model {
    let config = ClassifierConfig { image_size: 8, channels: 1, hidden_size: 8, num_classes: 3 };
    let weights = config.initial_weights(3);
    disturbed(ModelKind::Classifier(config).with(Vec::new(), weights), 0.1, 4)
}

/// Adds normal noise to the matrices of an adapter, as in training.
pub fn disturbed_adapter(flow_model: &FlowModel, mut adapter: Adapter, std: f32, seed: u64) -> Adapter {
    let mut random = Random(seed);
    for entry in adapter.lora.layout(flow_model).entries() {
        for weight in &mut adapter.weights[entry.offset..entry.offset + entry.elements()] {
            *weight += std * random.normal() as f32;
        }
    }
    adapter
}

/// The same network with normal noise added to every parameter; the padding stays zero.
pub fn disturbed(mut model: Model, std: f32, seed: u64) -> Model {
    let mut random = Random(seed);
    for entry in model.kind.layout().entries() {
        for weight in &mut model.weights[entry.offset..entry.offset + entry.elements()] {
            *weight += std * random.normal() as f32;
        }
    }
    model
}

/// Two groups of six samples, three trained steps of six, two epochs of two updates; the reward is the
/// classifier in `file`.
pub fn config(file: &Path) -> Config {
    let mut config = Config::default();
    config.rollout.steps = 6;
    config.rollout.groups = 2;
    config.rollout.group_size = 6;
    config.rollout.micro_batch = 4;
    config.rollout.trained_steps = TrainedSteps::SparseEarly { count: 3, from: 0.0, to: 0.9 };
    config.reward[0].file = file.display().to_string();
    config.train.updates_per_rollout = 2;
    config.train.inner_epochs = 2;
    config.train.micro_batch = 3;
    config.train.learning_rate = 1e-2;
    config.eval.judge = String::new();
    config.eval.count = 2;
    config.eval.steps = 3;
    config.preview.per_class = 2;
    config.preview.steps = 3;
    config
}

//! Initial weights, drawn from the run's seed.

use std::borrow::Cow;

use super::dit::DitConfig;
use super::flow_model::FlowModel;
use super::layout::{Entry, Layout};
use super::mmdit::{MmditConfig, POSITIONS};
use super::weights::WeightSource;
use crate::config::Positions;
use crate::error::Result;
use crate::flow::noise::{INITIAL_WEIGHTS, NoiseKey, Stream};

/// The weights of a flow model before training, each tensor drawn when it is read.
#[derive(Clone, Debug)]
pub struct DrawnWeights<'a> {
    model: &'a FlowModel,
    layout: Layout,
    seed: u64,
}

impl WeightSource for DrawnWeights<'_> {
    fn read(&self, entry: &Entry) -> Result<Cow<'_, [f32]>> {
        let index = self.layout.entries().iter().position(|other| other.offset == entry.offset);
        let mut stream = stream(self.seed, index.expect("the tensor is the network's"));
        Ok(Cow::Owned(self.model.draw(entry, &mut stream)))
    }
}

impl FlowModel {
    /// Weights before training, laid out according to [`FlowModel::layout`].
    pub fn initial_weights(&self, seed: u64) -> Vec<f32> {
        fill(&self.layout(), seed, |entry, stream| self.draw(entry, stream))
    }

    /// The same weights, without keeping them.
    pub fn drawn_weights(&self, seed: u64) -> DrawnWeights<'_> {
        DrawnWeights { model: self, layout: self.layout(), seed }
    }

    fn draw(&self, entry: &Entry, stream: &mut Stream) -> Vec<f32> {
        match self {
            Self::Dit(model) => model.config.draw(entry, stream),
            Self::Text(model) => model.network.draw(model.size, entry, stream),
        }
    }
}

impl DitConfig {
    /// Weights before training, laid out according to [`DitConfig::layout`]: linear layers Xavier uniform, embeddings
    /// normal(0.02), and everything that ends a residual branch or makes the output zero (adaLN-zero), so that
    /// the network starts as the zero function.
    pub fn initial_weights(&self, seed: u64) -> Vec<f32> {
        fill(&self.layout(), seed, |entry, stream| self.draw(entry, stream))
    }

    fn draw(&self, entry: &Entry, stream: &mut Stream) -> Vec<f32> {
        match entry.name.as_str() {
            "pos_embed" => match self.positions {
                Positions::Learned => normal(entry.elements(), 0.02, stream),
                Positions::SinCos => sin_cos_positions([self.image_size / self.patch_size; 2], self.hidden_size),
            },
            name if name.ends_with(".bias")
                || name.contains("adaLN_modulation")
                || name == "final_layer.linear.weight" =>
            {
                vec![0.0; entry.elements()]
            }
            name if name.starts_with("t_embedder") || name.starts_with("y_embedder") => {
                normal(entry.elements(), 0.02, stream)
            }
            _ => xavier_uniform(entry, stream),
        }
    }
}

impl MmditConfig {
    /// For latents `[height, width]`: linear layers Xavier uniform, embeddings normal(0.02), norms 1, and everything that
    /// ends a residual branch or makes the output zero, so that the network starts as the zero function.
    pub(super) fn draw(&self, size: [usize; 2], entry: &Entry, stream: &mut Stream) -> Vec<f32> {
        match entry.name.as_str() {
            POSITIONS => sin_cos_positions(self.tokens(size), self.hidden()),
            name if name.ends_with(".bias")
                || name.contains("norm1")
                || name.starts_with("norm_out")
                || name.starts_with("proj_out") =>
            {
                vec![0.0; entry.elements()]
            }
            name if entry.shape.len() == 1 && name.contains("norm") => vec![1.0; entry.elements()],
            name if name.starts_with("time_text_embed") => normal(entry.elements(), 0.02, stream),
            _ => xavier_uniform(entry, stream),
        }
    }
}

impl super::ClassifierConfig {
    /// Weights before training: Xavier uniform, biases zero.
    pub fn initial_weights(&self, seed: u64) -> Vec<f32> {
        fill(&self.layout(), seed, |entry, stream| {
            if entry.name.ends_with(".bias") { vec![0.0; entry.elements()] } else { xavier_uniform(entry, stream) }
        })
    }
}

impl super::Lora {
    /// Matrices before training, as in PEFT: A uniform in ± 1 / sqrt(inputs), and B zero, so that the adapter has no
    /// effect yet.
    pub fn initial_weights(&self, base: &impl super::Adaptable, seed: u64) -> Vec<f32> {
        fill(&self.layout(base), seed, |entry, stream| {
            let bound = if entry.name.ends_with(".lora_A.weight") {
                (entry.shape[1..].iter().product::<usize>() as f64).powf(-0.5)
            } else {
                0.0
            };
            uniform(entry, bound, stream)
        })
    }
}

/// Fills a store; each tensor has its own random stream, so that a change in one does not affect the others.
fn fill(layout: &Layout, seed: u64, mut draw: impl FnMut(&Entry, &mut Stream) -> Vec<f32>) -> Vec<f32> {
    let mut store = vec![0.0; layout.elements()];
    for (index, entry) in layout.entries().iter().enumerate() {
        let values = draw(entry, &mut stream(seed, index));
        store[entry.offset..entry.offset + values.len()].copy_from_slice(&values);
    }
    store
}

/// The random stream of a tensor, by its place in the layout.
fn stream(seed: u64, index: usize) -> Stream {
    Stream::new(NoiseKey { seed, rollout: 0, sample: index as u32, step: INITIAL_WEIGHTS })
}

pub(super) fn normal(count: usize, std: f64, stream: &mut Stream) -> Vec<f32> {
    (0..count).map(|_| (std * stream.normal()) as f32).collect()
}

/// Uniform in ± sqrt(6 / (inputs + outputs)) (Glorot & Bengio 2010).
pub(super) fn xavier_uniform(entry: &Entry, stream: &mut Stream) -> Vec<f32> {
    let outputs = entry.shape[0];
    let inputs = entry.elements() / outputs;
    let bound = (6.0 / (inputs + outputs) as f64).sqrt();
    uniform(entry, bound, stream)
}

/// Uniform in ± `bound`.
fn uniform(entry: &Entry, bound: f64, stream: &mut Stream) -> Vec<f32> {
    (0..entry.elements()).map(|_| (bound * (2.0 * stream.uniform() - 1.0)) as f32).collect()
}

/// DiT's fixed positions for rows and columns of tokens: the first half of a vector encodes the column, the second
/// the row; each half consists of sines, then cosines.
pub(super) fn sin_cos_positions([rows, columns]: [usize; 2], hidden_size: usize) -> Vec<f32> {
    let quarter = hidden_size / 4;
    let mut positions = Vec::with_capacity(rows * columns * hidden_size);
    for row in 0..rows {
        for column in 0..columns {
            for place in [column, row] {
                let angle = |j: usize| place as f64 * 10_000_f64.powf(-(j as f64) / quarter as f64);
                positions.extend((0..quarter).map(|j| angle(j).sin() as f32));
                positions.extend((0..quarter).map(|j| angle(j).cos() as f32));
            }
        }
    }
    positions
}

//! The vision tower of a `CLIPModel`.

use std::sync::Arc;

use super::super::layout::Parameters;
use super::clip::{Block, affine_norm, norm_weights};
use super::config::ClipVisionConfig;
use super::stage::{Data, MAX_SAMPLES, Stage, group, ungroup};
use super::weights::Weights;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::{Graph, PartMemory, Tensor};
use crate::ops::{AddBroadcast, Embedding};

/// The results of the vision tower for P pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipVisionEncoded {
    /// `[P, tokens, hidden_size]`: the output of the last block; token 0 is the class token.
    pub last_hidden_state: Vec<f32>,
    /// `[P, hidden_size]`: the normalised class token.
    pub pooled: Vec<f32>,
    /// `[P, projection_dim]`: its projection.
    pub embeddings: Vec<f32>,
}

/// Pictures `[P, 3, S, S]` as vectors of patches, `[P, tokens, 3 · p · p]` with the channel slowest, as in the weights
/// of the convolution. The class token gets a vector of zeros.
fn patches(config: &ClipVisionConfig, pictures: &[f32]) -> Vec<f32> {
    let (size, patch, channels) = (config.image_size, config.patch_size, config.num_channels);
    let vector = channels * patch * patch;
    let mut patches = Vec::with_capacity(pictures.len() / (channels * size * size) * config.tokens() * vector);
    for picture in pictures.chunks(channels * size * size) {
        patches.resize(patches.len() + vector, 0.0);
        for token in 0..config.side() * config.side() {
            let (top, left) = (token / config.side() * patch, token % config.side() * patch);
            for row in (0..channels).flat_map(|channel| (0..patch).map(move |row| channel * size + top + row)) {
                patches.extend_from_slice(&picture[row * size + left..][..patch]);
            }
        }
    }
    patches
}

/// The position of each token, with the class embedding added to that of the class token: `[tokens, hidden_size]`.
fn positions(config: &ClipVisionConfig, weights: &Weights) -> Result<Vec<f32>> {
    let table = "vision_model.embeddings.position_embedding.weight";
    let mut positions = weights.read(table, &[config.tokens(), config.hidden_size])?;
    let class = weights.read("vision_model.embeddings.class_embedding", &[config.hidden_size])?;
    for (position, class) in positions.iter_mut().zip(class) {
        *position += class;
    }
    Ok(positions)
}

/// The published name of the norm before the first block is misspelled.
const FIRST_NORM: &str = "vision_model.pre_layrnorm";
const LAST_NORM: &str = "vision_model.post_layernorm";
const CONVOLUTION: &str = "vision_model.embeddings.patch_embedding.weight";
const PROJECTION: &str = "visual_projection.weight";

// The outputs of the recorded tower.
const HIDDEN: usize = 0;
const POOLED: usize = 1;
const EMBEDDINGS: usize = 2;

/// A vision tower whose weights stay on the device, as 4 bytes each, until it is dropped.
#[derive(Debug)]
pub struct ClipVision {
    config: ClipVisionConfig,
    stage: Stage,
}

impl ClipVision {
    /// Reads and uploads the weights, which have the names of transformers, `vision_model.` and
    /// `visual_projection.weight`.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) if a size or activation is not supported, or a tensor is missing, misshapen
    /// or not finite; else if the device does not have enough memory.
    pub fn load(gpu: &Arc<Gpu>, config: &ClipVisionConfig, weights: &Weights) -> Result<Self> {
        let activation = config.check(weights.name())?;
        let block = Block {
            samples: MAX_SAMPLES,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_heads: config.num_attention_heads,
            epsilon: config.layer_norm_eps,
            activation,
            causal: false,
        };
        let positions = positions(config, weights)?;
        let stage = Stage::new(gpu, names(config, &block), |graph, parameters| {
            let vector = config.num_channels * config.patch_size * config.patch_size;
            let patches = graph.input("patches", &[MAX_SAMPLES * config.tokens(), vector]);
            (vec![patches], record(config, &block, graph, parameters, patches, positions))
        })?;
        stage.load(weights, "")?;
        Ok(Self { config: config.clone(), stage })
    }

    /// What it takes on the device.
    pub fn memory(&self) -> PartMemory {
        self.stage.memory()
    }

    /// Embeddings `[P, projection_dim]` of pictures `[P, 3, image_size, image_size]`, prepared as
    /// [`PicturePreparation`](super::PicturePreparation) does. An embedding depends on its picture alone.
    ///
    /// # Errors
    /// If the device is lost.
    ///
    /// # Panics
    /// If there is not a whole number of pictures.
    pub fn embed(&mut self, pictures: &[f32]) -> Result<Vec<f32>> {
        let [embeddings] = self.outputs(pictures, [EMBEDDINGS])?;
        Ok(embeddings)
    }

    /// As [`ClipVision::embed`], with the states that lead to the embeddings.
    ///
    /// # Errors
    /// As [`ClipVision::embed`].
    ///
    /// # Panics
    /// As [`ClipVision::embed`].
    pub fn encode(&mut self, pictures: &[f32]) -> Result<ClipVisionEncoded> {
        let [last_hidden_state, pooled, embeddings] = self.outputs(pictures, [HIDDEN, POOLED, EMBEDDINGS])?;
        Ok(ClipVisionEncoded { last_hidden_state, pooled, embeddings })
    }

    /// These outputs for all pictures, a few of which are encoded at a time.
    fn outputs<const N: usize>(&mut self, pictures: &[f32], wanted: [usize; N]) -> Result<[Vec<f32>; N]> {
        let Self { config, stage } = self;
        let elements = config.num_channels * config.image_size * config.image_size;
        assert!(pictures.len().is_multiple_of(elements), "images of {elements} values");
        let vector = config.num_channels * config.patch_size * config.patch_size;
        let mut found = [(); N].map(|()| Vec::new());
        for some in pictures.chunks(MAX_SAMPLES * elements) {
            let patches = group(&patches(config, some), config.tokens() * vector, MAX_SAMPLES);
            stage.replay(&[Data::F32(&patches[0])])?;
            for (found, index) in found.iter_mut().zip(wanted) {
                let output = stage.output(index)?;
                let each = output.len() / MAX_SAMPLES;
                found.extend(ungroup(&[output], each, some.len() / elements));
            }
        }
        Ok(found)
    }
}

/// The prefix of the weights of a block.
fn of_block(index: usize) -> String {
    format!("vision_model.encoder.layers.{index}.")
}

/// Names and shapes of all weights that are recorded.
fn names(config: &ClipVisionConfig, block: &Block) -> Vec<(String, Vec<usize>)> {
    let (width, patch) = (config.hidden_size, config.patch_size);
    let blocks = (0..config.num_hidden_layers).flat_map(|index| {
        block.weights().into_iter().map(move |(name, shape)| (format!("{}{name}", of_block(index)), shape))
    });
    [(CONVOLUTION.to_owned(), vec![width, config.num_channels, patch, patch])]
        .into_iter()
        .chain(norm_weights(FIRST_NORM, width))
        .chain(blocks)
        .chain(norm_weights(LAST_NORM, width))
        .chain([(PROJECTION.to_owned(), vec![config.projection_dim, width])])
        .collect()
}

/// Records the tower for `[samples * tokens, vector]` patches; returns the last states, the class tokens and their
/// projection.
fn record(
    config: &ClipVisionConfig,
    block: &Block,
    graph: &mut Graph,
    parameters: &Parameters,
    patches: Tensor,
    positions: Vec<f32>,
) -> Vec<Tensor> {
    let (samples, tokens, epsilon) = (block.samples, config.tokens(), config.layer_norm_eps);
    let y = parameters.product(graph, CONVOLUTION, patches);
    let positions = graph.constant("positions", &[tokens, config.hidden_size], positions);
    let y = graph.apply(AddBroadcast, &[y, positions]);
    let first = affine_norm(graph, parameters, FIRST_NORM, epsilon, y);
    let hidden = (0..config.num_hidden_layers)
        .fold(first, |x, index| block.record(graph, &parameters.within(&of_block(index)), x));
    let classes = (0..samples).map(|sample| (sample * tokens) as u32).collect();
    let classes = graph.constant_indices("class tokens", &[samples], classes);
    let class = graph.apply(Embedding, &[hidden, classes]);
    let pooled = affine_norm(graph, parameters, LAST_NORM, epsilon, class);
    vec![hidden, pooled, parameters.product(graph, PROJECTION, pooled)]
}

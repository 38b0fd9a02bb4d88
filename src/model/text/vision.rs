//! The vision tower of a `CLIPModel`.

use std::sync::Arc;

use super::clip::{Block, affine_norm, norm_weights};
use super::config::ClipVisionConfig;
use super::stage::{Data, Stage, group, samples_per_replay, ungroup};
use super::weights::Weights;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::{AddBroadcast, Embedding, MatMul};

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
fn positions(config: &ClipVisionConfig, weights: &mut Weights) -> Result<Vec<f32>> {
    let table = "vision_model.embeddings.position_embedding.weight";
    let mut positions = weights.read(table, &[config.tokens(), config.hidden_size])?;
    let class = weights.read("vision_model.embeddings.class_embedding", &[config.hidden_size])?;
    for (position, class) in positions.iter_mut().zip(class) {
        *position += class;
    }
    Ok(positions)
}

/// Patches to tokens, with the norm before the first block.
fn embed(
    gpu: &Arc<Gpu>,
    config: &ClipVisionConfig,
    weights: &mut Weights,
    samples: usize,
    groups: &mut [Vec<f32>],
) -> Result<()> {
    let (width, tokens, patch) = (config.hidden_size, config.tokens(), config.patch_size);
    let convolution = "vision_model.embeddings.patch_embedding.weight";
    // The published name of the norm is misspelled.
    let norm = "vision_model.pre_layrnorm";
    let positions = positions(config, weights)?;
    let names = [(convolution.to_owned(), vec![width, config.num_channels, patch, patch])];
    let names = names.into_iter().chain(norm_weights(norm, width));
    let mut stage = Stage::new(gpu, names, |graph, parameters| {
        let x = graph.input("patches", &[samples * tokens, config.num_channels * patch * patch]);
        let weight = parameters.get(convolution);
        let y = graph.apply(MatMul { transpose_b: true, ..MatMul::default() }, &[x, weight]);
        let positions = graph.constant("positions", &[tokens, width], positions);
        let y = graph.apply(AddBroadcast, &[y, positions]);
        (vec![x], vec![affine_norm(graph, parameters, norm, config.layer_norm_eps, y)])
    })?;
    stage.load(weights, "")?;
    for group in groups {
        *group = stage.run(&[Data::F32(group)])?.remove(0);
    }
    Ok(())
}

/// Encodes pictures `[P, 3, image_size, image_size]`, prepared as [`PicturePreparation`](super::PicturePreparation)
/// does. The weights have the names of transformers, `vision_model.` and `visual_projection.weight`; they are read block
/// by block.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) if a size or activation is not supported, or a tensor is missing, misshapen or
/// not finite; else if the device does not have enough memory or is lost.
///
/// # Panics
/// If there is no picture, or not a whole number of them.
pub fn encode_clip_vision(
    gpu: &Arc<Gpu>,
    config: &ClipVisionConfig,
    weights: &mut Weights,
    pictures: &[f32],
) -> Result<ClipVisionEncoded> {
    let activation = config.check(weights.name())?;
    let elements = config.num_channels * config.image_size * config.image_size;
    assert!(!pictures.is_empty() && pictures.len().is_multiple_of(elements), "pictures of {elements} values");
    let (count, width, tokens) = (pictures.len() / elements, config.hidden_size, config.tokens());
    let samples = samples_per_replay(count);
    let vector = config.num_channels * config.patch_size * config.patch_size;
    let mut groups = group(&patches(config, pictures), tokens * vector, samples);
    embed(gpu, config, weights, samples, &mut groups)?;
    let block = Block {
        samples,
        hidden_size: width,
        intermediate_size: config.intermediate_size,
        num_heads: config.num_attention_heads,
        epsilon: config.layer_norm_eps,
        activation,
        causal: false,
    };
    block.run_all(gpu, weights, ("vision_model.encoder.layers", config.num_hidden_layers), &mut groups)?;

    let norm = "vision_model.post_layernorm";
    let projection = ("visual_projection.weight".to_owned(), vec![config.projection_dim, width]);
    let names = norm_weights(norm, width).into_iter().chain([projection]);
    let mut stage = Stage::new(gpu, names, |graph, parameters| {
        let x = graph.input("x", &[samples * tokens, width]);
        let classes = (0..samples).map(|sample| (sample * tokens) as u32).collect();
        let classes = graph.constant_indices("class tokens", &[samples], classes);
        let class = graph.apply(Embedding, &[x, classes]);
        let pooled = affine_norm(graph, parameters, norm, config.layer_norm_eps, class);
        let weight = parameters.get("visual_projection.weight");
        let projected = graph.apply(MatMul { transpose_b: true, ..MatMul::default() }, &[pooled, weight]);
        (vec![x], vec![pooled, projected])
    })?;
    stage.load(weights, "")?;
    let (mut pooled, mut projected) = (Vec::new(), Vec::new());
    for x in &groups {
        let mut found = stage.run(&[Data::F32(x)])?.into_iter();
        pooled.extend(found.next());
        projected.extend(found.next());
    }
    Ok(ClipVisionEncoded {
        last_hidden_state: ungroup(&groups, tokens * width, count),
        pooled: ungroup(&pooled, width, count),
        embeddings: ungroup(&projected, config.projection_dim, count),
    })
}

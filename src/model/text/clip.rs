//! CLIP's text models: CLIP-L, OpenCLIP-bigG and the text tower of a `CLIPModel`.

use std::sync::Arc;

use super::super::layout::Parameters;
use super::config::ClipTextConfig;
use super::stage::{Data, Stage, group, planned, samples_per_replay, ungroup};
use super::tokenizer::Tokens;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{DeviceProfile, Graph, PartMemory, Tensor};
use crate::ops::{Activation, Add, AffineNorm, AttentionBias, Embedding};

/// The results of a CLIP text model for P texts of T tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextEncoded {
    /// `[P, T, hidden_size]`: the input of the last block, without a final norm.
    pub penultimate: Vec<f32>,
    /// `[P, T, hidden_size]`: the output of the last block, normalised.
    pub last_hidden_state: Vec<f32>,
    /// `[P, projection_dim]`: the projected state of each text's last token.
    pub pooled: Vec<f32>,
}

/// The sizes of a block of either tower.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub samples: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_heads: usize,
    pub epsilon: f32,
    pub activation: Activation,
    pub causal: bool,
}

impl Block {
    /// Names and shapes of its weights.
    pub fn weights(&self) -> Vec<(String, Vec<usize>)> {
        let [wide, hidden] = [self.hidden_size, self.intermediate_size];
        let square = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"];
        let linear = square.iter().map(|layer| (*layer, wide, wide));
        let linear = linear.chain([("mlp.fc1", hidden, wide), ("mlp.fc2", wide, hidden)]);
        let linear = linear.flat_map(|(layer, outputs, inputs)| {
            [(format!("{layer}.weight"), vec![outputs, inputs]), (format!("{layer}.bias"), vec![outputs])]
        });
        let norms = ["layer_norm1", "layer_norm2"].into_iter().flat_map(|norm| norm_weights(norm, wide));
        linear.chain(norms).collect()
    }

    /// Records the block: `x [samples · T, hidden_size]` to the same shape.
    pub fn record(&self, graph: &mut Graph, parameters: &Parameters, x: Tensor) -> Tensor {
        let normal = affine_norm(graph, parameters, "layer_norm1", self.epsilon, x);
        let [q, k, v] =
            ["q_proj", "k_proj", "v_proj"].map(|layer| parameters.linear(graph, &format!("self_attn.{layer}"), normal));
        let attention = AttentionBias::plain(self.samples, self.num_heads, self.hidden_size / self.num_heads);
        let o = graph.apply(AttentionBias { causal: self.causal, ..attention }, &[q, k, v]);
        let o = parameters.linear(graph, "self_attn.out_proj", o);
        let x = graph.apply(Add, &[x, o]);
        let normal = affine_norm(graph, parameters, "layer_norm2", self.epsilon, x);
        let hidden = parameters.linear(graph, "mlp.fc1", normal);
        let hidden = graph.apply(self.activation, &[hidden]);
        let y = parameters.linear(graph, "mlp.fc2", hidden);
        graph.apply(Add, &[x, y])
    }

    /// Records the block for so many rows with its input, which it returns with its output.
    fn stage(&self, graph: &mut Graph, parameters: &Parameters, rows: usize) -> (Vec<Tensor>, Vec<Tensor>) {
        let x = graph.input("x", &[rows, self.hidden_size]);
        (vec![x], vec![self.record(graph, parameters, x)])
    }

    /// Runs blocks `PREFIX.0.`, `PREFIX.1.`, ... over groups of samples with `rows` rows each. Returns the input of the
    /// last block; the groups then contain its output.
    ///
    /// # Errors
    /// As [`Stage::load`] and [`Stage::run`].
    pub fn run_all(
        &self,
        gpu: &Arc<Gpu>,
        weights: &Weights,
        (prefix, count): (&str, usize),
        groups: &mut [Vec<f32>],
    ) -> Result<Vec<Vec<f32>>> {
        let rows = groups[0].len() / self.hidden_size;
        let mut stage = Stage::new(gpu, self.weights(), |graph, parameters| self.stage(graph, parameters, rows))?;
        let mut penultimate = Vec::new();
        for layer in 0..count {
            stage.load(weights, &format!("{prefix}.{layer}."))?;
            if layer + 1 == count {
                penultimate = groups.to_vec();
            }
            for group in &mut *groups {
                *group = stage.run(&[Data::F32(group)])?.remove(0);
            }
        }
        Ok(penultimate)
    }
}

/// Names and shapes of the weights of a layer norm.
pub(super) fn norm_weights(norm: &str, width: usize) -> [(String, Vec<usize>); 2] {
    ["weight", "bias"].map(|part| (format!("{norm}.{part}"), vec![width]))
}

/// Records a layer norm.
pub(super) fn affine_norm(graph: &mut Graph, parameters: &Parameters, norm: &str, epsilon: f32, x: Tensor) -> Tensor {
    let [weight, bias] = ["weight", "bias"].map(|part| parameters.get(&format!("{norm}.{part}")));
    graph.apply(AffineNorm { epsilon }, &[x, weight, bias])
}

/// Token and position embeddings, `[P, T, hidden_size]`. Only the rows that are needed are read.
fn embeddings(config: &ClipTextConfig, weights: &Weights, tokens: &Tokens) -> Result<Vec<f32>> {
    let width = config.hidden_size;
    if tokens.columns > config.max_position_embeddings {
        return Err(Error::input(format!(
            "{}: texts of {} tokens are too long: the model has positions for {}",
            weights.name(),
            tokens.columns,
            config.max_position_embeddings
        )));
    }
    tokens.check(weights.name(), config.vocab_size)?;
    let token = "text_model.embeddings.token_embedding.weight";
    let position = "text_model.embeddings.position_embedding.weight";
    let mut x = weights.read_rows(token, [config.vocab_size, width], &tokens.ids)?;
    let positions = weights.read(position, &[config.max_position_embeddings, width])?;
    for text in x.chunks_mut(tokens.columns * width) {
        for (x, position) in text.iter_mut().zip(&positions) {
            *x += position;
        }
    }
    Ok(x)
}

/// The final norm, and the projection of one row of each text.
fn finish(
    gpu: &Arc<Gpu>,
    config: &ClipTextConfig,
    weights: &Weights,
    tokens: &Tokens,
    groups: &[Vec<f32>],
) -> Result<[Vec<Vec<f32>>; 2]> {
    let (width, columns) = (config.hidden_size, tokens.columns);
    let rows = groups[0].len() / width;
    // ComfyUI's files of CLIP-L leave out a projection that is the identity.
    let is_projected = weights.has("text_projection.weight") || config.projection_dim != width;
    let projection = is_projected.then(|| ("text_projection.weight".to_owned(), vec![config.projection_dim, width]));
    let names = norm_weights("text_model.final_layer_norm", width).into_iter().chain(projection);
    let mut stage = Stage::new(gpu, names, |graph, parameters| {
        let x = graph.input("x", &[rows, width]);
        let ends = graph.input_indices("ends", &[rows / columns]);
        let last = affine_norm(graph, parameters, "text_model.final_layer_norm", config.layer_norm_eps, x);
        let mut pooled = graph.apply(Embedding, &[last, ends]);
        if is_projected {
            pooled = parameters.product(graph, "text_projection.weight", pooled);
        }
        (vec![x, ends], vec![last, pooled])
    })?;
    stage.load(weights, "")?;
    let ends: Vec<u32> = tokens.ids.chunks(columns).map(|ids| config.pooled_position(ids) as u32).collect();
    let (mut last, mut pooled) = (Vec::new(), Vec::new());
    for (x, ends) in groups.iter().zip(group(&ends, 1, rows / columns)) {
        let rows: Vec<u32> = ends.iter().enumerate().map(|(text, end)| (text * columns) as u32 + end).collect();
        let mut found = stage.run(&[Data::F32(x), Data::U32(&rows)])?.into_iter();
        last.extend(found.next());
        pooled.extend(found.next());
    }
    Ok([last, pooled])
}

fn block_of(config: &ClipTextConfig, samples: usize, activation: Activation) -> Block {
    Block {
        samples,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_heads: config.num_attention_heads,
        epsilon: config.layer_norm_eps,
        activation,
        causal: true,
    }
}

/// What the largest part of the encoder, a block, takes on such a device to encode `texts` texts of `columns` tokens.
/// `name` is the model in messages.
///
/// # Errors
/// [`Error::Input`] if a size or activation is not supported; if a tensor is too large for such a device.
pub(super) fn planned_clip_text(
    name: &str,
    config: &ClipTextConfig,
    [texts, columns]: [usize; 2],
    profile: &DeviceProfile,
) -> Result<PartMemory> {
    let samples = samples_per_replay(texts);
    let block = block_of(config, samples, config.check(name)?);
    planned(profile, block.weights(), |graph, parameters| block.stage(graph, parameters, samples * columns))
}

/// Encodes texts. The weights have the names of transformers, `text_model.` and `text_projection.weight`; they are read
/// block by block.
///
/// # Errors
/// [`Error::Input`] if a size or activation is not supported, an id is beyond the vocabulary, a text too long, or a tensor
/// missing, misshapen or not finite; else if the device does not have enough memory or is lost.
pub fn encode_clip_text(
    gpu: &Arc<Gpu>,
    config: &ClipTextConfig,
    weights: &Weights,
    tokens: &Tokens,
) -> Result<ClipTextEncoded> {
    let activation = config.check(weights.name())?;
    let (width, texts) = (config.hidden_size, tokens.texts());
    let samples = samples_per_replay(texts);
    let elements = tokens.columns * width;
    let mut groups = group(&embeddings(config, weights, tokens)?, elements, samples);
    let block = block_of(config, samples, activation);
    let layers = ("text_model.encoder.layers", config.num_hidden_layers);
    let penultimate = block.run_all(gpu, weights, layers, &mut groups)?;
    let [last, pooled] = finish(gpu, config, weights, tokens, &groups)?;
    Ok(ClipTextEncoded {
        penultimate: ungroup(&penultimate, elements, texts),
        last_hidden_state: ungroup(&last, elements, texts),
        pooled: ungroup(&pooled, config.projection_dim, texts),
    })
}

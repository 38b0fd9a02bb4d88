//! The encoder of T5 version 1.1 (Raffel et al., arXiv 1910.10683).

use std::sync::Arc;

use super::super::layout::Parameters;
use super::config::T5Config;
use super::stage::{Data, Stage, group, planned, samples_per_replay, ungroup};
use super::tokenizer::Tokens;
use super::weights::Weights;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::{DeviceProfile, Graph, PartMemory, Tensor};
use crate::ops::{Add, AttentionBias, GatedActivation, RmsNorm};

/// The bucket of a position relative to the query's, key - query. Half of the `buckets` are for keys after the query.
/// Half of each direction are single distances; the others grow logarithmically up to `most`.
pub fn relative_bucket(relative: i64, buckets: usize, most: usize) -> usize {
    let half = buckets / 2;
    let exact = half / 2;
    let base = if relative > 0 { half } else { 0 };
    let distance = relative.unsigned_abs() as usize;
    if distance < exact {
        return base + distance;
    }
    // In f32, as the models were trained.
    let ratio = (distance as f32 / exact as f32).ln() / (most as f32 / exact as f32).ln();
    let beyond = (ratio * (half - exact) as f32) as usize;
    base + (exact + beyond).min(half - 1)
}

/// The bias of each head, query and key: `[H, T, T]`. Block 0 has the table; all blocks use it.
fn position_bias(config: &T5Config, weights: &Weights, tokens: usize) -> Result<Vec<f32>> {
    let (buckets, heads) = (config.relative_attention_num_buckets, config.num_heads);
    let table =
        weights.read("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", &[buckets, heads])?;
    let mut bias = Vec::with_capacity(heads * tokens * tokens);
    let most = config.relative_attention_max_distance;
    let rows: Vec<usize> =
        (0..2 * tokens).map(|offset| relative_bucket(offset as i64 - tokens as i64, buckets, most) * heads).collect();
    for head in 0..heads {
        for query in 0..tokens {
            bias.extend((0..tokens).map(|key| table[rows[key + tokens - query] + head]));
        }
    }
    Ok(bias)
}

/// Records an RMS norm.
fn norm(graph: &mut Graph, parameters: &Parameters, layer: &str, epsilon: f32, x: Tensor) -> Tensor {
    let weight = parameters.get(&format!("{layer}.weight"));
    graph.push(RmsNorm { epsilon }, &[x, weight])[0]
}

/// Names and shapes of the weights of a block.
fn block_weights(config: &T5Config) -> Vec<(String, Vec<usize>)> {
    let (width, inner, hidden) = (config.d_model, config.num_heads * config.d_kv, config.d_ff);
    let matrices = [
        ("layer.0.SelfAttention.q", inner, width),
        ("layer.0.SelfAttention.k", inner, width),
        ("layer.0.SelfAttention.v", inner, width),
        ("layer.0.SelfAttention.o", width, inner),
        ("layer.1.DenseReluDense.wi_0", hidden, width),
        ("layer.1.DenseReluDense.wi_1", hidden, width),
        ("layer.1.DenseReluDense.wo", width, hidden),
    ];
    let matrices = matrices.map(|(layer, outputs, inputs)| (format!("{layer}.weight"), vec![outputs, inputs]));
    let norms = ["layer.0.layer_norm", "layer.1.layer_norm"].map(|layer| (format!("{layer}.weight"), vec![width]));
    matrices.into_iter().chain(norms).collect()
}

/// Records a block: `x [samples · T, d_model]`, the bias and, if keys are masked, the mask.
fn record_block(
    graph: &mut Graph,
    parameters: &Parameters,
    config: &T5Config,
    samples: usize,
    [x, bias]: [Tensor; 2],
    mask: Option<Tensor>,
) -> Tensor {
    let normal = norm(graph, parameters, "layer.0.layer_norm", config.layer_norm_epsilon, x);
    let [q, k, v] =
        ["q", "k", "v"].map(|part| parameters.product(graph, &format!("layer.0.SelfAttention.{part}.weight"), normal));
    // T5's logits are not scaled.
    let attention = AttentionBias {
        batches: samples,
        num_heads: config.num_heads,
        scale: 1.0,
        causal: false,
        has_bias: true,
        has_mask: mask.is_some(),
    };
    let inputs: Vec<Tensor> = [q, k, v, bias].into_iter().chain(mask).collect();
    let o = graph.apply(attention, &inputs);
    let o = parameters.product(graph, "layer.0.SelfAttention.o.weight", o);
    let x = graph.apply(Add, &[x, o]);
    let normal = norm(graph, parameters, "layer.1.layer_norm", config.layer_norm_epsilon, x);
    let [gate, hidden] = ["wi_0", "wi_1"]
        .map(|part| parameters.product(graph, &format!("layer.1.DenseReluDense.{part}.weight"), normal));
    let hidden = graph.apply(GatedActivation::Gelu, &[gate, hidden]);
    let y = parameters.product(graph, "layer.1.DenseReluDense.wo.weight", hidden);
    graph.apply(Add, &[x, y])
}

/// Records a block for `[samples, columns]` tokens with its inputs, which it returns with its outputs.
fn record_stage(
    graph: &mut Graph,
    parameters: &Parameters,
    config: &T5Config,
    [samples, columns]: [usize; 2],
    bias: Vec<f32>,
    masked: bool,
) -> (Vec<Tensor>, Vec<Tensor>) {
    let x = graph.input("x", &[samples * columns, config.d_model]);
    let bias = graph.constant("position bias", &[config.num_heads, columns, columns], bias);
    let mask = masked.then(|| graph.input_indices("mask", &[samples, columns]));
    let y = record_block(graph, parameters, config, samples, [x, bias], mask);
    ([x].into_iter().chain(mask).collect(), vec![y])
}

/// What the largest part of the encoder, a block, takes on such a device to encode `texts` texts of `columns` tokens,
/// with padding hidden or not.
///
/// # Errors
/// If a tensor is too large for such a device.
pub(super) fn planned_t5(
    config: &T5Config,
    [texts, columns]: [usize; 2],
    masked: bool,
    profile: &DeviceProfile,
) -> Result<PartMemory> {
    let bias = vec![0.0; config.num_heads * columns * columns];
    planned(profile, block_weights(config), |graph, parameters| {
        record_stage(graph, parameters, config, [samples_per_replay(texts), columns], bias, masked)
    })
}

/// Encodes P texts of T tokens to `[P, T, d_model]`. The weights have the names of transformers; they are read block by
/// block. With `masked`, padding is hidden from attention; SD3 includes it.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) if a size or the kind of feed-forward layer is not supported, an id is beyond the
/// vocabulary, or a tensor missing, misshapen or not finite; else if the device does not have enough memory or is lost.
pub fn encode_t5(
    gpu: &Arc<Gpu>,
    config: &T5Config,
    weights: &Weights,
    tokens: &Tokens,
    masked: bool,
) -> Result<Vec<f32>> {
    config.check(weights.name())?;
    tokens.check(weights.name(), config.vocab_size)?;
    let (width, columns, texts) = (config.d_model, tokens.columns, tokens.texts());
    let samples = samples_per_replay(texts);
    let elements = columns * width;
    let table = ["shared.weight", "encoder.embed_tokens.weight"];
    let table = table.into_iter().find(|name| weights.has(name)).unwrap_or(table[0]);
    let x = weights.read_rows(table, [config.vocab_size, width], &tokens.ids)?;
    let mut groups = group(&x, elements, samples);
    let masks = group(&tokens.mask(), columns, samples);

    let bias = position_bias(config, weights, columns)?;
    let mut stage = Stage::new(gpu, block_weights(config), |graph, parameters| {
        record_stage(graph, parameters, config, [samples, columns], bias, masked)
    })?;
    for layer in 0..config.num_layers {
        stage.load(weights, &format!("encoder.block.{layer}."))?;
        for (group, mask) in groups.iter_mut().zip(&masks) {
            let inputs = [Data::F32(group), Data::U32(mask)];
            *group = stage.run(&inputs[..if masked { 2 } else { 1 }])?.remove(0);
        }
    }
    drop(stage);

    let last = "encoder.final_layer_norm";
    let mut stage = Stage::new(gpu, [(format!("{last}.weight"), vec![width])], |graph, parameters| {
        let x = graph.input("x", &[samples * columns, width]);
        (vec![x], vec![norm(graph, parameters, last, config.layer_norm_epsilon, x)])
    })?;
    stage.load(weights, "")?;
    for group in &mut groups {
        *group = stage.run(&[Data::F32(group)])?.remove(0);
    }
    Ok(ungroup(&groups, elements, texts))
}

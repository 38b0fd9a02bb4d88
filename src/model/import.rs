//! Checkpoints of SiT and DiT (Facebook Research) as native models: sizes are read from the shapes.

use super::dit::DitConfig;
use super::file::{Model, ModelKind, Tensors, gather};
use crate::config::{Positions, TimeConvention};
use crate::error::{Error, Result};

/// Attention heads, which no shape tells: those of the published sizes (S 384/6, B 768/12, L 1024/16,
/// XL 1152/16).
pub fn default_num_heads(hidden_size: usize) -> Option<usize> {
    match hidden_size {
        384 => Some(6),
        768 => Some(12),
        1024 | 1152 => Some(16),
        _ => None,
    }
}

/// Makes a native model of SiT's tensors. `name` stands for the file in messages.
///
/// # Errors
/// [`Error::Input`] naming the tensor that is missing, unknown, misshapen or not finite, or asking for
/// `--num-heads` where the size is none of the published ones.
pub fn import_sit(name: &str, tensors: Tensors, num_heads: Option<usize>) -> Result<Model> {
    let shape = |tensor: &str, rank: usize| -> Result<Vec<usize>> {
        match tensors.get(tensor) {
            Some((shape, _)) if shape.len() == rank => Ok(shape.clone()),
            Some((shape, _)) => Err(Error::input(format!(
                "{name}: tensor `{tensor}` has shape {shape:?}, but {rank} dimensions are expected"
            ))),
            None => Err(Error::input(format!("{name} is no SiT checkpoint: it lacks the tensor `{tensor}`"))),
        }
    };
    let embedder = shape("x_embedder.proj.weight", 4)?;
    let [hidden_size, channels, patch_size, _] = embedder[..] else { unreachable!("the rank is checked") };
    let tokens = shape("pos_embed", 3)?[1];
    let side = tokens.isqrt();
    if side * side != tokens {
        return Err(Error::input(format!("{name}: `pos_embed` has {tokens} tokens, which is no square")));
    }
    let classes = shape("y_embedder.embedding_table.weight", 2)?[0];
    let outputs = shape("final_layer.linear.weight", 2)?[0];
    let mlp_hidden = shape("blocks.0.mlp.fc1.weight", 2)?[0];
    let depth = (0..).take_while(|block| tensors.contains_key(&format!("blocks.{block}.attn.qkv.weight"))).count();
    let num_heads = num_heads.or_else(|| default_num_heads(hidden_size)).ok_or_else(|| {
        Error::input(format!(
            "{name} has hidden size {hidden_size}, which is none of the published SiT sizes: say how many attention \
             heads it has with --num-heads"
        ))
    })?;
    // An empty tensor's other sizes can be anything; the check of the configuration refuses what is too large.
    let plain = patch_size.saturating_mul(patch_size).saturating_mul(channels);
    let both = plain.saturating_mul(2);
    if outputs != plain && outputs != both {
        return Err(Error::input(format!(
            "{name}: `final_layer.linear.weight` has {outputs} outputs, but {plain} (velocity) or {} (velocity and \
             variance) are expected",
            both
        )));
    }
    let config = DitConfig {
        image_size: side.saturating_mul(patch_size),
        channels,
        patch_size,
        hidden_size,
        depth,
        num_heads,
        mlp_ratio: mlp_hidden as f64 / hidden_size as f64,
        num_classes: classes.saturating_sub(1),
        learn_sigma: outputs == both,
        time: TimeConvention::Sit,
        time_scale: 1.0,
        positions: Positions::SinCos,
    };
    config.check().map_err(|cause| Error::input(format!("{name} cannot be this network: {cause}")))?;
    let kind = ModelKind::Dit(config);
    let weights = gather(name, &kind.layout(), tensors)?;
    Ok(Model { kind, class_names: Vec::new(), weights })
}

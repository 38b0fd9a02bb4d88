//! The names of autoencoders: those of latent diffusion's original code, of older diffusers, and of TAESD.

use std::collections::BTreeMap;

use super::names::{Cut, Renamed, whole};
use super::tensors::StoredTensor;

/// Whether these are the tensors of TAESD with its original names, in which the layers are numbered.
pub(super) fn is_tiny(tensors: &BTreeMap<String, StoredTensor>) -> bool {
    tensors.contains_key("decoder.1.weight") || tensors.contains_key("encoder.0.weight")
}

/// The number of levels of the decoder in the original names, which count from the other end.
pub(super) fn levels(tensors: &BTreeMap<String, StoredTensor>) -> usize {
    let level = |name: &String| name.strip_prefix("decoder.up.")?.split('.').next()?.parse::<usize>().ok();
    tensors.keys().filter_map(level).max().map_or(0, |last| last.saturating_add(1))
}

/// TAESD's original names. The first layer of its decoder, a clamp, has a number and no weights.
pub(super) fn tiny(name: &str) -> Renamed {
    let (side, rest) = name.split_once('.')?;
    let (layer, part) = rest.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    match side {
        "encoder" => whole(format!("encoder.layers.{layer}.{part}")),
        "decoder" => whole(format!("decoder.layers.{}.{part}", layer.checked_sub(1)?)),
        _ => None,
    }
}

/// Names of AutoencoderKL, or of AutoencoderTiny in diffusers: original, older and current ones.
pub(super) fn full(name: &str, levels: usize) -> Renamed {
    let Some((side @ ("encoder" | "decoder"), rest)) = name.split_once('.') else { return whole(name) };
    let renamed = if let Some(rest) = rest.strip_prefix("mid.") {
        middle(rest)?
    } else if let Some(rest) = rest.strip_prefix("mid_block.attentions.0.") {
        (format!("mid_block.attentions.0.{}", older(rest)), Cut::Matrix)
    } else if let Some(rest) = rest.strip_prefix("down.") {
        let (level, rest) = rest.split_once('.')?;
        (format!("down_blocks.{level}.{}", in_level(rest)?), Cut::Whole)
    } else if let Some(rest) = rest.strip_prefix("up.") {
        let (level, rest) = rest.split_once('.')?;
        let level = levels.checked_sub(1)?.checked_sub(level.parse().ok()?)?;
        (format!("up_blocks.{level}.{}", in_level(rest)?), Cut::Whole)
    } else if let Some(part) = rest.strip_prefix("norm_out.") {
        (format!("conv_norm_out.{part}"), Cut::Whole)
    } else {
        (rest.to_owned(), Cut::Whole)
    };
    Some(vec![(format!("{side}.{}", renamed.0), renamed.1)])
}

/// The part of a name after `mid.`.
fn middle(rest: &str) -> Option<(String, Cut)> {
    let (layer, part) = rest.split_once('.')?;
    Some(match layer {
        "block_1" => (format!("mid_block.resnets.0.{part}"), Cut::Whole),
        "block_2" => (format!("mid_block.resnets.1.{part}"), Cut::Whole),
        "attn_1" => {
            let (layer, part) = part.rsplit_once('.')?;
            let layer = match layer {
                "norm" => "group_norm",
                "q" => "to_q",
                "k" => "to_k",
                "v" => "to_v",
                "proj_out" => "to_out.0",
                _ => return None,
            };
            (format!("mid_block.attentions.0.{layer}.{part}"), Cut::Matrix)
        }
        _ => return None,
    })
}

/// Names of the attention in older diffusers.
fn older(rest: &str) -> String {
    let Some((layer, part)) = rest.rsplit_once('.') else { return rest.to_owned() };
    let layer = match layer {
        "query" => "to_q",
        "key" => "to_k",
        "value" => "to_v",
        "proj_attn" => "to_out.0",
        layer => layer,
    };
    format!("{layer}.{part}")
}

/// The part of a name after the number of a level.
fn in_level(rest: &str) -> Option<String> {
    if let Some(part) = rest.strip_prefix("upsample.") {
        return Some(format!("upsamplers.0.{part}"));
    }
    if let Some(part) = rest.strip_prefix("downsample.") {
        return Some(format!("downsamplers.0.{part}"));
    }
    let (block, part) = rest.strip_prefix("block.")?.split_once('.')?;
    let part =
        part.strip_prefix("nin_shortcut.").map_or_else(|| part.to_owned(), |part| format!("conv_shortcut.{part}"));
    Some(format!("resnets.{block}.{part}"))
}

//! Names of tensors: maps those of the original programs and of older files to the current names of diffusers.

use crate::model::Tensors;

/// Tensors of an `AutoencoderKL` with `levels` resolutions under the names of diffusers.
///
/// If a file has more than an autoencoder, only tensors that begin with `first_stage_model.` count. Tensors that only
/// training needed are left out.
pub(super) fn of_kl(tensors: Tensors, levels: usize) -> Tensors {
    const PREFIX: &str = "first_stage_model.";
    let has_prefix = tensors.keys().any(|name| name.starts_with(PREFIX));
    let inside = |name: String| match has_prefix {
        true => name.strip_prefix(PREFIX).map(str::to_owned),
        false => Some(name),
    };
    let is_network = |name: &String| !name.starts_with("loss.") && !name.starts_with("model_ema.");
    tensors
        .into_iter()
        .filter_map(|(name, tensor)| Some((inside(name).filter(is_network)?, tensor)))
        .map(|(name, tensor)| (kl_name(&name, levels), tensor))
        .collect()
}

/// Tensors of an `AutoencoderTiny` under the names of diffusers.
pub(super) fn of_tiny(tensors: Tensors) -> Tensors {
    tensors.into_iter().map(|(name, tensor)| (tiny_name(&name), tensor)).collect()
}

/// The name in current diffusers of a tensor of the original program, `ldm`, or of older diffusers. `ldm` counts the
/// resolutions of the decoder from that of pictures, diffusers from that of latents.
fn kl_name(name: &str, levels: usize) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let reversed = |level: &str| level.parse::<usize>().ok().and_then(|level| (levels - 1).checked_sub(level));
    let (start, rest): (String, &[&str]) = match parts.as_slice() {
        ["encoder", "down", level, "block", block, rest @ ..] => {
            (format!("encoder.down_blocks.{level}.resnets.{block}"), rest)
        }
        ["encoder", "down", level, "downsample", rest @ ..] => {
            (format!("encoder.down_blocks.{level}.downsamplers.0"), rest)
        }
        ["decoder", "up", level, "block", block, rest @ ..] => match reversed(level) {
            Some(level) => (format!("decoder.up_blocks.{level}.resnets.{block}"), rest),
            None => return name.to_owned(),
        },
        ["decoder", "up", level, "upsample", rest @ ..] => match reversed(level) {
            Some(level) => (format!("decoder.up_blocks.{level}.upsamplers.0"), rest),
            None => return name.to_owned(),
        },
        [half, "mid", "block_1", rest @ ..] => (format!("{half}.mid_block.resnets.0"), rest),
        [half, "mid", "block_2", rest @ ..] => (format!("{half}.mid_block.resnets.1"), rest),
        [half, "mid", "attn_1", rest @ ..] => (format!("{half}.mid_block.attentions.0"), rest),
        [half, "mid_block", "attentions", "0", rest @ ..] => (format!("{half}.mid_block.attentions.0"), rest),
        [half, "norm_out", rest @ ..] => (format!("{half}.conv_norm_out"), rest),
        _ => return name.to_owned(),
    };
    let is_attention = start.ends_with("attentions.0");
    let layer = |part: &str| match part {
        "nin_shortcut" => "conv_shortcut".to_owned(),
        "norm" if is_attention => "group_norm".to_owned(),
        "q" | "query" if is_attention => "to_q".to_owned(),
        "k" | "key" if is_attention => "to_k".to_owned(),
        "v" | "value" if is_attention => "to_v".to_owned(),
        "proj_out" | "proj_attn" if is_attention => "to_out.0".to_owned(),
        other => other.to_owned(),
    };
    rest.iter().fold(start, |name, part| format!("{name}.{}", layer(part)))
}

/// The name in diffusers of a tensor of the original program, whose decoder has one more layer at its start.
fn tiny_name(name: &str) -> String {
    let Some((half, rest)) = name.split_once('.') else { return name.to_owned() };
    let (index, rest) = rest.split_once('.').unwrap_or((rest, ""));
    let first = usize::from(half == "decoder");
    match index.parse::<usize>().ok().and_then(|index| index.checked_sub(first)) {
        Some(index) if ["encoder", "decoder"].contains(&half) => format!("{half}.layers.{index}.{rest}"),
        _ => name.to_owned(),
    }
}

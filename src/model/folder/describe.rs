//! What the tensors of a transformer show of it.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::tensors::StoredTensors;
use crate::model::MiniT2iConfig;
use crate::model::mmdit::POSITIONS;

/// Whether a transformer is that of MiniT2I.
pub fn is_minit2i(tensors: &StoredTensors) -> bool {
    tensors.tensors().contains_key("img_embedder.proj1.weight")
}

/// The published model with such a transformer: 3.5 Medium has second attentions, 3.5 has normalised queries.
pub fn transformer_family(tensors: &StoredTensors) -> &'static str {
    let any = |part: &str| tensors.tensors().keys().any(|name| name.contains(part));
    match (any(".attn2."), any(".attn.norm_q.")) {
        _ if is_minit2i(tensors) => "MiniT2I",
        (true, _) => "the kind of Stable Diffusion 3.5 Medium",
        (false, true) => "the kind of Stable Diffusion 3.5 Large",
        (false, false) => "the kind of Stable Diffusion 3",
    }
}

/// The transformer that an adapted layer belongs to, by the name that adapters have for it; `None` for a layer outside the
/// blocks, and of another network.
pub fn family_of_layer(layer: &str) -> Option<&'static str> {
    let families = [
        ("transformer_blocks.", "a transformer of Stable Diffusion 3"),
        (MiniT2iConfig::PREFIX, "a transformer of MiniT2I"),
    ];
    families.into_iter().find(|(start, _)| layer.starts_with(start)).map(|(_, family)| family)
}

/// The number of different names between a prefix and the next dot.
pub fn count(tensors: &StoredTensors, prefix: &str) -> usize {
    let numbers = tensors.tensors().keys().filter_map(|name| name.strip_prefix(prefix)?.split('.').next());
    numbers.collect::<BTreeSet<_>>().len()
}

/// Sizes of a transformer in words, from the shapes of its tensors, or from its configuration where they do not show them.
pub fn transformer_sizes(tensors: &StoredTensors, config: Option<&Map<String, Value>>) -> String {
    if is_minit2i(tensors) {
        return minit2i_sizes(tensors);
    }
    let shape = |name: &str| tensors.tensors().get(name).map_or(&[][..], |stored| stored.shape());
    let at = |name: &str, dimension: usize| shape(name).get(dimension).copied().unwrap_or(0);
    let (blocks, width) = (count(tensors, "transformer_blocks."), at("pos_embed.proj.weight", 0));
    let dual = tensors.tensors().keys().filter(|name| name.ends_with(".attn2.to_q.weight")).count();
    let given = config.and_then(|config| config.get("attention_head_dim")?.as_u64()).unwrap_or(0) as usize;
    // The published models without the norm have heads of 64.
    let head = [at("transformer_blocks.0.attn.norm_q.weight", 0), given, 64].into_iter().find(|size| *size > 0);
    let side = at(POSITIONS, 1).isqrt();
    let mut text = format!("{blocks} blocks");
    if dual > 0 {
        text += &format!(" ({dual} with a second attention)");
    }
    let (channels, patch) = (at("pos_embed.proj.weight", 1), at("pos_embed.proj.weight", 2));
    text + &format!(
        ", width {width}, {} heads, {channels} channels, patch {patch}, text width {}, positions {side}x{side}",
        width / head.unwrap_or(64),
        at("context_embedder.weight", 1)
    )
}

fn minit2i_sizes(tensors: &StoredTensors) -> String {
    let at = |name: &str, dimension: usize| {
        tensors.tensors().get(name).and_then(|stored| stored.shape().get(dimension)).copied().unwrap_or(0)
    };
    let (width, head) = (at("img_embedder.proj2.weight", 0), at("double_blocks.0.q_norm.weight", 0));
    format!(
        "{} blocks and {} of the text, width {width}, {} heads, {} channels, patch {}, text width {}",
        count(tensors, "double_blocks."),
        count(tensors, "txt_preamble_blocks."),
        width / head.max(1),
        at("img_embedder.proj1.weight", 1),
        at("img_embedder.proj1.weight", 2),
        at("txt_embedder.weight", 1)
    )
}

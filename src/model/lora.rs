//! Low-rank adaptation (LoRA, Hu et al. 2021): a layer's x·Wᵀ + b stays frozen, and (alpha / rank)·(x·Aᵀ)·Bᵀ is
//! added; only A `[rank, inputs]` and B `[outputs, rank]` are trained.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::dit::DitConfig;
use super::layout::Layout;
use crate::config::nearest;
use crate::error::{Error, Result};

/// The adapter of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraLayer {
    /// Name of the layer, such as `blocks.0.attn.qkv`.
    pub layer: String,
    /// The rank.
    pub rank: usize,
    /// The adapter's term is multiplied by alpha / rank. In f32, which text files reproduce exactly.
    pub alpha: f32,
}

impl LoraLayer {
    /// The factor alpha / rank.
    pub fn factor(&self) -> f64 {
        f64::from(self.alpha) / self.rank as f64
    }
}

/// A network that adapters can be created for, represented by its parameters.
pub trait Adaptable {
    /// Names and shapes of its parameters.
    fn parameters(&self) -> Cow<'_, Layout>;
}

impl Adaptable for DitConfig {
    fn parameters(&self) -> Cow<'_, Layout> {
        Cow::Owned(self.layout())
    }
}

impl Adaptable for Layout {
    fn parameters(&self) -> Cow<'_, Layout> {
        Cow::Borrowed(self)
    }
}

/// The adapted layers of a network, in the order of its layout.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    layers: Vec<LoraLayer>,
}

impl Lora {
    /// An adapter for every layer that one of the `targets` matches, see [`matches`]; `size` returns the rank and alpha
    /// of a layer. Messages call the source of the targets `name`.
    ///
    /// # Errors
    /// [`Error::Input`] if a target matches no layer.
    pub fn new(
        name: &str,
        base: &impl Adaptable,
        targets: &[String],
        size: impl Fn(&str) -> (usize, f32),
    ) -> Result<Self> {
        let layout = base.parameters();
        let known = linear_layers(&layout);
        // Other programs name layers with what published files have in front of them.
        let targets = || targets.iter().map(|target| target.strip_prefix(layout.prefix()).unwrap_or(target));
        if let Some(target) = targets().find(|target| !known.iter().any(|layer| matches(target, layer))) {
            // All blocks have the same layers.
            let blocks = known.iter().find_map(|layer| layer.split_once(".0.")).map_or("", |(blocks, _)| blocks);
            let first = format!("{blocks}.0.");
            let ends: Vec<&str> = known.iter().filter_map(|layer| layer.strip_prefix(&first)).collect();
            let hint = nearest(target, &ends).map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
            let mut names: Vec<String> = ends.iter().map(|end| format!("{blocks}.*.{end}")).collect();
            names.extend(
                known.iter().filter(|layer| layer.split_once('.').is_none_or(|(start, _)| start != blocks)).cloned(),
            );
            return Err(Error::input(format!(
                "{name} contains \"{target}\", which is not a layer of the model{hint} (its layers are {})",
                names.join(", ")
            )));
        }
        let layers = known.into_iter().filter(|layer| targets().any(|target| matches(target, layer)));
        let layers = layers.map(|layer| {
            let (rank, alpha) = size(&layer);
            LoraLayer { layer, rank, alpha }
        });
        Ok(Self { layers: layers.collect() })
    }

    /// An adapter without layers.
    pub(super) fn none() -> Self {
        Self { layers: Vec::new() }
    }

    /// The same layers with `scale` times their effect.
    pub fn scaled(&self, scale: f64) -> Self {
        let scaled = |layer: &LoraLayer| {
            let alpha = (f64::from(layer.alpha) * scale) as f32;
            LoraLayer { alpha, ..layer.clone() }
        };
        Self { layers: self.layers.iter().map(scaled).collect() }
    }

    /// The adapted layers.
    pub fn layers(&self) -> &[LoraLayer] {
        &self.layers
    }

    /// Names and shapes of all A and B, as in PEFT: those of a convolution have four dimensions.
    pub fn layout(&self, base: &impl Adaptable) -> Layout {
        self.layout_with(base, "")
    }

    /// [`Lora::layout`] with a prefix for every name, as in files, before that of the base's own.
    pub(super) fn layout_named(&self, base: &impl Adaptable, prefix: &str) -> Layout {
        self.layout_with(base, &format!("{prefix}{}", base.parameters().prefix()))
    }

    fn layout_with(&self, base: &impl Adaptable, prefix: &str) -> Layout {
        let layout = base.parameters();
        let shapes: BTreeMap<&str, &[usize]> =
            layout.entries().iter().map(|entry| (entry.name.as_str(), entry.shape.as_slice())).collect();
        let tensors = self.layers.iter().flat_map(|LoraLayer { layer, rank, .. }| {
            let weight = shapes[format!("{layer}.weight").as_str()];
            let a = [&[*rank], &weight[1..]].concat();
            let b = [&[weight[0], *rank][..], &vec![1; weight.len() - 2]].concat();
            [("lora_A", a), ("lora_B", b)].map(|(part, shape)| (format!("{prefix}{layer}.{part}.weight"), shape, true))
        });
        Layout::new(tensors)
    }
}

/// Names of the layers that LoRA can adapt.
fn linear_layers(layout: &Layout) -> Vec<String> {
    layout.entries().iter().filter_map(|entry| entry.linear_layer().map(str::to_owned)).collect()
}

/// Whether a target matches a layer as in PEFT's `target_modules`, by its full name or its last parts; `*` in a
/// target matches any text.
pub(super) fn matches(target: &str, layer: &str) -> bool {
    let ends = layer.match_indices('.').map(|(dot, _)| &layer[dot + 1..]);
    [layer].into_iter().chain(ends).any(|end| matches_whole(target, end))
}

fn matches_whole(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| matches_whole(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn targets_match_full_names_last_parts_and_stars() {
        let layer = "blocks.10.attn.qkv";
        for target in ["blocks.10.attn.qkv", "attn.qkv", "qkv", "blocks.*.qkv", "blocks.1*", "attn.*", "*"] {
            assert!(matches(target, layer), "{target}");
        }
        for target in ["", "kv", "tn.qkv", "blocks.1", "blocks.*.proj", "attn", "attn.qkv.weight", "blocks.1.*"] {
            assert!(!matches(target, layer), "{target}");
        }
    }
}

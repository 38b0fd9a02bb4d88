//! Names and shapes of the transformer's parameters, as in diffusers.

use std::ops::Range;

use super::MmditConfig;
use crate::model::layout::Layout;

/// Half the number of time features.
pub(super) const TIME_FEATURES: usize = 128;

/// The table of positions in files, and the part of it that latents of one size use in stores.
pub(in crate::model) const POSITIONS: &str = "pos_embed.pos_embed";

/// Whether the text continues after the block: the last one only reads it.
pub(super) fn keeps_context(config: &MmditConfig, block: usize) -> bool {
    block + 1 < config.depth
}

impl MmditConfig {
    /// Names and shapes of all parameters for latents `[height, width]`. The table of positions, which is fixed, is
    /// reduced to the part for these latents, `[1, tokens, hidden]`: all of it is a tenth of SD3.5-medium.
    pub fn layout(&self, size: [usize; 2]) -> Layout {
        let d = self.hidden();
        let mut tensors: Vec<(String, Vec<usize>, bool)> = Vec::new();
        let [rows, columns] = self.tokens(size);
        tensors.push((POSITIONS.into(), vec![1, rows * columns, d], false));
        let (channels, patch) = (self.channels, self.patch_size);
        tensors.push(("pos_embed.proj.weight".into(), vec![d, channels, patch, patch], true));
        tensors.push(("pos_embed.proj.bias".into(), vec![d], true));
        let layers = [
            ("time_text_embed.timestep_embedder.linear_1", d, 2 * TIME_FEATURES),
            ("time_text_embed.timestep_embedder.linear_2", d, d),
            ("time_text_embed.text_embedder.linear_1", d, self.pooled_dim),
            ("time_text_embed.text_embedder.linear_2", d, d),
            ("context_embedder", d, self.context_dim),
        ];
        let last = [("norm_out.linear", 2 * d, d), ("proj_out", channels * patch * patch, d)];
        let linear = |tensors: &mut Vec<_>, layer: &str, outputs: usize, inputs: usize| {
            tensors.push((format!("{layer}.weight"), vec![outputs, inputs], true));
            tensors.push((format!("{layer}.bias"), vec![outputs], true));
        };
        layers.iter().for_each(|(layer, outputs, inputs)| linear(&mut tensors, layer, *outputs, *inputs));
        (0..self.depth).for_each(|block| tensors.extend(self.block_tensors(block)));
        last.iter().for_each(|(layer, outputs, inputs)| linear(&mut tensors, layer, *outputs, *inputs));
        Layout::new(tensors)
    }

    /// Names and shapes of the parameters of a block alone.
    pub fn block_layout(&self, block: usize) -> Layout {
        Layout::new(self.block_tensors(block))
    }

    /// The parameters of a block, all of which can be trained.
    fn block_tensors(&self, block: usize) -> Vec<(String, Vec<usize>, bool)> {
        let name = |layer: &str, part: &str| format!("transformer_blocks.{block}.{layer}.{part}");
        let layers = self.block_layers(block).into_iter().flat_map(|(layer, outputs, inputs)| {
            [("weight", vec![outputs, inputs]), ("bias", vec![outputs])]
                .map(|(part, shape)| (name(layer, part), shape, true))
        });
        let norms = self.block_norms(block);
        let norms = norms.into_iter().map(|norm| (name(norm, "weight"), vec![self.head_dim], true));
        layers.chain(norms).collect()
    }

    /// The linear layers of a block, with their outputs and inputs.
    fn block_layers(&self, block: usize) -> Vec<(&'static str, usize, usize)> {
        let d = self.hidden();
        let is_dual = self.dual_attention.contains(&block);
        let keeps_context = keeps_context(self, block);
        let mut layers = vec![
            ("norm1.linear", if is_dual { 9 * d } else { 6 * d }, d),
            ("norm1_context.linear", if keeps_context { 6 * d } else { 2 * d }, d),
        ];
        layers.extend(["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"].map(|layer| (layer, d, d)));
        layers.extend(["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"].map(|layer| (layer, d, d)));
        if keeps_context {
            layers.push(("attn.to_add_out", d, d));
        }
        if is_dual {
            layers.extend(["attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"].map(|layer| (layer, d, d)));
        }
        layers.extend([("ff.net.0.proj", 4 * d, d), ("ff.net.2", d, 4 * d)]);
        if keeps_context {
            layers.extend([("ff_context.net.0.proj", 4 * d, d), ("ff_context.net.2", d, 4 * d)]);
        }
        layers
    }

    /// The norms of a block's queries and keys.
    fn block_norms(&self, block: usize) -> Vec<&'static str> {
        let joint = ["attn.norm_q", "attn.norm_k", "attn.norm_added_q", "attn.norm_added_k"];
        let second = ["attn2.norm_q", "attn2.norm_k"];
        match (self.qk_norm, self.dual_attention.contains(&block)) {
            (false, _) => Vec::new(),
            (true, false) => joint.to_vec(),
            (true, true) => [&joint[..], &second].concat(),
        }
    }

    /// The positions of latents `[height, width]` in the table: its centre, or above and left of it by half a token. One
    /// range per row of tokens.
    pub(in crate::model) fn centre_ranges(&self, size: [usize; 2]) -> impl Iterator<Item = Range<usize>> {
        let ([rows, columns], side, width) = (self.tokens(size), self.positions_side, self.hidden());
        let [top, left] = [rows, columns].map(|count| (side - count) / 2);
        (top..top + rows).map(move |row| (row * side + left) * width..(row * side + left + columns) * width)
    }
}

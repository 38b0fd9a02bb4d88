//! The diffusion transformer (Peebles & Xie 2022) as used by SiT (Ma et al. 2024): adaLN-zero blocks, with exactly
//! their tensor names and layouts.
//!
//! Outside the network, everything uses sigma: 1 is noise, 0 is data, and the velocity is dx/dsigma = noise − data. A
//! network with the other convention is converted here, at its boundaries.

use serde::{Deserialize, Serialize};

use super::layout::{Layout, MOST, Parameters};
use crate::config::{self, Positions, TimeConvention};
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::ops::{
    Activation, Add, AddBroadcast, Attention, Embedding, GatedResidual, LayerNorm, Patches, Patchify, Split,
    TimeFeatures, Unpatchify, time_frequencies,
};

/// Sizes and conventions of a network; stored in its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DitConfig {
    /// Side length of an image.
    pub image_size: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Side length of a patch.
    pub patch_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Width of the MLP, in multiples of the token width.
    pub mlp_ratio: f64,
    /// Classes.
    pub num_classes: usize,
    /// One more row of the class table is kept for "no class", which guidance needs.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub has_null_class: bool,
    /// The network also predicts a variance, which is not used.
    pub learn_sigma: bool,
    /// The direction of time.
    pub time: TimeConvention,
    /// The network's time is multiplied by this before its features are computed.
    pub time_scale: f64,
    /// Position embeddings.
    pub positions: Positions,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_true(value: &bool) -> bool {
    *value
}

/// Half the number of time features.
const TIME_FEATURES: usize = 128;

impl DitConfig {
    /// A new network as described by a configuration.
    pub fn new(model: &config::Model, sizes: config::ModelSizes) -> Self {
        Self {
            image_size: sizes.image_size,
            channels: sizes.channels,
            patch_size: sizes.patch_size,
            hidden_size: sizes.hidden_size,
            depth: sizes.depth,
            num_heads: sizes.num_heads,
            mlp_ratio: sizes.mlp_ratio,
            num_classes: sizes.num_classes,
            has_null_class: true,
            learn_sigma: false,
            time: model.time,
            time_scale: model.time_scale,
            positions: model.positions,
        }
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Input`] with the numbers that do not.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("image_size", self.image_size),
            ("channels", self.channels),
            ("patch_size", self.patch_size),
            ("hidden_size", self.hidden_size),
            ("depth", self.depth),
            ("num_heads", self.num_heads),
            ("num_classes", self.num_classes),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(Error::input(format!("model.{name} is 0: it must be at least 1")));
        }
        if let Some((name, size)) = sizes.iter().find(|(_, size)| *size > MOST) {
            return Err(Error::input(format!("model.{name} is {size}: the maximum is {MOST}")));
        }
        let patch = self.channels * self.patch_size * self.patch_size;
        if patch > MOST {
            return Err(Error::input(format!("a patch of the model has {patch} values: the maximum is {MOST}")));
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            return Err(Error::input(format!(
                "model.patch_size {} does not divide model.image_size {}: choose a divisor",
                self.patch_size, self.image_size
            )));
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) {
            return Err(Error::input(format!(
                "model.num_heads {} does not divide model.hidden_size {}: choose a divisor",
                self.num_heads, self.hidden_size
            )));
        }
        if self.positions == Positions::SinCos && !self.hidden_size.is_multiple_of(4) {
            return Err(Error::input(format!(
                "model.hidden_size {} is not a multiple of 4, which sin-cos positions require",
                self.hidden_size
            )));
        }
        if !(1..=MOST).contains(&self.mlp_hidden()) {
            return Err(Error::input(format!(
                "model.mlp_ratio {} times model.hidden_size {} must be from 1 to {MOST}",
                self.mlp_ratio, self.hidden_size
            )));
        }
        if !self.time_scale.is_finite() {
            return Err(Error::input(format!("model.time_scale {} must be a finite number", self.time_scale)));
        }
        Ok(())
    }

    /// Width of the MLPs.
    pub fn mlp_hidden(&self) -> usize {
        (self.hidden_size as f64 * self.mlp_ratio).round() as usize
    }

    /// The label that means "no class", if the network has one.
    pub fn null_class(&self) -> Option<u32> {
        self.has_null_class.then_some(self.num_classes as u32)
    }

    /// The network's time for a noise level.
    pub fn time_of(&self, sigma: f64) -> f32 {
        let time = match self.time {
            TimeConvention::Sigma => sigma,
            TimeConvention::Sit => 1.0 - sigma,
        };
        (self.time_scale * time) as f32
    }

    /// Patches of the input, as in a convolution with stride `patch_size`.
    fn input_patches(&self) -> Patches {
        Patches {
            channels: self.channels,
            vector_channels: self.channels,
            height: self.image_size,
            width: self.image_size,
            patch_size: self.patch_size,
            channel_first: true,
            factor: 1.0,
        }
    }

    /// Patches of the output. SiT's velocity points from noise to data, so its sign is reversed.
    fn output_patches(&self) -> Patches {
        Patches {
            vector_channels: if self.learn_sigma { 2 * self.channels } else { self.channels },
            channel_first: false,
            factor: if self.time == TimeConvention::Sit { -1.0 } else { 1.0 },
            ..self.input_patches()
        }
    }

    fn tokens(&self) -> usize {
        self.input_patches().tokens()
    }

    /// Names and shapes of all parameters, in checkpoint order.
    pub fn layout(&self) -> Layout {
        let d = self.hidden_size;
        let mut tensors: Vec<(String, Vec<usize>, bool)> = Vec::new();
        let learned = self.positions == Positions::Learned;
        let mut tensor = |name: String, shape: &[usize], trainable| tensors.push((name, shape.to_vec(), trainable));
        let (channels, patch) = (self.channels, self.patch_size);
        tensor("x_embedder.proj.weight".into(), &[d, channels, patch, patch], true);
        tensor("x_embedder.proj.bias".into(), &[d], true);
        tensor("pos_embed".into(), &[1, self.tokens(), d], learned);
        let mut linear = |layer: &str, outputs: usize, inputs: usize| {
            tensor(format!("{layer}.weight"), &[outputs, inputs], true);
            tensor(format!("{layer}.bias"), &[outputs], true);
        };
        linear("t_embedder.mlp.0", d, 2 * TIME_FEATURES);
        linear("t_embedder.mlp.2", d, d);
        for block in 0..self.depth {
            linear(&format!("blocks.{block}.adaLN_modulation.1"), 6 * d, d);
            linear(&format!("blocks.{block}.attn.qkv"), 3 * d, d);
            linear(&format!("blocks.{block}.attn.proj"), d, d);
            linear(&format!("blocks.{block}.mlp.fc1"), self.mlp_hidden(), d);
            linear(&format!("blocks.{block}.mlp.fc2"), d, self.mlp_hidden());
        }
        linear("final_layer.adaLN_modulation.1", 2 * d, d);
        linear("final_layer.linear", self.output_patches().vector(), d);
        tensor(
            "y_embedder.embedding_table.weight".into(),
            &[self.num_classes + usize::from(self.has_null_class), d],
            true,
        );
        Layout::new(tensors)
    }
}

/// A diffusion transformer being recorded into a graph.
#[derive(Debug)]
pub struct Dit<'a> {
    config: &'a DitConfig,
    parameters: Parameters,
}

impl<'a> Dit<'a> {
    /// A network whose parameters have been declared in the graph.
    pub fn new(config: &'a DitConfig, parameters: Parameters) -> Self {
        Self { config, parameters }
    }

    /// The velocity dx/dsigma: `x [B, C, S, S]`, `time [B]` (from [`DitConfig::time_of`]), `labels [B]` to
    /// `[B, C, S, S]`.
    pub fn velocity(&self, graph: &mut Graph, x: Tensor, time: Tensor, labels: Tensor) -> Tensor {
        let config = self.config;
        let condition = graph.scope("condition", |graph| self.condition(graph, time, labels));
        let mut h = graph.scope("x_embedder", |graph| {
            let patches = graph.apply(Patchify(config.input_patches()), &[x]);
            // As a linear layer the convolution's weight is [hidden, channels · patch · patch].
            let h = self.linear(graph, "x_embedder.proj", patches);
            let positions = self.parameters.get("pos_embed");
            graph.apply(AddBroadcast, &[h, positions])
        });
        for block in 0..config.depth {
            let name = format!("blocks.{block}");
            h = graph.scope(&name, |graph| graph.segment(|graph| self.block(graph, block, h, condition)));
        }
        graph.scope("final_layer", |graph| {
            let modulation = self.linear(graph, "final_layer.adaLN_modulation.1", condition);
            let parts = graph.push(Split { parts: 2 }, &[modulation]);
            let normal = graph.push(LayerNorm, &[h, parts[0], parts[1]])[0];
            let patches = self.linear(graph, "final_layer.linear", normal);
            graph.apply(Unpatchify(config.output_patches()), &[patches])
        })
    }

    /// SiLU of the sum of time and class embeddings, `[B, hidden]`: the input of every adaLN layer.
    fn condition(&self, graph: &mut Graph, time: Tensor, labels: Tensor) -> Tensor {
        let frequencies = graph.constant("frequencies", &[TIME_FEATURES], time_frequencies(TIME_FEATURES));
        let features = graph.apply(TimeFeatures, &[time, frequencies]);
        let hidden = self.linear(graph, "t_embedder.mlp.0", features);
        let hidden = graph.apply(Activation::Silu, &[hidden]);
        let time = self.linear(graph, "t_embedder.mlp.2", hidden);
        let table = self.parameters.get("y_embedder.embedding_table.weight");
        let class = graph.apply(Embedding, &[table, labels]);
        let sum = graph.apply(Add, &[time, class]);
        graph.apply(Activation::Silu, &[sum])
    }

    fn block(&self, graph: &mut Graph, block: usize, h: Tensor, condition: Tensor) -> Tensor {
        let name = |layer: &str| format!("blocks.{block}.{layer}");
        let modulation = self.linear(graph, &name("adaLN_modulation.1"), condition);
        let parts = graph.push(Split { parts: 6 }, &[modulation]);
        let [shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp] = parts[..] else {
            unreachable!("six parts")
        };
        let normal = graph.push(LayerNorm, &[h, shift_attention, scale_attention])[0];
        let qkv = self.linear(graph, &name("attn.qkv"), normal);
        let attended = graph.push(Attention { num_heads: self.config.num_heads }, &[qkv])[0];
        let attended = self.linear(graph, &name("attn.proj"), attended);
        let h = graph.apply(GatedResidual, &[h, attended, gate_attention]);
        let normal = graph.push(LayerNorm, &[h, shift_mlp, scale_mlp])[0];
        let hidden = self.linear(graph, &name("mlp.fc1"), normal);
        let hidden = graph.apply(Activation::Gelu, &[hidden]);
        let hidden = self.linear(graph, &name("mlp.fc2"), hidden);
        graph.apply(GatedResidual, &[h, hidden, gate_mlp])
    }

    fn linear(&self, graph: &mut Graph, layer: &str, x: Tensor) -> Tensor {
        graph.scope(layer, |graph| self.parameters.linear(graph, layer, x))
    }
}

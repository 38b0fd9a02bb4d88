//! Encoder and decoder of an `AutoencoderKL` (Rombach et al. 2022), with the names and the layer order of diffusers.

use super::config::KlConfig;
use super::layers::{Layers, Recorder};
use crate::graph::Tensor;
use crate::ops::{Conv2d, GroupNorm, MatMul, SoftmaxRows};

/// The epsilon of every group norm.
const EPSILON: f32 = 1e-6;

fn add_resnet(layers: &mut Layers, name: &str, inputs: usize, outputs: usize) {
    layers.norm(&format!("{name}.norm1"), inputs);
    layers.convolution(&format!("{name}.conv1"), inputs, outputs, 3);
    layers.norm(&format!("{name}.norm2"), outputs);
    layers.convolution(&format!("{name}.conv2"), outputs, outputs, 3);
    if inputs != outputs {
        layers.convolution(&format!("{name}.conv_shortcut"), inputs, outputs, 1);
    }
}

fn add_middle(layers: &mut Layers, half: &str, config: &KlConfig) {
    let channels = config.widest();
    add_resnet(layers, &format!("{half}.mid_block.resnets.0"), channels, channels);
    if config.mid_block_add_attention {
        let attention = format!("{half}.mid_block.attentions.0");
        layers.norm(&format!("{attention}.group_norm"), channels);
        for layer in ["to_q", "to_k", "to_v", "to_out.0"] {
            layers.convolution(&format!("{attention}.{layer}"), channels, channels, 1);
        }
    }
    add_resnet(layers, &format!("{half}.mid_block.resnets.1"), channels, channels);
}

impl KlConfig {
    /// Channels at the resolution of latents.
    fn widest(&self) -> usize {
        self.block_out_channels[self.block_out_channels.len() - 1]
    }

    /// The layers of the decoder.
    pub(super) fn decoder_layers(&self) -> Layers {
        let mut layers = Layers::default();
        let latent = self.latent_channels;
        if self.use_post_quant_conv {
            layers.convolution("post_quant_conv", latent, latent, 1);
        }
        layers.convolution("decoder.conv_in", latent, self.widest(), 3);
        add_middle(&mut layers, "decoder", self);
        let mut inputs = self.widest();
        for (level, outputs) in self.block_out_channels.iter().rev().enumerate() {
            for block in 0..=self.layers_per_block {
                add_resnet(&mut layers, &format!("decoder.up_blocks.{level}.resnets.{block}"), inputs, *outputs);
                inputs = *outputs;
            }
            if level + 1 < self.block_out_channels.len() {
                layers.convolution(&format!("decoder.up_blocks.{level}.upsamplers.0.conv"), inputs, inputs, 3);
            }
        }
        layers.norm("decoder.conv_norm_out", inputs);
        layers.convolution("decoder.conv_out", inputs, self.out_channels, 3);
        layers
    }

    /// The layers of the encoder.
    pub(super) fn encoder_layers(&self) -> Layers {
        let mut layers = Layers::default();
        let mut inputs = self.block_out_channels[0];
        layers.convolution("encoder.conv_in", self.in_channels, inputs, 3);
        for (level, outputs) in self.block_out_channels.iter().enumerate() {
            for block in 0..self.layers_per_block {
                add_resnet(&mut layers, &format!("encoder.down_blocks.{level}.resnets.{block}"), inputs, *outputs);
                inputs = *outputs;
            }
            if level + 1 < self.block_out_channels.len() {
                layers.convolution(&format!("encoder.down_blocks.{level}.downsamplers.0.conv"), inputs, inputs, 3);
            }
        }
        add_middle(&mut layers, "encoder", self);
        layers.norm("encoder.conv_norm_out", inputs);
        let moments = 2 * self.latent_channels;
        layers.convolution("encoder.conv_out", inputs, moments, 3);
        if self.use_quant_conv {
            layers.convolution("quant_conv", moments, moments, 1);
        }
        layers
    }

    /// Latents `[B, C, h, w]` to pictures `[B, 3, H, W]`.
    pub(super) fn decode(&self, recorder: &mut Recorder<'_>, latents: Tensor) -> Tensor {
        let mut x = latents;
        if self.use_post_quant_conv {
            x = recorder.convolution("post_quant_conv", Conv2d::same(1), x, None);
        }
        x = recorder.convolution("decoder.conv_in", Conv2d::same(3), x, None);
        x = self.middle(recorder, "decoder", x);
        let mut inputs = self.widest();
        for (level, outputs) in self.block_out_channels.iter().rev().enumerate() {
            for block in 0..=self.layers_per_block {
                let name = format!("decoder.up_blocks.{level}.resnets.{block}");
                x = self.resnet(recorder, &name, inputs != *outputs, x);
                inputs = *outputs;
            }
            if level + 1 < self.block_out_channels.len() {
                let op = Conv2d { upsample: true, ..Conv2d::same(3) };
                x = recorder.convolution(&format!("decoder.up_blocks.{level}.upsamplers.0.conv"), op, x, None);
            }
        }
        x = recorder.norm("decoder.conv_norm_out", self.norm(true), x);
        recorder.convolution("decoder.conv_out", Conv2d::same(3), x, None)
    }

    /// Pictures `[B, 3, H, W]` to means and logarithms of variances `[B, 2 C, h, w]`.
    pub(super) fn encode(&self, recorder: &mut Recorder<'_>, pictures: Tensor) -> Tensor {
        let mut x = recorder.convolution("encoder.conv_in", Conv2d::same(3), pictures, None);
        let mut inputs = self.block_out_channels[0];
        for (level, outputs) in self.block_out_channels.iter().enumerate() {
            for block in 0..self.layers_per_block {
                let name = format!("encoder.down_blocks.{level}.resnets.{block}");
                x = self.resnet(recorder, &name, inputs != *outputs, x);
                inputs = *outputs;
            }
            if level + 1 < self.block_out_channels.len() {
                // Zeros only to the right and below.
                let op = Conv2d { stride: 2, before: 0, after: 1, ..Conv2d::same(3) };
                x = recorder.convolution(&format!("encoder.down_blocks.{level}.downsamplers.0.conv"), op, x, None);
            }
        }
        x = self.middle(recorder, "encoder", x);
        x = recorder.norm("encoder.conv_norm_out", self.norm(true), x);
        x = recorder.convolution("encoder.conv_out", Conv2d::same(3), x, None);
        if self.use_quant_conv {
            x = recorder.convolution("quant_conv", Conv2d::same(1), x, None);
        }
        x
    }

    fn norm(&self, silu: bool) -> GroupNorm {
        GroupNorm { groups: self.norm_num_groups, epsilon: EPSILON, silu, flat: false }
    }

    /// `shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))`.
    fn resnet(&self, recorder: &mut Recorder<'_>, name: &str, has_shortcut: bool, x: Tensor) -> Tensor {
        let h = recorder.norm(&format!("{name}.norm1"), self.norm(true), x);
        let h = recorder.convolution(&format!("{name}.conv1"), Conv2d::same(3), h, None);
        let h = recorder.norm(&format!("{name}.norm2"), self.norm(true), h);
        let residual = match has_shortcut {
            true => recorder.convolution(&format!("{name}.conv_shortcut"), Conv2d::same(1), x, None),
            false => x,
        };
        recorder.convolution(&format!("{name}.conv2"), Conv2d::same(3), h, Some(residual))
    }

    fn middle(&self, recorder: &mut Recorder<'_>, half: &str, x: Tensor) -> Tensor {
        let mut x = self.resnet(recorder, &format!("{half}.mid_block.resnets.0"), false, x);
        if self.mid_block_add_attention {
            x = self.attention(recorder, &format!("{half}.mid_block.attentions.0"), x);
        }
        self.resnet(recorder, &format!("{half}.mid_block.resnets.1"), false, x)
    }

    /// One head over all pixels. It is too wide for the transformers' kernel, which keeps a row in registers. For
    /// pictures of 1024 x 1024, the matrix of probabilities is as large as the largest tensor of the decoder; for
    /// smaller pictures it is smaller.
    fn attention(&self, recorder: &mut Recorder<'_>, name: &str, x: Tensor) -> Tensor {
        let normal = recorder.norm(&format!("{name}.group_norm"), GroupNorm { flat: true, ..self.norm(false) }, x);
        let [q, k, v] = ["to_q", "to_k", "to_v"]
            .map(|layer| recorder.convolution(&format!("{name}.{layer}"), Conv2d::same(1), normal, None));
        let factor = (1.0 / (self.widest() as f64).sqrt()) as f32;
        let product = MatMul { batched: true, ..MatMul::default() };
        // All three are [B, channels, pixels]: logits are qᵀ·k, and the result v·pᵀ has channels first again.
        let o = recorder.graph.scope(name, |graph| {
            let logits = graph.apply(MatMul { transpose_a: true, ..product }, &[q, k]);
            let probabilities = graph.apply(SoftmaxRows { factor }, &[logits]);
            graph.apply(MatMul { transpose_b: true, ..product }, &[v, probabilities])
        });
        recorder.convolution(&format!("{name}.to_out.0"), Conv2d::same(1), o, Some(x))
    }
}

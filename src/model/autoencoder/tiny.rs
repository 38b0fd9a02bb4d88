//! Encoder and decoder of an `AutoencoderTiny`: TAESD (Bohan 2023), with the names of diffusers, which count all layers
//! including those without parameters.

use super::config::TinyConfig;
use super::layers::{Layers, Recorder};
use crate::graph::Tensor;
use crate::ops::Conv2d;

/// A layer with parameters, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The first layer.
    First,
    /// Three convolutions around a residual.
    Block,
    /// Upsamples or downsamples; it has no bias.
    Resize,
    /// The last layer.
    Last,
}

fn decoder_parts(blocks: &[usize]) -> Vec<(usize, Part)> {
    // Layer 1 is an activation, and a layer that repeats pixels comes before each that upsamples.
    let mut parts = vec![(0, Part::First)];
    let mut next = 2;
    for (level, count) in blocks.iter().enumerate() {
        parts.extend((next..next + count).map(|index| (index, Part::Block)));
        next += count;
        if level + 1 < blocks.len() {
            parts.push((next + 1, Part::Resize));
            next += 2;
        }
    }
    parts.push((next, Part::Last));
    parts
}

fn encoder_parts(blocks: &[usize]) -> Vec<(usize, Part)> {
    let mut parts = Vec::new();
    for (level, count) in blocks.iter().enumerate() {
        parts.push((parts.len(), if level == 0 { Part::First } else { Part::Resize }));
        let next = parts.len();
        parts.extend((next..next + count).map(|index| (index, Part::Block)));
    }
    parts.push((parts.len(), Part::Last));
    parts
}

/// The layers of a half; the sizes are the channels of its input, of its inner layers and of its output.
fn layers(half: &str, parts: &[(usize, Part)], [inputs, width, outputs]: [usize; 3]) -> Layers {
    let mut layers = Layers::default();
    for (index, part) in parts {
        let name = format!("{half}.layers.{index}");
        match part {
            Part::First => layers.convolution(&name, inputs, width, 3),
            Part::Resize => layers.convolution_without_bias(&name, width, width),
            Part::Last => layers.convolution(&name, width, outputs, 3),
            Part::Block => {
                for layer in [0, 2, 4] {
                    layers.convolution(&format!("{name}.conv.{layer}"), width, width, 3);
                }
            }
        }
    }
    layers
}

/// Records a half; `first` and `resize` are the convolutions that differ between the two.
fn record(
    recorder: &mut Recorder<'_>,
    half: &str,
    parts: &[(usize, Part)],
    [first, resize]: [Conv2d; 2],
    mut x: Tensor,
) -> Tensor {
    let activated = Conv2d { relu: true, ..Conv2d::same(3) };
    for (index, part) in parts {
        let name = format!("{half}.layers.{index}");
        x = match part {
            Part::First => recorder.convolution(&name, first, x, None),
            Part::Resize => recorder.convolution(&name, resize, x, None),
            Part::Last => recorder.convolution(&name, Conv2d::same(3), x, None),
            Part::Block => {
                let h = recorder.convolution(&format!("{name}.conv.0"), activated, x, None);
                let h = recorder.convolution(&format!("{name}.conv.2"), activated, h, None);
                recorder.convolution(&format!("{name}.conv.4"), activated, h, Some(x))
            }
        };
    }
    x
}

impl TinyConfig {
    /// The layers of the decoder.
    pub(super) fn decoder_layers(&self) -> Layers {
        let sizes = [self.latent_channels, self.decoder_block_out_channels[0], self.out_channels];
        layers("decoder", &decoder_parts(&self.num_decoder_blocks), sizes)
    }

    /// The layers of the encoder.
    pub(super) fn encoder_layers(&self) -> Layers {
        let sizes = [self.in_channels, self.encoder_block_out_channels[0], self.latent_channels];
        layers("encoder", &encoder_parts(&self.num_encoder_blocks), sizes)
    }

    /// Latents `[B, C, h, w]`, limited by [`limited`], to pictures `[B, 3, H, W]` from 0 to 1.
    pub(super) fn decode(&self, recorder: &mut Recorder<'_>, latents: Tensor) -> Tensor {
        let same = Conv2d::same(3);
        let ops = [Conv2d { relu: true, ..same }, Conv2d { upsample: true, ..same }];
        record(recorder, "decoder", &decoder_parts(&self.num_decoder_blocks), ops, latents)
    }

    /// Pictures `[B, 3, H, W]` from 0 to 1 to latents `[B, C, h, w]`.
    pub(super) fn encode(&self, recorder: &mut Recorder<'_>, pictures: Tensor) -> Tensor {
        let ops = [Conv2d::same(3), Conv2d { stride: 2, ..Conv2d::same(3) }];
        record(recorder, "encoder", &encoder_parts(&self.num_encoder_blocks), ops, pictures)
    }
}

/// `3 tanh(x / 3)`, which limits the latents that the decoder receives.
pub(super) fn limited(latents: &mut [f32]) {
    for value in latents {
        *value = 3.0 * (*value / 3.0).tanh();
    }
}

//! The `config.json` of an autoencoder, with the keys of diffusers.

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::layout::MOST;

/// The kind of an autoencoder, with its configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum AutoencoderConfig {
    /// `AutoencoderKL`, of Stable Diffusion (Rombach et al. 2022).
    Kl(KlConfig),
    /// `AutoencoderTiny`: TAESD, an approximation that is some twenty times cheaper.
    Tiny(TinyConfig),
    /// None: the states of the flow model are pictures, multiplied by a scale.
    Pixels(f32),
}

/// The configuration of an `AutoencoderKL`. Keys that are not read, such as `sample_size`, do not change results.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct KlConfig {
    /// Channels of a picture that is encoded.
    #[serde(default = "colours")]
    pub in_channels: usize,
    /// Channels of a decoded picture.
    #[serde(default = "colours")]
    pub out_channels: usize,
    /// Channels of latents.
    pub latent_channels: usize,
    /// Channels at each resolution, from that of pictures to that of latents.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks at each resolution of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of every group norm.
    #[serde(default = "groups")]
    pub norm_num_groups: usize,
    /// The activation: `silu`.
    #[serde(default = "silu")]
    pub act_fn: String,
    /// The kind of each resolution's blocks in the encoder.
    pub down_block_types: Vec<String>,
    /// The same in the decoder.
    pub up_block_types: Vec<String>,
    /// Whether there is attention at the resolution of latents.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    /// Whether a 1x1 convolution follows the encoder.
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
    /// A flow model's latents are `(latents − shift_factor) · scaling_factor`.
    #[serde(default = "scaling")]
    pub scaling_factor: f64,
    /// See `scaling_factor`; `None` is 0.
    pub shift_factor: Option<f64>,
    /// A different normalisation of latents, which is not supported.
    latents_mean: Option<Value>,
    /// See `latents_mean`.
    latents_std: Option<Value>,
}

/// The configuration of an `AutoencoderTiny`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TinyConfig {
    /// Channels of a picture that is encoded.
    #[serde(default = "colours")]
    pub in_channels: usize,
    /// Channels of a decoded picture.
    #[serde(default = "colours")]
    pub out_channels: usize,
    /// Channels of latents.
    pub latent_channels: usize,
    /// Channels at each resolution of the encoder, all the same.
    pub encoder_block_out_channels: Vec<usize>,
    /// Channels at each resolution of the decoder, all the same.
    pub decoder_block_out_channels: Vec<usize>,
    /// Blocks at each resolution of the encoder.
    pub num_encoder_blocks: Vec<usize>,
    /// Blocks at each resolution of the decoder.
    pub num_decoder_blocks: Vec<usize>,
    /// The activation: `relu`.
    #[serde(default = "relu")]
    pub act_fn: String,
    /// Magnification from one resolution to the next: 2.
    #[serde(default = "two")]
    pub upsampling_scaling_factor: usize,
    /// As [`KlConfig::scaling_factor`]: 1 in the published files, which use a flow model's latents unchanged.
    #[serde(default = "one")]
    pub scaling_factor: f64,
    /// As [`KlConfig::shift_factor`].
    pub shift_factor: Option<f64>,
}

fn colours() -> usize {
    3
}
fn groups() -> usize {
    32
}
fn two() -> usize {
    2
}
fn yes() -> bool {
    true
}
fn silu() -> String {
    "silu".into()
}
fn relu() -> String {
    "relu".into()
}
fn scaling() -> f64 {
    0.18215
}
fn one() -> f64 {
    1.0
}

impl AutoencoderConfig {
    /// Reads a `config.json`, which messages call `name`.
    ///
    /// # Errors
    /// [`Error::Input`] with the key that is missing, wrong or not supported.
    pub fn from_json(name: &str, text: &str) -> Result<Self> {
        let unreadable =
            |cause: serde_json::Error| Error::input(format!("{name} does not describe an autoencoder: {cause}"));
        let json: Value = serde_json::from_str(text).map_err(unreadable)?;
        let config = match json.get("_class_name").and_then(Value::as_str) {
            Some("AutoencoderKL") => Self::Kl(serde_json::from_value(json).map_err(unreadable)?),
            Some("AutoencoderTiny") => Self::Tiny(serde_json::from_value(json).map_err(unreadable)?),
            other => {
                let found = other.map_or_else(|| "missing".to_owned(), |other| format!("`{other}`"));
                return Err(Error::input(format!(
                    "{name}: `_class_name` is {found}, but only AutoencoderKL and AutoencoderTiny are supported"
                )));
            }
        };
        match &config {
            Self::Kl(config) => config.check(),
            Self::Tiny(config) => config.check(),
            Self::Pixels(_) => Ok(()),
        }
        .map_err(|cause| Error::input(format!("{name}: {cause}")))?;
        Ok(config)
    }

    /// Channels of latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(config) => config.latent_channels,
            Self::Tiny(config) => config.latent_channels,
            Self::Pixels(_) => colours(),
        }
    }

    /// Channels of an encoded picture, and of a decoded one.
    pub fn picture_channels(&self) -> [usize; 2] {
        match self {
            Self::Kl(config) => [config.in_channels, config.out_channels],
            Self::Tiny(config) => [config.in_channels, config.out_channels],
            Self::Pixels(_) => [colours(); 2],
        }
    }

    /// Pixels of a picture along each side of a latent.
    pub fn factor(&self) -> usize {
        let levels = match self {
            Self::Kl(config) => config.block_out_channels.len(),
            Self::Tiny(config) => config.decoder_block_out_channels.len(),
            Self::Pixels(_) => 1,
        };
        1 << (levels - 1)
    }

    /// A flow model's latents from those of the encoder: `(latents − shift) · scale`.
    pub fn scaled(&self, latents: &[f32]) -> Vec<f32> {
        let [scale, shift] = self.scale_and_shift();
        latents.iter().map(|value| (value - shift) * scale).collect()
    }

    /// The decoder's latents from those of a flow model: `latents / scale + shift`.
    pub fn unscaled(&self, latents: &[f32]) -> Vec<f32> {
        let [scale, shift] = self.scale_and_shift();
        latents.iter().map(|value| value / scale + shift).collect()
    }

    fn scale_and_shift(&self) -> [f32; 2] {
        let (scale, shift) = match self {
            Self::Kl(config) => (config.scaling_factor, config.shift_factor),
            Self::Tiny(config) => (config.scaling_factor, config.shift_factor),
            // It is part of the graph.
            Self::Pixels(_) => (1.0, None),
        };
        [scale as f32, shift.unwrap_or(0.0) as f32]
    }
}

/// With more resolutions, pictures would have more pixels than fit on any device.
const MAX_LEVELS: usize = 8;

/// Checks sizes with their keys.
fn check_sizes(sizes: &[(&str, &[usize])]) -> Result<(), String> {
    for (key, sizes) in sizes {
        if sizes.is_empty() || sizes.len() > MAX_LEVELS {
            return Err(format!("`{key}` has {} values: it must have from 1 to {MAX_LEVELS}", sizes.len()));
        }
        if let Some(size) = sizes.iter().find(|size| !(1..=MOST).contains(*size)) {
            return Err(format!("`{key}` has a {size}: it must be from 1 to {MOST}"));
        }
    }
    Ok(())
}

fn check_lengths(key: &str, length: usize, other: &str, expected: usize) -> Result<(), String> {
    if length == expected {
        return Ok(());
    }
    Err(format!("`{key}` has {length} values, but `{other}` has {expected}: they must be equally many"))
}

fn check_only(key: &str, value: &str, supported: &str) -> Result<(), String> {
    if value == supported {
        return Ok(());
    }
    Err(format!("`{key}` is `{value}`, but only `{supported}` is supported"))
}

fn check_scale(scale: f64, shift: Option<f64>) -> Result<(), String> {
    if scale.is_finite() && scale > 0.0 && shift.is_none_or(f64::is_finite) {
        return Ok(());
    }
    Err(format!("`scaling_factor` {scale} must be a number above 0, and `shift_factor` {shift:?} a number"))
}

impl KlConfig {
    fn check(&self) -> Result<(), String> {
        let channels = &self.block_out_channels;
        check_sizes(&[
            ("in_channels", &[self.in_channels]),
            ("out_channels", &[self.out_channels]),
            ("latent_channels", &[self.latent_channels]),
            ("block_out_channels", channels),
            ("layers_per_block", &[self.layers_per_block]),
            ("norm_num_groups", &[self.norm_num_groups]),
        ])?;
        let groups = self.norm_num_groups;
        if let Some(count) = channels.iter().find(|count| !count.is_multiple_of(groups)) {
            return Err(format!("`norm_num_groups` {groups} does not divide the {count} of `block_out_channels`"));
        }
        for (key, types, supported) in [
            ("down_block_types", &self.down_block_types, "DownEncoderBlock2D"),
            ("up_block_types", &self.up_block_types, "UpDecoderBlock2D"),
        ] {
            check_lengths(key, types.len(), "block_out_channels", channels.len())?;
            for (index, kind) in types.iter().enumerate() {
                check_only(&format!("{key}[{index}]"), kind, supported)?;
            }
        }
        check_only("act_fn", &self.act_fn, "silu")?;
        if self.latents_mean.is_some() || self.latents_std.is_some() {
            return Err("`latents_mean` and `latents_std` are not supported: they must be null".into());
        }
        check_scale(self.scaling_factor, self.shift_factor)
    }
}

impl TinyConfig {
    fn check(&self) -> Result<(), String> {
        let [encoder, decoder] = [&self.encoder_block_out_channels, &self.decoder_block_out_channels];
        check_sizes(&[
            ("in_channels", &[self.in_channels]),
            ("out_channels", &[self.out_channels]),
            ("latent_channels", &[self.latent_channels]),
            ("encoder_block_out_channels", encoder),
            ("decoder_block_out_channels", decoder),
            ("num_encoder_blocks", &self.num_encoder_blocks),
            ("num_decoder_blocks", &self.num_decoder_blocks),
        ])?;
        check_lengths("encoder_block_out_channels", encoder.len(), "decoder_block_out_channels", decoder.len())?;
        check_lengths(
            "num_encoder_blocks",
            self.num_encoder_blocks.len(),
            "encoder_block_out_channels",
            encoder.len(),
        )?;
        check_lengths(
            "num_decoder_blocks",
            self.num_decoder_blocks.len(),
            "decoder_block_out_channels",
            decoder.len(),
        )?;
        for (key, channels) in [("encoder_block_out_channels", encoder), ("decoder_block_out_channels", decoder)] {
            if channels.iter().any(|count| *count != channels[0]) {
                return Err(format!("`{key}` is {channels:?}, but only equal widths are supported"));
            }
        }
        check_only("act_fn", &self.act_fn, "relu")?;
        check_only("upsampling_scaling_factor", &self.upsampling_scaling_factor.to_string(), "2")?;
        check_scale(self.scaling_factor, self.shift_factor)
    }
}

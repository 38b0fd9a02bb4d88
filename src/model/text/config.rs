//! The sizes of encoders, from the `config.json` of a model.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::layout::MOST;
use crate::error::{Error, Result};
use crate::files::read_file;
use crate::ops::{Activation, AttentionBias};

/// A CLIP text model (`CLIPTextModelWithProjection`, or `text_config` of a `CLIPModel`). Keys that a file lacks have the
/// defaults of transformers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the hidden layer of a block.
    pub intermediate_size: usize,
    /// Size of the projected embedding.
    pub projection_dim: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads of attention.
    pub num_attention_heads: usize,
    /// Longest sequence of tokens.
    pub max_position_embeddings: usize,
    /// Name of the activation.
    pub hidden_act: String,
    /// Added to the variance.
    pub layer_norm_eps: f32,
    /// The token that ends a text. The pooled embedding is that of its first occurrence; if it is 2, as in old files, that
    /// of the largest token.
    pub eos_token_id: u32,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

/// A CLIP vision tower (`vision_config` of a `CLIPModel`). Keys that a file lacks have the defaults of transformers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the hidden layer of a block.
    pub intermediate_size: usize,
    /// Size of the projected embedding.
    pub projection_dim: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads of attention.
    pub num_attention_heads: usize,
    /// Channels of a picture.
    pub num_channels: usize,
    /// Side length of a picture.
    pub image_size: usize,
    /// Side length of a patch.
    pub patch_size: usize,
    /// Name of the activation.
    pub hidden_act: String,
    /// Added to the variance.
    pub layer_norm_eps: f32,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
        }
    }
}

/// A `CLIPModel`: both towers. The projections of both have the size given here.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ClipConfig {
    /// Size of the projected embeddings.
    #[serde(default = "default_projection")]
    pub projection_dim: usize,
    /// The text tower.
    #[serde(default)]
    pub text_config: ClipTextConfig,
    /// The vision tower.
    #[serde(default)]
    pub vision_config: ClipVisionConfig,
}

fn default_projection() -> usize {
    512
}

/// A T5 encoder, version 1.1 (`T5EncoderModel`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct T5Config {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of a head.
    pub d_kv: usize,
    /// Width of the hidden layer of a block.
    pub d_ff: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Heads of attention.
    pub num_heads: usize,
    /// Rows of the table of position biases.
    #[serde(default = "default_buckets")]
    pub relative_attention_num_buckets: usize,
    /// The distance from which all share the last bucket.
    #[serde(default = "default_distance")]
    pub relative_attention_max_distance: usize,
    /// Added to the mean square.
    #[serde(default = "default_t5_epsilon")]
    pub layer_norm_epsilon: f32,
    /// The kind of the feed-forward layer.
    #[serde(default = "default_feed_forward")]
    pub feed_forward_proj: String,
}

fn default_buckets() -> usize {
    32
}

fn default_distance() -> usize {
    128
}

fn default_t5_epsilon() -> f32 {
    1e-6
}

fn default_feed_forward() -> String {
    "relu".to_owned()
}

/// Reads a configuration in JSON.
///
/// # Errors
/// [`Error::Input`] if the file is missing, not JSON, or lacks a key.
pub fn read_config<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = read_file(path)?;
    serde_json::from_slice(&bytes).map_err(|cause| {
        Error::input(format!("{} is not the configuration of this kind of model: {cause}", path.display()))
    })
}

/// Checks sizes, given with their keys.
fn check_sizes(name: &str, sizes: &[(&str, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, size)| !(1..=MOST).contains(size)) {
        Some((key, size)) => Err(Error::input(format!("{name}: `{key}` is {size}, but it must be from 1 to {MOST}"))),
        None => Ok(()),
    }
}

/// Checks how the residual stream splits into heads.
fn check_heads(name: &str, [width, heads]: [(&str, usize); 2]) -> Result<()> {
    let ((width_key, width), (heads_key, heads)) = (width, heads);
    if !width.is_multiple_of(heads) || width / heads > AttentionBias::MAX_HEAD_DIM {
        return Err(Error::input(format!(
            "{name}: `{width_key}` is {width} and `{heads_key}` {heads}, but heads must divide it evenly and have \
             at most {} elements",
            AttentionBias::MAX_HEAD_DIM
        )));
    }
    Ok(())
}

/// The activation with this name.
fn activation(name: &str, act: &str) -> Result<Activation> {
    match act {
        "quick_gelu" => Ok(Activation::QuickGelu),
        "gelu" => Ok(Activation::GeluErf),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::Gelu),
        other => Err(Error::input(format!(
            "{name}: `hidden_act` is \"{other}\", but it must be quick_gelu, gelu, gelu_new or gelu_pytorch_tanh"
        ))),
    }
}

impl ClipTextConfig {
    /// Checks the sizes; messages call the file `name`. Returns the activation.
    ///
    /// # Errors
    /// [`Error::Input`] with the key that is out of range.
    pub fn check(&self, name: &str) -> Result<Activation> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("projection_dim", self.projection_dim),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        check_sizes(name, &sizes)?;
        check_heads(name, [sizes[1], sizes[5]])?;
        activation(name, &self.hidden_act)
    }

    /// The position of the pooled embedding of a text.
    pub fn pooled_position(&self, ids: &[u32]) -> usize {
        if self.eos_token_id == 2 {
            // The first of the largest: in old models the end token has the largest id.
            let largest = ids.iter().copied().max();
            return ids.iter().position(|id| Some(*id) == largest).unwrap_or(0);
        }
        ids.iter().position(|id| *id == self.eos_token_id).unwrap_or(0)
    }
}

impl ClipVisionConfig {
    /// Checks the sizes; messages call the file `name`. Returns the activation.
    ///
    /// # Errors
    /// [`Error::Input`] with the key that is out of range.
    pub fn check(&self, name: &str) -> Result<Activation> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("projection_dim", self.projection_dim),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_channels", self.num_channels),
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
        ];
        check_sizes(name, &sizes)?;
        check_heads(name, [sizes[0], sizes[1]])?;
        if self.num_channels != 3 || self.patch_size > self.image_size || self.image_size > 4096 {
            return Err(Error::input(format!(
                "{name}: images of {} channels, `image_size` {} and `patch_size` {} are not supported: there must be 3 \
                 channels, at most 4096 pixels on a side, and a patch must fit into an image",
                self.num_channels, self.image_size, self.patch_size
            )));
        }
        activation(name, &self.hidden_act)
    }

    /// Patches along a side; pixels beyond the last complete one are cut off.
    pub fn side(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Tokens of a picture: its class token and its patches.
    pub fn tokens(&self) -> usize {
        1 + self.side() * self.side()
    }
}

impl ClipConfig {
    /// Reads `config.json` of a folder, and sets the size of the projection in both towers.
    ///
    /// # Errors
    /// [`Error::Input`] as [`read_config`], and with a key that is out of range.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let mut config: Self = read_config(&path)?;
        config.text_config.projection_dim = config.projection_dim;
        config.vision_config.projection_dim = config.projection_dim;
        let name = path.display().to_string();
        config.text_config.check(&name)?;
        config.vision_config.check(&name)?;
        Ok(config)
    }
}

impl T5Config {
    /// Checks the sizes; messages call the file `name`.
    ///
    /// # Errors
    /// [`Error::Input`] with the key that is out of range, or a feed-forward layer of another version of T5.
    pub fn check(&self, name: &str) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_layers", self.num_layers),
            ("num_heads", self.num_heads),
            ("relative_attention_num_buckets", self.relative_attention_num_buckets),
            ("relative_attention_max_distance", self.relative_attention_max_distance),
        ];
        check_sizes(name, &sizes)?;
        check_heads(name, [("num_heads times d_kv", self.num_heads * self.d_kv), sizes[5]])?;
        let buckets = self.relative_attention_num_buckets;
        // Half of the buckets of each direction are for single distances.
        if !buckets.is_multiple_of(4) || self.relative_attention_max_distance <= buckets / 4 {
            return Err(Error::input(format!(
                "{name}: `relative_attention_num_buckets` is {buckets} and `relative_attention_max_distance` {}, but the \
                 first must be a multiple of 4, and the second larger than a quarter of it",
                self.relative_attention_max_distance
            )));
        }
        if self.feed_forward_proj != "gated-gelu" {
            return Err(Error::input(format!(
                "{name}: `feed_forward_proj` is \"{}\", but only T5 version 1.1 is supported, which has \"gated-gelu\"",
                self.feed_forward_proj
            )));
        }
        Ok(())
    }
}

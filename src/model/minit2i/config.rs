//! Sizes of the transformer, from the `config.json` beside its weights.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::model::layout::MOST;
use crate::model::text_network::{check_known, check_sizes};

/// Sizes of a transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct MiniT2iConfig {
    /// Side length of the pictures that the model was trained on.
    pub image_size: usize,
    /// Side length of a patch.
    pub patch_size: usize,
    /// Channels of a picture.
    pub channels: usize,
    /// Width of a patch between the two layers that embed it.
    pub patch_width: usize,
    /// Width of the text encoder's tokens.
    pub context_dim: usize,
    /// Tokens of a prompt.
    pub prompt_length: usize,
    /// Blocks of the text alone, before those of both.
    pub text_depth: usize,
    /// Blocks of text and image.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Width of a head; a token is as wide as all heads together.
    pub head_dim: usize,
    /// Width of the layers between tokens in a block.
    pub mlp_hidden: usize,
    /// Steps that the authors sample with.
    pub steps: usize,
    /// The name of the text encoder on the hub.
    pub text_encoder: String,
}

/// The keys of `config.json`. Those that start with an underscore say which program wrote it.
#[derive(Deserialize)]
struct Keys {
    image_size: usize,
    patch_size: usize,
    in_channels: usize,
    txt_input_size: usize,
    hidden_size: usize,
    txt_hidden_size: usize,
    depth_double: usize,
    txt_preamble_depth: usize,
    num_heads: usize,
    head_dim: usize,
    mlp_ratio: f64,
    pca_channels: usize,
    prompt_length: usize,
    #[serde(rename = "n_T")]
    n_t: usize,
    llm: String,
}

/// Every key that is known. `cond_vec_size` is the width of layers that have no effect.
const KNOWN: [&str; 20] = [
    "image_size",
    "patch_size",
    "in_channels",
    "txt_input_size",
    "hidden_size",
    "txt_hidden_size",
    "cond_vec_size",
    "depth_double",
    "txt_preamble_depth",
    "num_heads",
    "head_dim",
    "mlp_ratio",
    "pca_channels",
    "prompt_length",
    "n_T",
    "prediction",
    "sampler",
    "cfg_channels",
    "cfg_interval",
    "llm",
];

/// The most tokens of a prompt: the text encoder's relative positions do not distinguish more.
const MOST_TOKENS: usize = 4096;

impl MiniT2iConfig {
    /// The class of the transformer.
    pub const CLASS: &str = "MiniT2IMMJiTModel";

    /// What published files have in front of every name.
    pub(in crate::model) const PREFIX: &str = "model.net.";

    /// A state is a picture times this.
    pub(in crate::model) const PIXEL_SCALE: f64 = 0.5;

    /// The velocity divides by no smaller noise level.
    pub(in crate::model) const SIGMA_FLOOR: f32 = 0.05;

    /// From the keys of a `config.json`, which messages call `name`.
    ///
    /// # Errors
    /// [`Error::Input`] if a key is missing, has a value that is not supported, or would change what is computed.
    pub(in crate::model) fn from_keys(name: &str, keys: Map<String, Value>) -> Result<Self> {
        check_known(name, &keys, &KNOWN)?;
        let channels = keys.get("in_channels").cloned().unwrap_or_default();
        let only = [
            ("prediction", json!("x")),
            ("sampler", json!("euler")),
            ("cfg_channels", channels),
            ("cfg_interval", json!([0.0, 1.0])),
        ];
        for (key, supported) in only {
            match keys.get(key) {
                Some(found) if *found != supported => {
                    return Err(Error::input(format!(
                        "{name} has `{key}` = {found}, but only {supported} is supported"
                    )));
                }
                _ => {}
            }
        }
        let keys: Keys = serde_json::from_value(Value::Object(keys)).map_err(|cause| {
            Error::input(format!("{name} is not the configuration of a transformer of MiniT2I: {cause}"))
        })?;
        let (width, text_width) = (keys.hidden_size, keys.txt_hidden_size);
        let config = Self {
            image_size: keys.image_size,
            patch_size: keys.patch_size,
            channels: keys.in_channels,
            patch_width: keys.pca_channels,
            context_dim: keys.txt_input_size,
            prompt_length: keys.prompt_length,
            text_depth: keys.txt_preamble_depth,
            depth: keys.depth_double,
            num_heads: keys.num_heads,
            head_dim: keys.head_dim,
            // In f64, as in the published program, whose widths are multiples of 8.
            mlp_hidden: ((width as f64 * keys.mlp_ratio).min(MOST as f64 + 1.0) as usize).next_multiple_of(8),
            steps: keys.n_t,
            text_encoder: keys.llm,
        };
        config.check(name)?;
        let tokens = config.hidden();
        match [("hidden_size", width), ("txt_hidden_size", text_width)].iter().find(|(_, found)| *found != tokens) {
            None => Ok(config),
            Some((key, found)) => Err(Error::input(format!(
                "{name} has `{key}` = {found}, but {} heads of {} make tokens of {tokens}",
                config.num_heads, config.head_dim
            ))),
        }
    }

    fn check(&self, name: &str) -> Result<()> {
        let sizes = [
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("pca_channels", self.patch_width),
            ("txt_input_size", self.context_dim),
            ("prompt_length", self.prompt_length),
            ("depth_double", self.depth),
            ("num_heads", self.num_heads),
            ("head_dim", self.head_dim),
            ("n_T", self.steps),
        ];
        check_sizes(name, &sizes)?;
        let wrong = |key: &str, found: usize, expected: &str| {
            Err(Error::input(format!("{name} has `{key}` = {found}: it must be {expected}")))
        };
        match () {
            () if self.channels != 3 => wrong("in_channels", self.channels, "3, because states are images"),
            // Half of the angles are for rows, half for columns, and each turns a pair.
            () if !self.head_dim.is_multiple_of(4) => wrong("head_dim", self.head_dim, "a multiple of 4"),
            () if self.prompt_length > MOST_TOKENS => {
                wrong("prompt_length", self.prompt_length, &format!("at most {MOST_TOKENS}"))
            }
            () if self.text_depth > MOST => wrong("txt_preamble_depth", self.text_depth, &format!("at most {MOST}")),
            () if !self.image_size.is_multiple_of(self.patch_size) => {
                wrong("image_size", self.image_size, &format!("a multiple of `patch_size` = {}", self.patch_size))
            }
            () => self.check_products(name),
        }
    }

    /// Checks sizes that are products of others.
    fn check_products(&self, name: &str) -> Result<()> {
        let patch = self.channels * self.patch_size * self.patch_size;
        let sizes = [("a token", self.hidden()), ("a patch", patch), ("the hidden layer of a block", self.mlp_hidden)];
        match sizes.iter().find(|(_, size)| !(1..=MOST).contains(size)) {
            None => Ok(()),
            Some((what, size)) => {
                Err(Error::input(format!("{name} describes {what} of {size} values: from 1 to {MOST} are possible")))
            }
        }
    }

    /// Width of a token.
    pub fn hidden(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// The largest side of a picture: positions are computed, so that any size has them, but the network was trained at
    /// one.
    pub(in crate::model) fn largest_side(&self) -> usize {
        4 * self.image_size
    }

    /// The patches of pictures `[height, width]`: rows and columns.
    pub(super) fn tokens(&self, size: [usize; 2]) -> [usize; 2] {
        size.map(|size| size / self.patch_size)
    }
}

//! Sizes of the transformer, from the `config.json` that diffusers writes next to its weights.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::model::layout::MOST;
use crate::model::text_network::{check_known, check_sizes};

/// Channels of a picture: red, green and blue.
const PICTURE_CHANNELS: usize = 3;

/// The network's time at sigma = 1.
const TIME_SCALE: f64 = 1000.0;

/// Sizes of a transformer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmditConfig {
    /// Side length of a patch of the latents.
    pub patch_size: usize,
    /// Channels of the latents, and of the velocity.
    pub channels: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Width of a head; a token is as wide as all heads together.
    pub head_dim: usize,
    /// Width of the text encoders' tokens.
    pub context_dim: usize,
    /// Width of the text encoders' pooled result.
    pub pooled_dim: usize,
    /// Side length of the table of positions, in tokens. Images use its centre.
    pub positions_side: usize,
    /// Blocks with a second attention, over only the image's tokens.
    pub dual_attention: BTreeSet<usize>,
    /// Queries and keys of each head are normalised.
    pub qk_norm: bool,
    /// Side of the latents that the model was trained on.
    pub usual_side: usize,
}

/// The keys of `config.json`. Those that start with an underscore say which program wrote it.
#[derive(Deserialize)]
struct Keys {
    patch_size: usize,
    in_channels: usize,
    num_layers: usize,
    attention_head_dim: usize,
    num_attention_heads: usize,
    joint_attention_dim: usize,
    caption_projection_dim: usize,
    pooled_projection_dim: usize,
    out_channels: Option<usize>,
    pos_embed_max_size: usize,
    sample_size: Option<usize>,
    #[serde(default)]
    dual_attention_layers: Vec<usize>,
    #[serde(default)]
    qk_norm: Option<String>,
}

/// Side of latents where the configuration proposes none.
const USUAL_SIDE: usize = 128;

/// Every key that is known.
const KNOWN: [&str; 13] = [
    "sample_size",
    "patch_size",
    "in_channels",
    "num_layers",
    "attention_head_dim",
    "num_attention_heads",
    "joint_attention_dim",
    "caption_projection_dim",
    "pooled_projection_dim",
    "out_channels",
    "pos_embed_max_size",
    "dual_attention_layers",
    "qk_norm",
];

impl MmditConfig {
    /// The class of the transformer in diffusers.
    pub const CLASS: &str = "SD3Transformer2DModel";

    /// From the keys of a `config.json`, which messages call `name`.
    ///
    /// # Errors
    /// [`Error::Input`] if a key is missing, has a value that is not supported, or would change what is computed.
    pub(in crate::model) fn from_keys(name: &str, keys: Map<String, Value>) -> Result<Self> {
        check_known(name, &keys, &KNOWN)?;
        let keys: Keys = serde_json::from_value(Value::Object(keys))
            .map_err(|cause| Error::input(format!("{name} is not the configuration of an SD3 transformer: {cause}")))?;
        Self::of_keys(name, keys)
    }

    fn of_keys(name: &str, keys: Keys) -> Result<Self> {
        if let Some(kind) = keys.qk_norm.as_ref().filter(|kind| *kind != "rms_norm") {
            return Err(Error::input(format!(
                "{name} has `qk_norm` = \"{kind}\": only \"rms_norm\" or null can be read"
            )));
        }
        let out_channels = keys.out_channels.unwrap_or(keys.in_channels);
        if out_channels != keys.in_channels {
            return Err(Error::input(format!(
                "{name} has `out_channels` = {out_channels}, but a velocity has the {} channels of `in_channels`",
                keys.in_channels
            )));
        }
        let config = Self {
            patch_size: keys.patch_size,
            channels: keys.in_channels,
            depth: keys.num_layers,
            num_heads: keys.num_attention_heads,
            head_dim: keys.attention_head_dim,
            context_dim: keys.joint_attention_dim,
            pooled_dim: keys.pooled_projection_dim,
            positions_side: keys.pos_embed_max_size,
            dual_attention: keys.dual_attention_layers.into_iter().collect(),
            qk_norm: keys.qk_norm.is_some(),
            usual_side: keys.sample_size.unwrap_or(USUAL_SIDE),
        };
        config.check(name)?;
        if keys.caption_projection_dim != config.hidden() {
            return Err(Error::input(format!(
                "{name} has `caption_projection_dim` = {}, but {} heads of {} make tokens of {}",
                keys.caption_projection_dim,
                config.num_heads,
                config.head_dim,
                config.hidden()
            )));
        }
        Ok(config)
    }

    /// Checks that the sizes fit together; messages call their source `name`.
    ///
    /// # Errors
    /// [`Error::Input`] with the number that does not.
    pub fn check(&self, name: &str) -> Result<()> {
        let sizes = [
            ("patch_size", self.patch_size),
            ("in_channels", self.channels),
            ("num_layers", self.depth),
            ("num_attention_heads", self.num_heads),
            ("attention_head_dim", self.head_dim),
            ("joint_attention_dim", self.context_dim),
            ("pooled_projection_dim", self.pooled_dim),
            ("pos_embed_max_size", self.positions_side),
        ];
        check_sizes(name, &sizes)?;
        // The adaLN layer of a block with two attentions has nine times the width, and a patch must also fit.
        let patch = self.channels * self.patch_size * self.patch_size;
        for (what, size) in [("a token", self.hidden()), ("a patch", patch)] {
            if size > MOST {
                return Err(Error::input(format!("{name} describes {what} of {size} values: the maximum is {MOST}")));
            }
        }
        match self.dual_attention.last().filter(|block| **block >= self.depth) {
            Some(block) => Err(Error::input(format!(
                "{name} has `dual_attention_layers` with block {block}, but the last of its {} blocks is {}",
                self.depth,
                self.depth - 1
            ))),
            None => Ok(()),
        }
    }

    /// Whether its states are pictures: nothing makes so few channels of latents.
    pub fn makes_pixels(&self) -> bool {
        self.channels == PICTURE_CHANNELS
    }

    /// The `config.json` that [`MmditConfig::from_keys`] reads.
    pub fn to_json(&self) -> String {
        let keys = serde_json::json!({
            "_class_name": Self::CLASS,
            "_flowdppo_wgpu_version": env!("CARGO_PKG_VERSION"),
            "sample_size": self.usual_side,
            "patch_size": self.patch_size,
            "in_channels": self.channels,
            "out_channels": self.channels,
            "num_layers": self.depth,
            "attention_head_dim": self.head_dim,
            "num_attention_heads": self.num_heads,
            "joint_attention_dim": self.context_dim,
            "caption_projection_dim": self.hidden(),
            "pooled_projection_dim": self.pooled_dim,
            "pos_embed_max_size": self.positions_side,
            "dual_attention_layers": self.dual_attention,
            "qk_norm": self.qk_norm.then_some("rms_norm"),
        });
        format!("{keys:#}\n")
    }

    /// Width of a token.
    pub fn hidden(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// The network's time for a noise level: 1000·sigma, not rounded to a whole number.
    pub fn time_of(&self, sigma: f64) -> f32 {
        (TIME_SCALE * sigma) as f32
    }

    /// The patches of latents `[height, width]`: rows and columns.
    pub(in crate::model) fn tokens(&self, size: [usize; 2]) -> [usize; 2] {
        size.map(|size| size / self.patch_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TextNetwork;

    const SD35: &str = r#"{"_class_name": "SD3Transformer2DModel", "_diffusers_version": "0.31.0", "sample_size": 128,
        "patch_size": 2, "in_channels": 16, "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24,
        "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "out_channels": 16,
        "pos_embed_max_size": 384, "dual_attention_layers": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        "qk_norm": "rms_norm"}"#;

    fn of(text: &str) -> Result<MmditConfig> {
        match TextNetwork::from_json("config.json", text.as_bytes())? {
            TextNetwork::Mmdit(config) => Ok(config),
            other => panic!("{other:?}"),
        }
    }

    fn read(from: &str, to: &str) -> Result<MmditConfig> {
        assert!(SD35.contains(from), "{from}");
        of(&SD35.replace(from, to))
    }

    #[test]
    fn sd35_medium_is_read() {
        let config = read("0.31.0", "0.31.0").unwrap();
        assert_eq!((config.hidden(), config.depth, config.positions_side), (1536, 24, 384));
        assert!(config.qk_norm && config.dual_attention.len() == 13);
        // As counted in the published model, its table of positions included.
        let whole = config.layout([768, 768]);
        assert_eq!(whole.parameter_count(), 2_243_171_520 + 226_492_416);
        assert_eq!(config.time_of(0.25), 250.0);
        // SD3-medium has neither key.
        let sd3 = SD35.split(", \"dual").next().unwrap().split(",\n        \"pos_embed").next().unwrap().to_owned();
        let sd3 = sd3 + ", \"pos_embed_max_size\": 192, \"qk_norm\": null}";
        let config = of(&sd3).unwrap();
        assert!(!config.qk_norm && config.dual_attention.is_empty());
        assert_eq!(config.layout([384, 384]).parameter_count(), 2_028_328_000 + 192 * 192 * 1536);
    }

    #[test]
    fn wrong_configurations_are_rejected_with_the_reason() {
        for (from, to, reason) in [
            ("SD3Transformer2DModel", "FluxTransformer2DModel", "`_class_name` \"FluxTransformer2DModel\""),
            ("\"rms_norm\"", "\"layer_norm\"", "`qk_norm` = \"layer_norm\""),
            ("\"qk_norm\"", "\"use_rope\"", "`use_rope` = \"rms_norm\", which is not known"),
            ("\"num_layers\": 24, ", "", "missing field `num_layers`"),
            ("\"num_layers\": 24", "\"num_layers\": 0", "`num_layers` = 0: it must be from 1"),
            ("\"num_layers\": 24", "\"num_layers\": 12", "block 12, but the last of its 12 blocks is 11"),
            (
                "\"caption_projection_dim\": 1536",
                "\"caption_projection_dim\": 1152",
                "24 heads of 64 make tokens of 1536",
            ),
            ("\"out_channels\": 16", "\"out_channels\": 32", "`out_channels` = 32"),
            ("\"patch_size\": 2", "\"patch_size\": 70000", "`patch_size` = 70000"),
            ("\"patch_size\": 2", "\"patch_size\": 200", "a patch of 640000 values"),
            ("\"patch_size\": 2", "\"patch_size\": -2", "not the configuration of an SD3 transformer"),
            ("{", "", "not the configuration of a transformer"),
        ] {
            let message = read(from, to).unwrap_err().to_string();
            assert!(message.contains("config.json") && message.contains(reason), "{message}\nlacks: {reason}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for config in
            [read("0.31.0", "0.31.0").unwrap(), read("\"qk_norm\": \"rms_norm\"", "\"qk_norm\": null").unwrap()]
        {
            assert_eq!(of(&config.to_json()).unwrap(), config);
            assert!(!config.makes_pixels());
        }
    }

    #[test]
    fn sizes_without_patches_or_positions_are_rejected() {
        let config = TextNetwork::Mmdit(read("0.31.0", "0.31.0").unwrap());
        config.check_size("it", [64, 96]).unwrap();
        config.check_size("it", [768, 2]).unwrap();
        for size in [[64, 65], [0, 64], [770, 64]] {
            let message = config.check_size("the request", size).unwrap_err().to_string();
            assert!(message.contains("multiples of 2 from 2 to 768"), "{message}");
        }
    }
}

//! The model that a configuration asks for: a file, or sizes that fit together.

use super::ranges::*;
use super::{Model, Positions, TextInput, TimeConvention};
use crate::error::{Error, Result};

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSource<'a> {
    /// A safetensors file, or `builtin:NAME`.
    File(&'a str),
    /// A text-to-image pipeline: its folder, or a name in the hub's cache.
    Folder(&'a str),
    /// New weights of these sizes.
    New(ModelSizes),
    /// New weights of a text-to-image model that is told of prompts so; `num_classes` of the sizes is 0.
    NewText(ModelSizes, TextInput),
}

/// The sizes of a new model, all given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelSizes {
    /// Height and width of an image, in pixels.
    pub image_size: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Height and width of a patch, in pixels.
    pub patch_size: usize,
    /// Width of a token's vector.
    pub hidden_size: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of a block.
    pub num_heads: usize,
    /// Width of a block's inner layer, as a multiple of `hidden_size`.
    pub mlp_ratio: f64,
    /// Classes, without the null class.
    pub num_classes: usize,
}

impl Model {
    /// What names the model: its file or folder; empty for a new one.
    pub fn name(&self) -> String {
        self.file.clone().or_else(|| self.folder.clone()).unwrap_or_default()
    }

    /// The file, or the sizes of a new model, checked.
    ///
    /// # Errors
    /// [`Error::Input`] if both or neither are given, if one is missing, or if they do not fit
    /// together.
    pub fn source(&self) -> Result<ModelSource<'_>> {
        let given = [
            ("image_size", self.image_size),
            ("channels", self.channels),
            ("patch_size", self.patch_size),
            ("hidden_size", self.hidden_size),
            ("depth", self.depth),
            ("num_heads", self.num_heads),
            ("num_classes", self.num_classes),
        ];
        if let Some(folder) = &self.folder {
            let others = [
                ("file", self.file.is_some()),
                ("vae", self.vae.is_some()),
                ("mlp_ratio", self.mlp_ratio.is_some()),
                ("text", self.text.is_some()),
            ];
            let others = others.into_iter().chain(given.iter().map(|(key, size)| (*key, size.is_some())));
            if let Some((key, _)) = others.into_iter().find(|(_, is_given)| *is_given) {
                return Err(Error::input(format!(
                    "`model.folder` and `model.{key}` exclude each other: a folder contains a complete model; remove one \
                     of them"
                )));
            }
            if folder.is_empty() {
                return wrong("model.folder", "the folder of a text-to-image model", "empty");
            }
            return Ok(ModelSource::Folder(folder));
        }
        if self.size.is_some() {
            return Err(Error::input("`model.size` is for `model.folder`: a new model has `model.image_size`"));
        }
        if let Some(file) = &self.file {
            let size = given.iter().find(|(_, size)| size.is_some()).map(|(key, _)| *key);
            let others = [self.mlp_ratio.map(|_| "mlp_ratio"), self.text.map(|_| "text")];
            if let Some(key) = size.or(others.into_iter().flatten().next()) {
                return Err(Error::input(format!(
                    "`model.file` and `model.{key}` cannot both be set: a file has its own \
                     sizes; remove one of them"
                )));
            }
            if file.is_empty() {
                return wrong("model.file", "a safetensors file or builtin:NAME", "empty");
            }
            if self.vae.as_deref() == Some("") {
                return wrong("model.vae", "the folder or file of an autoencoder", "empty");
            }
            return Ok(ModelSource::File(file));
        }
        let is_needed = |key: &str| key != "num_classes" || self.text.is_none();
        let missing: Vec<_> = given.iter().filter(|(key, size)| size.is_none() && is_needed(key)).collect();
        if missing.len() == given.len() {
            return Err(Error::input(
                "[model] needs `file` (a safetensors file, or builtin:digits8-base) or the sizes \
                 of a new model (image_size, channels, patch_size, hidden_size, depth, num_heads, \
                 num_classes)",
            ));
        }
        let size = |index: usize| {
            given[index].1.ok_or_else(|| {
                let keys: Vec<_> = missing.iter().map(|(key, _)| *key).collect();
                let keys = keys.join(", ");
                Error::input(format!("the new model's sizes are incomplete: [model] is missing {keys}"))
            })
        };
        let sizes = ModelSizes {
            image_size: size(0)?,
            channels: size(1)?,
            patch_size: size(2)?,
            hidden_size: size(3)?,
            depth: size(4)?,
            num_heads: size(5)?,
            mlp_ratio: self.mlp_ratio.unwrap_or(4.0),
            num_classes: if self.text.is_none() { size(6)? } else { 0 },
        };
        divides("model.patch_size", sizes.patch_size, "`model.image_size`", sizes.image_size)?;
        divides("model.num_heads", sizes.num_heads, "`model.hidden_size`", sizes.hidden_size)?;
        if self.positions == Positions::SinCos && !sizes.hidden_size.is_multiple_of(4) {
            let expected = "a multiple of 4 for sin-cos positions (sine and cosine, two axes)";
            return wrong("model.hidden_size", expected, sizes.hidden_size);
        }
        let inner = sizes.mlp_ratio * sizes.hidden_size as f64;
        if inner < 1.0 || inner.fract() != 0.0 || inner > MAX_SIZE as f64 {
            return Err(Error::input(format!(
                "`model.mlp_ratio` x `model.hidden_size` = {} x {} = {inner} must be a whole \
                 number from 1 to {MAX_SIZE}",
                sizes.mlp_ratio, sizes.hidden_size
            )));
        }
        match self.text {
            None => Ok(ModelSource::New(sizes)),
            Some(text) => self.check_text(&sizes).map(|()| ModelSource::NewText(sizes, text)),
        }
    }

    /// Checks the sizes of a new text-to-image model, which is a transformer of Stable Diffusion 3.
    fn check_text(&self, sizes: &ModelSizes) -> Result<()> {
        let fixed = [
            ("num_classes", self.num_classes.is_some(), "prompts take the place of classes: remove it"),
            ("channels", sizes.channels != 3, "its images are red, green and blue: set it to 3"),
            ("mlp_ratio", self.mlp_ratio.is_some_and(|ratio| ratio != 4.0), "it is 4 in such a model: remove it"),
            ("time", self.time != TimeConvention::Sigma, "time is sigma in such a model: remove it"),
            ("time_scale", self.time_scale != 1000.0, "it is 1000 in such a model: remove it"),
            ("hidden_size", !sizes.hidden_size.is_multiple_of(4), "its positions need a multiple of 4"),
        ];
        match fixed.into_iter().find(|(_, is_wrong, _)| *is_wrong) {
            None => Ok(()),
            Some((key, _, fix)) => Err(Error::input(format!("`model.{key}` does not fit `model.text`: {fix}"))),
        }
    }
}

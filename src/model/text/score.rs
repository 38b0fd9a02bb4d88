//! Scores how well pictures fit texts with a `CLIPModel`: the CLIP score and PickScore.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde::Deserialize;

use super::clip::encode_clip_text;
use super::config::{ClipConfig, read_config};
use super::picture::PicturePreparation;
use super::tokenizer::{Tokenizer, Tokens};
use super::vision::ClipVision;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::PartMemory;

/// Training code divides PickScore, exp(logit_scale) · cosine, by this number (Flow-GRPO, `pickscore_scorer.py`).
pub const PICKSCORE_DIVISOR: f64 = 26.0;

/// A `CLIPModel` in a folder. The vision tower is uploaded with the first pictures, and stays on the device until this is
/// dropped; the weights for texts stay on disk, and are read again for each batch.
#[derive(Debug)]
pub struct ClipScorer {
    folder: PathBuf,
    /// Its sizes.
    pub config: ClipConfig,
    preparation: PicturePreparation,
    weights: Weights,
    logit_scale: f64,
    vision: Option<ClipVision>,
}

/// What every `config.json` says of its model.
#[derive(Deserialize)]
struct Kind {
    model_type: Option<String>,
}

impl ClipScorer {
    /// Opens a folder with `config.json`, weights and, unless the default preparation applies,
    /// `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Error::Input`] if a file is missing, damaged or of another kind of model, or a size or activation is not
    /// supported.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        if let Kind { model_type: Some(kind) } = read_config(&path)?
            && kind != "clip"
        {
            return Err(Error::input(format!(
                "{}: `model_type` is {kind:?}, but images are scored with a CLIPModel, \"clip\": name the folder of \
                 one, such as that of openai/clip-vit-large-patch14",
                path.display()
            )));
        }
        let config = ClipConfig::read(folder)?;
        let preparation = PicturePreparation::read(folder, &config.vision_config)?;
        let weights = Weights::open(folder, "")?;
        let logit_scale = f64::from(weights.read("logit_scale", &[])?[0]);
        Ok(Self { folder: folder.to_owned(), config, preparation, weights, logit_scale, vision: None })
    }

    /// The files in a folder that the scores depend on.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no weights.
    pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
        let mut files = Tokenizer::files(folder);
        files.extend(["config.json", "preprocessor_config.json"].map(|name| folder.join(name)));
        files.extend(Weights::open(folder, "")?.files().map(Path::to_owned));
        Ok(files)
    }

    /// exp(logit_scale), the factor of cosines in scores.
    pub fn factor(&self) -> f64 {
        self.logit_scale.exp()
    }

    /// Pictures prepared for the vision tower, `[P, 3, S, S]`.
    pub fn prepare(&self, pictures: &[RgbImage]) -> Vec<f32> {
        pictures.iter().flat_map(|picture| self.preparation.prepare(picture)).collect()
    }

    /// Tokens of texts, from the tokenizer in the folder.
    ///
    /// # Errors
    /// As [`Tokenizer::open`] and [`Tokenizer::encode`].
    pub fn tokens<T: AsRef<str>>(&self, texts: &[T]) -> Result<Tokens> {
        Tokenizer::open(&self.folder)?.encode(texts, self.config.text_config.max_position_embeddings)
    }

    /// Embeddings of pictures, of unit length: `[P, projection_dim]`.
    ///
    /// # Errors
    /// As [`ClipVision::load`] and [`ClipVision::embed`].
    pub fn embed_pictures(&mut self, gpu: &Arc<Gpu>, pictures: &[RgbImage]) -> Result<Vec<f32>> {
        let prepared = self.prepare(pictures);
        let embeddings = self.vision(gpu)?.embed(&prepared)?;
        Ok(unit_rows(&embeddings, self.config.projection_dim))
    }

    /// The vision tower, which the first call uploads.
    ///
    /// # Errors
    /// As [`ClipVision::load`].
    pub fn vision(&mut self, gpu: &Arc<Gpu>) -> Result<&mut ClipVision> {
        let vision = match self.vision.take() {
            Some(vision) => vision,
            None => ClipVision::load(gpu, &self.config.vision_config, &self.weights)?,
        };
        Ok(self.vision.insert(vision))
    }

    /// What the vision tower takes on the device, once it is there.
    pub fn memory(&self) -> Option<PartMemory> {
        self.vision.as_ref().map(ClipVision::memory)
    }

    /// Embeddings of texts, of unit length: `[P, projection_dim]`.
    ///
    /// # Errors
    /// As [`encode_clip_text`].
    pub fn embed_texts(&mut self, gpu: &Arc<Gpu>, tokens: &Tokens) -> Result<Vec<f32>> {
        let encoded = encode_clip_text(gpu, &self.config.text_config, &self.weights, tokens)?;
        Ok(unit_rows(&encoded.pooled, self.config.projection_dim))
    }

    /// The cosine of each picture with its text; times [`ClipScorer::factor`], it is the score.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no pictures, or not the same number as texts; else as the encoders.
    pub fn cosines(&mut self, gpu: &Arc<Gpu>, pictures: &[RgbImage], tokens: &Tokens) -> Result<Vec<f64>> {
        if pictures.is_empty() || pictures.len() != tokens.texts() {
            return Err(Error::input(format!(
                "there are {} images and {} texts to score: there must be one text per image, and at least one",
                pictures.len(),
                tokens.texts()
            )));
        }
        let width = self.config.projection_dim;
        let (pictures, texts) = (self.embed_pictures(gpu, pictures)?, self.embed_texts(gpu, tokens)?);
        Ok(pictures.chunks(width).zip(texts.chunks(width)).map(|(picture, text)| cosine(picture, text)).collect())
    }
}

/// The cosine of the angle between vectors of unit length.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Rows of a matrix, scaled to length 1; zeros stay zeros.
fn unit_rows(values: &[f32], width: usize) -> Vec<f32> {
    let unit = |row: &[f32]| -> Vec<f32> {
        let length = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        row.iter().map(|value| (f64::from(*value) / length.max(f64::MIN_POSITIVE)) as f32).collect()
    };
    values.chunks(width).flat_map(unit).collect()
}

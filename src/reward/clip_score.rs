//! CLIP scores: how well pictures fit the descriptions of their classes, or what a head says of their embeddings.

use std::path::Path;
use std::sync::Arc;

use image::{Rgb, RgbImage};

use super::head::Head;
use super::{Batch, Reward, Subject};
use crate::config;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::PartMemory;
use crate::model::text::{ClipScorer, Tokens, cosine};
use crate::shape::{ImageShape, to_byte};

/// Texts encoded together. The states of CLIP-H's take 0.3 GB of the host's memory at a time.
const TEXTS: usize = 1024;

/// Pictures scored together, which limits the memory for prepared ones.
const PICTURES: usize = 64;

/// What the embedding of a picture is measured by.
#[derive(Debug)]
enum Measure {
    /// exp(logit_scale) times the cosine between the embeddings of a picture and of its text (arXiv 2103.00020;
    /// PickScore, arXiv 2305.01569, divides by 26).
    Texts {
        /// `[classes, projection_dim]`, of unit length.
        embeddings: Vec<f32>,
        /// exp(logit_scale) over the divisor.
        factor: f64,
    },
    /// What a head says of the embedding, of unit length, over a divisor.
    Head(Head, f64),
}

/// A score of pictures by a CLIP model.
#[derive(Debug)]
pub struct ClipScore {
    name: String,
    gpu: Arc<Gpu>,
    scorer: ClipScorer,
    measure: Measure,
}

impl ClipScore {
    /// Encodes the descriptions of the classes, unless there is a head, and uploads the vision tower, which then stays on
    /// the device as 4 bytes per weight.
    ///
    /// # Errors
    /// As [`ClipScore::check`], and if a tensor is missing, misshapen or not finite, or the device does not have enough
    /// memory.
    pub fn new(gpu: &Arc<Gpu>, reward: &config::Reward, index: usize, subject: &Subject<'_>) -> Result<Self> {
        let mut scorer = open(reward, index, subject.shape)?;
        let measure = match head(reward, &scorer)? {
            Some(head) => Measure::Head(head, reward.divisor),
            None => {
                let prompts: Vec<&str> = prompts(subject).collect();
                let mut embeddings = Vec::with_capacity(prompts.len() * scorer.config.projection_dim);
                for some in prompts.chunks(TEXTS) {
                    let tokens = scorer.tokens(some)?;
                    embeddings.extend(scorer.embed_texts(gpu, &tokens)?);
                }
                Measure::Texts { embeddings, factor: scorer.factor() / reward.divisor }
            }
        };
        scorer.vision(gpu)?;
        Ok(Self { name: reward.kind.name().to_owned(), gpu: gpu.clone(), scorer, measure })
    }

    /// Checks everything that can be checked without a device.
    ///
    /// # Errors
    /// [`Error::Input`] if the folder is not that of a CLIP model with a tokenizer, the head does not fit it, or pictures
    /// are neither grey nor RGB.
    pub fn check(reward: &config::Reward, index: usize, subject: &Subject<'_>) -> Result<()> {
        let scorer = open(reward, index, subject.shape)?;
        if head(reward, &scorer)?.is_some() {
            return Ok(());
        }
        let prompts: Vec<&str> = prompts(subject).collect();
        scorer.tokens(&prompts).map(|_: Tokens| ())
    }
}

fn prompts<'a>(subject: &Subject<'a>) -> impl Iterator<Item = &'a str> {
    subject.descriptions.iter().map(|description| description.prompt.as_str())
}

/// The head of a reward, if it has one.
fn head(reward: &config::Reward, scorer: &ClipScorer) -> Result<Option<Head>> {
    match &*reward.head {
        "" => Ok(None),
        file => Head::open(Path::new(file), scorer.config.projection_dim).map(Some),
    }
}

/// The model of a reward, for pictures of this shape.
fn open(reward: &config::Reward, index: usize, shape: ImageShape) -> Result<ClipScorer> {
    if ![1, 3].contains(&shape.channels) {
        return Err(Error::input(format!(
            "`reward.{index}.kind` = \"clip-score\" needs images with 1 or 3 channels, but the model makes {shape}: \
             choose another kind"
        )));
    }
    ClipScorer::open(Path::new(&reward.file))
}

/// A picture `[C, H, W]` as bytes; the only channel of a grey one becomes all three.
fn picture(values: &[f32], shape: ImageShape) -> RgbImage {
    let area = shape.height * shape.width;
    RgbImage::from_fn(shape.width as u32, shape.height as u32, |x, y| {
        let pixel = y as usize * shape.width + x as usize;
        Rgb([0, 1, 2].map(|channel| to_byte(values[channel % shape.channels * area + pixel])))
    })
}

impl Reward for ClipScore {
    fn components(&self) -> &[String] {
        std::slice::from_ref(&self.name)
    }

    fn score(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f64>>> {
        let width = self.scorer.config.projection_dim;
        let mut scores = Vec::with_capacity(batch.labels.len());
        let pictures: Vec<&[f32]> = batch.each().collect();
        for (some, labels) in pictures.chunks(PICTURES).zip(batch.labels.chunks(PICTURES)) {
            let some: Vec<RgbImage> = some.iter().map(|values| picture(values, batch.shape)).collect();
            let embedded = self.scorer.embed_pictures(&self.gpu, &some)?;
            scores.extend(embedded.chunks(width).zip(labels).map(|(embedded, label)| match &self.measure {
                Measure::Texts { embeddings, factor } => {
                    factor * cosine(embedded, &embeddings[*label as usize * width..][..width])
                }
                Measure::Head(head, divisor) => head.score(embedded) / divisor,
            }));
        }
        Ok(vec![scores])
    }

    fn memory(&self) -> Option<PartMemory> {
        self.scorer.memory()
    }
}

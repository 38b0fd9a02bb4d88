//! Scores by a set of rewards: of all images, or together with other ranks, each of which scores the images that it made.

use std::borrow::Cow;

use maybe_async::maybe_async;

use super::{Batch, Rewards, ScoringContext};
use crate::error::{Error, Result};

/// The largest score: the sum of the squares of any number of scores is finite, and so is their spread.
const LARGEST: f64 = 1e100;

/// The scores of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// `[components][N]`, before weights.
    pub components: Vec<Vec<f64>>,
    /// `[N]`, the weighted sums.
    pub totals: Vec<f64>,
}

impl Rewards {
    /// Scores images `[N, C, H, W]` whose requested classes are `labels [N]`. In a team, every rank has all images, and
    /// scores a part of them.
    ///
    /// # Errors
    /// [`Error::Reward`] if a reward failed, did not score every image, or a score or total is above 10¹⁰⁰ or NaN;
    /// [`Error::NotFinite`] if an image is not.
    #[maybe_async]
    pub async fn score(&mut self, images: &[f32], labels: &[u32], context: ScoringContext) -> Result<Scores> {
        let (own, elements) = (self.team.seat().range(labels.len()), self.shape.elements());
        let part = &images[own.start * elements..own.end * elements];
        self.score_part(Ok(part.into()), &own.collect::<Vec<usize>>(), labels, context).await
    }

    /// The same where this rank has only the images with these numbers, if it could make them; `labels` are those
    /// of all images. Every rank gets all scores.
    ///
    /// # Errors
    /// As [`Rewards::score`], if any rank has failed.
    #[maybe_async]
    pub async fn score_part(
        &mut self,
        images: Result<Cow<'_, [f32]>>,
        numbers: &[usize],
        labels: &[u32],
        context: ScoringContext,
    ) -> Result<Scores> {
        let own = match images {
            Ok(images) => self.measure(&images, numbers, labels, context).await,
            Err(cause) => Err(cause),
        };
        let own = self.team.agree(own)?;
        let components = self.gather(&own, numbers, labels.len())?;
        let total =
            |image: usize| self.weights.iter().zip(&components).map(|(weight, scores)| weight * scores[image]).sum();
        let totals: Vec<f64> = (0..labels.len()).map(total).collect();
        if let Some((sample, total)) = beyond(&totals) {
            return Err(Error::Reward(format!(
                "the weighted sum of the rewards is {total:e} for sample {sample}, but it must be a number from \
                 -{LARGEST:e} to {LARGEST:e}: lower the weights"
            )));
        }
        #[cfg(feature = "cli")]
        let logged = match (&mut self.log, context.recorded()) {
            (Some(log), Some((iteration, purpose))) => {
                log.append([&iteration.to_string(), purpose], labels, &components, &totals)
            }
            _ => Ok(()),
        };
        #[cfg(feature = "cli")]
        self.team.agree(logged)?;
        Ok(Scores { components, totals })
    }

    /// What every component says of some images, `[components][numbers]`.
    #[maybe_async]
    async fn measure(
        &mut self,
        images: &[f32],
        numbers: &[usize],
        labels: &[u32],
        context: ScoringContext,
    ) -> Result<Vec<Vec<f64>>> {
        if numbers.is_empty() {
            return Ok(vec![Vec::new(); self.names.len()]);
        }
        let Self { members, class_names, shape, .. } = self;
        let labels: Vec<u32> = numbers.iter().map(|number| labels[*number]).collect();
        let batch = Batch { images, labels: &labels, numbers, class_names, shape: *shape, context };
        if let Some(image) = batch.each().position(|image| image.iter().any(|x| !x.is_finite())) {
            return Err(Error::NotFinite(format!(
                "sample {} has pixels that are not finite, so no reward can score it: the model has diverged; \
                 lower `train.learning_rate`",
                numbers[image]
            )));
        }
        let mut components = Vec::with_capacity(self.names.len());
        for member in members {
            let scores = member.score(&batch).await;
            components.extend(scores.map_err(|cause| match cause {
                Error::Input(message) | Error::Failed(message) => Error::Reward(message),
                other => other,
            })?);
        }
        for (name, scores) in self.names.iter().zip(&components) {
            if scores.len() != labels.len() {
                let (images, scores) = (labels.len(), scores.len());
                return Err(Error::Reward(format!("the reward `{name}` returned {scores} scores for {images} images")));
            }
            if let Some((image, score)) = beyond(scores) {
                return Err(Error::Reward(format!(
                    "the reward `{name}` returned {score:e} for sample {}, but a score must be a number from \
                     -{LARGEST:e} to {LARGEST:e}",
                    numbers[image]
                )));
            }
        }
        Ok(components)
    }

    /// The scores of all ranks, `[components][count]`, from those of this rank.
    fn gather(&self, own: &[Vec<f64>], numbers: &[usize], count: usize) -> Result<Vec<Vec<f64>>> {
        if !self.team.is_many() {
            return Ok(own.to_vec());
        }
        let numbers: Vec<u64> = numbers.iter().map(|number| *number as u64).collect();
        let scores = own.iter().flatten().map(|score| score.to_bits());
        let words: Vec<u64> = numbers.iter().copied().chain(scores).collect();
        let mut all = vec![vec![f64::NAN; count]; own.len()];
        for bytes in self.team.gather(bytemuck::cast_slice(&words))? {
            let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
            let (numbers, scores) = words.split_at(words.len() / (own.len() + 1));
            for (component, scores) in all.iter_mut().zip(scores.chunks(numbers.len().max(1))) {
                for (number, score) in numbers.iter().zip(scores) {
                    component[*number as usize] = f64::from_bits(*score);
                }
            }
        }
        Ok(all)
    }
}

/// The first score that is out of range, and its index.
fn beyond(scores: &[f64]) -> Option<(usize, f64)> {
    scores.iter().copied().enumerate().find(|(_, score)| score.is_nan() || score.abs() > LARGEST)
}

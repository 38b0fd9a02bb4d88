//! The samples on fixed seeds that show the progress of a model in training.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::config;
use crate::data::Dataset;
use crate::data::grid::Grid;
use crate::data::panel::Panel;
use crate::data::scatter::{self, Scatter, is_point};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ranks::Team;
use crate::reward::{Purpose, Rewards, ScoringContext};
use crate::sampling::{ModelOnDevice, SampleRequest, SamplerTable, Sampling, requests_for};
use crate::shape::ImageShape;

/// The most classes in a grid.
const MOST_CLASSES: usize = 16;

/// Samples of the chosen classes, or of as many as there is room for, always from the same noise.
#[derive(Debug)]
pub struct Preview {
    sampling: Sampling,
    requests: Vec<SampleRequest>,
    labels: Vec<u32>,
    titles: Vec<String>,
    shape: ImageShape,
    per_class: usize,
    /// The data behind samples that are points.
    data: Option<Dataset>,
    team: Team,
}

impl Preview {
    /// Binds a model, to draw at most `micro_batch` samples together. If there is no room for all classes, the `trained`
    /// come first: those that rollouts draw.
    ///
    /// # Errors
    /// If `preview.classes` names a class that the model does not have, or the device does not have enough memory.
    pub fn new(
        gpu: &Arc<Gpu>,
        settings: &config::Preview,
        trained: &[usize],
        drawn: ModelOnDevice<'_>,
        micro_batch: usize,
        guidance_scale: f64,
    ) -> Result<Self> {
        let ModelOnDevice { network, class_names, stores } = drawn;
        let (model, shape) = (&network.model, network.model.picture_shape());
        let chosen = settings.chosen_classes(model.conditions())?;
        let classes = match settings.classes.is_empty() {
            true => shown_classes(trained, model.num_conditions()),
            false => chosen,
        };
        let requests = requests_for(&classes, settings.per_class, settings.seed);
        let sampling =
            Sampling::new(gpu, network, [requests.len(), requests.len().min(micro_batch)], guidance_scale, stores)?;
        let name = |class: &u32| class_names.get(*class as usize).cloned().unwrap_or_else(|| class.to_string());
        let titles = classes.iter().map(name).collect();
        let labels = requests.iter().map(|request| request.condition).collect();
        let data = is_point(shape).then(|| scatter::data_of(class_names)).flatten();
        Ok(Self {
            sampling,
            requests,
            labels,
            titles,
            shape,
            per_class: settings.per_class,
            data,
            team: Team::default(),
        })
    }

    /// From now on, samples are drawn and scored together with the other ranks of a team, of which one writes.
    pub fn join(&mut self, team: &Team) {
        self.team = team.clone();
    }

    /// Draws the samples.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn draw(&mut self, table: &SamplerTable) -> Result<Vec<f32>> {
        self.sampling.pictures(table, &self.requests, &self.team)
    }

    /// The samples with their captions, if any: a grid with one row per class, or points.
    pub fn panel<'a>(&'a self, images: &'a [f32], heading: &'a str, captions: &'a [String]) -> Panel<'a> {
        if is_point(self.shape) {
            return Panel::Scatter(Scatter {
                points: images,
                labels: &self.labels,
                class_names: &self.titles,
                captions,
                heading,
                data: self.data.as_ref(),
            });
        }
        Panel::Grid(Grid {
            heading,
            row_titles: &self.titles,
            captions,
            ..Grid::new(images, self.shape, self.per_class)
        })
    }

    /// Captions after `iteration` iterations: the reward of each sample, or the mean of each class if samples are points.
    ///
    /// # Errors
    /// If the reward fails.
    pub fn captions(&self, images: &[f32], rewards: &mut Rewards, iteration: u64) -> Result<Vec<String>> {
        let context = ScoringContext { purpose: Purpose::Preview, iteration };
        let scores = rewards.score(images, &self.labels, context)?.totals;
        if is_point(self.shape) {
            let means = scores.chunks(self.per_class).map(|scores| scores.iter().sum::<f64>() / scores.len() as f64);
            return Ok(means.map(|mean| format!("reward {mean:.2}")).collect());
        }
        Ok(scores.iter().map(|score| format!("{score:.2}")).collect())
    }

    /// Draws the samples and writes their panel, with rewards (after that many iterations) if there are any; returns
    /// samples and captions.
    ///
    /// # Errors
    /// If the device is lost or the file cannot be written.
    pub fn write(
        &mut self,
        path: &Path,
        table: &SamplerTable,
        heading: &str,
        rewards: Option<(&mut Rewards, u64)>,
    ) -> Result<(Vec<f32>, Vec<String>)> {
        let images = self.draw(table)?;
        let captions = match rewards {
            Some((rewards, iteration)) => self.captions(&images, rewards, iteration)?,
            None => Vec::new(),
        };
        let written = match self.team.leads() {
            true => self.panel(&images, heading, &captions).write(path),
            false => Ok(()),
        };
        self.team.agree(written)?;
        Ok((images, captions))
    }
}

/// At most [`MOST_CLASSES`] of `count` classes in their order: the trained ones, and then the first of the others.
fn shown_classes(trained: &[usize], count: usize) -> Vec<u32> {
    let mut shown = BTreeSet::new();
    for class in trained.iter().copied().filter(|class| *class < count).chain(0..count) {
        if shown.len() < MOST_CLASSES {
            shown.insert(class as u32);
        }
    }
    shown.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::shown_classes;

    #[test]
    fn trained_classes_are_shown_before_others() {
        let all = |count| (0..count).collect::<Vec<u32>>();
        assert_eq!(shown_classes(&[], 10), all(10));
        assert_eq!(shown_classes(&[7, 3], 10), all(10));
        assert_eq!(shown_classes(&[], 1000), all(16));
        assert_eq!(shown_classes(&[207, 5, 207, 19], 1000), [all(14), vec![19, 207]].concat());
        let trained: Vec<usize> = (100..140).collect();
        assert_eq!(shown_classes(&trained, 1000), (100..116).collect::<Vec<u32>>());
    }
}

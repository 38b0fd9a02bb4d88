//! The grid of samples on fixed seeds that a person watches while a model trains.

use std::path::Path;
use std::sync::Arc;

use crate::config;
use crate::data::grid::Grid;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::Stores;
use crate::model::DitConfig;
use crate::reward::Reward;
use crate::sampling::{Request, Sampling, Table, class_requests};

/// Samples a class that a grid has room for; more classes than this are not all shown.
const MOST_CLASSES: usize = 16;

/// Samples of every class, always from the same noise.
#[derive(Debug)]
pub struct Preview {
    sampling: Sampling,
    requests: Vec<Request>,
    titles: Vec<String>,
    dit: DitConfig,
    per_class: usize,
}

impl Preview {
    /// Binds the model whose weights are in `stores`, to draw at most `micro_batch` samples together.
    ///
    /// # Errors
    /// If the device has not enough memory.
    pub fn new(
        gpu: &Arc<Gpu>,
        config: &config::Preview,
        dit: &DitConfig,
        class_names: &[String],
        micro_batch: usize,
        guidance_scale: f64,
        stores: &Stores,
    ) -> Result<Self> {
        let classes: Vec<u32> = (0..dit.num_classes.min(MOST_CLASSES) as u32).collect();
        let requests = class_requests(&classes, config.per_class, config.seed);
        let sampling =
            Sampling::new(gpu, dit, [requests.len(), requests.len().min(micro_batch)], guidance_scale, stores)?;
        let name = |class: &u32| class_names.get(*class as usize).cloned().unwrap_or_else(|| class.to_string());
        let titles = classes.iter().map(name).collect();
        Ok(Self { sampling, requests, titles, dit: dit.clone(), per_class: config.per_class })
    }

    /// Draws the samples.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn draw(&mut self, table: &Table) -> Result<Vec<f32>> {
        self.sampling.draw(table, &self.requests)
    }

    /// A grid of drawn samples, a row a class, with a caption under each if given.
    pub fn grid<'a>(&'a self, images: &'a [f32], heading: &'a str, captions: &'a [String]) -> Grid<'a> {
        Grid {
            heading,
            row_titles: &self.titles,
            captions,
            ..Grid::new(images, self.dit.image_size, self.dit.channels, self.per_class)
        }
    }

    /// The reward of each sample, as captions.
    ///
    /// # Errors
    /// If the reward fails.
    pub fn captions(&self, images: &[f32], reward: &mut dyn Reward) -> Result<Vec<String>> {
        let labels: Vec<u32> = self.requests.iter().map(|request| request.label).collect();
        Ok(reward.score(images, &labels)?.iter().map(|score| format!("{score:.2}")).collect())
    }

    /// Draws the samples and writes the grid, with rewards under the tiles if there is one; returns both.
    ///
    /// # Errors
    /// If the device is lost or the file cannot be written.
    pub fn write(
        &mut self,
        path: &Path,
        table: &Table,
        heading: &str,
        reward: Option<&mut dyn Reward>,
    ) -> Result<(Vec<f32>, Vec<String>)> {
        let images = self.draw(table)?;
        let captions = match reward {
            Some(reward) => self.captions(&images, reward)?,
            None => Vec::new(),
        };
        self.grid(&images, heading, &captions).write(path)?;
        Ok((images, captions))
    }
}

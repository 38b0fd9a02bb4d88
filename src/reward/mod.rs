//! What scores images.

mod classifier;
mod ink;

pub use classifier::ClassifierScorer;
pub use ink::Ink;

use std::sync::Arc;

use crate::assets;
use crate::config;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::DitConfig;

/// Anything that can say how good an image is.
pub trait Reward: std::fmt::Debug {
    /// Name of the component in metrics.
    fn name(&self) -> &str;

    /// Scores images `[N, C, S, S]` that were asked to show `labels [N]`: one number each.
    ///
    /// # Errors
    /// If the scorer failed; never a wrong score.
    fn score(&mut self, images: &[f32], labels: &[u32]) -> Result<Vec<f64>>;
}

/// Makes the rewards of a configuration for a model's images.
///
/// # Errors
/// If a reward's file is bad or does not fit the model.
pub fn from_config(gpu: &Arc<Gpu>, rewards: &[config::Reward], dit: &DitConfig) -> Result<Vec<Box<dyn Reward>>> {
    rewards
        .iter()
        .map(|reward| -> Result<Box<dyn Reward>> {
            match reward.kind {
                config::RewardKind::Classifier => Ok(Box::new(classifier_for(gpu, &reward.file, dit)?)),
                config::RewardKind::Ink => Ok(Box::new(Ink)),
            }
        })
        .collect()
}

/// What to call the rewards in metrics: with several of them, their index follows.
pub fn names(rewards: &[Box<dyn Reward>]) -> Vec<String> {
    let several = rewards.len() > 1;
    let name = |index: usize| match several {
        true => format!("{}_{index}", rewards[index].name()),
        false => rewards[index].name().to_owned(),
    };
    (0..rewards.len()).map(name).collect()
}

/// Loads a classifier and checks that it takes a model's images and knows its classes.
///
/// # Errors
/// If the file is bad or does not fit the model.
pub fn classifier_for(gpu: &Arc<Gpu>, file: &str, dit: &DitConfig) -> Result<ClassifierScorer> {
    let model = assets::load_model(file)?;
    let network = model.classifier(file)?;
    if (network.image_size, network.channels) != (dit.image_size, dit.channels) {
        return Err(Error::input(format!(
            "{file} takes {0}x{0} images of {1} channels, but the model makes {2}x{2} of {3}: fit a classifier on \
             the model's data",
            network.image_size, network.channels, dit.image_size, dit.channels
        )));
    }
    if network.num_classes < dit.num_classes {
        return Err(Error::input(format!(
            "{file} knows {} classes, but the model has {}: fit a classifier on the model's data",
            network.num_classes, dit.num_classes
        )));
    }
    ClassifierScorer::new(gpu, &model, file)
}

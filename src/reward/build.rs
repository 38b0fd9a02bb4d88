//! Makes the rewards of a configuration.

use std::sync::Arc;

use super::pixels::{Formula, PixelReward};
use super::{Reward, ShapesReward, classifier_for, fitting_classes};
use crate::assets;
use crate::config::{self, RewardKind};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::Pictures;
use crate::shape::ImageShape;

/// The scorer of entry `index`.
///
/// # Errors
/// If its file is bad or does not fit the model, or its program or service does not answer.
pub(super) fn scorer(
    gpu: &Arc<Gpu>,
    reward: &config::Reward,
    index: usize,
    name: &str,
    pictures: &Pictures<'_>,
) -> Result<Box<dyn Reward>> {
    Ok(match reward.kind {
        RewardKind::Classifier => Box::new(classifier_for(gpu, &reward.file, pictures)?),
        RewardKind::Shapes => Box::new(ShapesReward::new(index, reward.strict, pictures)?),
        RewardKind::ClipScore | RewardKind::Command | RewardKind::Http | RewardKind::Onnx => {
            heavy::scorer(gpu, reward, index, name, pictures)?
        }
        _ => Box::new(PixelReward::new(reward.kind.name(), formula_of(reward, index, pictures.shape)?)),
    })
}

/// Checks everything of entry `index` that [`scorer`] rejects before it needs a device, a program or a service.
///
/// # Errors
/// As [`scorer`].
pub(super) fn check(
    all: &[config::Reward],
    reward: &config::Reward,
    index: usize,
    pictures: &Pictures<'_>,
) -> Result<()> {
    match reward.kind {
        RewardKind::Classifier => fitting_classes(&assets::load_model(&reward.file)?, &reward.file, pictures).map(drop),
        RewardKind::Shapes => ShapesReward::new(index, reward.strict, pictures).map(drop),
        RewardKind::ClipScore | RewardKind::Command | RewardKind::Http | RewardKind::Onnx => {
            heavy::check(reward, index, &config::reward_names(all)[index], pictures)
        }
        _ => formula_of(reward, index, pictures.shape).map(drop),
    }
}

/// Rewards that need encoders, programs, services or a runtime for ONNX.
#[cfg(feature = "cli")]
mod heavy {
    use super::*;
    #[cfg(feature = "onnx")]
    use crate::reward::OnnxReward;
    use crate::reward::outside::check_subject;
    use crate::reward::{ClipScore, Description, Limits, Subject, command, http};

    pub(super) fn scorer(
        gpu: &Arc<Gpu>,
        reward: &config::Reward,
        index: usize,
        name: &str,
        pictures: &Pictures<'_>,
    ) -> Result<Box<dyn Reward>> {
        let descriptions = Description::of_classes(reward, pictures)?;
        let subject = Subject::new(pictures, &descriptions);
        Ok(match reward.kind {
            RewardKind::ClipScore => Box::new(ClipScore::new(gpu, reward, index, &subject)?),
            RewardKind::Command => {
                Box::new(command(name, &reward.program, reward.image, Limits::of(reward), &subject)?)
            }
            RewardKind::Http => Box::new(http(&reward.url, &reward.rewards, Limits::of(reward), &subject)?),
            #[cfg(feature = "onnx")]
            _ => Box::new(OnnxReward::new(reward, pictures)?),
            #[cfg(not(feature = "onnx"))]
            _ => return Err(no_onnx(name)),
        })
    }

    #[cfg_attr(feature = "onnx", expect(unused_variables, reason = "the name is for messages without ONNX"))]
    pub(super) fn check(reward: &config::Reward, index: usize, name: &str, pictures: &Pictures<'_>) -> Result<()> {
        let descriptions = Description::of_classes(reward, pictures)?;
        let subject = Subject::new(pictures, &descriptions);
        match reward.kind {
            RewardKind::ClipScore => ClipScore::check(reward, index, &subject),
            RewardKind::Command => check_subject("command", &subject),
            RewardKind::Http => check_subject("http", &subject),
            #[cfg(feature = "onnx")]
            _ => OnnxReward::new(reward, pictures).map(drop),
            #[cfg(not(feature = "onnx"))]
            _ => Err(no_onnx(name)),
        }
    }

    #[cfg(not(feature = "onnx"))]
    fn no_onnx(name: &str) -> Error {
        Error::input(format!(
            "the reward {name} has the kind \"onnx\", which this program was built without: build it with \
             `cargo build --release --features onnx`"
        ))
    }
}

#[cfg(not(feature = "cli"))]
mod heavy {
    use super::*;

    pub(super) fn scorer(
        _: &Arc<Gpu>,
        reward: &config::Reward,
        _: usize,
        name: &str,
        _: &Pictures<'_>,
    ) -> Result<Box<dyn Reward>> {
        Err(not_here(reward, name))
    }

    pub(super) fn check(reward: &config::Reward, _: usize, name: &str, _: &Pictures<'_>) -> Result<()> {
        Err(not_here(reward, name))
    }

    pub(super) fn not_here(reward: &config::Reward, name: &str) -> Error {
        let kind = reward.kind.name();
        Error::input(format!("the reward {name} has the kind {kind:?}, which only the command line program has"))
    }
}

/// The formula of a reward that has one, checked against the pictures.
fn formula_of(reward: &config::Reward, index: usize, shape: ImageShape) -> Result<Formula> {
    let formula = match reward.kind {
        RewardKind::Ink => Formula::Ink,
        #[cfg(feature = "cli")]
        RewardKind::JpegSize => Formula::JpegSize(reward.quality as u8),
        RewardKind::Brightness => Formula::Brightness,
        RewardKind::Colour => {
            let rgb = reward.colour.as_ref().and_then(config::Colour::rgb);
            let lacks = || Error::input(format!("`reward.{index}.colour` must be a colour"));
            Formula::Colour(rgb.ok_or_else(lacks)?)
        }
        RewardKind::Symmetry => Formula::Symmetry(reward.axis),
        RewardKind::TotalVariation => Formula::TotalVariation,
        #[cfg(feature = "cli")]
        RewardKind::Template => Formula::Template(super::Template::load(&reward.file, shape)?),
        #[cfg(not(feature = "cli"))]
        RewardKind::JpegSize | RewardKind::Template => return Err(heavy::not_here(reward, reward.kind.name())),
        RewardKind::Classifier
        | RewardKind::ClipScore
        | RewardKind::Shapes
        | RewardKind::Onnx
        | RewardKind::Command
        | RewardKind::Http => {
            unreachable!("{} is not a formula", reward.kind.name())
        }
    };
    formula.check(shape.channels, &format!("reward.{index}.kind"))?;
    Ok(formula)
}

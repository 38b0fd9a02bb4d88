//! The independent judge of a model: a network that is not its reward.

use std::sync::Arc;

use maybe_async::maybe_async;

use super::shapes::captions_of;
use super::{ClassifierScorer, fitting_classes};
use crate::assets;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::{Pictures, StoredModel};
use crate::shape::ImageShape;
use crate::shapes::{Caption, GRIDS, KINDS, VIEW, VIEWED, VIEWS, are_demanded, view_names, views};

/// Pictures whose views are in memory together.
const PICTURES: usize = 64;

/// What says whether pictures show what was asked for.
#[derive(Debug)]
pub struct Judge {
    classifier: ClassifierScorer,
    /// For a judge of coloured shapes, which counts the objects of a picture: the caption of each condition.
    captions: Option<Vec<&'static Caption>>,
}

impl Judge {
    /// Loads a judge: a classifier of the model's classes, or one of views of coloured shapes if the model's classes or
    /// prompts are captions of them.
    ///
    /// # Errors
    /// As [`Judge::check`], or if the device does not have enough memory.
    pub fn new(gpu: &Arc<Gpu>, file: &str, pictures: &Pictures<'_>) -> Result<Self> {
        let (model, captions) = open(file, pictures)?;
        let classifier = ClassifierScorer::new(gpu, &model, file)?;
        match captions {
            Some(captions) => Ok(Self { classifier, captions: Some(captions) }),
            None => {
                let classes = fitting_classes(&model, file, pictures)?;
                Ok(Self { classifier: classifier.with_classes(classes), captions: None })
            }
        }
    }

    /// Checks what [`Judge::new`] rejects, without a device.
    ///
    /// # Errors
    /// If the file is bad or does not fit the model.
    pub fn check(file: &str, pictures: &Pictures<'_>) -> Result<()> {
        match open(file, pictures)? {
            (_, Some(_)) => Ok(()),
            (model, None) => fitting_classes(&model, file, pictures).map(drop),
        }
    }

    /// Of each image, whether it shows the class of its label most probably, or exactly the objects of its caption.
    ///
    /// # Errors
    /// If the device is lost.
    #[maybe_async]
    pub async fn recognises(&mut self, images: &[f32], labels: &[u32]) -> Result<Vec<bool>> {
        let Some(captions) = &self.captions else { return self.classifier.recognises(images, labels).await };
        let elements = 3 * VIEWED * VIEWED;
        let mut recognised = Vec::with_capacity(labels.len());
        for (images, labels) in images.chunks(PICTURES * elements).zip(labels.chunks(PICTURES)) {
            let views: Vec<f32> = images.chunks(elements).flat_map(views).collect();
            let probabilities = self.classifier.probabilities(&views).await?;
            let pictures = probabilities.chunks(VIEWS * (1 + KINDS)).zip(labels);
            recognised.extend(pictures.map(|(views, label)| are_demanded(&counts(views), captions[*label as usize])));
        }
        Ok(recognised)
    }
}

/// The classifier in a file, and the captions of the conditions if it is one of coloured shapes.
fn open(file: &str, pictures: &Pictures<'_>) -> Result<(StoredModel, Option<Vec<&'static Caption>>)> {
    let model = assets::load_model(file)?;
    let network = model.classifier(file)?;
    let is_of_views = (network.image_size, network.channels) == (VIEW, 3) && model.class_names == view_names();
    if !is_of_views || pictures.shape == ImageShape::square(3, VIEW) {
        return Ok((model, None));
    }
    let expected = ImageShape::square(3, VIEWED);
    if pictures.shape != expected {
        return Err(Error::input(format!(
            "{file} judges {expected} with coloured shapes, but the model makes {}: choose another judge",
            pictures.shape
        )));
    }
    let captions = captions_of(pictures, &format!("the judge {file}"))?;
    Ok((model, Some(captions)))
}

/// How many objects of each kind a picture has, from the probabilities `[VIEWS, 1 + KINDS]` of its views: the mean over
/// the grids of the sum over the cells.
fn counts(probabilities: &[f32]) -> [usize; KINDS] {
    std::array::from_fn(|kind| {
        let of_kind = probabilities.chunks(1 + KINDS).map(|view| f64::from(view[1 + kind]));
        (of_kind.sum::<f64>() / GRIDS as f64).round() as usize
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::Classes;
    use crate::model::{ClassifierConfig, ModelKind};

    #[test]
    fn probabilities_of_neighbouring_views_add_up_to_objects() {
        let mut probabilities = vec![0.0; VIEWS * (1 + KINDS)];
        // Two objects of kind 3: one is seen once in each grid, one is shared by two cells of each.
        for (view, share) in [(0, 1.0), (70, 1.0), (150, 1.0), (20, 0.4), (21, 0.6), (90, 0.7), (91, 0.3), (180, 0.9)] {
            probabilities[view * (1 + KINDS) + 4] = share;
        }
        // Doubts about another kind.
        probabilities[33 * (1 + KINDS) + 15] = 0.9;
        let mut expected = [0; KINDS];
        expected[3] = 2;
        assert_eq!(counts(&probabilities), expected);
    }

    #[test]
    fn a_judge_of_shapes_takes_their_pictures_and_captions() {
        let folder = tempfile::tempdir().unwrap();
        let network = ClassifierConfig { image_size: VIEW, channels: 3, hidden_size: 2, num_classes: 1 + KINDS };
        let file = |names: Vec<String>| {
            let model = ModelKind::Classifier(network.clone()).with(names, network.initial_weights(0));
            let path = folder.path().join("judge.safetensors");
            std::fs::write(&path, model.to_bytes()).unwrap();
            path.display().to_string()
        };
        let check = |file: &str, size: usize, caption: &str| {
            let names = ["a disc".to_owned(), caption.to_owned()];
            let classes = Classes { of: "the model", count: 2, names: &names };
            Judge::check(file, &Pictures { shape: ImageShape::square(3, size), classes, prompts: &[] })
        };
        let judge = file(view_names());
        check(&judge, VIEWED, "three red discs").unwrap();
        let says = |result: Result<()>, text: &str| {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(text), "{message}");
        };
        says(
            check(&judge, 32, "three red discs"),
            "judges 24x24 images of 3 channels with coloured shapes, but the model",
        );
        says(check(&judge, VIEWED, "five red discs"), "cannot score class 2: \"five red discs\" is not a caption");
        // A classifier of other classes has to take the model's pictures.
        let other = file((0..=KINDS).map(|class| class.to_string()).collect());
        says(check(&other, VIEWED, "three red discs"), "takes 15x15 images of 3 channels, but the model makes 24x24");
    }
}

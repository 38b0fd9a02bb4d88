//! A pipeline and images with captions as what `pretrain` starts from.

use std::path::Path;
use std::sync::Arc;

use super::base::Base;
use super::kept::ManyPrompts;
use super::latents::{ImagesToEncode, Latents};
use super::pipeline::Encoders;
use crate::config::Config;
use crate::data::Captions;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::model::text::EncoderChoice;
use crate::model::{Prompt, Shared, StoredModel};
use crate::run::Verbosity;

/// A text-to-image model with images that it is to learn, before anything large is read. A caption is a condition, once
/// for all images that have it; "no condition" is the empty caption.
#[derive(Debug)]
pub struct Captioned {
    base: Base,
    images: Captions,
    /// The captions without repetitions.
    captions: Vec<Prompt>,
    /// Which of them each image has.
    labels: Vec<u32>,
    encoders: Encoders,
    flipped: bool,
}

impl Captioned {
    /// Opens the model that a configuration names as `folder`, and finds images and captions. Images are not read yet.
    ///
    /// # Errors
    /// [`crate::Error::Input`] if a file is missing, damaged or not supported, `model.size` does not suit the model, or
    /// captions and images do not belong together.
    pub fn open(config: &Config, folder: &str) -> Result<Self> {
        let base = Base::open(folder, config.model.size)?;
        let path = config.data.path.as_deref().unwrap_or(Path::new(""));
        let images = Captions::find(path, base.picture_shape())?;
        let (texts, labels) = images.distinct();
        let captions = texts.iter().map(|text| Prompt::from(text.as_str())).collect();
        let encoders = base.model.encoders(EncoderChoice::usual(config.prompts.t5))?;
        Ok(Self { base, images, captions, labels, encoders, flipped: config.data.horizontal_flip })
    }

    /// The images.
    pub fn images(&self) -> &Captions {
        &self.images
    }

    /// The model as plans need it, without the embeddings of its captions.
    ///
    /// # Errors
    /// [`crate::Error::Input`] if the transformer's file does not fit its configuration.
    pub fn planned(&self) -> Result<StoredModel> {
        self.base.planned(&self.captions, self.encoders.prompts.tokens())
    }

    /// The model with the embeddings of the captions, and the latents of the images: from files in `folder`, or by the
    /// autoencoder and then one text encoder after the other, which write these files. `warn` is given what was cut off
    /// captions that are too long, and why a file is not used that is there.
    ///
    /// # Errors
    /// [`crate::Error::Input`] if an image or the file of a part is damaged; if the device does not have enough memory; if
    /// a file cannot be written.
    pub fn encoded(
        &self,
        gpu: &Arc<Gpu>,
        folder: &Path,
        verbosity: Verbosity,
        warn: impl Fn(&str),
    ) -> Result<(StoredModel, Latents)> {
        let images = ImagesToEncode { images: &self.images, decoder: &self.base.decoder, flipped: self.flipped };
        let latents = images.encoded(gpu, folder, self.labels.clone(), verbosity, &warn)?;
        let many = ManyPrompts { encoders: &self.encoders, prompts: &self.captions, negative: "" };
        let conditions = many.encoded(gpu, folder, verbosity, &warn)?;
        Ok((self.base.with(Shared(Arc::new(conditions)))?, latents))
    }
}

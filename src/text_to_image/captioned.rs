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
use crate::graph::{DeviceProfile, PartMemory};
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

    /// What encodes images and captions, each alone on such a device, in words.
    ///
    /// # Errors
    /// As [`crate::model::text::PromptEncoder::planned`].
    pub fn planned_encoders(&self, profile: &DeviceProfile) -> Result<Vec<(String, PartMemory)>> {
        let images = self.base.decoder.planned_encoder(self.images.shape, profile)?;
        // The empty caption is one more.
        let captions = self.encoders.planned(self.captions.len() + 1, profile)?;
        Ok(vec![("the encoder of images".to_owned(), images), captions])
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
        let (decoder, labels) = (&self.base.decoder, &self.labels);
        let images = ImagesToEncode { images: &self.images, decoder, flipped: self.flipped, labels };
        let captions = ManyPrompts { encoders: &self.encoders, prompts: &self.captions, negative: "" };
        let of_images = images.file(folder, verbosity, &warn)?;
        let of_captions = captions.file(folder, verbosity, &warn)?;
        let (latents, conditions) = (images.found(&of_images), captions.found(&of_captions));
        // Encoding takes long: there must be room for all that is missing before any of it is encoded.
        if latents.is_none() {
            images.check_room(gpu)?;
        }
        if conditions.is_none() {
            captions.check_room(gpu)?;
        }
        let latents = latents.map_or_else(|| images.written(gpu, &of_images), Ok)?;
        let conditions = conditions.map_or_else(|| captions.written(gpu, &of_captions), Ok)?;
        Ok((self.base.with(Shared(Arc::new(conditions)))?, latents))
    }
}

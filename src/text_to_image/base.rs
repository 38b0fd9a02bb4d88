//! A pipeline as what training starts from, before anything large is read.

use std::sync::Arc;

use super::pipeline::{TextToImage, folder_of};
use super::plan::Unencoded;
use crate::error::{Error, Result};
use crate::model::{FlowModel, PictureDecoder, Prompt, PromptSource, Shared, StoredModel, StoredTransformer, Weights};
use crate::shape::ImageShape;

/// The parts of a pipeline that training needs.
#[derive(Debug)]
pub(super) struct Base {
    pub model: TextToImage,
    pub decoder: Arc<PictureDecoder>,
    /// Height and width of the latents.
    pub size: [usize; 2],
}

impl Base {
    /// Opens the model that `model.folder` names, for pictures of this width and height or, without them, of the size that
    /// it proposes.
    ///
    /// # Errors
    /// [`Error::Input`] if a file is missing, damaged or not supported, or `model.size` does not suit the model.
    pub fn open(folder: &str, size: Option<[usize; 2]>) -> Result<Self> {
        let Some(path) = folder_of(folder)? else {
            return Err(Error::input(format!(
                "`model.folder` is {folder}, which is not a text-to-image model: a folder with a model_index.json or a \
                 transformer is needed"
            )));
        };
        Self::of(TextToImage::open(&path, None)?, size)
    }

    /// The same for a model that is open.
    ///
    /// # Errors
    /// [`Error::Input`] if its decoder is damaged, or `model.size` does not suit the model.
    pub fn of(model: TextToImage, size: Option<[usize; 2]>) -> Result<Self> {
        let decoder = Arc::new(model.decoder(None)?);
        let picture = size.map(|[width, height]| [height, width]);
        let size = model.latent_size("`model.size`", picture, decoder.factor())?;
        Ok(Self { model, decoder, size })
    }

    /// The shape of the pictures.
    pub fn picture_shape(&self) -> ImageShape {
        let [height, width] = self.size.map(|extent| extent * self.decoder.factor());
        ImageShape { channels: 3, height, width }
    }

    /// The model with these prompts, which are its classes.
    ///
    /// # Errors
    /// [`Error::Input`] if the transformer's file does not fit its configuration.
    pub fn with(&self, prompts: Shared<dyn PromptSource>) -> Result<StoredModel> {
        let weights = StoredTransformer::new(self.model.network(), self.size, self.model.transformer())?;
        let names: Vec<String> = prompts.prompts().iter().map(|prompt| prompt.text.clone()).collect();
        let mut model = self.model.flow_model(self.size, prompts, Shared(self.decoder.clone()));
        model.published = Some(Shared(Arc::new(weights.clone())));
        Ok(StoredModel::of(&FlowModel::Text(model), &names, Weights::Transformer(weights)))
    }

    /// The same as plans need it, without the embeddings of the prompts, which have so many tokens.
    ///
    /// # Errors
    /// As [`Base::with`].
    pub fn planned(&self, prompts: &[Prompt], tokens: usize) -> Result<StoredModel> {
        self.with(Shared(Arc::new(Unencoded { prompts: prompts.to_vec(), tokens })))
    }
}

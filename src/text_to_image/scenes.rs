//! Scenes of shapes as what `pretrain` learns from: with a new model that knows their words, or with the pipeline of one.

use std::sync::Arc;

use super::base::Base;
use super::conditions::Conditions;
use crate::config::{Config, ModelSizes, TextInput};
use crate::data::Scenes;
use crate::error::{Error, Result};
use crate::flow::schedule::Schedule;
use crate::model::WordPrompts;
use crate::model::folder::{MODEL_INDEX, words_index};
use crate::model::{
    FlowModel, MmditConfig, PictureDecoder, PipelineFile, Prompt, Shared, StoredModel, StoredTransformer, TextModel,
    TextNetwork, Weights,
};
use crate::shapes;

/// A text-to-image model with scenes that it is to learn. A caption is a condition; "no condition" is the empty caption.
#[derive(Debug)]
pub struct SceneLesson {
    /// The model, with the embeddings of all captions.
    pub model: StoredModel,
    /// The scenes.
    pub scenes: Scenes,
    /// Whether the model begins with random weights.
    pub is_new: bool,
}

impl SceneLesson {
    /// A new model of these sizes.
    ///
    /// # Errors
    /// [`Error::Input`] if the sizes do not fit together, or captions have more words than prompts may have.
    pub fn new(config: &Config, sizes: ModelSizes, TextInput::Words { tokens }: TextInput) -> Result<Self> {
        let vocabulary = shapes::vocabulary();
        let words = WordPrompts::new("the vocabulary of the scenes", &vocabulary, tokens)?;
        let scenes = Scenes::new(sizes.image_size);
        let network = TextNetwork::Mmdit(MmditConfig {
            patch_size: sizes.patch_size,
            channels: sizes.channels,
            depth: sizes.depth,
            num_heads: sizes.num_heads,
            head_dim: sizes.hidden_size / sizes.num_heads,
            context_dim: words.width(),
            pooled_dim: words.width(),
            positions_side: sizes.image_size / sizes.patch_size,
            dual_attention: Default::default(),
            qk_norm: true,
            usual_side: sizes.image_size,
        });
        let mut model = TextModel {
            size: [sizes.image_size; 2],
            schedule: Schedule::default(),
            prompts: Shared(Arc::new(conditions(&words, &scenes)?)),
            decoder: Shared(Arc::new(PictureDecoder::of_pixels(1.0))),
            published: None,
            network,
        };
        let TextNetwork::Mmdit(of_network) = &model.network else { unreachable!("it is one") };
        of_network.check("[model]")?;
        // The index is written last: without it, the folder is no pipeline.
        let beside: Vec<PipelineFile> = vec![
            ("transformer/config.json", of_network.to_json().into()),
            ("tokenizer/vocab.txt", vocabulary.iter().flat_map(|word| [*word, "\n"]).collect::<String>().into()),
            (MODEL_INDEX, words_index().into()),
        ];
        let drawn = StoredTransformer::drawn(&model, config.run.seed, beside)?;
        model.published = Some(Shared(Arc::new(drawn.clone())));
        Ok(Self { model: named(model, Weights::Transformer(drawn)), scenes, is_new: true })
    }

    /// The model that a configuration names as `folder`.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read or takes no words, or its images are not square.
    pub fn open(config: &Config, folder: &str) -> Result<Self> {
        let base = Base::open(folder, config.model.size)?;
        let words = base.model.words()?.ok_or_else(|| {
            Error::input(format!(
                "`data.kind` = \"shapes\" is for models that know words, and `model.folder` = {folder} has text encoders: \
                 choose images with captions"
            ))
        })?;
        let [height, width] = base.size;
        if height != width {
            return Err(Error::input(format!(
                "`model.size` is {width}x{height}, but scenes are square: make both equal"
            )));
        }
        let scenes = Scenes::new(height);
        let model = base.with(Shared(Arc::new(conditions(&words, &scenes)?)))?;
        Ok(Self { model, scenes, is_new: false })
    }
}

/// The captions of all scenes with their embeddings, and the empty caption.
fn conditions(words: &WordPrompts, scenes: &Scenes) -> Result<Conditions> {
    let captions: Vec<Prompt> = scenes.captions().iter().map(|caption| Prompt::from(caption.text.as_str())).collect();
    Conditions::of_words(words, &captions)
}

fn named(model: TextModel, weights: Weights) -> StoredModel {
    let names: Vec<String> = model.prompts.prompts().iter().map(|prompt| prompt.text.clone()).collect();
    StoredModel::of(&FlowModel::Text(model), &names, weights)
}

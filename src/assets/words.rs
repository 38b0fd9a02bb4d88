//! Small text-to-image models that know words, in memory: they need neither a folder nor text encoders.

use std::path::Path;
use std::sync::Arc;

use super::BaseRecord;
use crate::error::{Error, Result};
use crate::flow::schedule::Schedule;
use crate::model::folder::{StoredTensors, to_diffusers};
use crate::model::{
    FlowModel, PIPELINE, PictureDecoder, Prompt, Shared, StoredModel, StoredTransformer, TRANSFORMER, TextModel,
    TextNetwork, Weights, WordPrompts,
};

/// The files of a model that knows words.
#[derive(Clone, Debug)]
pub struct WordFiles<'a> {
    /// What the command line calls it, for files that are made from it.
    pub name: &'a str,
    /// `transformer/config.json`
    pub config: &'a str,
    /// `tokenizer/vocab.txt`
    pub vocabulary: &'a str,
    /// The weights of its transformer, as safetensors.
    pub weights: Vec<u8>,
}

/// The model in such files, with these prompts as its conditions. A file of its weights records which pipeline it belongs
/// to, so that `--model` can be given that file alone.
///
/// # Errors
/// [`Error::Input`] if a file is damaged or does not fit the others, or a prompt has a word that the model does not know.
pub fn word_model(files: WordFiles<'_>, prompts: Vec<Prompt>) -> Result<StoredModel> {
    let WordFiles { name, config, vocabulary, weights } = files;
    let network = TextNetwork::from_json(name, config.as_bytes())?;
    let scale = network.pixel_scale().ok_or_else(|| {
        Error::input(format!("{name} makes latents, but a model that knows words makes pictures: it is something else"))
    })?;
    let [width, _] = network.widths();
    let words = WordPrompts::of_text(name, vocabulary, width)?;
    let tensors = to_diffusers(TRANSFORMER, &StoredTensors::of_bytes(name, weights)?)?;
    let recorded = tensors.metadata().get(PIPELINE).cloned();
    let size = [network.usual_side(); 2];
    let transformer = StoredTransformer::new(&network, size, &tensors)?;
    let names: Vec<String> = prompts.iter().map(|prompt| prompt.text.clone()).collect();
    let mut model = TextModel {
        network,
        size,
        schedule: Schedule::default(),
        prompts: Shared(Arc::new(words.table(prompts)?)),
        decoder: Shared(Arc::new(PictureDecoder::of_pixels(scale))),
        published: None,
    };
    let record = match recorded {
        Some(record) => record,
        None => {
            let weights = Weights::Transformer(transformer.clone());
            let crc32 = StoredModel::of(&FlowModel::Text(model.clone()), &names, weights).crc32()?;
            serde_json::to_string(&BaseRecord { model: name.to_owned(), crc32 }).expect("a name and a number are JSON")
        }
    };
    let transformer = transformer.of_pipeline(record);
    model.published = Some(Shared(Arc::new(transformer.clone())));
    Ok(StoredModel::of(&FlowModel::Text(model), &names, Weights::Transformer(transformer)))
}

/// What a transformer's file says of its pipeline; `None` if it says nothing, or is something else.
///
/// # Errors
/// [`Error::Input`] if it says something that is no record.
pub fn pipeline_of(file: &Path) -> Result<Option<BaseRecord>> {
    if !file.is_file() {
        return Ok(None);
    }
    let Ok(tensors) = StoredTensors::open(file) else { return Ok(None) };
    let record = tensors.metadata().get(PIPELINE).map(|record| serde_json::from_str(record));
    record.transpose().map_err(|cause| {
        Error::input(format!("{}: `{PIPELINE}` in its metadata is not the record of a model ({cause})", file.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::builtin_folder;
    use crate::files::Content;
    use crate::model::TRANSFORMER_WEIGHTS;
    use crate::shapes::{Split, listed};

    fn file(name: &str) -> &'static [u8] {
        let all = builtin_folder("builtin:shapes-base").unwrap();
        all.iter().find(|(found, _)| *found == name).unwrap().1
    }

    fn weights() -> Vec<u8> {
        file(TRANSFORMER_WEIGHTS).to_vec()
    }

    fn files(weights: Vec<u8>) -> WordFiles<'static> {
        let text = |name: &str| std::str::from_utf8(file(name)).unwrap();
        let (config, vocabulary) = (text("transformer/config.json"), text("tokenizer/vocab.txt"));
        WordFiles { name: "builtin:shapes-base", config, vocabulary, weights }
    }

    fn prompts() -> Vec<Prompt> {
        listed(Split::Trained).into_iter().map(Prompt::from).collect()
    }

    #[test]
    fn a_file_of_its_weights_names_its_pipeline_and_gives_the_same_model() {
        let model = word_model(files(weights()), prompts()).unwrap();
        let bytes = model.file().bytes().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tuned.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        let record = pipeline_of(&path).unwrap().unwrap();
        assert_eq!((record.model.as_str(), record.crc32), ("builtin:shapes-base", model.crc32().unwrap()));
        let again = word_model(files(bytes), prompts()).unwrap();
        assert_eq!(again.crc32().unwrap(), record.crc32);
        assert_eq!(again.class_names, model.class_names);
    }

    #[test]
    fn what_names_no_pipeline_is_no_error_and_what_is_no_model_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        assert_eq!(pipeline_of(&path).unwrap(), None);
        std::fs::write(&path, "notes").unwrap();
        assert_eq!(pipeline_of(&path).unwrap(), None);
        let message = word_model(files(b"notes".to_vec()), prompts()).unwrap_err().to_string();
        assert!(message.starts_with("builtin:shapes-base"), "{message}");
        let message = word_model(files(weights()), vec![Prompt::from("a green horse")]).unwrap_err().to_string();
        assert!(message.contains("\"horse\""), "{message}");
    }
}

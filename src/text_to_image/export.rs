//! The pipeline of a model that knows words as a folder of its own, to keep or to pass on.

use std::path::Path;

use half::f16;
use safetensors::tensor::Dtype;

use super::pipeline::TextToImage;
use crate::error::{Error, Result};
use crate::files::read_file;
use crate::model::folder::MODEL_INDEX;
use crate::model::{TRANSFORMER_WEIGHTS, header};
use crate::saved::write_files;

impl TextToImage {
    /// Writes all of the pipeline into a folder, which is new or empty unless files may be replaced; the transformer in 16
    /// bits if asked. The index comes last: without it, the folder is no pipeline.
    ///
    /// # Errors
    /// [`Error::Input`] if the pipeline has more parts than its transformer and its words, the folder is not empty, or a
    /// weight is too large for 16 bits; else if a file cannot be written.
    pub fn export(&self, folder: &Path, half: bool, replace: bool) -> Result<()> {
        let pipeline = self.pipeline();
        if !pipeline.kind.has_words() {
            return Err(Error::input(format!(
                "{} is {}, whose other parts are not changed: copy its folder, and put the transformer there",
                pipeline.folder.display(),
                pipeline.kind.what
            )));
        }
        if !replace && std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            let folder = folder.display();
            return Err(Error::input(format!(
                "cannot write {folder}: it exists and is not empty; choose another name, or write into it with --force"
            )));
        }
        let transformer = self.transformer();
        let dtype = if half { Dtype::F16 } else { Dtype::F32 };
        let described = transformer.tensors().iter().map(|(name, it)| (name.clone(), dtype, it.shape().to_vec()));
        let mut weights = header(described, Some(("format", "pt".to_owned())));
        for (name, stored) in transformer.tensors() {
            let values = stored.read()?;
            if let Some(value) = values.iter().find(|value| half && !f16::from_f32(**value).is_finite()) {
                return Err(Error::input(format!(
                    "{}: tensor `{name}` has {value}, which is too large for 16 bits: export it in 32",
                    transformer.name()
                )));
            }
            match half {
                true => weights.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes())),
                false => weights.extend_from_slice(bytemuck::cast_slice(&values)),
            }
        }
        let mut files = vec![(TRANSFORMER_WEIGHTS, weights.into())];
        for name in ["transformer/config.json", "tokenizer/vocab.txt", MODEL_INDEX] {
            files.push((name, read_file(&pipeline.folder.join(name))?.into()));
        }
        write_files(folder, &files)
    }
}

//! A pipeline and images with captions as what `pretrain` starts from.

use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::base::{Base, T5_TOKENS};
use super::conditions::Conditions;
use super::conditions_file::{FileOptions, encode_to_file};
use super::latents::Latents;
use super::order::counted;
use super::pipeline::Encoders;
use super::prompts::{Prompt, cut_warnings};
use crate::cache;
use crate::config::Config;
use crate::data::Captions;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::text::CLIP_TOKENS;
use crate::model::{Shared, StoredModel};
use crate::run::{Progress, Verbosity};

/// Captions that are encoded together.
const GROUP: usize = 64;

/// A text-to-image model with images that it is to learn, before anything large is read. A caption is a condition, once
/// for all images that have it; "no condition" is the empty caption.
#[derive(Debug)]
pub struct Captioned {
    base: Base,
    images: Captions,
    /// The captions without repetitions.
    texts: Vec<String>,
    /// Which of them each image has.
    labels: Vec<u32>,
    encoders: Encoders,
    flipped: bool,
}

impl Captioned {
    /// Opens the model that a configuration names as `folder`, and finds images and captions. Images are not read yet.
    ///
    /// # Errors
    /// [`Error::Input`] if a file is missing, damaged or not supported, `model.size` does not suit the model, or captions
    /// and images do not belong together.
    pub fn open(config: &Config, folder: &str) -> Result<Self> {
        let base = Base::open(config, folder)?;
        let path = config.data.path.as_deref().unwrap_or(Path::new(""));
        let images = Captions::find(path, base.picture_shape())?;
        let (texts, labels) = images.distinct();
        let encoders = base.model.encoders(config.prompts.t5, T5_TOKENS)?;
        Ok(Self { base, images, texts, labels, encoders, flipped: config.data.horizontal_flip })
    }

    /// The images.
    pub fn images(&self) -> &Captions {
        &self.images
    }

    /// The model as plans need it, without the embeddings of its captions.
    ///
    /// # Errors
    /// [`Error::Input`] if the transformer's file does not fit its configuration.
    pub fn planned(&self) -> Result<StoredModel> {
        self.base.planned(&self.texts, CLIP_TOKENS + self.encoders.t5_tokens)
    }

    /// The latents of the images and the model with the embeddings of their captions: from the cache, or by the
    /// autoencoder and then one text encoder after the other.
    ///
    /// # Errors
    /// [`Error::Input`] if an image or the file of a part is damaged; if the device does not have enough memory; if the
    /// cache cannot be written.
    pub fn encoded(&self, gpu: &Arc<Gpu>, verbosity: Verbosity) -> Result<(StoredModel, Latents)> {
        let decoder = &self.base.decoder;
        let latents = Latents::of(gpu, &self.images, self.labels.clone(), decoder, self.flipped, verbosity)?;
        let conditions = self.conditions(gpu, verbosity)?;
        Ok((self.base.with(Shared(Arc::new(conditions)))?, latents))
    }

    fn conditions(&self, gpu: &Arc<Gpu>, verbosity: Verbosity) -> Result<Conditions> {
        let key = self.describe()?;
        let path = cache::place(&format!("captions-{:08x}.safetensors", crc32fast::hash(key.as_bytes())))?;
        let in_cache = || Conditions::open(&path, &[]).ok().filter(|found| self.is_of_captions(found));
        if let Some(found) = in_cache() {
            return Ok(found);
        }
        let prompts: Vec<Prompt> = self.texts.iter().map(|text| Prompt::from(text.as_str())).collect();
        let mut progress = Progress::new("encoding", prompts.len() as u64, verbosity);
        let options = FileOptions { path: &path, half: false, group: GROUP };
        let cut = encode_to_file(gpu, &self.encoders, &prompts, "", options, &mut |done| {
            progress.update(done as u64, "");
        })?;
        progress.finish(&format!("{} encoded", counted(prompts.len(), "caption")));
        cut_warnings(&cut).iter().for_each(|warning| log::warn!("{warning}"));
        Conditions::open(&path, &[])
    }

    /// Whether conditions in the cache have these captions and the empty one as the negative prompt.
    fn is_of_captions(&self, found: &Conditions) -> bool {
        let fits = found.check(self.base.model.config(), true).is_ok();
        let tokens = CLIP_TOKENS + self.encoders.t5_tokens;
        fits && found.tokens() == tokens && found.prompts() == self.texts && found.negative_prompt() == Some("")
    }

    /// What the embeddings depend on. Text encoders are gigabytes, so their files are known by names, sizes and times.
    fn describe(&self) -> Result<String> {
        let folder = &self.base.model.pipeline().folder;
        let parts = self.base.model.pipeline().components.iter().map(|part| part.name);
        let mut files = Vec::new();
        for part in parts.filter(|name| name.starts_with("text_encoder") || name.starts_with("tokenizer")) {
            files.extend(stamps(&folder.join(part))?);
        }
        let t5 = (self.encoders.prompts.has_t5(), self.encoders.t5_tokens);
        Ok(json!({ "files": files, "t5": t5, "captions": self.texts }).to_string())
    }
}

/// Path, size and time of the last change of the files in a folder, if it exists.
fn stamps(folder: &Path) -> Result<Vec<Value>> {
    let unreadable = |cause| Error::unreadable(folder, cause);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        // Links, of which the hub's cache consists, are followed.
        let about = std::fs::metadata(&path).map_err(|cause| Error::unreadable(&path, cause))?;
        let changed = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let path = std::path::absolute(&path).unwrap_or(path).display().to_string();
        found.push((path, about.len(), changed.map_or(0, |time| time.as_nanos() as u64)));
    }
    found.sort();
    Ok(found.into_iter().map(|stamp| json!(stamp)).collect())
}

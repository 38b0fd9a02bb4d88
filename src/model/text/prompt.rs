//! The prompt embeddings of SD3, joined from those of its three text encoders.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::prompt_table::PromptEmbeddings;
use super::clip::{ClipTextEncoded, encode_clip_text, planned_clip_text};
use super::config::{ClipTextConfig, T5Config, read_config};
use super::encoders::{PromptEncoder, T5};
use super::t5::{encode_t5, planned_t5};
use super::tokenizer::{CLIP_TOKENS, Tokenizer, Tokens};
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{DeviceProfile, PartMemory};

/// The part of T5: `[P, tokens, width]`.
#[derive(Clone, Debug)]
pub struct T5States {
    /// The states; without T5, `None`, which stands for zeros, as in diffusers.
    pub states: Option<Vec<f32>>,
    /// Rows of each prompt.
    pub tokens: usize,
    /// Columns of a row.
    pub width: usize,
}

/// A prompt that was too long for an encoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutPrompt {
    /// Its index among the prompts.
    pub prompt: usize,
    /// The encoder, in words.
    pub encoder: Cow<'static, str>,
    /// Its end, which the encoder did not receive.
    pub lost: String,
}

/// Joins embeddings as diffusers does: the penultimate states of both CLIP models side by side, filled with zeros to the
/// width of T5, then the rows of T5.
///
/// # Panics
/// If the parts do not have the same prompts, or CLIP's states are wider than T5's.
pub fn join_prompt_embeddings(
    prompts: usize,
    clip_tokens: usize,
    clip: [&ClipTextEncoded; 2],
    t5: &T5States,
) -> PromptEmbeddings {
    let widths = clip.map(|clip| clip.penultimate.len() / (prompts * clip_tokens));
    let pooled_widths = clip.map(|clip| clip.pooled.len() / prompts);
    assert!(widths[0] + widths[1] <= t5.width, "CLIP's states of {widths:?} fit into {}", t5.width);
    let tokens = clip_tokens + t5.tokens;
    let mut embeddings = Vec::with_capacity(prompts * tokens * t5.width);
    let mut pooled = Vec::with_capacity(prompts * (pooled_widths[0] + pooled_widths[1]));
    for prompt in 0..prompts {
        for row in prompt * clip_tokens..(prompt + 1) * clip_tokens {
            for (clip, width) in clip.iter().zip(widths) {
                embeddings.extend_from_slice(&clip.penultimate[row * width..][..width]);
            }
            embeddings.resize(embeddings.len() + t5.width - widths[0] - widths[1], 0.0);
        }
        let of_t5 = t5.tokens * t5.width;
        match &t5.states {
            Some(states) => embeddings.extend_from_slice(&states[prompt * of_t5..][..of_t5]),
            None => embeddings.resize(embeddings.len() + of_t5, 0.0),
        }
        for (clip, width) in clip.iter().zip(pooled_widths) {
            pooled.extend_from_slice(&clip.pooled[prompt * width..][..width]);
        }
    }
    let pooled_width = pooled_widths[0] + pooled_widths[1];
    PromptEmbeddings { prompts, tokens, width: t5.width, embeddings, pooled, pooled_width }
}

/// The tokenizers and text encoders in a folder of SD3 in the layout of diffusers: `tokenizer`, `text_encoder` and those
/// with `_2` and `_3`. Weights stay on disk.
#[derive(Debug)]
pub struct Sd3Prompts {
    folder: PathBuf,
    tokenizers: [Tokenizer; 2],
    t5_tokenizer: Option<Tokenizer>,
    /// Rows of T5's states, or of the zeros in their place.
    t5_tokens: usize,
    /// Width of the embeddings, `joint_attention_dim` of the transformer.
    width: usize,
}

impl Sd3Prompts {
    /// Opens the tokenizers. T5 is left out, and its rows are zeros, if the folder lacks `text_encoder_3` or `with_t5` is
    /// false.
    ///
    /// # Errors
    /// [`Error::Input`] if a tokenizer is missing or damaged.
    pub fn open(folder: &Path, with_t5: bool, t5_tokens: usize, width: usize) -> Result<Self> {
        let has_t5 = with_t5 && folder.join(T5).is_dir();
        Ok(Self {
            folder: folder.to_owned(),
            tokenizers: [Tokenizer::open(&folder.join("tokenizer"))?, Tokenizer::open(&folder.join("tokenizer_2"))?],
            t5_tokenizer: has_t5.then(|| Tokenizer::open(&folder.join("tokenizer_3"))).transpose()?,
            t5_tokens,
            width,
        })
    }

    fn check_width(&self, encoder: &str, fits: bool, width: usize) -> Result<()> {
        if fits {
            return Ok(());
        }
        Err(Error::input(format!(
            "{}: {encoder} has embeddings of {width} numbers, but the transformer takes {}: they are of different models",
            self.folder.display(),
            self.width
        )))
    }
}

impl PromptEncoder for Sd3Prompts {
    fn tokens(&self) -> usize {
        CLIP_TOKENS + self.t5_tokens
    }

    fn has_t5(&self) -> bool {
        self.t5_tokenizer.is_some()
    }

    fn encode(&self, gpu: &Arc<Gpu>, prompts: &[&str]) -> Result<(PromptEmbeddings, Vec<CutPrompt>)> {
        if prompts.is_empty() {
            return Err(Error::input("there is no prompt to encode: at least one is needed"));
        }
        let mut cut = Vec::new();
        let mut note = |tokens: &Tokens, encoder: &'static str| {
            let lost = tokens.cut.iter().enumerate();
            let lost = lost
                .filter_map(|(prompt, lost)| Some(CutPrompt { prompt, encoder: encoder.into(), lost: lost.clone()? }));
            cut.extend(lost);
        };
        let mut clip = Vec::new();
        let parts = [("the first CLIP encoder", "text_encoder"), ("the second CLIP encoder", "text_encoder_2")];
        for ((name, encoder), tokenizer) in parts.into_iter().zip(&self.tokenizers) {
            let tokens = tokenizer.encode(prompts, CLIP_TOKENS)?;
            note(&tokens, name);
            let folder = self.folder.join(encoder);
            let config: ClipTextConfig = read_config(&folder.join("config.json"))?;
            clip.push((encode_clip_text(gpu, &config, &Weights::open(&folder, "")?, &tokens)?, config.hidden_size));
        }
        let mut t5 = T5States { states: None, tokens: self.t5_tokens, width: self.width };
        if let Some(tokenizer) = &self.t5_tokenizer {
            let tokens = tokenizer.encode(prompts, self.t5_tokens)?;
            note(&tokens, "T5");
            let folder = self.folder.join(T5);
            let config: T5Config = read_config(&folder.join("config.json"))?;
            self.check_width(T5, config.d_model == self.width, config.d_model)?;
            let states = encode_t5(gpu, &config, &Weights::open(&folder, "")?, &tokens, false);
            t5.states = Some(states.map_err(without_t5)?);
        }
        let width = clip[0].1 + clip[1].1;
        self.check_width("text_encoder and text_encoder_2", width <= self.width, width)?;
        let joined = join_prompt_embeddings(prompts.len(), CLIP_TOKENS, [&clip[0].0, &clip[1].0], &t5);
        Ok((joined, cut))
    }

    fn planned(&self, prompts: usize, profile: &DeviceProfile) -> Result<(&'static str, PartMemory)> {
        planned_encoder(&self.folder, prompts, self.t5_tokenizer.as_ref().map(|_| self.t5_tokens), profile)
    }

    fn check_room(&self, gpu: &Gpu, prompts: usize) -> Result<()> {
        let (encoder, layer) = self.planned(prompts, &DeviceProfile::of(gpu))?;
        let room = gpu.check_memory(gpu.counters().bytes_held + layer.alone());
        if encoder == T5 { room.map_err(without_t5) } else { room }
    }
}

/// What a user can do about a device that is too small for T5.
fn without_t5(cause: Error) -> Error {
    match cause {
        Error::Memory { .. } => cause.followed_by("; T5 can be left out, with `prompts.t5` = false or --no-t5"),
        other => other,
    }
}

/// What the largest layer of the text encoders in a folder of SD3 takes on such a device to encode so many prompts, and its
/// encoder. With `t5_tokens` T5 takes part, and encodes so many tokens.
///
/// # Errors
/// [`Error::Input`] if the configuration of an encoder is missing or not supported; if the device is too small for a tensor
/// of one.
pub(super) fn planned_encoder(
    folder: &Path,
    prompts: usize,
    t5_tokens: Option<usize>,
    profile: &DeviceProfile,
) -> Result<(&'static str, PartMemory)> {
    let config = |encoder: &str| folder.join(encoder).join("config.json");
    let mut found = Vec::new();
    for encoder in ["text_encoder", "text_encoder_2"] {
        let path = config(encoder);
        let sizes = read_config(&path)?;
        let name = path.display().to_string();
        found.push((encoder, planned_clip_text(&name, &sizes, [prompts, CLIP_TOKENS], profile)?));
    }
    if let Some(tokens) = t5_tokens {
        let path = config(T5);
        let sizes: T5Config = read_config(&path)?;
        sizes.check(&path.display().to_string())?;
        let planned = planned_t5(&sizes, [prompts, tokens], false, profile).map_err(without_t5)?;
        found.push((T5, planned));
    }
    Ok(found.into_iter().max_by_key(|(_, memory)| memory.alone()).expect("there are two"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published T5 has matrices of 4096 × 10240 weights.
    #[test]
    fn a_device_that_cannot_be_given_the_matrices_of_t5_is_told_in_the_plan() {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/sd35_tiny_pipeline");
        for encoder in ["text_encoder", "text_encoder_2", "text_encoder_3"] {
            let config = std::fs::read_to_string(pipeline.join(encoder).join("config.json")).unwrap();
            let config =
                config.replace("\"d_ff\": 64", "\"d_ff\": 10240").replace("\"d_model\": 48", "\"d_model\": 4096");
            std::fs::create_dir(folder.path().join(encoder)).unwrap();
            std::fs::write(folder.path().join(encoder).join("config.json"), config).unwrap();
        }
        let planned = |mebibytes: u64, t5_tokens: Option<usize>| {
            let most = Some(mebibytes << 20);
            let profile = DeviceProfile { binding_bytes: most, chunk_bytes: most, ..DeviceProfile::default() };
            planned_encoder(folder.path(), 2, t5_tokens, &profile)
        };
        let [(encoder, whole), (_, halved)] = [160, 128].map(|mebibytes| planned(mebibytes, Some(256)).unwrap());
        assert_eq!(encoder, "text_encoder_3");
        assert_eq!(whole.weights - halved.weights, 3 * (80 << 20), "three matrices of 160 MiB are kept in 16 bits");
        assert!(planned(64, None).is_ok());
        let Err(Error::Memory { shortage, more }) = planned(64, Some(256)) else { panic!("it is too large") };
        assert!(shortage.to_string().contains("80.0 MiB"), "{shortage}");
        assert!(shortage.to_string().contains("layer.1.DenseReluDense"), "{shortage}");
        assert!(more.contains("T5 can be left out"), "{more}");
    }
}

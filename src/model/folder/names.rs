//! Tensor names: maps those of single files and older folders to the names and shapes of current diffusers, which are
//! used everywhere else. No tensor is read for this: a part of a tensor is a range of the file.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::MiniT2iConfig;
use super::tensors::{StoredTensor, StoredTensors};
use super::vae_names;
use crate::error::{Error, Result};

/// Prefixes of the components in a single file.
const PREFIXES: [(&str, &str); 5] = [
    ("model.diffusion_model.", "transformer"),
    ("first_stage_model.", "vae"),
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("text_encoders.t5xxl.transformer.", "text_encoder_3"),
];

/// What a tensor becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Itself.
    Whole,
    /// One of three equal ranges of rows: queries, keys or values.
    Third(usize),
    /// Its two halves of rows, swapped: shift and scale.
    Swapped,
    /// A 1x1 convolution as a matrix.
    Matrix,
    /// A table with a leading dimension of 1, which GGUF files have lost.
    Table,
}

impl Cut {
    fn of(self, stored: &StoredTensor) -> Result<StoredTensor> {
        let shape = stored.shape();
        let part = |count: usize, index: usize| {
            let rows = shape.first().copied().unwrap_or(0);
            if rows == 0 || !rows.is_multiple_of(count) {
                return Err(stored.wrong(format!("has shape {shape:?}, but a multiple of {count} rows is expected")));
            }
            stored.rows(rows / count * index..rows / count * (index + 1))
        };
        let other = |shape: Vec<usize>| stored.reshaped(shape).unwrap_or_else(|| stored.clone());
        Ok(match self {
            Self::Third(index) => part(3, index)?,
            Self::Swapped => StoredTensor::stacked(&[part(2, 1)?, part(2, 0)?]).unwrap_or_else(|| stored.clone()),
            Self::Matrix if shape.len() == 4 => other(shape[..2].to_vec()),
            Self::Table if shape.len() == 2 => other([&[1], shape].concat()),
            Self::Whole | Self::Matrix | Self::Table => stored.clone(),
        })
    }
}

/// New names of a tensor and which part each is; empty if it is left out, `None` if it is unknown.
pub(super) type Renamed = Option<Vec<(String, Cut)>>;

/// The components in a single file, with the names of diffusers.
#[derive(Clone, Debug)]
pub struct SingleFile {
    /// Tensors by component, named as the folders of a pipeline.
    pub components: BTreeMap<&'static str, StoredTensors>,
    /// Number of tensors that belong to none of them.
    pub others: usize,
}

impl SingleFile {
    /// Opens a file with one or several components, which are recognised by the names of their tensors.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read, or if nothing in it is recognised.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(&StoredTensors::open(path)?)
    }

    /// The components in a set of tensors.
    ///
    /// # Errors
    /// [`Error::Input`] if nothing in it is recognised, or if a component has a tensor that it should not have.
    pub fn of(all: &StoredTensors) -> Result<Self> {
        let mut found: BTreeMap<&'static str, BTreeMap<String, StoredTensor>> = BTreeMap::new();
        let mut others = 0;
        for (name, stored) in all.tensors() {
            let place = PREFIXES.iter().find_map(|(prefix, component)| Some((*component, name.strip_prefix(prefix)?)));
            match place {
                Some((component, rest)) => {
                    found.entry(component).or_default().insert(rest.to_owned(), stored.clone());
                }
                None => others += 1,
            }
        }
        if found.is_empty() {
            let Some(component) = component_of(all.tensors()) else {
                return Err(Error::input(format!(
                    "{} has none of the tensors that identify a model: expected a transformer of Stable Diffusion 3 or MiniT2I, \
                     an autoencoder, or a CLIP or T5 text encoder, with the names of diffusers or of the original files",
                    all.name()
                )));
            };
            let only = to_diffusers(component, all)?;
            return Ok(Self { components: BTreeMap::from([(component, only)]), others: 0 });
        }
        let components = found.into_iter().map(|(component, tensors)| {
            Ok((component, to_diffusers(component, &all.with(all.name().to_owned(), tensors))?))
        });
        Ok(Self { components: components.collect::<Result<_>>()?, others })
    }
}

/// The component that tensors without a prefix belong to.
fn component_of(tensors: &BTreeMap<String, StoredTensor>) -> Option<&'static str> {
    let has = |name: &str| tensors.contains_key(name);
    let begins =
        |start: &str| tensors.range(start.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(start));
    let is_sd3 = begins("joint_blocks.") || (begins("transformer_blocks.") && has("pos_embed.proj.weight"));
    if is_sd3 || begins("model.net.double_blocks.") {
        return Some("transformer");
    }
    let is_full = has("decoder.conv_in.weight") || has("encoder.conv_in.weight");
    let is_todays_tiny = has("decoder.layers.0.weight") || has("encoder.layers.0.weight");
    if is_full || is_todays_tiny || vae_names::is_tiny(tensors) {
        return Some("vae");
    }
    if let Some(table) = tensors.get("text_model.embeddings.token_embedding.weight") {
        // OpenCLIP's bigG is the wider one; no other number distinguishes the two.
        return Some(if table.shape().last() >= Some(&1280) { "text_encoder_2" } else { "text_encoder" });
    }
    begins("encoder.block.0.layer.0.SelfAttention.").then_some("text_encoder_3")
}

/// A component's tensors with the names and shapes of current diffusers, whatever names they have.
///
/// # Errors
/// [`Error::Input`] for a tensor that the component does not have, or that cannot be divided as needed.
pub fn to_diffusers(component: &str, all: &StoredTensors) -> Result<StoredTensors> {
    let tensors = all.tensors();
    let rename: Box<dyn Fn(&str) -> Renamed> = match component {
        "transformer" if tensors.contains_key("x_embedder.proj.weight") => {
            let block = |name: &String| name.strip_prefix("joint_blocks.")?.split('.').next()?.parse::<usize>().ok();
            let last = tensors.keys().filter_map(block).max();
            Box::new(move |name| transformer(name, last))
        }
        "transformer" if tensors.keys().any(|name| name.starts_with(MiniT2iConfig::PREFIX)) => {
            Box::new(|name| whole(name.strip_prefix(MiniT2iConfig::PREFIX)?))
        }
        "vae" if vae_names::is_tiny(tensors) => Box::new(vae_names::tiny),
        "vae" => {
            let levels = vae_names::levels(tensors);
            Box::new(move |name| vae_names::full(name, levels))
        }
        "text_encoder" | "text_encoder_2" => Box::new(|name| match name.ends_with(".position_ids") {
            true => Some(Vec::new()),
            false => whole(name),
        }),
        "text_encoder_3" => {
            let has_shared = tensors.contains_key("shared.weight");
            Box::new(move |name| match name {
                "encoder.embed_tokens.weight" if has_shared => Some(Vec::new()),
                "encoder.embed_tokens.weight" => whole("shared.weight"),
                _ => whole(name),
            })
        }
        _ => Box::new(|name| whole(name)),
    };
    let mut renamed = BTreeMap::new();
    for (name, stored) in tensors {
        let Some(parts) = rename(name) else {
            return Err(stored.wrong(format!("is not one that a {component} of a supported model has")));
        };
        for (new, cut) in parts {
            let part = cut.of(stored)?;
            if renamed.insert(new.clone(), part).is_some() {
                return Err(stored.wrong(format!("is a second `{new}`: the file has that tensor under two names")));
            }
        }
    }
    Ok(all.with(all.name().to_owned(), renamed))
}

/// A tensor that keeps its shape.
pub(super) fn whole(name: impl Into<String>) -> Renamed {
    Some(vec![(name.into(), Cut::Whole)])
}

/// The transformer of Stable Diffusion 3 in the original names (Esser et al. 2024); `last` is the number of its last
/// block.
fn transformer(name: &str, last: Option<usize>) -> Renamed {
    if name == "pos_embed" {
        return Some(vec![("pos_embed.pos_embed".into(), Cut::Table)]);
    }
    if let Some(rest) = name.strip_prefix("joint_blocks.") {
        let (index, rest) = rest.split_once('.')?;
        let is_last = Some(index.parse::<usize>().ok()?) == last;
        let parts = match rest.split_once('.')? {
            ("x_block", rest) => image_block(rest),
            ("context_block", rest) => text_block(rest, is_last),
            _ => None,
        }?;
        let parts = parts.into_iter().map(|(part, cut)| (format!("transformer_blocks.{index}.{part}"), cut));
        return Some(parts.collect());
    }
    let (layer, part) = name.rsplit_once('.')?;
    let (new, cut) = match layer {
        "x_embedder.proj" => ("pos_embed.proj", Cut::Whole),
        "context_embedder" => ("context_embedder", Cut::Whole),
        "t_embedder.mlp.0" => ("time_text_embed.timestep_embedder.linear_1", Cut::Whole),
        "t_embedder.mlp.2" => ("time_text_embed.timestep_embedder.linear_2", Cut::Whole),
        "y_embedder.mlp.0" => ("time_text_embed.text_embedder.linear_1", Cut::Whole),
        "y_embedder.mlp.2" => ("time_text_embed.text_embedder.linear_2", Cut::Whole),
        // The original order is shift, scale; that of diffusers is scale, shift.
        "final_layer.adaLN_modulation.1" => ("norm_out.linear", Cut::Swapped),
        "final_layer.linear" => ("proj_out", Cut::Whole),
        _ => return None,
    };
    Some(vec![(format!("{new}.{part}"), cut)])
}

/// The three parts of a joined matrix of queries, keys and values.
fn thirds(names: [&str; 3], part: &str) -> Renamed {
    Some(names.iter().enumerate().map(|(index, name)| (format!("{name}.{part}"), Cut::Third(index))).collect())
}

fn image_block(rest: &str) -> Renamed {
    let (layer, part) = rest.rsplit_once('.')?;
    let new = match layer {
        "attn.qkv" => return thirds(["attn.to_q", "attn.to_k", "attn.to_v"], part),
        "attn2.qkv" => return thirds(["attn2.to_q", "attn2.to_k", "attn2.to_v"], part),
        "attn.ln_q" => "attn.norm_q",
        "attn.ln_k" => "attn.norm_k",
        "attn2.ln_q" => "attn2.norm_q",
        "attn2.ln_k" => "attn2.norm_k",
        "attn.proj" => "attn.to_out.0",
        "attn2.proj" => "attn2.to_out.0",
        "adaLN_modulation.1" => "norm1.linear",
        "mlp.fc1" => "ff.net.0.proj",
        "mlp.fc2" => "ff.net.2",
        _ => return None,
    };
    whole(format!("{new}.{part}"))
}

fn text_block(rest: &str, is_last: bool) -> Renamed {
    let (layer, part) = rest.rsplit_once('.')?;
    let new = match layer {
        "attn.qkv" => return thirds(["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"], part),
        "attn.ln_q" => "attn.norm_added_q",
        "attn.ln_k" => "attn.norm_added_k",
        "attn.proj" => "attn.to_add_out",
        // The last block has only shift and scale, like the final layer.
        "adaLN_modulation.1" if is_last => return Some(vec![(format!("norm1_context.linear.{part}"), Cut::Swapped)]),
        "adaLN_modulation.1" => "norm1_context.linear",
        "mlp.fc1" => "ff_context.net.0.proj",
        "mlp.fc2" => "ff_context.net.2",
        _ => return None,
    };
    whole(format!("{new}.{part}"))
}

//! Adapters in the file that diffusers' pipelines write and read, `pytorch_lora_weights.safetensors`: the matrices,
//! with the name of the pipeline's part as prefix, and PEFT's configuration in the header.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::adapter::Adapter;
use super::file::{ModelKind, Tensors, gather, parse, scatter, serialize};
use super::lora::{Adaptable, Lora};
use crate::error::{Error, Result};
use crate::files::{read_file, write_atomically};

/// The file's name in a folder.
pub const DIFFUSERS_ADAPTER: &str = "pytorch_lora_weights.safetensors";

/// The part of a pipeline that an adapter belongs to.
const PREFIX: &str = "transformer.";

/// The entry of the header with the configuration, as JSON.
const KEY: &str = "lora_adapter_metadata";

/// Suffixes of the names of an adapter's matrices.
const ENDS: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];

/// The suffix of a layer's alpha, which some programs write beside the matrices.
const ALPHA: &str = ".alpha";

impl Adapter {
    /// The files of [`Adapter::files`] and, for a text-to-image model, [`DIFFUSERS_ADAPTER`], which diffusers and ComfyUI
    /// load.
    pub fn all_files(&self, kind: &ModelKind) -> Vec<(&'static str, Vec<u8>)> {
        let base = kind.layout();
        let mut files = self.files(&base).to_vec();
        if let ModelKind::Text(_) = kind {
            files.push((DIFFUSERS_ADAPTER, self.to_diffusers(&base)));
        }
        files
    }

    /// Reads a file of diffusers' `save_lora_weights`.
    ///
    /// # Errors
    /// As [`Adapter::from_diffusers`], and if it cannot be read.
    pub fn load_diffusers(path: &Path, base: &impl Adaptable) -> Result<Self> {
        Self::from_diffusers(&path.display().to_string(), &read_file(path)?, base)
    }

    /// [`Adapter::load_diffusers`] from the bytes of the file, which messages call `name`.
    ///
    /// Without a configuration in the header, every layer has the rank of its matrices, and as alpha what a tensor
    /// `LAYER.alpha` says. Without such tensors alpha is the rank, as in diffusers; of layers with different ranks it is
    /// then unknown, because programs disagree: ComfyUI takes the rank of the layer, diffusers that of the first layer.
    ///
    /// # Errors
    /// [`Error::Input`] with the key or tensor that does not fit the network, or is not plain LoRA of a transformer.
    pub fn from_diffusers(name: &str, bytes: &[u8], base: &impl Adaptable) -> Result<Self> {
        let (mut tensors, metadata) = parse(name, bytes)?;
        if let Some(tensor) = tensors.keys().find(|tensor| !is_known(tensor)) {
            return Err(foreign(name, tensor));
        }
        let prefix = format!("{PREFIX}{}", base.parameters().prefix());
        let alphas = take_alphas(name, &prefix, &mut tensors)?;
        let lora = match (metadata.get(KEY), alphas.keys().next()) {
            (Some(text), None) => Lora::from_peft(&format!("{name}: `{KEY}`"), &configuration(name, text)?, base)?,
            (None, _) => of_tensors(name, &prefix, (&tensors, &alphas), base)?,
            (Some(_), Some(layer)) => {
                return Err(Error::input(format!(
                    "{name} has alphas twice, in the entry `{KEY}` of its header and in tensors such as \
                     `{prefix}{layer}{ALPHA}`: remove one of the two"
                )));
            }
        };
        let weights = gather(name, &lora.layout_named(base, PREFIX), tensors)?;
        Ok(Self { lora, weights })
    }

    /// The bytes of such a file.
    pub fn to_diffusers(&self, base: &impl Adaptable) -> Vec<u8> {
        let Value::Object(keys) = self.lora.to_peft() else { unreachable!("a configuration is an object") };
        let keys: Map<String, Value> = keys.into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value)).collect();
        let text = serde_json::to_string_pretty(&keys).expect("names and numbers are JSON");
        serialize(&scatter(&self.lora.layout_named(base, PREFIX), &self.weights), Some((KEY, text)))
    }

    /// Writes such a file atomically.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save_diffusers(&self, path: &Path, base: &impl Adaptable) -> Result<()> {
        write_atomically(path, &self.to_diffusers(base))
    }
}

fn is_known(tensor: &str) -> bool {
    tensor.starts_with(PREFIX) && ENDS.iter().chain([&ALPHA]).any(|end| tensor.ends_with(end))
}

/// The error for a tensor of an adapter of another kind, or with the names of another program.
fn foreign(name: &str, tensor: &str) -> Error {
    let has = |parts: &[&str]| parts.iter().any(|part| tensor.contains(part));
    let begins = |parts: &[&str]| parts.iter().any(|part| tensor.starts_with(part));
    let save = "save only the adapter of the transformer, with a current version of diffusers";
    let (what, remedy) = match () {
        () if has(&["lora_magnitude_vector", "dora_scale"]) => (" of DoRA", "train plain LoRA"),
        () if has(&["hada_w", "lokr_w", "oft_"]) => (" of another method than LoRA", "train plain LoRA"),
        () if begins(&["lora_unet_", "lora_te", "lora_transformer_"]) => {
            (" with a name of kohya's scripts", "convert the file to the names of diffusers")
        }
        () if begins(&["diffusion_model.", "model.diffusion_model."]) => {
            (" with a name of ComfyUI", "convert the file to the names of diffusers")
        }
        () if begins(&["text_encoder"]) => (" of a text encoder", save),
        () if begins(&["unet."]) => (" of a U-Net, as of Stable Diffusion XL", "name an adapter of this model"),
        () if has(&[".lora.down.", ".lora.up.", ".lora_down.", ".lora_up."]) => {
            (" with a name of older programs", save)
        }
        () => ("", save),
    };
    Error::input(format!(
        "{name} has a tensor `{tensor}`{what}, but only those named `{PREFIX}LAYER{}` and `{PREFIX}LAYER{}` can be read: \
         {remedy}",
        ENDS[0], ENDS[1]
    ))
}

/// Takes the alphas out of the tensors, by layer.
fn take_alphas(name: &str, prefix: &str, tensors: &mut Tensors) -> Result<BTreeMap<String, f32>> {
    let mut alphas = BTreeMap::new();
    for (tensor, (shape, values)) in tensors.extract_if(.., |tensor, _| tensor.ends_with(ALPHA)) {
        match values[..] {
            [alpha] if alpha.is_finite() => {
                let layer = tensor.strip_prefix(prefix).and_then(|tensor| tensor.strip_suffix(ALPHA));
                alphas.insert(layer.unwrap_or_default().to_owned(), alpha)
            }
            [alpha] => return Err(Error::input(format!("{name}: tensor `{tensor}` is {alpha}, which is not finite"))),
            _ => {
                return Err(Error::input(format!(
                    "{name}: tensor `{tensor}` has shape {shape:?}, but a single number is expected"
                )));
            }
        };
    }
    Ok(alphas)
}

/// The configuration as in PEFT's own file: without the name of the part, and with the type, which is implied here.
fn configuration(name: &str, text: &str) -> Result<Vec<u8>> {
    let keys: Map<String, Value> = serde_json::from_str(text).map_err(|cause| {
        Error::input(format!("{name} has an entry `{KEY}` in its header that is not JSON: {cause}"))
    })?;
    let mut inner: Map<String, Value> =
        keys.into_iter().filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?.to_owned(), value))).collect();
    inner.entry("peft_type").or_insert_with(|| "LORA".into());
    Ok(serde_json::to_vec(&inner).expect("it was JSON"))
}

/// The layers that the tensors belong to, with these alphas if there are any.
fn of_tensors(
    name: &str,
    prefix: &str,
    (tensors, alphas): (&Tensors, &BTreeMap<String, f32>),
    base: &impl Adaptable,
) -> Result<Lora> {
    let layers = tensors.keys().filter_map(|tensor| tensor.strip_prefix(prefix)?.strip_suffix(ENDS[0]));
    let targets: Vec<String> = layers.map(str::to_owned).collect();
    let rank = |layer: &str| tensors.get(&format!("{prefix}{layer}{}", ENDS[0])).map_or(0, |(shape, _)| shape[0]);
    // A scalar has no rank.
    if let Some((tensor, _)) = tensors.iter().find(|(_, (shape, _))| shape.len() < 2 || shape.contains(&0)) {
        return Err(Error::input(format!(
            "{name}: tensor `{tensor}` has shape {:?}, but a matrix is expected",
            tensors[tensor].0
        )));
    }
    let alpha = |layer: &str| alphas.get(layer).copied().unwrap_or(rank(layer) as f32);
    let lora = Lora::new(name, base, &targets, |layer| (rank(layer), alpha(layer)))?;
    if lora.layers().is_empty() {
        return Err(Error::input(format!("{name} has no tensors of an adapter")));
    }
    check_alphas(name, prefix, &lora, alphas)?;
    Ok(lora)
}

/// Checks that either every layer has an alpha, and no other has, or all have the same rank.
fn check_alphas(name: &str, prefix: &str, lora: &Lora, alphas: &BTreeMap<String, f32>) -> Result<()> {
    let layers = lora.layers();
    let wrong = if alphas.is_empty() {
        layers.iter().find(|layer| layer.rank != layers[0].rank).map(|other| {
            format!(
                "{name} has rank {} at {} and {} at {}, but no alphas and no entry `{KEY}` in its header: programs \
                 disagree on how strong such layers are; save it with a current version of diffusers",
                layers[0].rank, layers[0].layer, other.rank, other.layer
            )
        })
    } else {
        let without = layers.iter().find(|layer| !alphas.contains_key(&layer.layer));
        let without =
            without.map(|it| format!("{name} has no tensor `{prefix}{}{ALPHA}`, but other layers have", it.layer));
        let is_alone = |layer: &&String| !layers.iter().any(|it| it.layer == **layer);
        let alone = alphas.keys().find(is_alone);
        let alone =
            alone.map(|layer| format!("{name} has a tensor `{prefix}{layer}{ALPHA}`, but no matrices of that layer"));
        alone.or(without)
    };
    wrong.map_or(Ok(()), |message| Err(Error::input(message)))
}

//! Adapters: LoRA's matrices, their files in PEFT's format, and merging them into the weights of the base.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::file::{gather, parse_tensors, scatter, serialize};
use super::flow_model::FlowModel;
use super::layout::{Entry, Layout, MOST};
use super::lora::{Adaptable, Lora, LoraLayer, matches};
use crate::config;
use crate::error::{Error, Result};
use crate::files::{read_file, without_mark, write_atomically};

/// The file with an adapter's configuration.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The file with its matrices.
pub const ADAPTER_MODEL: &str = "adapter_model.safetensors";

/// PEFT's prefix for the name of a layer.
const PREFIX: &str = "base_model.model.";

/// LoRA's matrices for a network, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The adapted layers.
    pub lora: Lora,
    /// All A and B, laid out according to [`Lora::layout`].
    pub weights: Vec<f32>,
}

/// The keys of `adapter_config.json` that are used here.
#[derive(Deserialize)]
struct PeftConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    target_modules: Vec<String>,
    #[serde(default)]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
    /// The factor is alpha / sqrt(rank).
    #[serde(default)]
    use_rslora: bool,
}

/// Keys that change what an adapter computes, or which tensors it has: only this value or `null` is plain LoRA.
fn plain_values() -> [(&'static str, Value); 16] {
    let no = || json!(false);
    [
        ("bias", json!("none")),
        ("use_dora", no()),
        ("lora_bias", no()),
        ("fan_in_fan_out", no()),
        ("use_qalora", no()),
        ("use_bdlora", no()),
        ("kasa_config", Value::Null),
        ("arrow_config", Value::Null),
        ("monteclora_config", Value::Null),
        ("modules_to_save", Value::Null),
        ("layers_to_transform", Value::Null),
        ("exclude_modules", Value::Null),
        ("target_parameters", Value::Null),
        ("layer_replication", Value::Null),
        ("trainable_token_indices", Value::Null),
        ("alora_invocation_tokens", Value::Null),
    ]
}

/// Values of `init_lora_weights` that leave the base unchanged; others (PiSSA, OLoRA, CorDA, LoftQ) change its weights.
const PLAIN_INITIALISATIONS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

impl Adapter {
    /// The adapter that training starts with: that of `lora.adapter`, or a new one drawn from `seed`, whose B is zero so
    /// that it has no effect yet; `None` if all weights are trained.
    ///
    /// # Errors
    /// [`Error::Input`] if a target matches no layer, or as for [`Adapter::load`].
    pub fn begin(settings: &config::Lora, seed: u64, model: &FlowModel) -> Result<Option<Self>> {
        if let Some(folder) = &settings.adapter {
            let adapter = Self::load(folder, model)?;
            let other = adapter.lora.layers().iter().find(|layer| settings.rank != 0 && layer.rank != settings.rank);
            return match other {
                None => Ok(Some(adapter)),
                Some(LoraLayer { layer, rank, .. }) => Err(Error::input(format!(
                    "`lora.rank` is {}, but `lora.adapter` {} has rank {rank} at {layer}: remove the rank, the adapter \
                     has its own",
                    settings.rank,
                    folder.display()
                ))),
            };
        }
        if settings.rank == 0 {
            return Ok(None);
        }
        let size = (settings.rank, settings.alpha() as f32);
        let lora = Lora::new("`lora.targets`", model, &settings.targets, |_| size)?;
        let weights = lora.initial_weights(model, seed);
        Ok(Some(Self { lora, weights }))
    }

    /// Reads a directory written by PEFT's `save_pretrained`.
    ///
    /// # Errors
    /// [`Error::Input`] with the file, and the key or tensor that does not fit the network or is not plain LoRA.
    pub fn load(folder: &Path, base: &impl Adaptable) -> Result<Self> {
        if folder.exists() && !folder.is_dir() {
            let cause = format!("it is no directory, but that of an adapter is needed, with {ADAPTER_CONFIG}");
            return Err(Error::unreadable(folder, cause));
        }
        let read = |name: &str| read_file(&folder.join(name));
        Self::from_bytes(&folder.display().to_string(), [&read(ADAPTER_CONFIG)?, &read(ADAPTER_MODEL)?], base)
    }

    /// [`Adapter::load`] from the bytes of the two files. `folder` is their directory in messages.
    ///
    /// # Errors
    /// As for [`Adapter::load`].
    pub fn from_bytes(folder: &str, [config, tensors]: [&[u8]; 2], base: &impl Adaptable) -> Result<Self> {
        let lora = Lora::from_peft(&format!("{folder}/{ADAPTER_CONFIG}"), config, base)?;
        let name = format!("{folder}/{ADAPTER_MODEL}");
        let weights = gather(&name, &lora.layout_named(base, PREFIX), parse_tensors(&name, tensors)?)?;
        Ok(Self { lora, weights })
    }

    /// The two files, by name, in PEFT's format.
    pub fn files(&self, base: &impl Adaptable) -> [(&'static str, Vec<u8>); 2] {
        let config = serde_json::to_vec_pretty(&self.lora.to_peft()).expect("names and numbers are JSON");
        let tensors = scatter(&self.lora.layout_named(base, PREFIX), &self.weights);
        [(ADAPTER_CONFIG, config), (ADAPTER_MODEL, serialize(&tensors, Some(("format", "pt".into()))))]
    }

    /// Writes the directory.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn save(&self, folder: &Path, base: &impl Adaptable) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|cause| Error::unwritable(folder, cause))?;
        self.files(base).iter().try_for_each(|(name, bytes)| write_atomically(&folder.join(name), bytes))
    }

    /// Adds `scale` times a layer's part, given by its index in [`Lora::layers`] and by [`Lora::layout`], to the weight of
    /// that layer; `name` is the model in messages.
    ///
    /// # Errors
    /// [`Error::Input`] if a sum is too large for an f32.
    pub fn add_to(&self, name: &str, (ours, index): (&Layout, usize), scale: f64, weight: &mut [f32]) -> Result<()> {
        let added = &self.lora.layers()[index];
        let factor = scale * added.factor();
        let [a, b] = [0, 1].map(|part| {
            let entry = &ours.entries()[2 * index + part];
            &self.weights[entry.offset..][..entry.elements()]
        });
        let inputs = a.len() / added.rank;
        let mut is_finite = true;
        for (row, b) in weight.chunks_mut(inputs).zip(b.chunks(added.rank)) {
            for (column, value) in row.iter_mut().enumerate() {
                let sum: f64 =
                    b.iter().enumerate().map(|(r, b)| f64::from(*b) * f64::from(a[r * inputs + column])).sum();
                let addition = factor * sum;
                if addition != 0.0 {
                    *value = (f64::from(*value) + addition) as f32;
                    is_finite &= value.is_finite();
                }
            }
        }
        match is_finite {
            true => Ok(()),
            false => Err(Error::input(format!(
                "{name} cannot take the adapter at a scale of {scale:?}: the sum for {} is too large for a 32-bit \
                number; choose a smaller scale",
                added.layer
            ))),
        }
    }
}

/// An adapter on its way into the weights of its base.
#[derive(Clone, Debug)]
pub struct Merge {
    /// The base in messages.
    name: String,
    adapter: Adapter,
    scale: f64,
    /// Where the matrices lie in the adapter.
    layout: Layout,
    /// Number of the adapted layer, by the name of its weight.
    layers: BTreeMap<String, usize>,
}

impl Merge {
    /// `scale` times an adapter of a network; `name` is its base in messages.
    pub(super) fn new(name: &str, adapter: Adapter, base: &impl Adaptable, scale: f64) -> Self {
        let layers = adapter.lora.layers().iter().enumerate();
        let layers = layers.map(|(index, layer)| (format!("{}.weight", layer.layer), index)).collect();
        Self { name: name.to_owned(), layout: adapter.lora.layout(base), adapter, scale, layers }
    }

    /// Whether it changes a tensor of the base.
    pub(super) fn changes(&self, entry: &Entry) -> bool {
        self.layers.contains_key(&entry.name)
    }

    /// Adds to the values of a tensor of the base what the adapter adds to it, if that is anything.
    ///
    /// # Errors
    /// [`Error::Input`] if a sum is too large for an f32.
    pub(super) fn apply(&self, entry: &Entry, values: &mut [f32]) -> Result<()> {
        let Some(index) = self.layers.get(&entry.name) else { return Ok(()) };
        self.adapter.add_to(&self.name, (&self.layout, *index), self.scale, values)
    }
}

impl Lora {
    /// Reads an `adapter_config.json`; `name` is its path in messages.
    pub(super) fn from_peft(name: &str, bytes: &[u8], base: &impl Adaptable) -> Result<Self> {
        let unreadable =
            |cause: serde_json::Error| Error::input(format!("{name} is not the configuration of an adapter: {cause}"));
        let keys: Map<String, Value> = serde_json::from_slice(without_mark(bytes)).map_err(unreadable)?;
        for (key, plain) in plain_values() {
            let found = keys.get(key).unwrap_or(&Value::Null);
            // An empty list means the same as `null`.
            let is_empty = found.as_array().is_some_and(Vec::is_empty);
            if !found.is_null() && !is_empty && *found != plain {
                return Err(Error::input(format!(
                    "{name} has `{key}` = {found}: only plain LoRA can be read, which has {plain}"
                )));
            }
        }
        let beginning = keys.get("init_lora_weights").unwrap_or(&Value::Null);
        let is_plain = beginning.as_str().map_or(beginning.is_null() || beginning.is_boolean(), |beginning| {
            PLAIN_INITIALISATIONS.contains(&beginning)
        });
        if !is_plain {
            return Err(Error::input(format!(
                "{name} has `init_lora_weights` = {beginning}, which may have changed the weights of the base: only \
                plain LoRA can be read, which has true, false or one of {PLAIN_INITIALISATIONS:?}; convert it in PEFT \
                with `path_initial_model_for_weight_conversion`"
            )));
        }
        if let Some(Value::String(pattern)) = keys.get("target_modules") {
            return Err(Error::input(format!(
                "{name} has the regular expression `target_modules` = \"{pattern}\": replace it with a list of names"
            )));
        }
        let mut config: PeftConfig = serde_json::from_value(Value::Object(keys)).map_err(unreadable)?;
        let prefix = base.parameters().prefix();
        config.rank_pattern = without_prefix(config.rank_pattern, prefix);
        config.alpha_pattern = without_prefix(config.alpha_pattern, prefix);
        if config.peft_type != "LORA" {
            let found = config.peft_type;
            return Err(Error::input(format!("{name} has `peft_type` = \"{found}\": only \"LORA\" can be read")));
        }
        let size = |layer: &str| {
            let rank = pattern_of(&config.rank_pattern, layer).unwrap_or(config.r);
            let alpha = pattern_of(&config.alpha_pattern, layer).unwrap_or(config.lora_alpha);
            // The same factor, as alpha / rank.
            let alpha = if config.use_rslora { alpha * (rank as f64).sqrt() } else { alpha };
            (rank, alpha as f32)
        };
        let lora = Self::new(&format!("{name}: `target_modules`"), base, &config.target_modules, size)?;
        if lora.layers().is_empty() {
            return Err(Error::input(format!("{name} has an empty list of `target_modules`")));
        }
        check_patterns(&format!("{name}: `rank_pattern`"), &config.rank_pattern, lora.layers())?;
        check_patterns(&format!("{name}: `alpha_pattern`"), &config.alpha_pattern, lora.layers())?;
        let is_wrong = |layer: &&LoraLayer| !(1..=MOST).contains(&layer.rank) || !layer.factor().is_finite();
        match lora.layers().iter().find(is_wrong) {
            None => Ok(lora),
            Some(LoraLayer { layer, rank, alpha }) => Err(Error::input(format!(
                "{name} has rank {rank} and alpha {alpha} at {layer}: expected a rank from 1 to {MOST} and a finite \
                alpha"
            ))),
        }
    }

    /// An `adapter_config.json`; layers whose rank or alpha differs from the first layer's get their own patterns.
    pub(super) fn to_peft(&self) -> Value {
        let number = |value: f32| if value.fract() == 0.0 { json!(value as i64) } else { json!(value) };
        let layers = self.layers();
        let first = &layers[0];
        let ranks = layers
            .iter()
            .filter(|layer| layer.rank != first.rank)
            .map(|layer| (layer.layer.clone(), json!(layer.rank)));
        let alphas = layers.iter().filter(|layer| layer.alpha != first.alpha);
        let alphas = alphas.map(|layer| (layer.layer.clone(), number(layer.alpha)));
        json!({
            "alpha_pattern": alphas.collect::<Map<String, Value>>(),
            "auto_mapping": null,
            "base_model_name_or_path": null,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": number(first.alpha),
            "lora_dropout": 0.0,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": first.rank,
            "rank_pattern": ranks.collect::<Map<String, Value>>(),
            "target_modules": layers.iter().map(|layer| layer.layer.as_str()).collect::<Vec<_>>(),
            "task_type": null,
            "use_dora": false,
            "use_rslora": false,
        })
    }
}

/// Patterns whose keys lack what published files have in front of every name.
fn without_prefix<T>(patterns: BTreeMap<String, T>, prefix: &str) -> BTreeMap<String, T> {
    let own = |pattern: String| pattern.strip_prefix(prefix).map(str::to_owned).unwrap_or(pattern);
    patterns.into_iter().map(|(pattern, value)| (own(pattern), value)).collect()
}

/// The value whose key matches a layer.
fn pattern_of<T: Copy>(patterns: &BTreeMap<String, T>, layer: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| names(pattern, layer)).map(|(_, value)| *value)
}

/// Whether a pattern's key matches a layer, by its full name or its last parts. PEFT uses regular expressions, and a
/// plain name is one that matches itself; no name contains a `*`.
fn names(pattern: &str, layer: &str) -> bool {
    !pattern.contains('*') && matches(pattern, layer)
}

/// Rejects patterns that would assign a layer another value than in PEFT: keys that are not names, and layers with
/// several keys, where PEFT uses the first in the file.
fn check_patterns<T: PartialEq + Display>(
    name: &str,
    patterns: &BTreeMap<String, T>,
    layers: &[LoraLayer],
) -> Result<()> {
    if let Some(pattern) = patterns.keys().find(|pattern| !layers.iter().any(|layer| names(pattern, &layer.layer))) {
        return Err(Error::input(format!(
            "{name} has the key \"{pattern}\", which matches none of the adapter's layers: use full names or their \
             last parts, such as \"attn.qkv\"; regular expressions are not supported"
        )));
    }
    for LoraLayer { layer, .. } in layers {
        let mut found = patterns.iter().filter(|(pattern, _)| names(pattern, layer));
        if let Some((first, value)) = found.next()
            && let Some((second, other)) = found.find(|(_, other)| *other != value)
        {
            return Err(Error::input(format!(
                "{name} sets {layer} to {value} with \"{first}\" and to {other} with \"{second}\": remove one of them"
            )));
        }
    }
    Ok(())
}

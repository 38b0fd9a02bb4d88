//! Adapters (LoRA) in the files of PEFT, of this program and of diffusers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::{Report, bytes_on_disk, stored_as};
use crate::assets::BaseRecord;
use crate::error::{Error, Result};
use crate::files::{read_file, without_mark};
use crate::model::folder::{StoredTensors, family_of_layer};
use crate::model::{ADAPTER_CONFIG, ADAPTER_MODEL};

/// The file that diffusers writes.
pub(super) const DIFFUSERS: &str = "pytorch_lora_weights.safetensors";

/// The suffixes of the names of A and B, as PEFT and older programs write them.
const ENDS: [[&str; 2]; 2] = [[".lora_A.weight", ".lora_B.weight"], [".lora_down.weight", ".lora_up.weight"]];

/// Whether these are the matrices of an adapter.
pub(super) fn is_adapter(tensors: &StoredTensors) -> bool {
    tensors.tensors().keys().any(|name| ENDS.iter().flatten().any(|end| name.ends_with(end)))
}

/// Describes a folder of PEFT.
pub(super) fn folder(folder: &Path) -> Result<Report> {
    let path = folder.join(ADAPTER_CONFIG);
    let bytes = read_file(&path)?;
    let config: Map<String, Value> = serde_json::from_slice(without_mark(&bytes))
        .map_err(|cause| Error::input(format!("{} is not the configuration of an adapter: {cause}", path.display())))?;
    let tensors = StoredTensors::open(&folder.join(ADAPTER_MODEL))?;
    let alpha = config.get("lora_alpha").map(Value::to_string);
    let mut report = describe(&tensors, "PEFT", alpha)?;
    report.path = folder.display().to_string();
    if let Ok(base) = BaseRecord::read(folder) {
        report.notes.push(format!("its base is {}", base.model));
    }
    Ok(report)
}

/// Describes a single file, as diffusers writes it. Newer programs store alpha in its metadata.
pub(super) fn file(tensors: &StoredTensors) -> Result<Report> {
    let metadata = tensors.metadata().get("lora_adapter_metadata");
    let metadata = metadata.and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    let alpha =
        metadata.iter().flatten().find(|(key, _)| key.ends_with("lora_alpha")).map(|(_, value)| value.to_string());
    let is_peft = tensors.tensors().keys().any(|name| name.starts_with("base_model."));
    let mut report = describe(tensors, if is_peft { "PEFT" } else { "diffusers" }, alpha)?;
    if is_peft {
        report.notes.push(format!("name its folder: alpha is in {ADAPTER_CONFIG}"));
    }
    Ok(report)
}

fn describe(tensors: &StoredTensors, format: &str, alpha: Option<String>) -> Result<Report> {
    let mut halves: BTreeMap<&str, [Option<&[usize]>; 2]> = BTreeMap::new();
    for (name, stored) in tensors.tensors() {
        for (end, half) in ENDS.iter().flat_map(|ends| ends.iter().zip(0..)) {
            if let Some(layer) = name.strip_suffix(end) {
                halves.entry(layer).or_default()[half] = Some(stored.shape());
            }
        }
    }
    let (mut ranks, mut targets, mut on) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (layer, shapes) in &halves {
        let [Some([rank, ..]), Some([_, other, ..])] = shapes else {
            return Err(Error::input(format!(
                "{} has no pair of matrices A [rank, inputs] and B [outputs, rank] for the layer `{layer}`: an adapter \
                 needs both",
                tensors.name()
            )));
        };
        if rank != other {
            return Err(Error::input(format!(
                "{} has matrices of the ranks {rank} and {other} for the layer `{layer}`: they must be equal",
                tensors.name()
            )));
        }
        ranks.insert(rank.to_string());
        let layer =
            ["base_model.model.", "transformer."].iter().find_map(|start| layer.strip_prefix(start)).unwrap_or(layer);
        targets.insert(match layer.split_once("locks.") {
            Some((_, rest)) => rest.split_once('.').map_or(rest, |(_, rest)| rest),
            None => layer,
        });
        on.insert(family_of_layer(layer).unwrap_or(match layer {
            _ if layer.starts_with("blocks.") => "a class-conditional flow model (DiT or SiT)",
            _ if layer.starts_with("text_encoder") => "text encoders",
            _ => "layers outside the blocks",
        }));
    }
    let joined = |set: BTreeSet<&str>| set.into_iter().collect::<Vec<_>>().join(", ");
    let mut report = Report { path: tensors.name().to_owned(), kind: "adapter", ..Report::default() };
    if on.contains("a class-conditional flow model (DiT or SiT)") {
        report.notes.push("train continues from it with --set lora.adapter=DIR and its model as model.file".into());
        on.remove("layers outside the blocks");
    }
    if on.iter().any(|on| on.starts_with("a transformer")) {
        report.notes.push("sample --model DIR --lora with this path draws with it, where DIR is its model".into());
    }
    report.what = format!(
        "an adapter (LoRA) in the format of {format} on {}: rank {}, alpha {}, {} layers",
        joined(on),
        ranks.into_iter().collect::<Vec<_>>().join(", "),
        alpha.unwrap_or_else(|| "unknown".into()),
        halves.len()
    );
    report.notes.push(format!("adapted layers: {}", joined(targets)));
    report.parameters = tensors.parameters() as u64;
    report.bytes_on_disk = bytes_on_disk(tensors);
    report.stored_as = stored_as(tensors.tensors().values());
    Ok(report)
}

//! Text-to-image models: pipelines, their components, and single files.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Part, Report, WeightsMemory, bytes_on_disk, planned, stored_as};
use crate::error::{Error, Result};
use crate::model::folder::{
    Component, MODEL_INDEX, Pipeline, SingleFile, State, StoredTensors, class_of, component_class, count, is_minit2i,
    open_weights, read_config, to_diffusers, transformer_family, transformer_sizes, weight_files,
};
use crate::model::text::EncoderChoice;
use crate::text::quoted;

/// The table of positions.
const POSITION_TABLE: &str = "pos_embed.pos_embed";

/// Weights of a block of q8_0, and its bytes.
const BLOCK: [usize; 2] = [32, 34];

/// A pipeline's folder.
pub(super) fn pipeline(folder: &Path) -> Result<Report> {
    let pipeline = Pipeline::open(folder)?;
    let mut report = Report { path: folder.display().to_string(), kind: "pipeline", ..Report::default() };
    let mut family = pipeline.kind.what.to_owned();
    for component in &pipeline.components {
        let part = part_of(&pipeline, component, &mut report, &mut family)?;
        report.components.push(part);
    }
    if pipeline.kind.needed.iter().all(|name| pipeline.state(name) == State::Present) {
        match planned::of(&pipeline.folder) {
            Ok(planned) => {
                report.sample_command = Some(sample_command(&pipeline));
                report.train_command = Some(planned.train_command);
                report.image_memory = planned.memory;
                report.notes.extend(planned.elsewhere);
            }
            Err(cause) => report.notes.push(format!("it cannot be drawn or trained with: {cause}")),
        }
    }
    let layout = match pipeline.has_index() {
        true => format!(" ({}) in the layout of diffusers", pipeline.kind.class),
        false => format!(", without a {MODEL_INDEX}"),
    };
    report.what = format!("a text-to-image pipeline of {family}{layout}");
    Ok(finished(report))
}

/// A command that draws a picture.
fn sample_command(pipeline: &Pipeline) -> String {
    let without = if EncoderChoice::possible(pipeline).t5 { "" } else { " --no-t5" };
    let folder = quoted(&pipeline.folder);
    // A model of words knows no foxes.
    let (prompt, image) = if pipeline.kind.has_words() { ("a red disc", "disc") } else { ("a red fox", "fox") };
    format!("flowdppo-wgpu sample --model {folder}{without} --prompt \"{prompt}\" --out {image}.png")
}

fn part_of(pipeline: &Pipeline, component: &Component, report: &mut Report, family: &mut String) -> Result<Part> {
    let mut part = Part { name: component.name.to_owned(), class: component.class.clone(), ..Part::default() };
    let is_network = component.name == "transformer" || component.name == "vae" || component.name.starts_with("text_");
    part.state = match component.state {
        State::Present => "present",
        State::Missing => "missing",
        // Without an index, only the scheduler can be left out.
        State::Null if !pipeline.has_index() && component.name != "scheduler" => "missing",
        State::Null => "none",
    };
    if component.state != State::Present {
        return Ok(part);
    }
    let folder = pipeline.component(component.name)?;
    if !is_network {
        part.bytes_on_disk = folder_bytes(&folder)?;
        return Ok(part);
    }
    let tensors = pipeline.weights(component.name, None)?;
    let config = read_config(&folder)?;
    part.class = part.class.or_else(|| class_of(&config).map(str::to_owned));
    if component.name == "transformer" && !pipeline.kind.has_words() {
        transformer_family(&tensors).clone_into(family);
    }
    describe(&mut part, &tensors, Some(&config), report);
    other_variants(&folder, &tensors, report)?;
    Ok(part)
}

/// The folder of one component.
pub(super) fn component(folder: &Path) -> Result<Report> {
    let config = read_config(folder)?;
    let (class, names) = component_class(folder, &config)?;
    // T5 has another name in each model; a folder has that of its component, if nobody has renamed it.
    let own = folder.file_name().and_then(|own| names.iter().find(|name| own == **name));
    let name = own.copied().unwrap_or(names[0]);
    let tensors = to_diffusers(name, &open_weights(folder, None)?)?;
    let mut report = Report { path: folder.display().to_string(), kind: "component", ..Report::default() };
    let mut part = Part { name: name.to_owned(), state: "present", class: Some(class.clone()), ..Part::default() };
    describe(&mut part, &tensors, Some(&config), &mut report);
    other_variants(folder, &tensors, &mut report)?;
    report.what = format!("a {} in the layout of diffusers ({class})", words(name, &tensors));
    report.components.push(part);
    Ok(finished(report))
}

/// A file with one or several components.
pub(super) fn single_file(path: &Path, all: &StoredTensors, file: &SingleFile) -> Result<Report> {
    let mut report = Report { path: path.display().to_string(), kind: "single-file", ..Report::default() };
    let parts = ["transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"];
    let transformer = file.components.get("transformer");
    // The file of MiniT2I never has more.
    let is_model = transformer.is_some_and(|tensors| !is_minit2i(tensors));
    for name in parts.into_iter().filter(|name| is_model || file.components.contains_key(name)) {
        let mut part = Part { name: name.to_owned(), state: "missing", ..Part::default() };
        if let Some(tensors) = file.components.get(name) {
            part.state = "present";
            describe(&mut part, tensors, None, &mut report);
            part.bytes_on_disk = tensors.tensors().values().map(|tensor| tensor.bytes()).sum();
        }
        report.components.push(part);
    }
    let names = file.components.iter().map(|(name, tensors)| format!("a {}", words(name, tensors)));
    let names = names.collect::<Vec<_>>();
    report.what = format!("a single file with {}", names.join(", "));
    if file.others > 0 {
        report.notes.push(format!("{} of its tensors belong to none of these", file.others));
    }
    let mut report = finished(report);
    report.bytes_on_disk = bytes_on_disk(all);
    Ok(report)
}

/// Sums over the parts.
fn finished(mut report: Report) -> Report {
    report.parameters = report.components.iter().map(|part| part.parameters).sum();
    report.bytes_on_disk = report.components.iter().map(|part| part.bytes_on_disk).sum();
    for part in &report.components {
        for (name, count) in &part.stored_as {
            *report.stored_as.entry(name.clone()).or_default() += count;
        }
    }
    report
}

/// A component in words.
fn words(name: &str, tensors: &StoredTensors) -> String {
    match name {
        "transformer" => format!("transformer of {}", transformer_family(tensors)),
        "vae" => "variational autoencoder".into(),
        _ if is_t5(tensors) => "T5 text encoder".into(),
        _ => "CLIP text encoder".into(),
    }
}

/// Whether a text encoder is T5.
fn is_t5(tensors: &StoredTensors) -> bool {
    tensors.tensors().contains_key("shared.weight")
}

/// Fills in what the tensors show, and adds to the memory in the report.
fn describe(part: &mut Part, tensors: &StoredTensors, config: Option<&Map<String, Value>>, report: &mut Report) {
    part.sizes = sizes(&part.name, tensors, config);
    part.parameters = tensors.parameters() as u64;
    part.stored_as = stored_as(tensors.tensors().values());
    part.bytes_on_disk = bytes_on_disk(tensors);
    let memory = report.weights_memory.get_or_insert_default();
    for (name, tensor) in tensors.tensors() {
        add(memory, name, tensor.shape(), tensor.elements());
    }
}

fn add(memory: &mut WeightsMemory, name: &str, shape: &[usize], elements: usize) {
    let count = elements as u64;
    if name == POSITION_TABLE {
        memory.position_table += count;
        return;
    }
    memory.f32 += 4 * count;
    memory.f16 += 2 * count;
    let [numbers, bytes] = BLOCK;
    memory.q8_0 += match shape {
        [_, row] if row.is_multiple_of(numbers) => count / numbers as u64 * bytes as u64,
        _ => 4 * count,
    };
}

/// Notes which other weights a component has.
fn other_variants(folder: &Path, tensors: &StoredTensors, report: &mut Report) -> Result<()> {
    let mut variants: Vec<String> = weight_files(folder)?.into_iter().map(|file| file.variant).collect();
    variants.dedup();
    if variants.len() > 1 {
        let shown = variants
            .iter()
            .map(|variant| if variant.is_empty() { "none" } else { variant })
            .collect::<Vec<_>>()
            .join(", ");
        report.notes.push(format!("{} has the variants {shown}; this describes {}", folder.display(), tensors.name()));
    }
    Ok(())
}

/// Bytes of the files directly in a folder.
fn folder_bytes(folder: &Path) -> Result<u64> {
    let entries = std::fs::read_dir(folder).map_err(|cause| Error::unreadable(folder, cause))?;
    // Follows links, as the hub's cache consists of links.
    let files = entries.flatten().filter_map(|entry| std::fs::metadata(entry.path()).ok());
    Ok(files.filter(std::fs::Metadata::is_file).map(|file| file.len()).sum())
}

/// The sizes of a component, from the shapes, or from its configuration if the shapes do not show them.
fn sizes(name: &str, tensors: &StoredTensors, config: Option<&Map<String, Value>>) -> String {
    let size = |tensor: &str, dimension: usize| {
        let size = tensors.tensors().get(tensor).and_then(|stored| stored.shape().get(dimension));
        size.map_or_else(|| "?".to_owned(), ToString::to_string)
    };
    let given = |key: &str| Some(config?.get(key)?.to_string());
    match name {
        "transformer" => transformer_sizes(tensors, config),
        "vae" => {
            let channels = given("latent_channels").unwrap_or_else(|| size("decoder.conv_in.weight", 1));
            let keys = [("scaling_factor", "scaling"), ("shift_factor", "shift")];
            let given = keys.iter().filter_map(|(key, word)| Some(format!(", {word} {}", given(key)?)));
            format!("{channels} latent channels{}", given.filter(|text| !text.ends_with("null")).collect::<String>())
        }
        _ if is_t5(tensors) => format!(
            "{} layers, width {}, vocabulary {}",
            count(tensors, "encoder.block."),
            size("shared.weight", 1),
            size("shared.weight", 0)
        ),
        _ => format!(
            "{} layers, width {}, vocabulary {}, projection {}",
            count(tensors, "text_model.encoder.layers."),
            size("text_model.embeddings.token_embedding.weight", 1),
            size("text_model.embeddings.token_embedding.weight", 0),
            size("text_projection.weight", 0)
        ),
    }
}

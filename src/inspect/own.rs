//! Files of this program, and checkpoints of SiT, which it can import.

use std::path::Path;

use super::{DeviceMemory, Report, adapter, bytes_on_disk, published, stored_as};
use crate::assets::{BaseRecord, load_model, model_file};
use crate::config::{Config, MODEL, TRANSFORMER_BASE, adapter_in};
use crate::error::Result;
use crate::gpu::STAGING_BYTES;
use crate::graph::{DeviceProfile, planned_bytes, planned_together};
use crate::model::folder::{SingleFile, StoredTensors};
use crate::model::{ADAPTER_CONFIG, DitConfig, FlowModel, ModelKind, Network, NullClass, default_num_heads};
use crate::rl::Trainer;
use crate::run::checkpoint;
use crate::sampling::{StepGraph, images_bytes, noise_graph};
use crate::shape::ImageShape;
use crate::text::quoted;

/// Channels of the latents of Stable Diffusion 1, on which the published models work. Pictures have at most three.
const LATENT_CHANNELS: usize = 4;

/// Its autoencoder, with which they were trained.
const PUBLISHED_VAE: &str = "stabilityai/sd-vae-ft-ema";

/// Images that `sample` draws at a time.
const BATCH: usize = 100;

/// A native model: a file, or builtin:NAME.
pub(super) fn model(name: &str) -> Result<Report> {
    let model = load_model(name)?;
    let mut report = Report { path: name.to_owned(), ..Report::default() };
    match &model.kind {
        ModelKind::Dit(dit) => {
            report.kind = "flow-model";
            let flow_model = FlowModel::from(dit);
            report.what = format!("a flow model of this program: {}", flow_model.sizes());
            describe(&mut report, &flow_model, name);
            note_latents(&mut report, &flow_model);
        }
        ModelKind::Text(_) => unreachable!("native files have none"),
        ModelKind::Classifier(config) => {
            report.kind = "classifier";
            report.what = format!(
                "a classifier of this program: {0}x{0} images of {1} channels, hidden size {2}, {3} classes",
                config.image_size, config.channels, config.hidden_size, config.num_classes
            );
        }
    }
    if !model.class_names.is_empty() {
        report.notes.push(format!("its classes are {}", model.class_names.join(", ")));
    }
    report.parameters = model.kind.layout().parameter_count() as u64;
    let path = Path::new(name);
    if name.starts_with("builtin:") {
        report.stored_as = [("F32".to_owned(), report.parameters)].into();
        report.notes.push("it is compiled into the program".into());
    } else {
        let tensors = StoredTensors::open(&model_file(path)?)?;
        report.stored_as = stored_as(tensors.tensors().values());
        report.bytes_on_disk = bytes_on_disk(&tensors);
    }
    Ok(report)
}

/// Memory, and the command that trains it.
fn describe(report: &mut Report, model: &FlowModel, file: &str) {
    let profile = DeviceProfile::default();
    let network = Network::from(model);
    let plans = [StepGraph::record(&network, BATCH, 1.0).graph, noise_graph(model, BATCH).0];
    let plans = plans.map(|graph| planned_bytes(&graph, &profile));
    let weights = 4 * model.layout().elements() as u64;
    let training = match Trainer::cost(&(&Config::default()).into(), model, &profile) {
        Ok(cost) => Some(cost.memory.bytes()),
        Err(cause) => {
            report.notes.push(format!("the default configuration does not fit it: {cause}"));
            None
        }
    };
    let sampling = weights + planned_together(&plans) + images_bytes(model, BATCH) + STAGING_BYTES;
    report.device_memory = Some(DeviceMemory { sampling, sampling_batch: BATCH as u64, training });
    report.train_command = Some(train_command(model, file));
}

/// Says how a model of latents makes pictures.
fn note_latents(report: &mut Report, model: &FlowModel) {
    if model.state_shape().channels == LATENT_CHANNELS {
        report.notes.push(format!(
            "it makes latents of {LATENT_CHANNELS} channels, and images with an autoencoder, that of Stable Diffusion 1 \
             for the published models: {PUBLISHED_VAE} or the path of its folder, as --vae of sample and eval, and as \
             model.vae for train"
        ));
    }
}

/// The command that trains a model: with the default reward if that fits its images, otherwise with one for all images.
fn train_command(model: &FlowModel, file: &str) -> String {
    let set = |value: &str| format!(" --set {}", quoted(Path::new(value)));
    let mut command = format!("flowdppo-wgpu train{}", set(&format!("model.file={file}")));
    if (model.state_shape(), model.num_conditions()) != (ImageShape::square(1, 8), 10) {
        command += &set("reward=[{kind=\"symmetry\"}]");
        command += &set("eval.judge=");
    }
    command
}

/// A checkpoint of SiT or DiT, which `import` converts.
pub(super) fn sit(path: &Path, tensors: &StoredTensors) -> Result<Report> {
    let name = path.display().to_string();
    let shapes = tensors.tensors().iter().map(|(tensor, stored)| (tensor.clone(), stored.shape().to_vec())).collect();
    let width = tensors.tensors().get("x_embedder.proj.weight").and_then(|stored| stored.shape().first().copied());
    let known = width.and_then(default_num_heads);
    // One head divides every width; the number is not shown.
    let model = FlowModel::from(&DitConfig::of_sit(&name, &shapes, known.or(Some(1)), NullClass::Assumed)?);
    let mut report = Report { path: name.clone(), kind: "sit-checkpoint", ..Report::default() };
    report.parameters = tensors.parameters() as u64;
    report.bytes_on_disk = bytes_on_disk(tensors);
    report.stored_as = stored_as(tensors.tensors().values());
    let mut text = model.sizes();
    let mut heads = "";
    if known.is_some() {
        describe(&mut report, &model, MODEL);
    } else {
        text = text.replace(", 1 heads", "");
        heads = " --num-heads N";
        report.notes.push(
            "the number of its attention heads is not in the file, and its width is not one of the published ones"
                .into(),
        );
    }
    report.what = format!("a checkpoint of SiT or DiT, whose files cannot be told apart: {text}");
    let import = format!("flowdppo-wgpu import --format sit{heads} {} {MODEL}", quoted(path));
    report.train_command = Some(format!("{import}, then {}", train_command(&model, MODEL)));
    note_latents(&mut report, &model);
    Ok(report)
}

/// The model in a folder of a run: a native one, or the transformer of a pipeline.
fn inside(folder: &Path) -> Result<Report> {
    let file = folder.join(MODEL);
    let Ok(base) = BaseRecord::read_file(&folder.join(TRANSFORMER_BASE)) else {
        return model(&file.display().to_string());
    };
    transformer(&file, folder, &base)
}

/// The transformer of a pipeline in a file; users name the model as `named`.
pub(super) fn transformer(file: &Path, named: &Path, base: &BaseRecord) -> Result<Report> {
    let tensors = StoredTensors::open(file)?;
    let mut report = published::single_file(file, &tensors, &SingleFile::of(&tensors)?)?;
    report.components.retain(|part| part.state == "present");
    report.what = format!("all weights of a transformer, trained from {}", base.model);
    // Built-in models know only shapes.
    let subject = if base.model.starts_with("builtin:") { "disc" } else { "fox" };
    report.sample_command =
        Some(format!("flowdppo-wgpu sample --model {} --prompt \"a red {subject}\"", quoted(named)));
    Ok(report)
}

/// The directory of a run.
pub(super) fn run(path: &Path) -> Result<Report> {
    let newest = checkpoint::newest_published(&path.join("checkpoints"));
    let folder = path.display().to_string();
    let mut report = match (adapter_in(path), path.join(MODEL).is_file()) {
        (Some(folder), _) => adapter::folder(&folder)?,
        (None, true) => inside(path)?,
        (None, false) => match newest {
            Some(_) => {
                let found = checkpoint::latest(&path.join("checkpoints"))?;
                found.map_or_else(|| Ok(Report::default()), |found| checkpoint(&found.path))?
            }
            None => Report::default(),
        },
    };
    let kept = newest.map_or_else(|| "no checkpoint".to_owned(), |newest| format!("its newest checkpoint is {newest}"));
    report.what = match report.what.is_empty() {
        true => format!("the directory of a run without a model yet; {kept}"),
        false => format!("the directory of a run ({kept}) with {}", report.what),
    };
    if path.join("checkpoints").is_dir() {
        report.notes.push(format!("train --resume --out {} continues it", quoted(path)));
    }
    report.path = folder;
    report.kind = "run";
    Ok(report)
}

/// A checkpoint of a run; all of its files are verified.
pub(super) fn checkpoint(path: &Path) -> Result<Report> {
    let found = checkpoint::read(path)?;
    let mut report = match () {
        () if found.has(ADAPTER_CONFIG) => adapter::folder(path)?,
        () if found.has(MODEL) => inside(path)?,
        () => Report::default(),
    };
    let inside = Some(report.what).filter(|what| !what.is_empty()).map(|what| format!(" with {what}"));
    report.what = format!("a complete checkpoint of iteration {}{}", found.iteration, inside.unwrap_or_default());
    report.path = path.display().to_string();
    report.kind = "checkpoint";
    Ok(report)
}

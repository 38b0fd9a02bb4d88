//! What a text-to-image model takes on a device, planned without one.

use std::path::Path;
use std::sync::Arc;

use super::ImageMemory;
use crate::config::{Config, WeightType};
use crate::error::Result;
use crate::gpu::STAGING_BYTES;
use crate::graph::{DeviceProfile, planned_bytes, planned_together};
use crate::model::text::{EncoderChoice, MAX_SAMPLES, PromptEncoder};
use crate::model::{LatentDecoder, Network, Recipe};
use crate::rl::Trainer;
use crate::sampling::{StepGraph, images_bytes, noise_graph};
use crate::text::quoted;
use crate::text_to_image::TextToImage;

/// Sides of the pictures, in pixels; a model that has positions for none of them is planned for what it proposes.
const SIDES: [usize; 3] = [256, 512, 1024];

/// What can be done with a model.
pub(super) struct Planned {
    /// What drawing one picture at a time with guidance and training take, for each size that the model has positions for,
    /// and each type of the transformer's weights.
    pub memory: Vec<ImageMemory>,
    /// The command that trains it with those settings.
    pub train_command: String,
    /// Notes about the text encoders that are not in its folder.
    pub elsewhere: Vec<String>,
}

/// Plans drawing with a model and training it.
///
/// # Errors
/// If a part is damaged or not supported.
pub(super) fn of(folder: &Path) -> Result<Planned> {
    let model = TextToImage::open(folder, None)?;
    let recipe = model.network().recipe();
    let encoders = model.encoders(EncoderChoice::possible(model.pipeline()))?;
    let elsewhere = encoders.folders.encoders().filter(|place| !place.starts_with(folder));
    let elsewhere = elsewhere.map(|place| format!("its text encoder is in another folder, {}", place.display()));
    Ok(Planned {
        elsewhere: elsewhere.collect(),
        memory: memory(&model, recipe, &*encoders.prompts)?,
        train_command: train_command(folder, recipe.file),
    })
}

fn memory(model: &TextToImage, recipe: Recipe, encoders: &dyn PromptEncoder) -> Result<Vec<ImageMemory>> {
    let profile = DeviceProfile::default();
    let decoder = Arc::new(model.decoder(None)?);
    let encoder = encoders.planned(MAX_SAMPLES, &profile)?.1.alone();
    let mut config = Config::parse(recipe.text, recipe.file, &[])?;
    config.model.weights = WeightType::F32;
    let size_of = |picture: Option<[usize; 2]>| model.latent_size("the size", picture, decoder.factor());
    let mut sizes: Vec<[usize; 2]> = SIDES.into_iter().filter_map(|side| size_of(Some([side; 2])).ok()).collect();
    if sizes.is_empty() {
        sizes.push(size_of(None)?);
    }
    let mut found = Vec::new();
    for size in sizes {
        let flow_model = model.unencoded(size, [MAX_SAMPLES, encoders.tokens()], decoder.clone());
        let (_, decoding) = decoder.planned(flow_model.state_shape(), &profile, &|_| Ok(()))?;
        let base = |weights: WeightType| Network::base(&flow_model, weights);
        let step = StepGraph::record(&base(WeightType::F32), 1, config.eval.guidance_scale);
        let plans = [step.graph, noise_graph(&flow_model, 1).0].map(|graph| planned_bytes(&graph, &profile));
        let drawing = planned_together(&plans) + images_bytes(&flow_model, 1);
        // The plans do not depend on how the weights are stored.
        let cost = Trainer::cost(&(&config).into(), &flow_model, &profile)?;
        let training = cost.memory.bytes_beside([&decoding]) - base(WeightType::F32).frozen().bytes();
        found.extend(WeightType::ALL.map(|weights| {
            let bytes = base(weights).frozen().bytes();
            let others = encoder.max(decoding.alone());
            ImageMemory {
                size: [size[1], size[0]].map(|extent| extent * decoder.factor()),
                weights: weights.name(),
                sampling: (drawing + bytes).max(others) + STAGING_BYTES,
                training: (training + bytes).max(encoder + STAGING_BYTES),
            }
        }));
    }
    Ok(found)
}

fn train_command(folder: &Path, file: &str) -> String {
    let folder = quoted(Path::new(&format!("model.folder={}", folder.display())));
    format!("flowdppo-wgpu train --config {file} --set {folder} --set prompts.file=PROMPTS.txt")
}

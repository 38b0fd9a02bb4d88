//! One model that is being tuned.

use std::sync::Arc;

use flowdppo_wgpu::assets::{WordFiles, load_model, word_model};
use flowdppo_wgpu::config::Config;
use flowdppo_wgpu::gpu::{Gpu, Options};
use flowdppo_wgpu::graph::Store;
use flowdppo_wgpu::model::{FlowModel, Model, Prompt, StoredModel};
use flowdppo_wgpu::optimizer::{AVERAGE, FIRST_MOMENT, PARAMETERS, SECOND_MOMENT};
use flowdppo_wgpu::reward::{Purpose, Rewards, ScoringContext};
use flowdppo_wgpu::rl::{Trainer, TrainerSettings};
use flowdppo_wgpu::sampling::{SampleRequest, SamplerTable, Sampling, requests_for};
use flowdppo_wgpu::shapes::{Split, listed};
use flowdppo_wgpu::{Error, Result};
use js_sys::Function;
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::reward::Custom;
use crate::settings::{CUSTOM, SHAPES, Settings};
use crate::thrown;

/// What training changes, in this order.
const CHANGED: [Store; 4] = [PARAMETERS, AVERAGE, FIRST_MOMENT, SECOND_MOMENT];

/// Iterations between copies that a lost device is continued from.
const KEPT_EVERY: u64 = 5;

/// Samples of each class that the page shows.
const SHOWN: [(&str, usize); 3] = [("rings", 200), ("digits", 8), (SHAPES, 6)];

/// Training at some iteration.
#[derive(Clone, Debug)]
struct Position {
    iteration: u64,
    optimizer_step: u64,
    skipped_in_a_row: usize,
    stores: Vec<Vec<f32>>,
}

/// A trainer on a device, and the sampler that shows what it has learned.
#[derive(Debug)]
struct Bound {
    gpu: Arc<Gpu>,
    trainer: Trainer,
    flow_model: FlowModel,
    sampling: Sampling,
    requests: Vec<SampleRequest>,
    table: SamplerTable,
}

/// A model that is being tuned in this tab.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    config: Config,
    base: StoredModel,
    custom: Option<Function>,
    bound: Bound,
    iteration: u64,
    kept: Option<Position>,
}

/// Images and what they are worth.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Samples {
    images: Vec<f32>,
    labels: Vec<u32>,
    rewards: Vec<f64>,
}

#[wasm_bindgen]
impl Samples {
    /// All images `[N, C, H, W]`.
    #[wasm_bindgen(getter)]
    pub fn images(&self) -> Vec<f32> {
        self.images.clone()
    }

    /// The class that each was asked for.
    #[wasm_bindgen(getter)]
    pub fn labels(&self) -> Vec<u32> {
        self.labels.clone()
    }

    /// The reward of each.
    #[wasm_bindgen(getter)]
    pub fn rewards(&self) -> Vec<f64> {
        self.rewards.clone()
    }
}

/// The settings that a model begins with, as JSON.
///
/// # Errors
/// If the page has no such model.
#[wasm_bindgen(js_name = defaultSettings)]
pub fn default_settings(model: &str) -> std::result::Result<String, JsValue> {
    let settings = Settings::of(model).map_err(|error| thrown(&error))?;
    Ok(json!(settings).to_string())
}

#[wasm_bindgen]
impl Session {
    /// Opens the browser's graphics device and binds a model to it: the built-in one, or that of a safetensors file.
    ///
    /// # Errors
    /// If there is no device, a setting is out of range, or the file is not a model for it.
    pub async fn open(
        settings: String,
        custom: Option<Function>,
        file: Option<Vec<u8>>,
    ) -> std::result::Result<Session, JsValue> {
        Self::of(&settings, custom, file).await.map_err(|error| thrown(&error))
    }

    /// One iteration; its line of metrics as JSON.
    ///
    /// # Errors
    /// As an error whose `name` is `DeviceLost`, `RewardFailed` or another; after a failed reward the model is as before.
    pub async fn iterate(&mut self) -> std::result::Result<String, JsValue> {
        self.next().await.map_err(|error| thrown(&error))
    }

    /// Draws the averaged model's images from the same noise each time, and scores them.
    ///
    /// # Errors
    /// As [`Session::iterate`].
    pub async fn samples(&mut self) -> std::result::Result<Samples, JsValue> {
        self.drawn().await.map_err(|error| thrown(&error))
    }

    /// Continues with other settings.
    ///
    /// # Errors
    /// If one is out of range: then nothing changes.
    pub async fn configure(&mut self, settings: String, custom: Option<Function>) -> std::result::Result<(), JsValue> {
        self.change(&settings, custom).await.map_err(|error| thrown(&error))
    }

    /// Opens the device anew after it was lost, and continues from the last copy; returns the iterations done.
    ///
    /// # Errors
    /// If there is no device any more.
    pub async fn recover(&mut self) -> std::result::Result<u32, JsValue> {
        self.reopen().await.map_err(|error| thrown(&error))?;
        Ok(self.iteration as u32)
    }

    /// The averaged model as a safetensors file, which `flowdppo-wgpu` reads.
    ///
    /// # Errors
    /// If the device is lost.
    pub async fn download(&self) -> std::result::Result<Vec<u8>, JsValue> {
        let weights = self.bound.trainer.optimizer.read(AVERAGE).await.map_err(|error| thrown(&error))?;
        Ok(Model::of(&self.bound.flow_model, &self.base.class_names, weights).to_bytes())
    }

    /// Loses the device on purpose, as a driver that crashes would: for tests of the way back.
    #[wasm_bindgen(js_name = loseDevice)]
    pub fn lose_device(&self) {
        self.bound.gpu.lose();
    }

    /// What the page shows about model and device, as JSON.
    pub fn facts(&self) -> String {
        let shape = self.bound.flow_model.picture_shape();
        json!({
            "subgroups": self.bound.gpu.has_subgroups(),
            "parameters": self.bound.trainer.network().layout().parameter_count(),
            "class_names": self.base.class_names,
            "shape": [shape.channels, shape.height, shape.width],
            "bytes_held": self.bound.gpu.counters().bytes_held,
        })
        .to_string()
    }
}

impl Session {
    async fn of(settings: &str, custom: Option<Function>, file: Option<Vec<u8>>) -> Result<Self> {
        let settings = parse(settings)?;
        let config = settings.config()?;
        let base = match (settings.model.as_str(), file) {
            (SHAPES, Some(weights)) => shapes(weights)?,
            (SHAPES, None) => return Err(Error::Input("the weights of the shapes come from the page".into())),
            (_, file) => class_model(config.model.file.as_deref().unwrap_or_default(), file)?,
        };
        let gpu = Gpu::open(&Options::default()).await?;
        let bound = bind(&gpu, &settings, &config, &base, custom.as_ref())?;
        Ok(Self { settings, config, base, custom, bound, iteration: 0, kept: None })
    }

    async fn next(&mut self) -> Result<String> {
        let metrics = self.bound.trainer.iteration(self.iteration).await?;
        self.iteration += 1;
        if self.iteration.is_multiple_of(KEPT_EVERY) {
            self.kept = Some(self.position().await?);
        }
        let steps = metrics.trained_steps.iter().zip(&metrics.by_step);
        let by_step: Vec<_> = steps.map(|(step, of)| json!([step, of.kl * metrics.dim as f64])).collect();
        Ok(json!({
            "iteration": metrics.iteration,
            "kl_sum": metrics.last_kl() * metrics.dim as f64,
            "masked_fraction": metrics.mean(|update| update.masked_fraction),
            "on_policy": metrics.on_policy,
            "kl_sum_by_step": by_step,
            "line": metrics.line(self.config.train.learning_rate),
        })
        .to_string())
    }

    async fn drawn(&mut self) -> Result<Samples> {
        let Bound { trainer, sampling, requests, table, .. } = &mut self.bound;
        let images = sampling.draw(table, requests).await?;
        let labels: Vec<u32> = requests.iter().map(|request| request.condition).collect();
        let context = ScoringContext { purpose: Purpose::Preview, iteration: self.iteration };
        let rewards = trainer.rewards().score(&images, &labels, context).await?.totals;
        Ok(Samples { images, labels, rewards })
    }

    async fn change(&mut self, settings: &str, custom: Option<Function>) -> Result<()> {
        let settings = parse(settings)?;
        if settings.model != self.settings.model {
            return Err(Error::Input("another model needs another session".into()));
        }
        let config = settings.config()?;
        let position = self.position().await?;
        self.bound = bind(&self.bound.gpu, &settings, &config, &self.base, custom.as_ref())?;
        (self.settings, self.config, self.custom) = (settings, config, custom);
        self.resume(&position);
        Ok(())
    }

    async fn reopen(&mut self) -> Result<()> {
        let gpu = Gpu::open(&Options::default()).await?;
        self.bound = bind(&gpu, &self.settings, &self.config, &self.base, self.custom.as_ref())?;
        self.iteration = 0;
        if let Some(position) = self.kept.take() {
            self.resume(&position);
            self.kept = Some(position);
        }
        Ok(())
    }

    async fn position(&self) -> Result<Position> {
        let optimizer = &self.bound.trainer.optimizer;
        let mut stores = Vec::new();
        for store in CHANGED {
            stores.push(optimizer.read(store).await?);
        }
        let (optimizer_step, skipped_in_a_row) = (optimizer.step, optimizer.skipped_in_a_row);
        Ok(Position { iteration: self.iteration, optimizer_step, skipped_in_a_row, stores })
    }

    fn resume(&mut self, position: &Position) {
        let optimizer = &mut self.bound.trainer.optimizer;
        for (store, values) in CHANGED.iter().zip(&position.stores) {
            optimizer.write(*store, values);
        }
        (optimizer.step, optimizer.skipped_in_a_row) = (position.optimizer_step, position.skipped_in_a_row);
        self.iteration = position.iteration;
    }
}

fn parse(settings: &str) -> Result<Settings> {
    serde_json::from_str(settings).map_err(|cause| Error::Input(format!("these settings cannot be read: {cause}")))
}

/// The built-in model of a name, or a file with a model of the same images and classes.
fn class_model(name: &str, file: Option<Vec<u8>>) -> Result<StoredModel> {
    let builtin = load_model(name)?;
    let Some(bytes) = file else { return Ok(builtin) };
    let given: StoredModel = Model::from_bytes("the file", &bytes)?.into();
    let images = |model: &StoredModel| Ok::<_, Error>(model.flow_model("the file")?.picture_shape());
    let (found, expected) = (images(&given)?, images(&builtin)?);
    match (found, &given.class_names) == (expected, &builtin.class_names) {
        true => Ok(given),
        false => Err(Error::Input(format!(
            "the file is a model of {} classes and images of {found}, but the chosen one has {} and {expected}: first choose \
             the model that it was tuned from",
            given.class_names.len(),
            builtin.class_names.len()
        ))),
    }
}

/// The text-to-image model with the prompts of its configuration, and weights of its transformer.
fn shapes(weights: Vec<u8>) -> Result<StoredModel> {
    let files = WordFiles {
        name: "builtin:shapes-base",
        config: include_str!("../../assets/models/shapes-base/transformer/config.json"),
        vocabulary: include_str!("../../assets/models/shapes-base/tokenizer/vocab.txt"),
        weights,
    };
    let splits = [Split::Trained, Split::Forgotten, Split::HeldOut];
    word_model(files, splits.into_iter().flat_map(listed).map(Prompt::from).collect())
}

/// Binds training and display of a model to a device.
fn bind(
    gpu: &Arc<Gpu>,
    settings: &Settings,
    config: &Config,
    base: &StoredModel,
    custom: Option<&Function>,
) -> Result<Bound> {
    let mut trainer = Trainer::new(gpu, TrainerSettings::from(config), base)?;
    let flow_model = trainer.network().model.clone();
    if settings.reward == CUSTOM {
        let function = custom.ok_or_else(|| Error::Input("the custom reward has no function".into()))?;
        let own = (CUSTOM.to_owned(), Box::new(Custom::new(function.clone())) as Box<_>, 1.0.into());
        *trainer.rewards() = Rewards::of(vec![own], &flow_model.pictures(&base.class_names))?;
    }
    let classes = config.preview.chosen_classes(flow_model.conditions())?;
    let count = SHOWN.iter().find(|(model, _)| *model == settings.model).map_or(1, |(_, count)| *count);
    let requests = requests_for(&classes, count, config.preview.seed);
    let table = SamplerTable::ode(&flow_model.schedule(), config.preview.steps)?;
    let batches = [requests.len(), requests.len().min(config.rollout.effective_micro_batch())];
    let stores = trainer.optimizer.average_stores();
    let sampling = Sampling::new(gpu, trainer.network(), batches, config.eval.guidance_scale, &stores)?;
    Ok(Bound { gpu: gpu.clone(), trainer, flow_model, sampling, requests, table })
}

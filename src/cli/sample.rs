//! `sample`: images from a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, value_parser};

use super::sample_text::{self, TextArguments};
use super::{AdapterArguments, Global, Outputs, VaeArguments, say};
use crate::data::grid::Grid;
use crate::data::panel::Panel;
use crate::data::scatter::{self, Scatter};
use crate::error::{Error, Result};
use crate::flow::sampler::Sampler;
use crate::flow::schedule::Schedule;
use crate::flow::solver::Solver;
use crate::gpu::{Gpu, Region};
use crate::graph::Stores;
use crate::model::{FlowModel, StoredModel, Tensors, read_tensors, write_tensors};
use crate::optimizer::PARAMETERS;
use crate::sampling::{SampleRequest, SamplerTable, Sampling, requests_for};
use crate::text_to_image::NamedModel;

/// Samples that are drawn together.
const BATCH: usize = 100;
/// Sampling steps by default.
const STEPS: usize = 20;
/// Largest number of samples or steps. Noise keys count in 32 bits, but memory runs out long before.
pub(super) const MOST: usize = 10_000;

/// The largest seed, as in a configuration: TOML's whole numbers end at 2^63 - 1.
const LARGEST_SEED: u64 = i64::MAX as u64;
/// Elements of the pictures, or of a trajectory, that are kept on the host: 4 GiB.
const MOST_ELEMENTS: usize = 1 << 30;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Model: a file, or builtin:NAME; or a text-to-image pipeline: its folder, org/name in the hub's cache, or a run of one
    #[arg(long, value_name = "FILE|DIR|NAME")]
    pub(super) model: String,
    #[command(flatten)]
    pub(super) adapter: AdapterArguments,
    #[command(flatten)]
    pub(super) vae: VaeArguments,
    /// Class to draw, repeatable; by default all
    #[arg(long = "class", value_name = "N")]
    pub(super) classes: Vec<u32>,
    /// Samples per class or prompt [default: 8 per class, 1 per prompt]
    #[arg(long, value_name = "COUNT")]
    pub(super) count: Option<usize>,
    /// Sampling steps [default: 20, for prompts as usual for the model, such as 28]
    #[arg(long, value_name = "STEPS")]
    pub(super) steps: Option<usize>,
    /// How each step removes noise
    #[arg(long, value_enum, default_value = "ode")]
    pub(super) sampler: Sampler,
    /// Solver for the deterministic steps of the ode sampler
    #[arg(long, value_enum, default_value = "euler")]
    pub(super) solver: Solver,
    /// Exploration strength of a stochastic sampler; the last step never adds noise
    #[arg(long, default_value_t = 0.7)]
    pub(super) eta: f64,
    /// Shift of the noise schedule; 1 is linear [default: 1, for prompts that of the pipeline]
    #[arg(long, value_name = "SHIFT")]
    pub(super) shift: Option<f64>,
    /// Classifier-free guidance; 1 is none [default: 1, for prompts as usual for the model, such as 4.5]
    #[arg(long, value_name = "SCALE")]
    pub(super) guidance_scale: Option<f64>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u64).range(..=LARGEST_SEED))]
    pub(super) seed: u64,
    /// Start from this noise (a stochastic sampler adds its own): safetensors with `x` [N, C, H, W] and `labels` [N]; for
    /// prompts with `x` [N, C, h, w], latents for each of them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["classes", "count"])]
    pub(super) noise: Option<PathBuf>,
    /// Write the samples as tensors too: `x0` [N, C, H, W] and `labels` [N], with --vae also `images`; for prompts `x0`
    /// (latents) and `images`
    #[arg(long, value_name = "FILE")]
    pub(super) save_tensors: Option<PathBuf>,
    /// Also save `trajectory` [steps + 1, N, C, S, S], from noise to samples
    #[arg(long, requires = "save_tensors")]
    pub(super) trajectory: bool,
    /// Image to write (PNG); several images of prompts are numbered: out-1.png
    #[arg(long, value_name = "FILE", default_value = "samples.png")]
    pub(super) out: PathBuf,
    #[command(flatten)]
    pub(super) text: TextArguments,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    if let Some(named) = NamedModel::of(&arguments.model)? {
        return sample_text::run(global, arguments, &named);
    }
    arguments.text.refuse(&arguments.model)?;
    let model = arguments.adapter.load_model(&arguments.model)?;
    let model = arguments.vae.attach(model, &arguments.model, None)?;
    let flow_model = model.flow_model(&arguments.model)?;
    check(arguments, &flow_model)?;
    let count = arguments.count();
    let inputs = [&arguments.noise, &arguments.adapter.adapter].into_iter().flatten();
    let outputs = inputs.fold(global.outputs().reads(&arguments.model), Outputs::reads);
    let mut outputs = arguments.vae.vae.iter().fold(outputs, Outputs::reads);
    outputs.image(&arguments.out)?;
    if let Some(path) = &arguments.save_tensors {
        outputs.file(path)?;
    }
    let (requests, start) = match &arguments.noise {
        Some(path) => from_noise(path, &flow_model, arguments.seed)?,
        None => {
            let all: Vec<u32> = (0..flow_model.num_conditions() as u32).collect();
            let classes = if arguments.classes.is_empty() { &all } else { &arguments.classes };
            (requests_for(classes, count, arguments.seed), None)
        }
    };
    let table = arguments.table(&Schedule::StaticShift { shift: arguments.shift.unwrap_or(1.0) }, STEPS)?;

    let gpu = global.open("")?;
    let drawn = draw(&gpu, arguments, &model, &requests, &table, start.as_deref())?;
    let pictures = flow_model.decode(&gpu, &drawn.states)?;
    let labels: Vec<u32> = requests.iter().map(|request| request.condition).collect();
    write_panel(&arguments.out, &model, &flow_model, &labels, &pictures)?;
    if let Some(path) = &arguments.save_tensors {
        let mut tensors = drawn.tensors(&flow_model, &labels);
        if flow_model.decoder().is_some() {
            let shape = flow_model.picture_shape().batch(labels.len());
            tensors.insert("images".into(), (shape.into(), pictures.into_owned()));
        }
        write_tensors(path, &tensors)?;
    }
    say(format_args!("{} samples: {}", labels.len(), arguments.out.display()));
    Ok(())
}

/// What a model has drawn.
struct Drawn {
    /// The states before each step, `[steps, N, C, H, W]`, if they were asked for.
    trajectory: Option<Vec<f32>>,
    /// The final states, `[N, C, H, W]`.
    states: Vec<f32>,
}

impl Drawn {
    fn tensors(&self, model: &FlowModel, labels: &[u32]) -> Tensors {
        let shape = model.batch_shape(labels.len()).to_vec();
        let mut tensors = Tensors::from([(
            "labels".to_owned(),
            (vec![labels.len()], labels.iter().map(|label| *label as f32).collect()),
        )]);
        if let Some(before) = &self.trajectory {
            let all = [before.as_slice(), &self.states].concat();
            tensors.insert("trajectory".into(), ([&[all.len() / self.states.len()][..], &shape].concat(), all));
        }
        tensors.insert("x0".into(), (shape, self.states.clone()));
        tensors
    }
}

/// Draws the samples. Nothing of the model stays on the device.
fn draw(
    gpu: &Arc<Gpu>,
    arguments: &Arguments,
    model: &StoredModel,
    requests: &[SampleRequest],
    table: &SamplerTable,
    start: Option<&[f32]>,
) -> Result<Drawn> {
    let flow_model = model.flow_model(&arguments.model)?;
    let (dim, total, steps) = (flow_model.dim(), requests.len(), table.steps());
    let elements = (steps + 1) * total * dim;
    if arguments.trajectory && elements > MOST_ELEMENTS {
        return Err(Error::input(format!(
            "--trajectory would have {elements} elements, more than {MOST_ELEMENTS}: lower --count or --steps"
        )));
    }
    let weights = flow_model.layout().upload(gpu, "model", &model.weights)?;
    let stores = Stores::from([(PARAMETERS, weights)]);
    let (network, batches) = ((&flow_model).into(), [total, total.min(BATCH)]);
    let mut sampling =
        Sampling::new_for(gpu, &network, batches, arguments.guidance_scale(), arguments.solver, &stores)?;
    let mut trajectory = arguments.trajectory.then(|| vec![0.0_f32; steps * total * dim]);
    let states = sampling.draw_visited(table, requests, start, |moment| {
        if let Some(trajectory) = &mut trajectory {
            let at = (moment.step * total + moment.first) * dim;
            let x: &Region = moment.x;
            trajectory[at..at + moment.count * dim].copy_from_slice(&gpu.read::<f32>(&[x])?);
        }
        Ok(())
    })?;
    Ok(Drawn { trajectory, states })
}

impl Arguments {
    fn count(&self) -> usize {
        self.count.unwrap_or(8)
    }

    fn guidance_scale(&self) -> f64 {
        self.guidance_scale.unwrap_or(1.0)
    }

    /// The steps along a schedule; `steps` is their default number.
    pub(super) fn table(&self, schedule: &Schedule, steps: usize) -> Result<SamplerTable> {
        let steps = self.steps.unwrap_or(steps);
        let eta = |step: usize| if step + 1 < steps { self.eta } else { 0.0 };
        match self.sampler {
            Sampler::Ode => SamplerTable::solve(schedule, steps, self.solver),
            sampler => SamplerTable::new(schedule, steps, sampler, eta),
        }
    }

    /// Checks the numbers that mean the same for every model.
    pub(super) fn check(&self) -> Result<()> {
        for (option, value) in [("--count", self.count), ("--steps", self.steps)] {
            if let Some(value) = value.filter(|value| !(1..=MOST).contains(value)) {
                return Err(Error::input(format!("{option} is {value}: it must be a number from 1 to {MOST}")));
            }
        }
        if !self.eta.is_finite() || self.eta < 0.0 {
            return Err(Error::input(format!("--eta is {}: it must be 0 or more", self.eta)));
        }
        if let Some(scale) = self.guidance_scale.filter(|scale| !scale.is_finite() || *scale < 1.0) {
            return Err(Error::input(format!(
                "--guidance-scale is {scale}: it must be 1, which is no guidance, or more"
            )));
        }
        if self.sampler == Sampler::Cps && self.eta > 1.0 {
            return Err(Error::input(format!(
                "--eta is {}: with the cps sampler it must be from 0 to 1, the share of the noise that is replaced",
                self.eta
            )));
        }
        if self.sampler != Sampler::Ode && self.solver != Solver::Euler {
            return Err(Error::input(
                "--solver is for deterministic steps: leave it out, or leave out the stochastic --sampler",
            ));
        }
        match self.shift.filter(|shift| !shift.is_finite() || *shift <= 0.0) {
            Some(shift) => Err(Error::input(format!("--shift is {shift}: it must be a number above 0"))),
            None => Ok(()),
        }
    }
}

fn check(arguments: &Arguments, model: &FlowModel) -> Result<()> {
    arguments.check()?;
    let classes = if arguments.classes.is_empty() { model.num_conditions() } else { arguments.classes.len() };
    let elements = model.picture_shape().elements();
    let most = MOST.min(MOST_ELEMENTS / elements);
    if classes * arguments.count() > most {
        return Err(Error::input(format!(
            "--count is {} for each of {classes} classes: at most {most} samples can be drawn at once; draw them \
             in parts, each with another --seed",
            arguments.count()
        )));
    }
    model.check_guidance("--guidance-scale", arguments.guidance_scale())?;
    match arguments.classes.iter().find(|class| **class > model.largest_condition()) {
        Some(class) => Err(Error::input(format!(
            "--class {class} is out of range: {} has classes 0 to {}{}",
            arguments.model,
            model.num_conditions() - 1,
            null_class_hint(model)
        ))),
        None => Ok(()),
    }
}

/// Requests and states from a file of noise.
fn from_noise(path: &Path, model: &FlowModel, seed: u64) -> Result<(Vec<SampleRequest>, Option<Vec<f32>>)> {
    let name = path.display();
    let mut tensors = read_tensors(path)?;
    let mut take = |tensor: &str| {
        tensors.remove(tensor).ok_or_else(|| Error::input(format!("{name} is missing the tensor `{tensor}`")))
    };
    let ((shape, x), (_, labels)) = (take("x")?, take("labels")?);
    let expected = model.batch_shape(labels.len());
    if labels.is_empty() || shape != expected {
        return Err(Error::input(format!(
            "{name}: `x` has shape {shape:?}, but {} labels of this model need {expected:?}",
            labels.len()
        )));
    }
    if let Some(index) = x.iter().position(|value| !value.is_finite()) {
        return Err(Error::input(format!("{name}: `x` is not finite at element {index}")));
    }
    let is_class = |label: &f32| label.fract() == 0.0 && (0.0..=model.largest_condition() as f32).contains(label);
    if let Some(label) = labels.iter().find(|label| !is_class(label)) {
        return Err(Error::input(format!(
            "{name}: `labels` contains {label}, but classes are whole numbers from 0 to {}{}",
            model.num_conditions() - 1,
            null_class_hint(model)
        )));
    }
    let classes: Vec<u32> = labels.iter().map(|label| *label as u32).collect();
    Ok((requests_for(&classes, 1, seed), Some(x)))
}

/// Which label means "no class", for messages.
fn null_class_hint(model: &FlowModel) -> String {
    model.null_condition().map_or_else(String::new, |label| format!(" ({label} means no class)"))
}

/// Draws a grid, with one row per class if the samples of each class are consecutive, or a plot of points.
fn write_panel(path: &Path, model: &StoredModel, flow_model: &FlowModel, labels: &[u32], images: &[f32]) -> Result<()> {
    let shape = flow_model.picture_shape();
    if scatter::is_point(shape) {
        let (class_names, data) = (&model.class_names, scatter::data_of(&model.class_names));
        let scatter =
            Scatter { points: images, labels, class_names, captions: &[], heading: "samples", data: data.as_ref() };
        return Panel::Scatter(scatter).write(path);
    }
    let mut rows: Vec<&[u32]> = labels.chunk_by(|a, b| a == b).collect();
    let columns = rows[0].len();
    let even = rows.iter().all(|row| row.len() == columns);
    if !even {
        rows.clear();
    }
    let name = |row: &&[u32]| {
        let class = row[0] as usize;
        let unnamed = if flow_model.null_condition() == Some(row[0]) { "none".to_owned() } else { class.to_string() };
        model.class_names.get(class).cloned().unwrap_or(unnamed)
    };
    let titles: Vec<String> = rows.iter().map(name).collect();
    let columns = if even { columns } else { labels.len().isqrt().max(1) };
    let grid = Grid { row_titles: &titles, ..Grid::new(images, shape, columns) };
    Panel::Grid(grid).write(path)
}

//! Drawing latents of prompts: one plan for one step, replayed along a table of steps.

use std::sync::Arc;

use super::conditions::Conditions;
use super::pipeline::out_of_memory;
use crate::error::{Error, Result};
use crate::flow::noise::{INITIAL_NOISE, NoiseKey};
use crate::gpu::{Command, Gpu, Region, Throttle};
use crate::graph::{DType, Graph, Plan, Stores, Tensor};
use crate::model::{MmditConfig, MmditNetwork, PromptEmbedding, Prompts};
use crate::ops::{PhiloxNormal, sampler_step};
use crate::optimizer::PARAMETERS;
use crate::sampling::SamplerTable;

/// One picture to draw: its prompt, and the key of all its noise (whose step is ignored).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// The place of its prompt among the conditions.
    pub prompt: usize,
    /// Noise.
    pub key: NoiseKey,
}

/// `count` pictures of each of so many prompts, prompt by prompt, under one seed.
pub fn pictures_of(prompts: usize, count: usize, seed: u64) -> Vec<Picture> {
    let pictures = (0..prompts).flat_map(|prompt| std::iter::repeat_n(prompt, count)).zip(0..);
    pictures.map(|(prompt, sample)| Picture { prompt, key: NoiseKey { seed, rollout: 0, sample, step: 0 } }).collect()
}

/// A transformer bound to the device for drawing in batches.
#[derive(Debug)]
pub struct Drawing {
    gpu: Arc<Gpu>,
    config: MmditConfig,
    batch: usize,
    shape: [usize; 3],
    step: StepGraph,
    plan: Plan,
    noise: Plan,
    noise_keys: Tensor,
    noise_out: Tensor,
}

/// One step, recorded: `x' = a·x + b·velocity(x) + s·ε`.
#[derive(Debug)]
struct StepGraph {
    graph: Graph,
    x: Tensor,
    time: Tensor,
    keys: Tensor,
    rows: Tensor,
    prompts: Prompts,
    /// Those of the negative prompt, with guidance.
    negative: Option<Prompts>,
    x_next: Tensor,
}

impl StepGraph {
    fn record(network: &MmditNetwork, batch: usize, tokens: usize, guidance_scale: f32) -> Self {
        let config = &network.config;
        let [height, width] = network.size;
        let shape = [batch, config.channels, height, width];
        let mut graph = Graph::new();
        let x = graph.input("x", &shape);
        let time = graph.input("time", &[batch]);
        let keys = graph.input_indices("noise keys", &[batch, 5]);
        let rows = graph.input("sampler rows", &[batch, 3]);
        let mut declare = |name: &str| Prompts {
            context: graph.input(name, &[batch, tokens, config.context_dim]),
            pooled: graph.input(&format!("pooled {name}"), &[batch, config.pooled_dim]),
        };
        let prompts = declare("prompts");
        let negative = (guidance_scale != 1.0).then(|| declare("negative prompts"));
        let transformer = network.declare(&mut graph, PARAMETERS, None);
        let both = [prompts, negative.unwrap_or(prompts)];
        let velocity = transformer.guided_velocity(&mut graph, x, time, both, guidance_scale);
        let noise = graph.apply(PhiloxNormal::new(&shape[1..]), &[keys]);
        let x_next = sampler_step(&mut graph, x, velocity, noise, rows);
        graph.keep(x_next);
        Self { graph, x, time, keys, rows, prompts, negative, x_next }
    }
}

/// A point of a trajectory as a visitor sees it.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// Step, from 0.
    pub step: usize,
    /// First picture of this batch.
    pub first: usize,
    /// Pictures in this batch.
    pub count: usize,
    /// State before the step on the device, `[count, C, h, w]`.
    pub x: &'a Region,
}

impl Drawing {
    /// Binds a transformer, whose weights are in `stores`, to draw `batch` pictures at a time of prompts of so many
    /// tokens. A guidance scale of 1 or less is none, as in diffusers.
    ///
    /// # Errors
    /// If the device has not enough memory.
    pub fn new(
        gpu: &Arc<Gpu>,
        network: &MmditNetwork,
        (batch, tokens): (usize, usize),
        guidance_scale: f64,
        stores: &Stores,
    ) -> Result<Self> {
        let config = network.config.clone();
        let step = StepGraph::record(network, batch, tokens, guidance_scale.max(1.0) as f32);
        let plan = Plan::new(gpu, &step.graph, stores).map_err(out_of_memory)?;
        let shape = [config.channels, network.size[0], network.size[1]];
        let mut graph = Graph::new();
        let noise_keys = graph.input_indices("noise keys", &[batch, 5]);
        let noise_out = graph.apply(PhiloxNormal::new(&shape), &[noise_keys]);
        graph.keep(noise_out);
        let noise = Plan::new(gpu, &graph, stores)?;
        Ok(Self { gpu: gpu.clone(), config, batch, shape, step, plan, noise, noise_keys, noise_out })
    }

    /// Draws the latents of every picture, `[N, C, h, w]`, from its noise or from given states (`start`, of this shape).
    /// A picture depends on its prompt, its key and the table alone, not on its neighbours.
    ///
    /// # Errors
    /// If the conditions cannot be read, the device is lost, or what the visitor returns.
    pub fn draw(
        &mut self,
        table: &SamplerTable,
        pictures: &[Picture],
        conditions: &Conditions,
        start: Option<&[f32]>,
        mut visit: impl FnMut(Visit<'_>) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let dim: usize = self.shape.iter().product();
        if let Some(negative) = self.step.negative {
            let condition = conditions.of(None)?;
            self.write(negative, &vec![&condition; self.batch]);
        }
        let mut throttle = Throttle::default();
        let mut drawn = Vec::with_capacity(pictures.len() * dim);
        for (index, pictures) in pictures.chunks(self.batch).enumerate() {
            let (first, count) = (index * self.batch, pictures.len());
            self.begin(pictures, conditions, start.map(|start| &start[first * dim..(first + count) * dim]))?;
            let bytes = DType::F32.bytes(&[count, dim]);
            for (step, row) in table.rows.iter().enumerate() {
                let x = Region { bytes, ..self.plan.region(self.step.x).clone() };
                visit(Visit { step, first, count, x: &x })?;
                let time = self.config.time_of(table.sigmas[step]);
                self.plan.write(self.step.time, &vec![time; self.batch]);
                self.plan.write(self.step.keys, &self.keys(pictures, step as u32));
                self.plan.write(self.step.rows, &[row.a as f32, row.b as f32, row.s as f32].repeat(self.batch));
                self.plan.run()?;
                let (from, to) = (self.plan.region(self.step.x_next), self.plan.region(self.step.x));
                self.gpu.encode([Command::Copy { from, to }])?;
                throttle.pass(&self.gpu)?;
            }
            drawn.extend(self.gpu.read::<f32>(&[&Region { bytes, ..self.plan.region(self.step.x).clone() }])?);
        }
        match drawn.iter().position(|value| !value.is_finite()) {
            None => Ok(drawn),
            Some(broken) => Err(Error::NotFinite(format!(
                "picture {} is not finite: the weights of the transformer or its adapter are damaged, or do not suit these \
                 sampling steps",
                broken / dim + 1
            ))),
        }
    }

    /// Writes what a batch starts from. One that is not full is filled with copies of its last picture, which are dropped.
    fn begin(&mut self, pictures: &[Picture], conditions: &Conditions, start: Option<&[f32]>) -> Result<()> {
        let mut found: Vec<PromptEmbedding> = Vec::new();
        for picture in pictures {
            found.push(conditions.of(Some(picture.prompt))?);
        }
        let padded: Vec<&PromptEmbedding> = (0..self.batch).map(|row| &found[row.min(found.len() - 1)]).collect();
        self.write(self.step.prompts, &padded);
        match start {
            Some(start) => {
                let mut x = start.to_vec();
                x.resize(self.batch * self.shape.iter().product::<usize>(), 0.0);
                self.plan.write(self.step.x, &x);
            }
            None => {
                self.noise.write(self.noise_keys, &self.keys(pictures, INITIAL_NOISE));
                self.noise.run()?;
                let (from, to) = (self.noise.region(self.noise_out), self.plan.region(self.step.x));
                self.gpu.encode([Command::Copy { from, to }])?;
            }
        }
        Ok(())
    }

    fn write(&self, prompts: Prompts, conditions: &[&PromptEmbedding]) {
        let contexts: Vec<&[f32]> = conditions.iter().map(|it| it.context.as_slice()).collect();
        let pooled: Vec<&[f32]> = conditions.iter().map(|it| it.pooled.as_slice()).collect();
        self.plan.write(prompts.context, &contexts.concat());
        self.plan.write(prompts.pooled, &pooled.concat());
    }

    /// Noise keys of a batch in the layout that shaders read.
    fn keys(&self, pictures: &[Picture], step: u32) -> Vec<u32> {
        let padded = (0..self.batch).map(|row| pictures[row.min(pictures.len() - 1)]);
        padded.flat_map(|picture| NoiseKey { step, ..picture.key }.words()).collect()
    }
}

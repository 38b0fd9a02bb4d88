//! Draws images from a flow model: one plan for one step, replayed along a table of steps.

use std::sync::Arc;

use maybe_async::maybe_async;

use crate::error::{Error, Result};
use crate::flow::noise::{INITIAL_NOISE, NoiseKey};
use crate::flow::sampler::{Sampler, Transition};
use crate::flow::schedule::Schedule;
use crate::flow::solver::Solver;
use crate::gpu::{Buffer, Command, Gpu, Region, ShaderStruct, Throttle};
use crate::graph::{DType, Graph, Plan, Stores, Tensor};
use crate::model::{ConditionInput, FlowModel, Network};
use crate::ops::{NoiseWords, PhiloxNormal, SamplerRow, sampler_step};
use crate::optimizer::PARAMETERS;
use crate::ranks::Team;

/// A flow model whose weights are on the device.
#[derive(Clone, Copy, Debug)]
pub struct ModelOnDevice<'a> {
    /// Its network.
    pub network: &'a Network,
    /// The names of its classes; none if they are only numbers.
    pub class_names: &'a [String],
    /// Its weights, as [`PARAMETERS`] and, with an adapter, [`crate::model::BASE`].
    pub stores: &'a Stores,
}

/// Noise levels and transitions of a trajectory: everything that defines a sampler.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerTable {
    /// Noise levels, one more than there are steps, from 1 to 0.
    pub sigmas: Vec<f64>,
    /// Transitions.
    pub rows: Vec<Transition>,
    /// Weights of the data predicted in the previous step, for solvers that use it; otherwise empty.
    pub history: Vec<f64>,
}

impl SamplerTable {
    /// A sampler along a schedule; `eta` gives the exploration strength of each step.
    ///
    /// # Errors
    /// [`crate::Error::Input`] if the schedule or an eta is impossible.
    pub fn new(schedule: &Schedule, steps: usize, sampler: Sampler, eta: impl Fn(usize) -> f64) -> Result<Self> {
        let sigmas = schedule.sigmas(steps)?;
        let rows = sampler.table(&sigmas, eta)?;
        Ok(Self { sigmas, rows, history: Vec::new() })
    }

    /// Deterministic steps of a solver along a schedule, for a [`Sampling`] that was bound for it.
    ///
    /// # Errors
    /// As [`SamplerTable::new`].
    pub fn solve(schedule: &Schedule, steps: usize, solver: Solver) -> Result<Self> {
        let sigmas = schedule.sigmas(steps)?;
        let table = solver.table(&sigmas)?;
        Ok(Self {
            sigmas,
            rows: table.iter().map(|row| Transition { a: row.a, b: row.b, s: 0.0 }).collect(),
            history: if solver.has_history() { table.iter().map(|row| row.c).collect() } else { Vec::new() },
        })
    }

    /// Deterministic Euler steps along a schedule.
    ///
    /// # Errors
    /// As [`SamplerTable::new`].
    pub fn ode(schedule: &Schedule, steps: usize) -> Result<Self> {
        Self::new(schedule, steps, Sampler::Ode, |_| 0.0)
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.rows.len()
    }
}

/// One step of sampling, recorded: `x' = a·x + b·velocity(x) + s·ε`.
#[derive(Debug)]
pub struct StepGraph {
    /// The computation.
    pub graph: Graph,
    x: Tensor,
    time: Tensor,
    condition: ConditionInput,
    /// Of the noise, which a history replaces.
    keys: Option<Tensor>,
    rows: Tensor,
    velocity: Tensor,
    x_next: Tensor,
    history: Option<History>,
}

/// The data predicted at the previous step, for solvers that use it.
#[derive(Clone, Copy, Debug)]
struct History {
    /// Prediction of the previous step.
    before: Tensor,
    /// Prediction of this step.
    now: Tensor,
    /// Rows (1, −σ, 0) of that prediction.
    rows: Tensor,
}

impl StepGraph {
    /// Records a step of `batch` samples.
    pub fn record(network: &Network, batch: usize, guidance_scale: f64) -> Self {
        Self::record_for(network, batch, guidance_scale, Solver::Euler)
    }

    /// [`StepGraph::record`] for a solver; a history replaces the noise.
    pub fn record_for(network: &Network, batch: usize, guidance_scale: f64, solver: Solver) -> Self {
        let shape = network.model.batch_shape(batch);
        let mut graph = Graph::new();
        let x = graph.input("x", &shape);
        let time = graph.input("time", &[batch]);
        let condition = ConditionInput::declare(&mut graph, &network.model, batch, guidance_scale != 1.0);
        let rows = graph.input("sampler rows", &[batch, SamplerRow::WORDS]);
        let policy = network.declare(&mut graph, PARAMETERS, None);
        let velocity = policy.guided_velocity(&mut graph, x, time, condition, guidance_scale as f32);
        let history = solver.has_history().then(|| {
            let before = graph.input("data predicted before", &shape);
            let rows = graph.input("prediction rows", &[batch, SamplerRow::WORDS]);
            let now = sampler_step(&mut graph, x, velocity, velocity, rows);
            History { before, now: graph.keep(now), rows }
        });
        let (third, keys) = match history {
            Some(history) => (history.before, None),
            None => {
                let keys = graph.input_indices("noise keys", &[batch, NoiseWords::WORDS]);
                (graph.apply(PhiloxNormal::new(&shape[1..]), &[keys]), Some(keys))
            }
        };
        let x_next = sampler_step(&mut graph, x, velocity, third, rows);
        graph.keep(velocity);
        graph.keep(x_next);
        Self { graph, x, time, condition, keys, rows, velocity, x_next, history }
    }
}

/// The initial noise of `batch` samples: graph, keys and noise.
pub fn noise_graph(model: &FlowModel, batch: usize) -> (Graph, Tensor, Tensor) {
    let mut graph = Graph::new();
    let keys = graph.input_indices("noise keys", &[batch, NoiseWords::WORDS]);
    let noise = graph.apply(PhiloxNormal::new(&model.batch_shape(batch)[1..]), &[keys]);
    graph.keep(noise);
    (graph, keys, noise)
}

/// One sample: its condition, and the key of all its noise (its step is ignored).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleRequest {
    /// What it is asked to show: a row of the model's table of conditions.
    pub condition: u32,
    /// Noise.
    pub key: NoiseKey,
}

/// A flow model that is bound to the device to draw samples in batches.
#[derive(Debug)]
pub struct Sampling {
    gpu: Arc<Gpu>,
    model: FlowModel,
    batch: usize,
    step: StepGraph,
    plan: Plan,
    noise: Plan,
    noise_keys: Tensor,
    noise_out: Tensor,
    /// Finished images are collected here, so that all are read at once.
    images: Arc<Buffer>,
}

/// A point of a trajectory for a visitor: the state and its velocity, on the device.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// Step, from 0.
    pub step: usize,
    /// First sample of this batch.
    pub first: usize,
    /// Samples in this batch.
    pub count: usize,
    /// State before the step, `[count, C, H, W]`.
    pub x: &'a Region,
    /// Velocity at that state.
    pub velocity: &'a Region,
}

impl Sampling {
    /// Binds a model, whose weights are the `PARAMETERS` of `stores` (with LoRA also the `BASE`), to draw up to `most`
    /// samples at a time in batches of `batch`.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub fn new(
        gpu: &Arc<Gpu>,
        network: &Network,
        batches: [usize; 2],
        guidance_scale: f64,
        stores: &Stores,
    ) -> Result<Self> {
        Self::new_for(gpu, network, batches, guidance_scale, Solver::Euler, stores)
    }

    /// [`Sampling::new`] for a solver. One with a history accepts every deterministic table, the others every
    /// table without a history.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub fn new_for(
        gpu: &Arc<Gpu>,
        network: &Network,
        [most, batch]: [usize; 2],
        guidance_scale: f64,
        solver: Solver,
        stores: &Stores,
    ) -> Result<Self> {
        let model = &network.model;
        let step = StepGraph::record_for(network, batch, guidance_scale, solver);
        let plan = Plan::new(gpu, &step.graph, stores)?;
        step.condition.write_common(&plan, model, batch)?;
        let (graph, noise_keys, noise_out) = noise_graph(model, batch);
        let noise = Plan::new(gpu, &graph, stores)?;
        let images = gpu.allocate("finished images", images_bytes(model, most))?;
        Ok(Self { gpu: gpu.clone(), model: model.clone(), batch, step, plan, noise, noise_keys, noise_out, images })
    }

    /// Draws a sample for every request, in batches; returns the images `[N, C, H, W]`.
    ///
    /// A sample depends only on its request and the table, not on its neighbours.
    ///
    /// # Errors
    /// If the device is lost.
    #[maybe_async]
    pub async fn draw(&mut self, table: &SamplerTable, requests: &[SampleRequest]) -> Result<Vec<f32>> {
        self.draw_visited(table, requests, None, |_| Ok(())).await
    }

    /// The pictures of a sample for every request `[N, C, H, W]`, of which each rank of a team draws a part.
    ///
    /// # Errors
    /// If a device is lost, or the connection.
    #[maybe_async]
    pub async fn pictures(
        &mut self,
        table: &SamplerTable,
        requests: &[SampleRequest],
        team: &Team,
    ) -> Result<Vec<f32>> {
        let own = self.drawn_part(table, &requests[team.seat().range(requests.len())]).await;
        let own = team.agree(own)?;
        match team.is_many() {
            false => Ok(own),
            true => Ok(team.gather(bytemuck::cast_slice(&own))?.iter().flat_map(|part| floats(part)).collect()),
        }
    }

    #[maybe_async]
    async fn drawn_part(&mut self, table: &SamplerTable, requests: &[SampleRequest]) -> Result<Vec<f32>> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let states = self.draw(table, requests).await?;
        Ok(self.model.decode(&self.gpu, &states).await?.into_owned())
    }

    /// [`Sampling::draw`] from given states instead of noise (`start`, `[N, C, H, W]`), and with a visitor for
    /// every step.
    ///
    /// # Errors
    /// If the device is lost, or what the visitor returns.
    #[maybe_async]
    pub async fn draw_visited(
        &mut self,
        table: &SamplerTable,
        requests: &[SampleRequest],
        start: Option<&[f32]>,
        mut visit: impl FnMut(Visit<'_>) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let dim = self.model.dim();
        match self.step.history {
            Some(_) => assert!(table.rows.iter().all(|row| row.s == 0.0), "a solver's plan has no noise"),
            None => assert!(table.history.is_empty(), "a table with a history needs a plan with one"),
        }
        let bytes = images_bytes(&self.model, requests.len());
        assert!(bytes <= self.images.bytes(), "no more samples are drawn than space was allocated for");
        let images = Region { buffer: self.images.clone(), offset: 0, bytes };
        let mut throttle = Throttle::default();
        for (index, requests) in requests.chunks(self.batch).enumerate() {
            let first = index * self.batch;
            // The last batch is padded with copies of its last request, which are discarded.
            let padded = || (0..self.batch).map(|row| requests[row.min(requests.len() - 1)]);
            let conditions: Vec<u32> = padded().map(|request| request.condition).collect();
            self.step.condition.write(&self.plan, &self.model, &conditions)?;
            match start {
                Some(start) => {
                    let mut x = start[first * dim..(first + requests.len()) * dim].to_vec();
                    x.resize(self.batch * dim, 0.0);
                    self.plan.write(self.step.x, &x);
                }
                None => {
                    self.noise.write_structs(self.noise_keys, &noise_words(padded(), INITIAL_NOISE));
                    self.noise.run().await?;
                    let (from, to) = (self.noise.region(self.noise_out), self.plan.region(self.step.x));
                    self.gpu.encode([Command::Copy { from, to }])?;
                }
            }
            if let Some(history) = self.step.history {
                self.plan.write(history.before, &vec![0.0_f32; self.batch * dim]);
            }
            for (step, row) in table.rows.iter().enumerate() {
                let time = self.model.time_of(table.sigmas[step]);
                self.plan.write(self.step.time, &vec![time; self.batch]);
                if let Some(keys) = self.step.keys {
                    self.plan.write_structs(keys, &noise_words(padded(), step as u32));
                }
                let third = table.history.get(step).unwrap_or(&row.s);
                let row = SamplerRow::from(Transition { s: *third, ..*row });
                self.plan.write_structs(self.step.rows, &vec![row; self.batch]);
                if let Some(history) = self.step.history {
                    let row = SamplerRow { a: 1.0, b: -table.sigmas[step] as f32, s: 0.0 };
                    self.plan.write_structs(history.rows, &vec![row; self.batch]);
                }
                self.plan.run().await?;
                let count = requests.len();
                let bytes = DType::F32.bytes(&[count, dim]);
                let part = |tensor| Region { bytes, ..self.plan.region(tensor).clone() };
                let (x, velocity) = (part(self.step.x), part(self.step.velocity));
                visit(Visit { step, first, count, x: &x, velocity: &velocity })?;
                let (from, to) = (self.plan.region(self.step.x_next), self.plan.region(self.step.x));
                self.gpu.encode([Command::Copy { from, to }])?;
                if let Some(history) = self.step.history {
                    let (from, to) = (self.plan.region(history.now), self.plan.region(history.before));
                    self.gpu.encode([Command::Copy { from, to }])?;
                }
            }
            let bytes = DType::F32.bytes(&[requests.len(), dim]);
            let from = Region { bytes, ..self.plan.region(self.step.x).clone() };
            let to = Region { offset: DType::F32.bytes(&[first, dim]), bytes, ..images.clone() };
            self.gpu.encode([Command::Copy { from: &from, to: &to }])?;
            throttle.pass(&self.gpu).await?;
        }
        let drawn: Vec<f32> = self.gpu.read(&[&images]).await?;
        match drawn.iter().position(|value| !value.is_finite()) {
            None => Ok(drawn),
            Some(broken) => Err(Error::NotFinite(format!(
                "sample {} of {} is not finite: the model's weights have diverged, or do not suit these \
                 sampling steps; go back to an earlier checkpoint",
                requests[broken / dim].key.sample,
                self.model.condition_name(requests[broken / dim].condition)
            ))),
        }
    }
}

/// Numbers as another rank has sent them.
fn floats(bytes: &[u8]) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(bytes)
}

/// Device bytes of `count` images.
pub fn images_bytes(model: &FlowModel, count: usize) -> u64 {
    DType::F32.bytes(&[count, model.dim()])
}

/// The noise keys of a step, as shaders take them.
pub fn noise_words(requests: impl Iterator<Item = SampleRequest>, step: u32) -> Vec<NoiseWords> {
    requests.map(|request| NoiseKey { step, ..request.key }.into()).collect()
}

/// Requests for `count` samples of each condition, condition by condition, under one seed.
pub fn requests_for(conditions: &[u32], count: usize, seed: u64) -> Vec<SampleRequest> {
    let conditions = conditions.iter().flat_map(|condition| std::iter::repeat_n(*condition, count));
    conditions
        .enumerate()
        .map(|(index, condition)| SampleRequest {
            condition,
            key: NoiseKey { seed, rollout: 0, sample: index as u32, step: 0 },
        })
        .collect()
}

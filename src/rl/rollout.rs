//! Sampling with noise: the trajectories that the policy learns from.

use std::sync::Arc;

use crate::config::Config;
use crate::error::Result;
use crate::flow::noise::NoiseKey;
use crate::flow::schedule::Schedule;
use crate::gpu::{Buffer, Command, Gpu, Region};
use crate::graph::{Store, Stores};
use crate::model::DitConfig;
use crate::sampling::{Request, Sampling, Table};

/// States x_k of the trained steps, `[slots · samples, C, S, S]`.
pub const STATES: Store = Store("trajectory states");
/// Velocities there at the time of the rollout, of the same shape.
pub const VELOCITIES: Store = Store("trajectory velocities");

/// One rollout: everything that stays fixed while the policy learns from it. States and velocities lie on the
/// device, in the collector's stores.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// Which one; part of every noise key.
    pub index: u32,
    /// What was asked for: groups of siblings, next to each other.
    pub requests: Vec<Request>,
    /// Noise levels and transitions: stochastic at the trained steps, Euler elsewhere.
    pub table: Table,
    /// The trained steps, ascending; slot i of the stores holds the i-th.
    pub trained: Vec<usize>,
    /// Final images, `[N, C, S, S]`.
    pub images: Vec<f32>,
}

/// Draws rollouts and keeps what the updates need.
#[derive(Debug)]
pub struct RolloutCollector {
    gpu: Arc<Gpu>,
    config: Config,
    dim: usize,
    classes: Vec<u32>,
    sampling: Sampling,
    stores: [Arc<Buffer>; 2],
}

/// How many steps every rollout trains.
pub(super) fn trained_slots(config: &Config) -> Result<usize> {
    Ok(config.rollout.trained_steps.choose(config.rollout.steps, config.run.seed, 0)?.len())
}

/// Bytes of one of the two trajectory stores.
pub(super) fn store_bytes(config: &Config, dit: &DitConfig) -> Result<u64> {
    Ok(4 * (trained_slots(config)? * config.samples_per_rollout() * dit.dim()) as u64)
}

impl RolloutCollector {
    /// Binds the policy, whose weights are the parameters of `stores`.
    ///
    /// # Errors
    /// If the device has not enough memory.
    pub fn new(gpu: &Arc<Gpu>, config: &Config, dit: &DitConfig, classes: Vec<u32>, stores: &Stores) -> Result<Self> {
        let bytes = store_bytes(config, dit)?;
        Ok(Self {
            gpu: gpu.clone(),
            config: config.clone(),
            dim: dit.dim(),
            classes,
            sampling: Sampling::new(
                gpu,
                dit,
                [config.samples_per_rollout(), config.rollout_micro_batch()],
                config.rollout.guidance_scale,
                stores,
            )?,
            stores: [gpu.allocate(STATES.0, bytes)?, gpu.allocate(VELOCITIES.0, bytes)?],
        })
    }

    /// The stores that hold the newest rollout, for the update's plan.
    pub fn stores(&self) -> Stores {
        let [states, velocities] = &self.stores;
        Stores::from([(STATES, states.clone()), (VELOCITIES, velocities.clone())])
    }

    /// Draws rollout `index`, overwriting the one before.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn collect(&mut self, index: u32) -> Result<Rollout> {
        let settings = &self.config.rollout;
        let seed = self.config.run.seed;
        let trained = settings.trained_steps.choose(settings.steps, seed, index)?;
        let schedule = Schedule::StaticShift { shift: settings.shift };
        let eta = |step: usize| if trained.contains(&step) { settings.eta } else { 0.0 };
        let table = Table::new(&schedule, settings.steps, settings.sampler, eta)?;
        let samples = self.config.samples_per_rollout();
        let requests: Vec<Request> = (0..samples)
            .map(|sample| {
                let group = index as usize * settings.groups + sample / settings.group_size;
                let key = NoiseKey { seed, rollout: index, sample: sample as u32, step: 0 };
                Request { label: self.classes[group % self.classes.len()], key }
            })
            .collect();
        let (gpu, dim) = (self.gpu.clone(), self.dim);
        let [states, velocities] = self.stores.clone();
        let images = self.sampling.draw_visited(&table, &requests, None, |moment| {
            let Some(slot) = trained.iter().position(|step| *step == moment.step) else { return Ok(()) };
            let offset = 4 * ((slot * samples + moment.first) * dim) as u64;
            let to = |buffer: &Arc<Buffer>| Region { buffer: buffer.clone(), offset, bytes: moment.x.bytes };
            let (to_states, to_velocities) = (to(&states), to(&velocities));
            gpu.encode([
                Command::Copy { from: moment.x, to: &to_states },
                Command::Copy { from: moment.velocity, to: &to_velocities },
            ])
        })?;
        Ok(Rollout { index, requests, table, trained, images })
    }
}

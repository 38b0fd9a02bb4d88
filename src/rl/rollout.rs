//! Sampling with noise: the trajectories that the policy learns from.

use std::ops::Range;
use std::sync::Arc;

use maybe_async::maybe_async;

use super::method::Method;
use super::settings::RolloutSettings;
use super::share::Share;
use crate::config;
use crate::error::Result;
use crate::flow::noise::{INITIAL_NOISE, NoiseKey, normals};
use crate::gpu::{Command, Gpu};
use crate::graph::{DType, Store, StoreMemory, Stores};
use crate::model::{FlowModel, Network};
use crate::sampling::{SampleRequest, SamplerTable, Sampling, Visit};

/// States x_k of the trained steps, `[slots · samples, C, H, W]`, of the samples of this process; with DiffusionNFT the
/// samples themselves, `[samples, C, H, W]`.
pub const STATES: Store = Store("trajectory states");
/// Velocities there at the time of the rollout, of the same shape; not with DiffusionNFT.
pub const VELOCITIES: Store = Store("trajectory velocities");

/// One rollout: everything that stays fixed while the policy learns from it. States and velocities are on the
/// device, in the collector's stores.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// Which one; part of every noise key.
    pub index: u32,
    /// The requests: groups of siblings, next to each other.
    pub requests: Vec<SampleRequest>,
    /// Noise levels and transitions: stochastic at the trained steps, Euler elsewhere.
    pub table: SamplerTable,
    /// The trained steps, ascending; slot i of the stores contains the i-th.
    pub trained: Vec<usize>,
    /// The samples that this process has drawn, ascending; all, unless several train together.
    pub own: Vec<usize>,
    /// Their final images, `[own, C, H, W]`.
    pub images: Vec<f32>,
}

/// Draws rollouts and keeps what the updates need.
#[derive(Debug)]
pub struct RolloutCollector {
    gpu: Arc<Gpu>,
    seed: u64,
    settings: config::Rollout,
    method: Method,
    share: Share,
    dim: usize,
    conditions: Vec<u32>,
    sampling: Sampling,
    stores: Stores,
}

/// The trajectory stores and their bytes.
pub(super) fn store_bytes(settings: RolloutSettings<'_>, model: &FlowModel) -> Result<Vec<(Store, u64)>> {
    // Cutting them changes nothing about their size.
    let bytes = DType::F32.bytes(&[chunks(settings, model, None)?.iter().map(Range::len).sum()]);
    Ok(Method::from(settings.objective).stores().iter().map(|store| (*store, bytes)).collect())
}

/// How each trajectory store is cut: between micro-batches, which the sampler copies as one, into chunks of at most `most`
/// bytes if one micro-batch fits. In words of 4 bytes.
fn chunks(settings: RolloutSettings<'_>, model: &FlowModel, most: Option<u64>) -> Result<Vec<Range<usize>>> {
    let (samples, dim) = (settings.share.count(), model.dim());
    let micro_batch = settings.micro_batch();
    let batch = DType::F32.bytes(&[micro_batch, dim]);
    let batches = most.map_or(usize::MAX, |most| (most / batch).max(1) as usize);
    let chunk = batches.saturating_mul(micro_batch).min(samples);
    let slot = |slot: usize| {
        let first = slot * samples;
        (first..first + samples).step_by(chunk).map(move |row| row * dim..(row + chunk).min(first + samples) * dim)
    };
    Ok((0..settings.stored_slots()?).flat_map(slot).collect())
}

impl RolloutCollector {
    /// Binds the policy, whose weights are the parameters of `stores`, to draw these conditions in turn.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub fn new(
        gpu: &Arc<Gpu>,
        settings: RolloutSettings<'_>,
        network: &Network,
        conditions: Vec<u32>,
        stores: &Stores,
    ) -> Result<Self> {
        let model = &network.model;
        let rollout = settings.rollout;
        let sizes = [settings.share.count(), settings.micro_batch()];
        let method = Method::from(settings.objective);
        let chunks = chunks(settings, model, gpu.chunk_bytes())?;
        let store = |store: &Store| Ok((*store, StoreMemory::allocate(gpu, store.0, &chunks)?));
        Ok(Self {
            gpu: gpu.clone(),
            seed: settings.seed,
            settings: rollout.clone(),
            method,
            share: settings.share,
            dim: model.dim(),
            conditions,
            sampling: Sampling::new(gpu, network, sizes, rollout.guidance_scale, stores)?,
            stores: method.stores().iter().map(store).collect::<Result<_>>()?,
        })
    }

    /// The stores that contain the newest rollout, from which updates copy.
    pub fn stores(&self) -> Stores {
        self.stores.clone()
    }

    /// Draws rollout `index`, as far as it is drawn here, overwriting the previous one.
    ///
    /// # Errors
    /// If the device is lost.
    #[maybe_async]
    pub async fn collect(&mut self, index: u32) -> Result<Rollout> {
        let (settings, seed) = (&self.settings, self.seed);
        let trained = settings.trained_steps.choose(settings.steps, seed, index)?;
        let eta = |step: usize| if trained.contains(&step) { settings.eta.at(step) } else { 0.0 };
        let table = SamplerTable::new(&settings.schedule, settings.steps, settings.sampler, eta)?;
        let requests: Vec<SampleRequest> = (0..settings.samples())
            .map(|sample| {
                let group = index as usize * settings.groups + sample / settings.group_size;
                let key = NoiseKey { seed, rollout: index, sample: sample as u32, step: 0 };
                SampleRequest { condition: self.conditions[group % self.conditions.len()], key }
            })
            .collect();
        let own = self.share.drawn(index);
        let start = settings.shared_noise.then(|| self.shared_noise(&requests, &own));
        let (gpu, dim, stores, samples) = (&self.gpu, self.dim, &self.stores, own.len());
        let drawn: Vec<SampleRequest> = own.iter().map(|sample| requests[*sample]).collect();
        let keep = |visit: Visit<'_>| {
            let Some(slot) = trained.iter().position(|step| *step == visit.step) else { return Ok(()) };
            let Some(velocities) = stores.get(&VELOCITIES) else { return Ok(()) };
            let offset = DType::F32.bytes(&[slot * samples + visit.first, dim]);
            let to = |memory: &StoreMemory| memory.region(offset, visit.x.bytes).expect("trajectories have room");
            let (to_states, to_velocities) = (to(&stores[&STATES]), to(velocities));
            gpu.encode([
                Command::Copy { from: visit.x, to: &to_states },
                Command::Copy { from: visit.velocity, to: &to_velocities },
            ])
        };
        let images = self.sampling.draw_visited(&table, &drawn, start.as_deref(), keep).await?;
        if self.method.stores_samples() {
            self.stores[&STATES].write(&self.gpu, &images);
        }
        Ok(Rollout { index, requests, table, trained, own, images })
    }

    /// The initial noise of these samples: that of the first of their group.
    fn shared_noise(&self, requests: &[SampleRequest], samples: &[usize]) -> Vec<f32> {
        let group_of = |sample: &usize| sample / self.settings.group_size;
        let noise = |of_group: &[usize]| -> Vec<f32> {
            let first = requests[group_of(&of_group[0]) * self.settings.group_size];
            let key = NoiseKey { step: INITIAL_NOISE, ..first.key };
            let noise: Vec<f32> = normals(key, self.dim).iter().map(|value| *value as f32).collect();
            noise.repeat(of_group.len())
        };
        samples.chunk_by(|a, b| group_of(a) == group_of(b)).flat_map(noise).collect()
    }
}

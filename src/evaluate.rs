//! How good a model is, on fixed seeds: deterministic steps, an independent judge, diversity, and how far it
//! has drifted from its base.

use std::sync::Arc;

use serde::Serialize;

use crate::config::{self, Config};
use crate::error::Result;
use crate::flow::sampler::{Row, Sampler};
use crate::flow::schedule::Schedule;
use crate::gpu::{Command, Gpu};
use crate::graph::{Graph, Plan, Store, Stores, Tensor};
use crate::model::{Dit, DitConfig};
use crate::ops::{PolicyStats, sampler_step};
use crate::optimizer::PARAMETERS;
use crate::reward::{self, ClassifierScorer, Reward};
use crate::sampling::{Request, Sampling, Table, class_requests};

/// Weights of the model that drift is measured from.
pub const BASE: Store = Store("base parameters");

/// Samples that are drawn together.
const BATCH: usize = 100;

/// What an evaluation found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Samples.
    pub samples: usize,
    /// Mean reward (weighted sum of components).
    pub reward_mean: f64,
    /// Standard error of that mean.
    pub reward_standard_error: f64,
    /// Share of samples that the independent judge takes for the class that was asked for.
    pub judge_accuracy: Option<f64>,
    /// Mean Euclidean distance between two samples of one class.
    pub diversity: f64,
    /// How far the model is from its base.
    pub drift: Option<Drift>,
}

/// How far a model is from its base.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// Mean squared difference of the velocities at the same states, an element; states are those of the
    /// model's own deterministic trajectories.
    pub velocity_msd: f64,
    /// The same difference as KL of the stochastic sampler at each step, in nats an element; `None` where the
    /// sampler has no density.
    pub kl_by_step: Vec<Option<f64>>,
    /// Mean of those.
    pub kl_mean: f64,
    /// Mean squared difference of the final images from the same noise, an element.
    pub image_msd: f64,
}

/// Evaluates one model again and again: all plans are made once.
#[derive(Debug)]
pub struct Evaluator {
    dit: DitConfig,
    count: usize,
    requests: Vec<Request>,
    table: Table,
    sampling: Sampling,
    rewards: Vec<Box<dyn Reward>>,
    weights: Vec<f64>,
    judge: Option<ClassifierScorer>,
    drift: Option<DriftMeter>,
    base_images: Option<Vec<f32>>,
}

impl Evaluator {
    /// Binds the model whose weights are the `PARAMETERS` of `stores`; with [`BASE`] among them, drift from
    /// those is measured too.
    ///
    /// # Errors
    /// If rewards or judge do not fit the model, or the device has not enough memory.
    pub fn new(gpu: &Arc<Gpu>, config: &Config, dit: &DitConfig, stores: &Stores) -> Result<Self> {
        let eval = &config.eval;
        let classes: Vec<u32> = (0..dit.num_classes as u32).collect();
        let requests = class_requests(&classes, eval.count, eval.seed);
        let table = Table::ode(1.0, eval.steps)?;
        let batch = requests.len().min(BATCH);
        let judge = match eval.judge.as_str() {
            "" => None,
            file => Some(reward::classifier_for(gpu, file, dit)?),
        };
        let (mut drift, mut base_images) = (None, None);
        if let Some(base) = stores.get(&BASE) {
            let only_base = Stores::from([(PARAMETERS, base.clone())]);
            let mut base_sampling = Sampling::new(gpu, dit, batch, eval.guidance_scale, &only_base)?;
            base_images = Some(base_sampling.draw(&table, &requests)?);
            drift = Some(DriftMeter::new(gpu, &config.rollout, dit, batch, stores)?);
        }
        Ok(Self {
            count: eval.count,
            sampling: Sampling::new(gpu, dit, batch, eval.guidance_scale, stores)?,
            rewards: reward::from_config(gpu, &config.reward, dit)?,
            weights: config.reward.iter().map(|reward| reward.weight).collect(),
            dit: dit.clone(),
            requests,
            table,
            judge,
            drift,
            base_images,
        })
    }

    /// Evaluates the weights as they are now.
    ///
    /// # Errors
    /// If the device is lost or a reward fails.
    pub fn evaluate(&mut self) -> Result<Evaluation> {
        let images = self.sampling.draw(&self.table, &self.requests)?;
        let labels: Vec<u32> = self.requests.iter().map(|request| request.label).collect();
        let mut totals = vec![0.0; labels.len()];
        for (reward, weight) in self.rewards.iter_mut().zip(&self.weights) {
            for (total, score) in totals.iter_mut().zip(reward.score(&images, &labels)?) {
                *total += weight * score;
            }
        }
        let count = totals.len() as f64;
        let mean = totals.iter().sum::<f64>() / count;
        let variance = totals.iter().map(|total| (total - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        let judge_accuracy = match &mut self.judge {
            Some(judge) => Some(judge.accuracy(&images, &labels)?),
            None => None,
        };
        let drift = match (&mut self.drift, &self.base_images) {
            (Some(meter), Some(base)) => Some(meter.measure(&self.requests, mean_squared(&images, base))?),
            _ => None,
        };
        Ok(Evaluation {
            samples: labels.len(),
            reward_mean: mean,
            reward_standard_error: (variance / count).sqrt(),
            judge_accuracy,
            diversity: diversity(&images, self.dit.dim(), self.count),
            drift,
        })
    }
}

/// Mean Euclidean distance between two images of a group, over all pairs of all groups.
fn diversity(images: &[f32], dim: usize, group: usize) -> f64 {
    let (mut sum, mut pairs) = (0.0, 0.0_f64);
    for group in images.chunks(dim * group) {
        let members: Vec<&[f32]> = group.chunks(dim).collect();
        for (index, first) in members.iter().enumerate() {
            for second in &members[index + 1..] {
                sum += (mean_squared(first, second) * dim as f64).sqrt();
                pairs += 1.0;
            }
        }
    }
    sum / pairs.max(1.0)
}

fn mean_squared(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64
}

/// Both models at the same states, along the deterministic trajectory of the first.
#[derive(Debug)]
struct DriftMeter {
    gpu: Arc<Gpu>,
    dit: DitConfig,
    batch: usize,
    ode: Table,
    /// Transitions of the stochastic sampler, for the KL.
    stochastic: Vec<Row>,
    plan: Plan,
    noise: Plan,
    noise_keys: Tensor,
    noise_out: Tensor,
    x: Tensor,
    time: Tensor,
    labels: Tensor,
    rows: Tensor,
    stats: Tensor,
    x_next: Tensor,
}

impl DriftMeter {
    fn new(gpu: &Arc<Gpu>, rollout: &config::Rollout, dit: &DitConfig, batch: usize, stores: &Stores) -> Result<Self> {
        let mut graph = Graph::new();
        let x = graph.input("x", &dit.image_shape(batch));
        let time = graph.input("time", &[batch]);
        let labels = graph.input("labels", &[batch]);
        let rows = graph.input("sampler rows", &[batch, 3]);
        let velocity = |graph: &mut Graph, store: Store| {
            let parameters = dit.layout().declare(graph, store, None);
            Dit::new(dit, parameters).velocity(graph, x, time, labels)
        };
        let v_new = velocity(&mut graph, PARAMETERS);
        let v_base = velocity(&mut graph, BASE);
        // S2 is wanted; the place of the noise is free, and the step's own noise has factor 0.
        let stats = graph.apply(PolicyStats, &[v_new, v_base, v_base]);
        let x_next = sampler_step(&mut graph, x, v_new, v_base, rows);
        graph.keep(stats);
        graph.keep(x_next);
        let plan = Plan::new(gpu, &graph, stores)?;
        let (noise, noise_keys, noise_out) = crate::sampling::noise_graph(dit, batch);
        let noise = Plan::new(gpu, &noise, stores)?;
        let schedule = Schedule::StaticShift { shift: rollout.shift };
        let sampler = if rollout.sampler.is_stochastic() { rollout.sampler } else { Sampler::FlowSde };
        Ok(Self {
            gpu: gpu.clone(),
            dit: dit.clone(),
            batch,
            ode: Table::ode(rollout.shift, rollout.steps)?,
            stochastic: Table::new(&schedule, rollout.steps, sampler, |_| rollout.eta)?.rows,
            plan,
            noise,
            noise_keys,
            noise_out,
            x,
            time,
            labels,
            rows,
            stats,
            x_next,
        })
    }

    fn measure(&mut self, requests: &[Request], image_msd: f64) -> Result<Drift> {
        let dim = self.dit.dim() as f64;
        let mut by_step = vec![0.0; self.ode.steps()];
        for requests in requests.chunks(self.batch) {
            let padded = || (0..self.batch).map(|row| requests[row.min(requests.len() - 1)]);
            let keys = crate::sampling::words(padded(), crate::flow::noise::INITIAL_NOISE);
            self.noise.write(self.noise_keys, &keys);
            self.noise.run()?;
            let (from, to) = (self.noise.region(self.noise_out), self.plan.region(self.x));
            self.gpu.submit([Command::Copy { from, to }])?;
            self.plan.write(self.labels, &padded().map(|request| request.label).collect::<Vec<u32>>());
            for (step, row) in self.ode.rows.iter().enumerate() {
                self.plan.write(self.time, &vec![self.dit.time_of(self.ode.sigmas[step]); self.batch]);
                self.plan.write(self.rows, &[row.a as f32, row.b as f32, 0.0].repeat(self.batch));
                self.plan.run()?;
                let stats: Vec<f32> = self.plan.read(&[self.stats])?;
                let s2 = stats.chunks(2).take(requests.len()).map(|sums| f64::from(sums[1]));
                by_step[step] += s2.sum::<f64>() / dim;
                let (from, to) = (self.plan.region(self.x_next), self.plan.region(self.x));
                self.gpu.submit([Command::Copy { from, to }])?;
            }
        }
        let by_step: Vec<f64> = by_step.iter().map(|sum| sum / requests.len() as f64).collect();
        let kl = |(msd, row): (&f64, &Row)| row.has_density().then(|| row.kappa() * msd);
        let kl_by_step: Vec<Option<f64>> = by_step.iter().zip(&self.stochastic).map(kl).collect();
        let known: Vec<f64> = kl_by_step.iter().flatten().copied().collect();
        Ok(Drift {
            velocity_msd: by_step.iter().sum::<f64>() / by_step.len() as f64,
            kl_mean: known.iter().sum::<f64>() / known.len().max(1) as f64,
            kl_by_step,
            image_msd,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diversity_is_the_mean_distance_within_groups() {
        // Two groups of three images of one element: distances 1, 3, 2 and 0, 0, 0.
        assert_eq!(diversity(&[0.0, 1.0, 3.0, 7.0, 7.0, 7.0], 1, 3), 1.0);
    }
}

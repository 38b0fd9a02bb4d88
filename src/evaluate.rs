//! Evaluates a model on fixed seeds with deterministic steps: reward, an independent judge, diversity, and drift from
//! its base.

mod statistics;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Eval, Rollout};
use crate::error::Result;
use crate::flow::sampler::{Sampler, Transition};
use crate::gpu::{Buffer, Command, Gpu, Region};
use crate::graph::{DType, Graph, Plan, Stores, Tensor};
use crate::model::{ConditionInput, FlowModel, Network, START};
use crate::ops::policy_stats;
use crate::ranks::Team;
use crate::reward::{Judge, Purpose, Rewards, Scores, ScoringContext};
pub use crate::run::evaluation::{Drift, Evaluation, GroupScores, Split};
use crate::sampling::{ModelOnDevice, SampleRequest, SamplerTable, Sampling, requests_for};
use statistics::{Estimate, diversity, high_frequency, mean_squared};

/// Evaluates one model repeatedly; all plans are made once.
#[derive(Debug)]
pub struct Evaluator {
    model: FlowModel,
    count: usize,
    /// Classes that rollouts draw.
    trained: Vec<u32>,
    /// The group of each condition, if samples are grouped.
    groups: Vec<String>,
    requests: Vec<SampleRequest>,
    table: SamplerTable,
    sampling: Sampling,
    judge: Option<Judge>,
    drift: Option<DriftMeter>,
    /// The base, until it has been drawn: its plans are not kept.
    base_sampling: Option<Sampling>,
    base_images: Option<Vec<f32>>,
    team: Team,
}

/// A model from which another is measured, as it is drawn: all weights as they are in the file, or those under an
/// adapter as they are stored.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Its network.
    pub network: Network,
    /// Its weights, as `PARAMETERS`; with an adapter also [`BASE`].
    pub stores: Stores,
}

impl Evaluator {
    /// Binds a model. With a `reference`, and [`BASE`] among the model's stores, drift from it is measured too, along the
    /// trajectories of a `rollout`; a reference with an adapter also needs [`START`] there.
    ///
    /// # Errors
    /// If the judge does not fit the model, or the device does not have enough memory.
    pub fn new(
        gpu: &Arc<Gpu>,
        eval: &Eval,
        rollout: &Rollout,
        tuned: ModelOnDevice<'_>,
        reference: Option<&Reference>,
    ) -> Result<Self> {
        let ModelOnDevice { network, class_names, stores } = tuned;
        let model = &network.model;
        let trained = rollout.chosen_classes(model.conditions())?;
        model.check_guidance("`eval.guidance_scale`", eval.guidance_scale)?;
        let classes = eval.chosen_classes(model.conditions())?;
        let groups = model.groups(&eval.group_by)?;
        let requests = requests_for(&classes, eval.count, eval.seed);
        let table = SamplerTable::solve(&model.schedule(), eval.steps, eval.solver)?;
        // An evaluation may use as much memory as a rollout; samples do not depend on it.
        let batch = requests.len().min(rollout.effective_micro_batch());
        let judge = match eval.judge.as_str() {
            "" => None,
            file => Some(Judge::new(gpu, file, &model.pictures(class_names))?),
        };
        let batches = [requests.len(), batch];
        let draws = |network: &Network, stores: &Stores| {
            Sampling::new_for(gpu, network, batches, eval.guidance_scale, eval.solver, stores)
        };
        let (mut drift, mut base_sampling) = (None, None);
        if let Some(reference) = reference {
            base_sampling = Some(draws(&reference.network, &reference.stores)?);
            drift = Some(DriftMeter::new(gpu, eval.guidance_scale, rollout, tuned, batches)?);
        }
        Ok(Self {
            count: eval.count,
            trained,
            groups,
            sampling: draws(network, stores)?,
            model: model.clone(),
            requests,
            table,
            judge,
            drift,
            base_sampling,
            base_images: None,
            team: Team::default(),
        })
    }

    /// From now on, models are evaluated together with the other ranks of a team: each draws and scores a part of the
    /// samples, and all get the result.
    pub fn join(&mut self, team: &Team) {
        self.team = team.clone();
    }

    fn picture_elements(&self) -> usize {
        self.model.picture_shape().elements()
    }

    /// Draws the base's samples, once.
    fn draw_base(&mut self) -> Result<()> {
        if let Some(mut sampling) = self.base_sampling.take() {
            self.base_images = Some(sampling.pictures(&self.table, &self.requests, &self.team)?);
        }
        Ok(())
    }

    /// Evaluates the current weights, after `iteration` iterations.
    ///
    /// # Errors
    /// If the device is lost or a reward fails.
    pub fn evaluate(&mut self, rewards: &mut Rewards, iteration: u64) -> Result<Evaluation> {
        self.draw_base()?;
        let images = self.sampling.pictures(&self.table, &self.requests, &self.team)?;
        let mut evaluation = self.score(&images, rewards, iteration)?;
        let elements = self.picture_elements();
        if let (Some(meter), Some(base)) = (&mut self.drift, &self.base_images) {
            let image_msd = mean_squared(&images, base);
            if let Some(split) = &mut evaluation.split {
                let of =
                    |images: &[f32]| part(images, elements, &self.requests, |class| !self.trained.contains(&class));
                split.image_msd_untrained = Some(mean_squared(&of(&images), &of(base)));
            }
            evaluation.drift = Some(meter.measure(&mut self.sampling, &self.requests, image_msd, &self.team)?);
        }
        Ok(evaluation)
    }

    /// Evaluates the base, from the samples that drift is measured against; `None` without a [`BASE`].
    ///
    /// # Errors
    /// If the device is lost or a reward fails.
    pub fn evaluate_base(&mut self, rewards: &mut Rewards) -> Result<Option<Evaluation>> {
        self.draw_base()?;
        let Some(images) = self.base_images.take() else { return Ok(None) };
        let evaluation = self.score(&images, rewards, 0);
        self.base_images = Some(images);
        evaluation.map(Some)
    }

    /// Everything that depends only on the samples.
    fn score(&mut self, images: &[f32], rewards: &mut Rewards, iteration: u64) -> Result<Evaluation> {
        let labels: Vec<u32> = self.requests.iter().map(|request| request.condition).collect();
        let scores = rewards.score(images, &labels, ScoringContext { purpose: Purpose::Evaluation, iteration })?;
        let judged = self.judge.as_mut().map(|judge| judge.recognises(images, &labels)).transpose()?;
        let scored = Scored { scores: &scores, judged: judged.as_deref() };
        let all: Vec<usize> = (0..labels.len()).collect();
        let every: Vec<usize> = (0..rewards.names().len()).collect();
        let whole = scored.of(&all, rewards.names(), &every);
        let diversity = diversity(images, self.picture_elements(), self.count);
        let high_frequency = high_frequency(images, self.model.picture_shape());
        Ok(Evaluation {
            samples: whole.samples,
            reward_mean: whole.reward_mean,
            reward_standard_error: whole.reward_standard_error,
            judge_accuracy: whole.judge_accuracy,
            diversity: diversity.value,
            diversity_standard_error: diversity.standard_error,
            high_frequency: high_frequency.map(|estimate| estimate.value),
            high_frequency_standard_error: high_frequency.map(|estimate| estimate.standard_error),
            components: whole.components,
            components_standard_error: whole.components_standard_error,
            groups: self.groups(&scored, rewards.names(), &rewards.headlines()),
            split: self.split(&scored),
            drift: None,
            kl_efficiency: None,
        })
    }

    /// The scores of each group of prompts.
    fn groups(&self, scored: &Scored<'_>, names: &[String], chosen: &[usize]) -> BTreeMap<String, GroupScores> {
        let mut samples: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (sample, request) in self.requests.iter().enumerate() {
            if let Some(group) = self.groups.get(request.condition as usize) {
                samples.entry(group.clone()).or_default().push(sample);
            }
        }
        samples.into_iter().map(|(group, samples)| (group, scored.of(&samples, names, chosen))).collect()
    }

    /// The same by whether a class is trained, if some are not.
    fn split(&self, scored: &Scored<'_>) -> Option<Split> {
        let is_trained = |sample: &usize| self.trained.contains(&self.requests[*sample].condition);
        let (trained, untrained): (Vec<usize>, Vec<usize>) = (0..self.requests.len()).partition(is_trained);
        if trained.is_empty() || untrained.is_empty() {
            return None;
        }
        let reward = |samples: &[usize]| {
            samples.iter().map(|sample| scored.scores.totals[*sample]).sum::<f64>() / samples.len() as f64
        };
        Some(Split {
            reward_trained: reward(&trained),
            reward_untrained: reward(&untrained),
            judge_trained: scored.accuracy(&trained),
            judge_untrained: scored.accuracy(&untrained),
            image_msd_untrained: None,
        })
    }
}

/// The scores of all samples.
struct Scored<'a> {
    scores: &'a Scores,
    /// Whether the judge recognises each, if there is a judge.
    judged: Option<&'a [bool]>,
}

impl Scored<'_> {
    /// The scores of some samples, by the chosen ones of the named components if there are several.
    fn of(&self, samples: &[usize], names: &[String], chosen: &[usize]) -> GroupScores {
        let of = |values: &[f64]| Estimate::mean(&samples.iter().map(|sample| values[*sample]).collect::<Vec<_>>());
        let chosen = if chosen.len() > 1 { chosen } else { &[] };
        let components: Vec<(&String, Estimate)> =
            chosen.iter().map(|component| (&names[*component], of(&self.scores.components[*component]))).collect();
        let reward = of(&self.scores.totals);
        GroupScores {
            samples: samples.len(),
            reward_mean: reward.value,
            reward_standard_error: reward.standard_error,
            components: components.iter().map(|(name, it)| ((*name).clone(), it.value)).collect(),
            components_standard_error: components
                .iter()
                .map(|(name, it)| ((*name).clone(), it.standard_error))
                .collect(),
            judge_accuracy: self.accuracy(samples),
        }
    }

    /// The share of some samples that the judge recognises.
    fn accuracy(&self, samples: &[usize]) -> Option<f64> {
        let recognised = samples.iter().filter(|sample| self.judged.is_some_and(|judged| judged[**sample])).count();
        self.judged.map(|_| recognised as f64 / samples.len() as f64)
    }
}

/// The images `[N, dim]` of the selected classes.
fn part(images: &[f32], dim: usize, requests: &[SampleRequest], wanted: impl Fn(u32) -> bool) -> Vec<f32> {
    let images = images.chunks(dim).zip(requests).filter(|(_, request)| wanted(request.condition));
    images.flat_map(|(image, _)| image).copied().collect()
}

/// The base's velocity at the states that a model visits.
#[derive(Debug)]
struct DriftMeter {
    gpu: Arc<Gpu>,
    model: FlowModel,
    batch: usize,
    /// The deterministic trajectory along which both are compared: that of a rollout.
    ode: SamplerTable,
    /// Transitions of the stochastic sampler, for the KL.
    stochastic: Vec<Transition>,
    plan: Plan,
    x: Tensor,
    velocity: Tensor,
    time: Tensor,
    condition: ConditionInput,
    stats: Tensor,
    /// The statistics of all batches and steps, read at once.
    record: Arc<Buffer>,
}

impl DriftMeter {
    /// For up to `most` samples in batches of `batch`.
    fn new(
        gpu: &Arc<Gpu>,
        guidance_scale: f64,
        rollout: &Rollout,
        tuned: ModelOnDevice<'_>,
        [most, batch]: [usize; 2],
    ) -> Result<Self> {
        let ModelOnDevice { network, stores, .. } = tuned;
        let shape = network.model.batch_shape(batch);
        let mut graph = Graph::new();
        let x = graph.input("x", &shape);
        let velocity = graph.input("velocity of the model", &shape);
        let time = graph.input("time", &[batch]);
        let guidance_scale = guidance_scale as f32;
        let condition = ConditionInput::declare(&mut graph, &network.model, batch, guidance_scale != 1.0);
        let base = network.declare_reference(&mut graph, stores.contains_key(&START));
        let base = base.guided_velocity(&mut graph, x, time, condition, guidance_scale);
        // Of the two sums only S2 is needed: any tensor of the shape can be passed as the noise.
        let stats = policy_stats(&mut graph, velocity, base, base);
        graph.keep(stats);
        let plan = Plan::new(gpu, &graph, stores)?;
        condition.write_common(&plan, &network.model, batch)?;
        let sampler = if rollout.sampler.is_stochastic() { rollout.sampler } else { Sampler::FlowSde };
        Ok(Self {
            gpu: gpu.clone(),
            model: network.model.clone(),
            batch,
            ode: SamplerTable::new(&rollout.schedule, rollout.steps, Sampler::Ode, |_| 0.0)?,
            stochastic: SamplerTable::new(&rollout.schedule, rollout.steps, sampler, |step| rollout.eta.at(step))?.rows,
            plan,
            x,
            velocity,
            time,
            condition,
            stats,
            record: gpu
                .allocate("drift of all batches", DType::F32.bytes(&[most.div_ceil(batch), rollout.steps, batch, 2]))?,
        })
    }

    fn measure(
        &mut self,
        sampling: &mut Sampling,
        requests: &[SampleRequest],
        image_msd: f64,
        team: &Team,
    ) -> Result<Drift> {
        let own = self.squares(sampling, &requests[team.seat().range(requests.len())]);
        let own = team.agree(own)?;
        let (batch, steps) = (self.batch, self.ode.steps());
        let all = team.gather(bytemuck::cast_slice(&own))?;
        let squares: Vec<f32> = all.iter().flat_map(|part| bytemuck::pod_collect_to_vec::<u8, f32>(part)).collect();
        let mut sums = vec![0.0; steps];
        for samples in squares.chunks(batch * steps) {
            for (step, sum) in sums.iter_mut().enumerate() {
                *sum += samples.chunks(steps).map(|of_sample| f64::from(of_sample[step])).sum::<f64>();
            }
        }
        let elements = (requests.len() * self.model.dim()) as f64;
        let msd_by_step: Vec<f64> = sums.iter().map(|sum| sum / elements).collect();
        let kl = |(msd, row): (&f64, &Transition)| row.has_density().then(|| row.kappa() * msd);
        let kl_by_step: Vec<Option<f64>> = msd_by_step.iter().zip(&self.stochastic).map(kl).collect();
        let last = kl_by_step.len() - 1;
        let known: Vec<f64> = kl_by_step[..last].iter().flatten().copied().collect();
        Ok(Drift {
            velocity_msd: msd_by_step.iter().sum::<f64>() / msd_by_step.len() as f64,
            kl_mean: known.iter().sum::<f64>() / known.len().max(1) as f64,
            kl_by_step,
            image_msd,
        })
    }

    /// The squared differences of the velocities, `[requests, steps]`.
    fn squares(&mut self, sampling: &mut Sampling, requests: &[SampleRequest]) -> Result<Vec<f32>> {
        let Self { gpu, model, batch, ode, plan, record, .. } = self;
        let (steps, batches) = (ode.steps(), requests.len().div_ceil(*batch));
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = |steps: usize| DType::F32.bytes(&[steps, *batch, 2]);
        sampling.draw_visited(ode, requests, None, |context| {
            let part = |tensor| Region { bytes: context.x.bytes, ..plan.region(tensor).clone() };
            let (x, velocity) = (part(self.x), part(self.velocity));
            gpu.encode([
                Command::Copy { from: context.x, to: &x },
                Command::Copy { from: context.velocity, to: &velocity },
            ])?;
            // All steps of a batch have the same conditions.
            if context.step == 0 {
                let requests = &requests[context.first..context.first + context.count];
                let mut conditions: Vec<u32> = requests.iter().map(|request| request.condition).collect();
                conditions.resize(*batch, conditions[0]);
                self.condition.write(plan, model, &conditions)?;
            }
            plan.write(self.time, &vec![model.time_of(ode.sigmas[context.step]); *batch]);
            plan.run()?;
            let place = context.first / *batch * steps + context.step;
            let to = Region { buffer: record.clone(), offset: bytes(place), bytes: bytes(1) };
            gpu.encode([Command::Copy { from: plan.region(self.stats), to: &to }])
        })?;
        let all = Region { buffer: record.clone(), offset: 0, bytes: bytes(batches * steps) };
        let stats: Vec<f32> = gpu.read(&[&all])?;
        let of = |sample: usize, step: usize| {
            let row = (sample / *batch * steps + step) * *batch + sample % *batch;
            stats[2 * row + 1]
        };
        Ok((0..requests.len())
            .flat_map(|sample| (0..steps).map(move |step| (sample, step)))
            .map(|(sample, step)| of(sample, step))
            .collect())
    }
}

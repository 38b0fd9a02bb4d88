//! Rollouts and complete iterations of the built-in configuration.

use std::time::Duration;

use super::Suite;
use super::measure::{Timing, seconds};
use super::results::Measurement;
use crate::assets;
use crate::config::{Config, ModelSource};
use crate::error::{Error, Result};
use crate::gpu::Submitted;
use crate::graph::DeviceProfile;
use crate::model::{Network, StoredModel};
use crate::optimizer::Optimizer;
use crate::rl::{RolloutCollector, Trainer, TrainerSettings};

/// The default configuration and its model.
///
/// # Errors
/// If it starts from no model.
pub fn built_in() -> Result<(Config, StoredModel)> {
    let config = Config::default();
    let ModelSource::File(file) = config.model.source()? else {
        return Err(Error::failed("the built-in configuration starts from no model"));
    };
    let model = assets::load_model(file)?;
    Ok((config, model))
}

impl Suite<'_> {
    /// Sampling with noise, as in every iteration.
    pub(super) fn rollout(&mut self) -> Result<()> {
        let (mut config, model) = built_in()?;
        config.train.precision = self.precision;
        let flow_model = model.flow_model("the built-in model")?;
        let settings = TrainerSettings::from(&config);
        let cost = Trainer::cost(&settings, &flow_model, &DeviceProfile::of(&self.gpu))?;
        let optimizer = Optimizer::new(&self.gpu, flow_model.layout(), &model.weights)?;
        let conditions = (0..flow_model.num_conditions() as u32).collect();
        let (network, drawn) =
            (Network::from(&flow_model).in_precision(self.precision), settings.updates.of_rollouts());
        let mut collector = RolloutCollector::new(&self.gpu, drawn, &network, conditions, optimizer.stores())?;
        let (mut index, gpu, mut sent) = (0, self.gpu.clone(), None);
        let mut run = || {
            index += 1;
            let before = gpu.submitted();
            let seconds = seconds(|| collector.collect(index).map(|_| ()));
            sent = Some(gpu.submitted() - before);
            seconds
        };
        // The first replay of a plan compiles, the second measures, and one has only one in a run.
        run()?;
        run()?;
        let before = self.gpu.kernel_time();
        let mut spent = 0.0;
        let timing = self.pace.repeat(|| run().inspect(|seconds| spent += seconds))?;
        let row = Measurement::new("rollout", timing, cost.rollout_flops, 0).against(self.limits);
        let kernels = share_of_kernels(self.gpu.kernel_time() - before, spent);
        let row = row.with([("images/s", config.rollout.samples() as f64 / timing.median()), kernels]);
        self.add(row.with(sent.into_iter().flat_map(counts)));
        Ok(())
    }

    /// Complete iterations: rollout, reward, updates.
    pub(super) fn rl_iteration(&mut self) -> Result<()> {
        let (mut config, model) = built_in()?;
        config.train.precision = self.precision;
        let settings = TrainerSettings::from(&config);
        let cost = Trainer::cost(&settings, &model.flow_model("the built-in model")?, &DeviceProfile::of(&self.gpu))?;
        let mut trainer = Trainer::new(&self.gpu, settings, &model)?;
        let mut index = 0;
        let mut parts: Vec<[f64; 4]> = Vec::new();
        let (gpu, mut sent) = (self.gpu.clone(), None);
        let mut run = || {
            let before = gpu.submitted();
            let mut of_parts = [0.0; 3];
            let total = seconds(|| {
                of_parts = trainer.iteration(index)?.seconds;
                Ok(())
            })?;
            index += 1;
            sent = Some(gpu.submitted() - before);
            let [rollout, reward, update] = of_parts;
            parts.push([rollout, reward, update, total - rollout - reward - update]);
            Ok(total)
        };
        // The first replay of a plan compiles, the second measures, and one has only one in a run.
        run()?;
        run()?;
        let before = self.gpu.kernel_time();
        let mut spent = 0.0;
        let timing = self.pace.repeat(|| run().inspect(|seconds| spent += seconds))?;
        let kernels = share_of_kernels(self.gpu.kernel_time() - before, spent);
        let flops = cost.rollout_flops + cost.update_flops;
        let of_part = |part: usize| {
            let times = parts[2..].iter().map(|parts| 1e3 * parts[part]).collect();
            Timing::new(times).median()
        };
        let row = Measurement::new("rl-iteration", timing, flops, 0).against(self.limits).with([
            ("images/s", config.rollout.samples() as f64 / timing.median()),
            ("rollout ms", of_part(0)),
            ("reward ms", of_part(1)),
            ("update ms", of_part(2)),
            ("host ms", of_part(3)),
            kernels,
        ]);
        self.add(row.with(sent.into_iter().flat_map(counts)));
        Ok(())
    }
}

/// What a run has sent to the device: small models on large devices wait for this.
pub(super) fn counts(sent: Submitted) -> [(&'static str, f64); 4] {
    let Submitted { submissions, dispatches, writes, readbacks } = sent;
    [("submissions", submissions), ("dispatches", dispatches), ("host writes", writes), ("readbacks", readbacks)]
        .map(|(name, count)| (name, count as f64))
}

/// The share of the time spent inside kernels: the time of each plan's dispatches, timed one by one, multiplied by its
/// number of replays.
fn share_of_kernels(kernels: Duration, seconds: f64) -> (&'static str, f64) {
    ("share in kernels", kernels.as_secs_f64() / seconds)
}

//! A training step of a fixed network on fixed data: other programs implement it exactly, so that times can be
//! compared, and the losses show that they do the same work.

use std::sync::Arc;

use super::Suite;
use super::cases::adamw_settings;
use super::iteration::counts;
use super::measure::seconds;
use super::results::Measurement;
use super::shapes::BENCHMARKED;
use crate::autodiff::backward;
use crate::config::{Positions, Precision, TimeConvention};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, ShaderStruct};
use crate::graph::{DeviceProfile, Graph, Plan, Tensor, planned_bytes};
use crate::model::{ConditionInput, DitConfig, FlowModel, products_in};
use crate::ops::{AdamWSettings, SamplerRow, mean_squared_error, sampler_step};
use crate::optimizer::{self, GRADIENTS, Optimizer, PARAMETERS};

/// Losses of the first four steps at a batch of 32 (PyTorch, f32).
const EXPECTED_LOSSES: [f64; 4] = [1.467_740, 1.149_926, 1.089_689, 1.056_275];

/// Relative tolerance of a loss. Six digits are listed; Adam's first steps divide by the
/// gradient's size, which amplifies the rounding of small gradients.
const TOLERANCE: f64 = 2e-5;

/// The same for products in 16 bits: their factors are off by up to 2⁻¹¹, in either direction.
const HALF_TOLERANCE: f64 = 1e-3;

/// The batch that the expected losses are for.
const BATCH: usize = 32;
/// The image size that the expected losses are for.
const IMAGE_SIZE: usize = 32;

/// Forward and backward pass, recorded.
#[derive(Debug)]
pub(super) struct StepGraph {
    model: FlowModel,
    depth: usize,
    batch: usize,
    precision: Precision,
    /// What the loss is multiplied by before it is differentiated: gradients in 16 bits would be too small otherwise.
    loss_scale: f32,
    pub(super) graph: Graph,
    noise: Tensor,
    data: Tensor,
    time: Tensor,
    condition: ConditionInput,
    mixture: Tensor,
    loss: Tensor,
}

/// A diffusion transformer in training: images of 3 channels in patches of 4x4, hidden size 128, depth 4, 4 heads,
/// AdamW. Weights, noise, data, times and labels come from formulas.
#[derive(Debug)]
pub struct BenchmarkStep {
    optimizer: Optimizer,
    plan: Plan,
    batch: usize,
    image_size: usize,
    precision: Precision,
    loss_scale: f32,
    loss: Tensor,
    flops: u64,
    /// Device bytes with memory reused, and without.
    planned: [u64; 2],
}

impl StepGraph {
    pub(super) fn record(batch: usize, image_size: usize, precision: Precision) -> Self {
        let depth = 4;
        let model = FlowModel::from(&DitConfig {
            image_size,
            channels: 3,
            patch_size: 4,
            hidden_size: BENCHMARKED.width,
            depth,
            num_heads: BENCHMARKED.heads,
            mlp_ratio: BENCHMARKED.mlp as f64 / BENCHMARKED.width as f64,
            num_classes: 10,
            has_null_class: true,
            learn_sigma: false,
            time: TimeConvention::Sit,
            time_scale: 1000.0,
            positions: Positions::SinCos,
        });
        let mut graph = Graph::new();
        let shape = model.batch_shape(batch);
        let [noise, data] = ["noise", "data"].map(|name| graph.input(name, &shape));
        let time = graph.input("time", &[batch]);
        let condition = ConditionInput::declare(&mut graph, &model, batch, false);
        let mixture = graph.input("mixture", &[batch, SamplerRow::WORDS]);
        let difference = SamplerRow { a: 1.0, b: 0.0, s: -1.0 }.constant(&mut graph, "difference", batch);
        let x_t = sampler_step(&mut graph, noise, noise, data, mixture);
        // The velocity of this program is noise - data.
        let target = sampler_step(&mut graph, noise, noise, data, difference);
        let parameters = model.layout().declare(&mut graph, PARAMETERS, Some(GRADIENTS));
        let parameters = parameters.in_precision(products_in(precision));
        let velocity = model.network(parameters).velocity(&mut graph, x_t, time, condition);
        let loss_scale = match precision {
            Precision::F32 => 1.0,
            Precision::F16 => (batch * model.dim()).next_power_of_two() as f32,
        };
        let weight = graph.constant("weight", &[batch], vec![loss_scale / batch as f32; batch]);
        let loss = mean_squared_error(&mut graph, velocity, target, weight);
        graph.keep(loss);
        let ones = graph.constant("ones", &[batch], vec![1.0; batch]);
        backward(&mut graph, &[(loss, ones)], &[]);
        Self { model, depth, batch, precision, loss_scale, graph, noise, data, time, condition, mixture, loss }
    }

    /// The network's weights.
    fn weights(&self) -> Vec<f32> {
        let layout = self.model.layout();
        let mut weights = self.model.initial_weights(0);
        for (index, name) in parameter_order(self.depth).iter().enumerate() {
            let entry = layout.entries().iter().find(|entry| entry.name == *name).expect("the network has it");
            let value = |j: usize| (0.05 * (0.37 * j as f64 + index as f64).sin()) as f32;
            for (j, weight) in weights[entry.offset..entry.offset + entry.elements()].iter_mut().enumerate() {
                // The order of a patch vector is (row, column, channel) there, that of a convolution's weight is
                // (channel, row, column).
                let j = match entry.shape[..] {
                    [_, channels, side, _] => {
                        let (vector, pixels) = (channels * side * side, side * side);
                        let (output, within) = (j / vector, j % vector);
                        output * vector + within % pixels * channels + within / pixels
                    }
                    _ => j,
                };
                *weight = value(j);
            }
        }
        weights
    }

    /// Binds the step with its weights and its data.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub(super) fn bind(self, gpu: &Arc<Gpu>) -> Result<BenchmarkStep> {
        let layout = self.model.layout();
        let profile = DeviceProfile::of(gpu);
        let fixed = optimizer::planned_bytes(&layout, &profile);
        let memory = planned_bytes(&self.graph, &profile);
        gpu.check_memory(gpu.counters().bytes_held + fixed + memory.reused)?;
        let optimizer = Optimizer::new(gpu, layout, &self.weights())?;
        let plan = Plan::new(gpu, &self.graph, optimizer.stores())?;
        let elements = self.graph.elements(self.data);
        let batch = self.batch;
        let times: Vec<f64> = (0..batch).map(|b| (b as f64 + 0.5) / batch as f64).collect();
        plan.write(self.data, &(0..elements).map(|j| (0.01 * j as f64).sin() as f32).collect::<Vec<f32>>());
        plan.write(self.noise, &(0..elements).map(|j| (0.013 * j as f64 + 1.0).cos() as f32).collect::<Vec<f32>>());
        plan.write(self.time, &times.iter().map(|t| self.model.time_of(1.0 - t)).collect::<Vec<f32>>());
        let classes: Vec<u32> = (0..batch as u32).map(|row| row % 11).collect();
        self.condition.write(&plan, &self.model, &classes)?;
        let mixture = times.iter().map(|t| SamplerRow { a: 1.0 - *t as f32, b: 0.0, s: *t as f32 });
        plan.write_structs(self.mixture, &mixture.collect::<Vec<_>>());
        Ok(BenchmarkStep {
            optimizer,
            plan,
            batch,
            image_size: self.model.state_shape().height,
            precision: self.precision,
            loss_scale: self.loss_scale,
            loss: self.loss,
            flops: self.graph.flops(),
            planned: [fixed + memory.reused, fixed + memory.naive],
        })
    }
}

impl BenchmarkStep {
    /// The step at a batch size and an image size in pixels; 32 and 32 are those of the benchmark.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub fn new(gpu: &Arc<Gpu>, batch: usize, image_size: usize, precision: Precision) -> Result<Self> {
        StepGraph::record(batch, image_size, precision).bind(gpu)
    }

    /// Floating-point operations of the matrix products of a step.
    pub fn flops(&self) -> u64 {
        self.flops
    }

    /// Parameters, without the position embedding, which is not trained.
    pub fn parameters(&self) -> usize {
        let layout = self.optimizer.layout();
        layout.entries().iter().filter(|entry| entry.trainable).map(|entry| entry.elements()).sum()
    }

    /// Forward, backward and AdamW. Does not wait.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn step(&mut self) -> Result<()> {
        self.plan.run()?;
        self.optimizer.update(&AdamWSettings { loss_scale: f64::from(self.loss_scale), ..adamw_settings() })
    }

    /// The losses of the next four steps, with the expected ones if these are the first steps of the benchmark.
    ///
    /// # Errors
    /// If the device is lost, or a loss is not as expected.
    pub fn first_losses(&mut self) -> Result<Vec<(f64, Option<f64>)>> {
        let is_benchmark = (self.batch, self.image_size) == (BATCH, IMAGE_SIZE);
        let tolerance = if self.precision == Precision::F32 { TOLERANCE } else { HALF_TOLERANCE };
        let mut losses = Vec::new();
        for (index, expected) in EXPECTED_LOSSES.iter().enumerate() {
            self.step()?;
            let shares: Vec<f32> = self.plan.read(&[self.loss])?;
            let loss: f64 = shares.iter().map(|share| f64::from(share / self.loss_scale)).sum();
            if is_benchmark && (loss / expected - 1.0).abs() > tolerance || !loss.is_finite() {
                return Err(Error::failed(format!(
                    "dit-step computes wrong losses on this device: the loss of step {} is {loss:.6}, but {expected:.6} \
                     is expected, and rounding explains a relative error of only {tolerance:.0e}; please report this with \
                     the output of `flowdppo-wgpu devices`",
                    index + 1
                )));
            }
            losses.push((loss, is_benchmark.then_some(*expected)));
        }
        Ok(losses)
    }
}

impl Suite<'_> {
    /// Measures a bound step, which must have run before.
    pub(super) fn measure_step(&mut self, name: &str, step: &mut BenchmarkStep) -> Result<Measurement> {
        let (gpu, mut sent) = (self.gpu.clone(), None);
        let timing = self.pace.repeat(|| {
            let before = gpu.submitted();
            let seconds = seconds(|| {
                step.step()?;
                gpu.wait()
            });
            sent = Some(gpu.submitted() - before);
            seconds
        })?;
        let images = step.batch as f64 / timing.median();
        let row = Measurement::new(name, timing, step.flops, 0).against(self.limits);
        Ok(row.with([("images/s", images)]).with(sent.into_iter().flat_map(counts)))
    }

    /// The benchmark network's training step.
    pub(super) fn dit_step(&mut self, batch: usize) -> Result<()> {
        let name = if batch == BATCH { "dit-step".to_owned() } else { format!("dit-step batch {batch}") };
        let held_before = self.gpu.counters().bytes_held;
        let bound = BenchmarkStep::new(&self.gpu, batch, IMAGE_SIZE, self.precision);
        let Some(mut step) = self.or_too_large(&name, bound)? else { return Ok(()) };
        let held = self.gpu.counters().bytes_held - held_before;
        let losses = step.first_losses()?;
        let mut row = self.measure_step(&name, &mut step)?;
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        row = row.with([
            ("planned MiB", mebibytes(step.planned[0])),
            ("planned MiB without reuse", mebibytes(step.planned[1])),
            ("held MiB", mebibytes(held)),
        ]);
        for (index, (loss, expected)) in losses.iter().enumerate() {
            row.details.insert(format!("loss {}", index + 1), *loss);
            row.details.extend(expected.map(|expected| (format!("loss {} expected", index + 1), expected)));
        }
        row.details.extend(peak_memory().map(|bytes| ("peak RSS MiB".to_owned(), mebibytes(bytes))));
        self.add(row);
        Ok(())
    }
}

/// The peak memory of this process in bytes, if the system reports it.
fn peak_memory() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// The order in which the benchmark numbers its tensors.
fn parameter_order(depth: usize) -> Vec<String> {
    let mut layers: Vec<String> = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2"].map(String::from).into();
    for block in 0..depth {
        let layer = |layer: &str| format!("blocks.{block}.{layer}");
        layers.extend(["adaLN_modulation.1", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"].map(layer));
    }
    layers.extend(["final_layer.adaLN_modulation.1", "final_layer.linear"].map(String::from));
    let mut names: Vec<String> =
        layers.iter().flat_map(|layer| [format!("{layer}.weight"), format!("{layer}.bias")]).collect();
    // The class table comes after the three layers before the blocks.
    names.insert(6, "y_embedder.embedding_table.weight".into());
    names
}

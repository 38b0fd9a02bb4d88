//! Finds the fastest kernel for each workload of some networks: measured once, on request, and stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cases::convolutions;
use super::iteration::built_in;
use super::measure::Pace;
use super::network::StepGraph;
use crate::autodiff::Activations;
use crate::config::{Config, Precision};
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Region, Tuning};
use crate::graph::{Binding, DType, DeviceProfile, Graph, Op, Shapes};
use crate::model::{FlowModel, Network};
use crate::pretrain::FlowMatchingGraph;
use crate::rl::UpdateGraph;
use crate::sampling::StepGraph as SamplingGraph;

/// One workload and the time of each of its kernels.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// Name of the workload.
    pub workload: String,
    /// Kernels and their seconds in all networks together, the fastest first.
    pub kernels: Vec<(&'static str, f64)>,
    /// The one that is used without a measurement.
    pub usual: &'static str,
}

/// Another kernel than the usual one must take less than this share of its time: a smaller gain may be chance.
const WORTHWHILE: f64 = 0.95;

impl Tuned {
    /// The kernel to use from now on.
    pub fn chosen(&self) -> &'static str {
        let (fastest, least) = self.kernels[0];
        let usual = self.kernels.iter().find(|(kernel, _)| *kernel == self.usual);
        match usual {
            Some((usual, seconds)) if least > WORTHWHILE * seconds => usual,
            _ => fastest,
        }
    }
}

/// One op at one shape, and how often the networks use it. Rows are part of the measurement, but not of the
/// workload's name: the times of all shapes of a workload are added up.
struct Instance {
    op: Arc<dyn Op>,
    inputs: Vec<Vec<usize>>,
    outputs: Vec<Vec<usize>>,
    count: usize,
}

/// Measures every kernel for the workloads of the benchmark network, the built-in configuration, on a GPU an autoencoder
/// and, if given, another model under that configuration. Returns the fastest kernels and all times.
///
/// # Errors
/// If the device is lost or does not have enough memory.
pub fn tune(gpu: &Arc<Gpu>, model: Option<&FlowModel>, quick: bool) -> Result<(Tuning, Vec<Tuned>)> {
    let pace = if quick { Pace::QUICK } else { Pace::TUNING };
    let profile = DeviceProfile { forced: None, ..DeviceProfile::of(gpu) };
    let mut graphs = networks(model)?;
    // Those of autoencoders. A software driver would take minutes, for tiles that it has no use for.
    if !profile.cpu {
        graphs.extend(convolutions().into_iter().map(|case| case.graph));
    }
    let mut tuned = Vec::new();
    for (workload, instances) in workloads(&graphs, &profile) {
        let choice = instances[0].op.choice(&instances[0].shapes(), &profile).expect("workloads have a choice");
        let mut times = Vec::new();
        for kernel in choice.kernels {
            let profile = DeviceProfile { forced: Some(kernel.to_owned()), ..profile.clone() };
            let of = |instance: &Instance| -> Result<f64> {
                Ok(instance.count as f64 * instance.seconds(gpu, &profile, &pace)?)
            };
            let seconds = instances.iter().map(of).sum::<Result<f64>>()?;
            times.push((kernel, seconds));
        }
        times.sort_by(|a, b| a.1.total_cmp(&b.1));
        tuned.push(Tuned { workload, kernels: times, usual: choice.usual });
    }
    let others = tuned.iter().filter(|tuned| tuned.chosen() != tuned.usual);
    Ok((Tuning::new(others.map(|tuned| (tuned.workload.clone(), tuned.chosen().to_owned()))), tuned))
}

/// The graphs of the networks.
fn networks(model: Option<&FlowModel>) -> Result<Vec<Graph>> {
    let (config, own) = built_in()?;
    let mut graphs = vec![StepGraph::record(32, 32, Precision::F32).graph];
    let of_training = |model: &FlowModel, config: &Config| -> Result<[Graph; 3]> {
        let network = Network::from(model);
        let sampling =
            SamplingGraph::record(&network, config.rollout.effective_micro_batch(), config.rollout.guidance_scale)
                .graph;
        let pretraining =
            FlowMatchingGraph::record(&network, config.pretrain.effective_micro_batch(), Activations::default()).graph;
        Ok([sampling, UpdateGraph::record(&config.into(), &network)?.graph, pretraining])
    };
    graphs.extend(of_training(&own.flow_model("the built-in model")?, &config)?);
    if let Some(model) = model {
        graphs.extend(of_training(model, &config)?);
    }
    Ok(graphs)
}

/// All ops that have a choice, by the name of their workload.
fn workloads(graphs: &[Graph], profile: &DeviceProfile) -> BTreeMap<String, Vec<Instance>> {
    let mut found: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
    for graph in graphs {
        for node in graph.executed() {
            let shapes = graph.shapes(&node);
            let Some(choice) = node.op.choice(&shapes, profile).filter(|choice| choice.kernels.len() > 1) else {
                continue;
            };
            let owned = |shapes: &[&[usize]]| shapes.iter().map(|shape| shape.to_vec()).collect::<Vec<_>>();
            let (inputs, outputs) = (owned(&shapes.inputs), owned(&shapes.outputs));
            let instances = found.entry(choice.workload).or_default();
            match instances.iter_mut().find(|instance| instance.inputs == inputs && instance.outputs == outputs) {
                Some(instance) => instance.count += 1,
                None => instances.push(Instance { op: node.op.clone(), inputs, outputs, count: 1 }),
            }
        }
    }
    found
}

impl Instance {
    fn shapes(&self) -> Shapes<'_> {
        let [inputs, outputs] = [&self.inputs, &self.outputs].map(|shapes| shapes.iter().map(Vec::as_slice).collect());
        Shapes { inputs, outputs }
    }

    /// The time of the op with the kernel that the profile forces, on its own buffers.
    fn seconds(&self, gpu: &Gpu, profile: &DeviceProfile, pace: &Pace) -> Result<f64> {
        let regions = |shapes: &[Vec<usize>], dtype: &dyn Fn(usize) -> DType| -> Result<Vec<Region>> {
            let sizes = shapes.iter().enumerate().map(|(index, shape)| dtype(index).bytes(shape));
            sizes.map(|bytes| Ok(Region { buffer: gpu.allocate("tuning", bytes)?, offset: 0, bytes })).collect()
        };
        let inputs = regions(&self.inputs, &|index| self.op.input_type(index))?;
        let outputs = regions(&self.outputs, &|index| self.op.output_type(index))?;
        let region = |binding: &Binding| match binding {
            Binding::Input(index) => inputs[*index].clone(),
            Binding::Output(index) => outputs[*index].clone(),
            Binding::Unused => gpu.unused().clone(),
        };
        let dispatches: Vec<Dispatch<Region>> = self
            .op
            .dispatches(&self.shapes(), profile)
            .into_iter()
            .map(|dispatch| Dispatch {
                reads: dispatch.reads.iter().map(region).collect(),
                writes: dispatch.writes.iter().map(region).collect(),
                kernel: dispatch.kernel,
                params: dispatch.params,
                grid: dispatch.grid,
            })
            .collect();
        Ok(pace.dispatches(gpu, &gpu.bind(&dispatches)?)?.median())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kernel_must_be_worth_it() {
        let tuned = |usual: f64| {
            let kernels = vec![("matmul_tiled", 1.0), ("matmul_register", usual)];
            Tuned { workload: "matmul n=8 k=8".into(), kernels, usual: "matmul_register" }
        };
        assert_eq!(tuned(1.01).chosen(), "matmul_register");
        assert_eq!(tuned(1.2).chosen(), "matmul_tiled");
    }

    #[test]
    fn workloads_have_no_rows_in_their_names() {
        let profile = DeviceProfile { cpu: true, subgroup_size: Some(8), ..DeviceProfile::default() };
        let names = |batch: usize| -> Vec<String> {
            workloads(&[StepGraph::record(batch, 32, Precision::F32).graph], &profile).into_keys().collect()
        };
        let found = names(8);
        for expected in ["matmul n=384 k=128 bt", "matmul n=128 m=384 at accumulate", "attention head_dim=32"] {
            assert!(found.iter().any(|name| name == expected), "{expected} is not among {found:?}");
        }
        assert_eq!(found, names(24));
    }
}

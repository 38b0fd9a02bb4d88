//! A part of an encoder as a plan, whose weights may be replaced between replays.

use std::sync::Arc;

use super::super::layout::{Layout, Parameters};
use super::weights::Weights;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::{
    DType, DeviceProfile, Graph, PartMemory, Plan, Store, StoreMemory, Stores, Tensor, check_tensors, planned_bytes,
};

const WEIGHTS: Store = Store("encoder weights");

/// Largest number of samples per replay: the memory of activations grows with it, the results do not depend on it.
pub const MAX_SAMPLES: usize = 8;

/// A recorded part of an encoder: a layer, the part before the first, the part after the last, or all of it.
#[derive(Debug)]
pub struct Stage {
    gpu: Arc<Gpu>,
    layout: Layout,
    memory: StoreMemory,
    plan: Plan,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// The value of an input.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// Numbers.
    F32(&'a [f32]),
    /// Indices or a mask.
    U32(&'a [u32]),
}

/// A stage before it is bound.
struct Recorded {
    layout: Layout,
    graph: Graph,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

fn recorded(
    weights: impl IntoIterator<Item = (String, Vec<usize>)>,
    record: impl FnOnce(&mut Graph, &Parameters) -> (Vec<Tensor>, Vec<Tensor>),
) -> Recorded {
    let layout = Layout::new(weights.into_iter().map(|(name, shape)| (name, shape, false)));
    let mut graph = Graph::new();
    let parameters = layout.declare(&mut graph, WEIGHTS, None);
    let (inputs, outputs) = record(&mut graph, &parameters);
    for tensor in &outputs {
        graph.keep(*tensor);
    }
    Recorded { layout, graph, inputs, outputs }
}

/// What a stage would take on such a device.
///
/// # Errors
/// If a tensor is too large for it.
pub(super) fn planned(
    profile: &DeviceProfile,
    weights: impl IntoIterator<Item = (String, Vec<usize>)>,
    record: impl FnOnce(&mut Graph, &Parameters) -> (Vec<Tensor>, Vec<Tensor>),
) -> Result<PartMemory> {
    let Recorded { layout, graph, .. } = recorded(weights, record);
    check_tensors(&graph, profile)?;
    Ok(PartMemory { weights: DType::F32.bytes(&[layout.elements()]), plan: planned_bytes(&graph, profile) })
}

impl Stage {
    /// Binds what `record` records for the weights of this layout; it returns the inputs and the outputs.
    ///
    /// # Errors
    /// If the device does not have enough memory, or does not allow a tensor of this size.
    pub fn new(
        gpu: &Arc<Gpu>,
        weights: impl IntoIterator<Item = (String, Vec<usize>)>,
        record: impl FnOnce(&mut Graph, &Parameters) -> (Vec<Tensor>, Vec<Tensor>),
    ) -> Result<Self> {
        let Recorded { layout, graph, inputs, outputs } = recorded(weights, record);
        let memory = StoreMemory::allocate(gpu, "encoder weights", &layout.chunks(gpu.chunk_bytes()))?;
        let plan = Plan::new(gpu, &graph, &Stores::from([(WEIGHTS, memory.clone())]))?;
        Ok(Self { gpu: gpu.clone(), layout, memory, plan, inputs, outputs })
    }

    /// Reads the weights whose names begin with `prefix`, and uploads them to the device.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) if a tensor is missing, misshapen or not finite.
    pub fn load(&mut self, weights: &mut Weights, prefix: &str) -> Result<()> {
        let mut values = vec![0.0; self.layout.elements()];
        for entry in self.layout.entries() {
            let read = weights.read(&format!("{prefix}{}", entry.name), &entry.shape)?;
            values[entry.offset..entry.offset + read.len()].copy_from_slice(&read);
        }
        self.memory.write(&self.gpu, &values);
        Ok(())
    }

    /// Replays it with these inputs; returns the outputs.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn run(&mut self, data: &[Data<'_>]) -> Result<Vec<Vec<f32>>> {
        self.replay(data)?;
        (0..self.outputs.len()).map(|index| self.output(index)).collect()
    }

    /// Replays it with these inputs; [`Stage::output`] returns what is needed of the results.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn replay(&mut self, data: &[Data<'_>]) -> Result<()> {
        for (tensor, data) in self.inputs.iter().zip(data) {
            match data {
                Data::F32(values) => self.plan.write(*tensor, values),
                Data::U32(values) => self.plan.write(*tensor, values),
            }
        }
        self.plan.run()
    }

    /// An output of the last replay.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn output(&mut self, index: usize) -> Result<Vec<f32>> {
        self.plan.read(&[self.outputs[index]])
    }

    /// What it takes on the device, until it is dropped.
    pub fn memory(&self) -> PartMemory {
        PartMemory { weights: self.memory.bytes(), plan: self.plan.planned().clone() }
    }
}

/// The number of samples per replay if there are `samples` in total.
pub(super) fn samples_per_replay(samples: usize) -> usize {
    samples.clamp(1, MAX_SAMPLES)
}

/// Splits rows of `elements` values into groups of `size` samples. The last is filled with copies of its first sample,
/// which do not affect the others; [`ungroup`] drops them.
pub(super) fn group<T: Copy>(values: &[T], elements: usize, size: usize) -> Vec<Vec<T>> {
    let whole = |chunk: &[T]| {
        let mut group = chunk.to_vec();
        while group.len() < size * elements {
            group.extend_from_slice(&chunk[..elements]);
        }
        group
    };
    values.chunks(size * elements).map(whole).collect()
}

/// The inverse of [`group`] for `samples` samples.
pub(super) fn ungroup(groups: &[Vec<f32>], elements: usize, samples: usize) -> Vec<f32> {
    let mut values = groups.concat();
    values.truncate(samples * elements);
    values
}

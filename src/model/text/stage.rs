//! A part of an encoder as a plan, whose weights may be replaced between replays.

use std::borrow::Cow;
use std::sync::Arc;

use super::super::frozen::Frozen;
use super::super::layout::{Entry, Layout, Parameters};
use super::super::weights::WeightSource;
use super::weights::Weights;
use crate::error::{Error, Result, Shortage};
use crate::gpu::Gpu;
use crate::graph::{
    DType, DeviceProfile, Graph, PartMemory, Plan, Store, StoreMemory, Stores, Tensor, check_tensors, planned_bytes,
};

const WEIGHTS: Store = Store("encoder weights");

/// Largest number of samples per replay: the memory of activations grows with it, the results do not depend on it.
pub const MAX_SAMPLES: usize = 8;

/// A recorded part of an encoder: a layer, the part before the first, the part after the last, or all of it.
///
/// Weights are stored in 32 bits. Only a matrix that would then be larger than a chunk of a store, because the device
/// cannot bind it, is stored in 16.
#[derive(Debug)]
pub struct Stage {
    gpu: Arc<Gpu>,
    frozen: Frozen,
    memory: StoreMemory,
    plan: Plan,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// The weights whose names begin with a prefix.
struct Prefixed<'a> {
    weights: &'a Weights,
    prefix: &'a str,
}

impl WeightSource for Prefixed<'_> {
    fn read(&self, entry: &Entry) -> Result<Cow<'_, [f32]>> {
        self.weights.read(&format!("{}{}", self.prefix, entry.name), &entry.shape).map(Cow::Owned)
    }
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
    frozen: Frozen,
    graph: Graph,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

fn recorded(
    chunk_bytes: Option<u64>,
    weights: impl IntoIterator<Item = (String, Vec<usize>)>,
    record: impl FnOnce(&mut Graph, &Parameters) -> (Vec<Tensor>, Vec<Tensor>),
) -> Recorded {
    let layout = Layout::new(weights.into_iter().map(|(name, shape)| (name, shape, false)));
    let frozen = Frozen::within(&layout, chunk_bytes);
    let mut graph = Graph::new();
    let parameters = frozen.declare(&mut graph, WEIGHTS);
    let (inputs, outputs) = record(&mut graph, &parameters);
    for tensor in &outputs {
        graph.keep(*tensor);
    }
    Recorded { frozen, graph, inputs, outputs }
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
    let Recorded { frozen, graph, .. } = recorded(profile.chunk_bytes, weights, record);
    check_tensors(&graph, profile)?;
    Ok(PartMemory { weights: frozen.bytes(), plan: planned_bytes(&graph, profile) })
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
        let most = gpu.chunk_bytes();
        let Recorded { frozen, graph, inputs, outputs } = recorded(most, weights, record);
        let memory = frozen.allocate(gpu, WEIGHTS.0)?;
        let plan = Plan::new(gpu, &graph, &Stores::from([(WEIGHTS, memory.clone())]))?;
        if let (Some(halved), Some(most)) = (frozen.bytes_by_type().get(&DType::F16), most) {
            let [halved, most] = [*halved, most].map(|bytes| bytes.div_ceil(1 << 20));
            log::warn!(
                "the device gives a kernel at most {most} MiB in one piece: larger matrices of an encoder, {halved} MiB, \
                 are kept in 16 bits instead of 32"
            );
        }
        Ok(Self { gpu: gpu.clone(), frozen, memory, plan, inputs, outputs })
    }

    /// Reads the weights whose names begin with `prefix`, and uploads them to the device.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) if a tensor is missing, misshapen or not finite;
    /// [`Error::Memory`](crate::Error::Memory) if a matrix is too large for the device in 32 bits, and 16 bits would lose
    /// more of it than rounding does.
    pub fn load(&self, weights: &Weights, prefix: &str) -> Result<()> {
        self.frozen.write(&self.gpu, &self.memory, &Prefixed { weights, prefix }, |entry, _, problem| {
            let name = format!("{}: the tensor `{prefix}{}`", weights.name(), entry.name);
            let needed = DType::F32.bytes(&entry.shape);
            let limit = self.gpu.chunk_bytes().unwrap_or(needed);
            let error: Error = Shortage::Piece { name, needed, limit, of_batch: false }.into();
            error.followed_by(&format!("; 16 bits cannot keep it: {problem}"))
        })
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

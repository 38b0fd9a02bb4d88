//! What an op is: shapes, gradient, dispatches, and a twin in f64.

use std::sync::Arc;

use super::{DType, Graph, Tensor};
use crate::gpu::{DeviceKind, Dispatch, Gpu, Tuning};

/// Names a tensor of a node in a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The node's input of this index.
    Input(usize),
    /// The node's output of this index.
    Output(usize),
    /// A few bytes that the kernel does not touch, where it has a binding that this dispatch does not use.
    Unused,
}

/// What an op may know of the device when it chooses a kernel.
///
/// A choice may depend on this and on the inner sizes of tensors, never on the number of rows: a row's
/// result must not change with the batch that it is part of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The CPU plays the graphics processor: loads are dear, barriers dearer.
    pub cpu: bool,
    /// Subgroup size, if it is fixed and subgroup operations may be used.
    pub subgroup_size: Option<u32>,
    /// `FLOWDPPO_KERNEL`: forces a variant where an op has one of that name.
    pub forced: Option<String>,
    /// What `bench --tune` measured on this adapter.
    pub tuning: Arc<Tuning>,
    /// The largest chunk of a store, in bytes; `None` for no limit. No kernel depends on it.
    pub chunk_bytes: Option<u64>,
    /// The largest tensor that a kernel can be given, in bytes; `None` for no limit.
    pub binding_bytes: Option<u64>,
}

impl Profile {
    /// The profile of an open device.
    pub fn of(gpu: &Gpu) -> Self {
        let [smallest, largest] = gpu.description().subgroup_size;
        Self {
            cpu: gpu.description().kind == DeviceKind::Cpu,
            subgroup_size: (gpu.has_subgroups() && smallest == largest && smallest > 0).then_some(smallest),
            forced: std::env::var("FLOWDPPO_KERNEL").ok().filter(|name| !name.is_empty()),
            tuning: gpu.tuning().clone(),
            chunk_bytes: gpu.chunk_bytes(),
            binding_bytes: Some(gpu.binding_bytes()),
        }
    }

    /// Names of kernels that are asked for, the more important first: one that is forced for every op that has it,
    /// and the fastest one that was measured for this workload.
    pub fn wanted(&self, workload: &str) -> impl Iterator<Item = &str> {
        self.forced.as_deref().into_iter().chain(self.tuning.kernel(workload))
    }
}

/// Shapes of a node's inputs and outputs.
#[derive(Clone, Debug)]
pub struct Shapes<'a> {
    /// Of the inputs.
    pub inputs: Vec<&'a [usize]>,
    /// Of the outputs.
    pub outputs: Vec<&'a [usize]>,
}

impl Shapes<'_> {
    /// Elements of an input.
    pub fn input_elements(&self, index: usize) -> usize {
        self.inputs[index].iter().product()
    }

    /// Elements of an output.
    pub fn output_elements(&self, index: usize) -> usize {
        self.outputs[index].iter().product()
    }
}

/// A choice among several kernels for one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The op and all that the choice may depend on: inner sizes, never a number of rows.
    pub workload: String,
    /// Names of the kernels that run on the device.
    pub kernels: Vec<&'static str>,
    /// The one that is taken if none is asked for.
    pub usual: &'static str,
}

/// How the gradient of an input is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Not at all.
    No,
    /// As a new tensor: activations.
    Fresh,
    /// Added to this stored tensor: parameters.
    Into(Tensor),
}

/// One kind of computation.
pub trait Op: std::fmt::Debug + Send + Sync {
    /// Its name, which is also that of its file and shader.
    fn name(&self) -> &'static str;

    /// Shapes of the outputs.
    ///
    /// # Panics
    /// If the inputs do not fit: models check what a person gave them before they record.
    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>>;

    /// The type of the elements that it reads of an input.
    fn input_type(&self, index: usize) -> DType {
        let _ = index;
        DType::F32
    }

    /// The type of the elements of an output.
    fn output_type(&self, index: usize) -> DType {
        let _ = index;
        DType::F32
    }

    /// Records the vector-Jacobian product. `gradients` are those of the outputs, `None` where nothing flows
    /// back; at least one is there, and at least one input wants its gradient. Returns a gradient for every input
    /// that wants one; for [`Wanted::Into`] the op may add to that tensor itself and return `None`, or return a
    /// tensor that is then added. Nothing is recorded that only serves inputs that want none.
    fn vjp(
        &self,
        graph: &mut Graph,
        inputs: &[Tensor],
        outputs: &[Tensor],
        gradients: &[Option<Tensor>],
        wanted: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        let _ = (graph, inputs, outputs, gradients, wanted);
        panic!("{} has no gradient", self.name())
    }

    /// The dispatches that compute the outputs.
    fn dispatches(&self, shapes: &Shapes<'_>, profile: &Profile) -> Vec<Dispatch<Binding>>;

    /// What [`Op::dispatches`] chooses among, if there are several kernels.
    fn choice(&self, shapes: &Shapes<'_>, profile: &Profile) -> Option<Choice> {
        let _ = (shapes, profile);
        None
    }

    /// The same in plain f64, written for clarity: the oracle.
    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>>;

    /// The result is added to outputs that are stored tensors, instead of replacing them.
    fn accumulates(&self) -> bool {
        false
    }

    /// The op that does this one and then the op called `next`, whose input `place` is this one's only output;
    /// `None` if there is no kernel for both.
    ///
    /// Its inputs are this op's and then the other inputs of `next`; its outputs are that of `next` and then, if
    /// it has to `keep` it for others, this op's own.
    fn joined_with(&self, next: &str, place: usize, keep: bool) -> Option<Arc<dyn Op>> {
        let _ = (next, place, keep);
        None
    }

    /// Floating-point operations, where they are worth counting.
    fn flops(&self, shapes: &Shapes<'_>) -> u64 {
        let _ = shapes;
        0
    }
}

/// One application of an op.
#[derive(Clone, Debug)]
pub struct Node {
    /// What is computed.
    pub op: Arc<dyn Op>,
    /// From what.
    pub inputs: Vec<Tensor>,
    /// Into what.
    pub outputs: Vec<Tensor>,
    /// Where it stands in the model, for tables.
    pub label: String,
}

impl Node {
    /// The tensor that a dispatch of this node names, if it is one.
    pub fn bound(&self, binding: Binding) -> Option<Tensor> {
        match binding {
            Binding::Input(index) => Some(self.inputs[index]),
            Binding::Output(index) => Some(self.outputs[index]),
            Binding::Unused => None,
        }
    }
}

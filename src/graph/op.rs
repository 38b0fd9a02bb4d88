//! The definition of an op: shapes, gradient, dispatches, and an f64 twin.

use std::sync::Arc;

use super::{DType, Graph, Tensor};
use crate::gpu::{DeviceKind, Dispatch, Gpu, Matrices, Tuning};

/// Refers to a tensor of a node in a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The node's input with this index.
    Input(usize),
    /// The node's output with this index.
    Output(usize),
    /// A binding of the kernel that this dispatch does not use.
    Unused,
}

/// What an op may know about the device when it chooses a kernel.
///
/// A choice may depend on this and on the inner sizes of tensors, never on the number of rows: a row's
/// result must not depend on its batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceProfile {
    /// A software driver: loads are expensive, and barriers even more so.
    pub cpu: bool,
    /// The subgroup size, if it is fixed and subgroup operations may be used.
    pub subgroup_size: Option<u32>,
    /// Kernels may round to 16 bits with the device's own instructions.
    pub rounds_to_half: bool,
    /// The products of small matrices of 16 bits that a subgroup of the device can compute, if it was opened for them.
    pub matrices: Option<Matrices>,
    /// `FLOWDPPO_KERNEL`: forces the variant of this name in every op that has it.
    pub forced: Option<String>,
    /// What `bench --tune` measured on this adapter.
    pub tuning: Arc<Tuning>,
    /// The largest chunk of a store, in bytes; `None` for no limit. No choice of a kernel depends on it.
    pub chunk_bytes: Option<u64>,
    /// The largest tensor that a kernel can be given, in bytes; `None` for no limit.
    pub binding_bytes: Option<u64>,
}

impl DeviceProfile {
    /// The profile of an open device.
    pub fn of(gpu: &Gpu) -> Self {
        let [smallest, largest] = gpu.description().subgroup_size;
        Self {
            cpu: gpu.description().kind == DeviceKind::Cpu,
            subgroup_size: (gpu.has_subgroups() && smallest == largest && smallest > 0).then_some(smallest),
            rounds_to_half: gpu.rounds_to_half(),
            matrices: gpu.matrices(),
            forced: std::env::var("FLOWDPPO_KERNEL").ok().filter(|name| !name.is_empty()),
            tuning: gpu.tuning().clone(),
            chunk_bytes: gpu.chunk_bytes(),
            binding_bytes: Some(gpu.binding_bytes()),
        }
    }

    /// Names of the requested kernels in order of priority: the one forced for every op that has it, and the
    /// fastest one measured for this workload.
    pub fn wanted(&self, workload: &str) -> impl Iterator<Item = &str> {
        self.forced.as_deref().into_iter().chain(self.tuning.kernel(workload))
    }
}

/// Shapes of a node's inputs and outputs.
#[derive(Clone, Debug)]
pub struct Shapes<'a> {
    /// Shapes of the inputs.
    pub inputs: Vec<&'a [usize]>,
    /// Shapes of the outputs.
    pub outputs: Vec<&'a [usize]>,
}

impl Shapes<'_> {
    /// Number of elements of an input.
    pub fn input_elements(&self, index: usize) -> usize {
        self.inputs[index].iter().product()
    }

    /// Number of elements of an output.
    pub fn output_elements(&self, index: usize) -> usize {
        self.outputs[index].iter().product()
    }
}

/// A choice between several kernels for one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The op and everything the choice may depend on: inner sizes, never a number of rows.
    pub workload: String,
    /// Names of the kernels that can run on the device.
    pub kernels: Vec<&'static str>,
    /// The one used if none is requested.
    pub usual: &'static str,
}

/// What to do with the gradient of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It is not needed.
    No,
    /// Return it as a new tensor: activations.
    Fresh,
    /// Add it to this stored tensor: parameters.
    Into(Tensor),
}

/// A kind of computation.
pub trait Op: std::fmt::Debug + Send + Sync {
    /// Its name, which is also the name of its file and shader.
    fn name(&self) -> &'static str;

    /// Shapes of the outputs.
    ///
    /// # Panics
    /// If the inputs do not fit: models check user input before they record.
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
    /// back; at least one is present, and at least one input needs its gradient. Returns a gradient for every input
    /// that needs one; for [`Wanted::Into`] the op may add to that tensor itself and return `None`, or return a
    /// tensor that is then added. Nothing is recorded for inputs that do not need a gradient.
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
    fn dispatches(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Vec<Dispatch<Binding>>;

    /// The kernels that [`Op::dispatches`] chooses from, if there are several.
    fn choice(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Option<Choice> {
        let _ = (shapes, profile);
        None
    }

    /// The f64 twin, written for clarity: the oracle.
    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>>;

    /// Whether the result is added to outputs that are stored tensors instead of replacing them.
    fn accumulates(&self) -> bool {
        false
    }

    /// This op fused with the op named `next`, whose input `place` is this one's only output; `None` if there is
    /// no kernel for both.
    ///
    /// Its inputs are this op's followed by the other inputs of `next`; its outputs are that of `next` and, if
    /// other nodes need it (`keep`), this op's own.
    fn joined_with(&self, next: &str, place: usize, keep: bool) -> Option<Arc<dyn Op>> {
        let _ = (next, place, keep);
        None
    }

    /// Floating-point operations, where worth counting.
    fn flops(&self, shapes: &Shapes<'_>) -> u64 {
        let _ = shapes;
        0
    }
}

/// One application of an op.
#[derive(Clone, Debug)]
pub struct Node {
    /// The op.
    pub op: Arc<dyn Op>,
    /// The tensors it reads.
    pub inputs: Vec<Tensor>,
    /// The tensors it writes.
    pub outputs: Vec<Tensor>,
    /// Its position in the model, for tables.
    pub label: String,
}

impl Node {
    /// The tensor that a binding of this node refers to, if any.
    pub fn bound(&self, binding: Binding) -> Option<Tensor> {
        match binding {
            Binding::Input(index) => Some(self.inputs[index]),
            Binding::Output(index) => Some(self.outputs[index]),
            Binding::Unused => None,
        }
    }
}

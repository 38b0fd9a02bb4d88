//! Computations as data: recorded once for fixed shapes, planned, and then replayed.
//!
//! - [`Graph`] is a list of [`Node`]s in execution order; each applies one [`Op`] to tensors.
//! - [`MemoryPlan`] assigns every intermediate tensor a slot in memory; slots are reused by lifetime.
//! - [`Plan`] binds a graph to a device and replays it.
//! - [`Interpreter`] runs a graph on the host in f64: the oracle of every test.
//!
//! This module does not name any op: ops belong to the layer above and are used here only through the trait.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

mod dtype;
mod fuse;
mod interpreter;
mod memory;
mod op;
mod plan;
mod store;

pub use dtype::{BLOCK, DType, Element, HALF_BOUND, block_scale, half_bits};
pub use interpreter::Interpreter;
pub use memory::{MemoryPlan, PartMemory, Planned, check_tensors, planned_bytes, planned_together};
pub use op::{Binding, Choice, DeviceProfile, Node, Op, Shapes, Wanted};
pub use plan::{Plan, reserve};
pub use store::{StoreMemory, Stores};

/// A tensor of one graph, of elements of a [`DType`], row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tensor(usize);

/// Device memory that outlives plans: parameters, gradients, moments, trajectories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Store(pub &'static str);

/// Stored tensors start at multiples of this many words of 4 bytes: 256 bytes, the largest alignment of a binding
/// that WebGPU allows a device to require.
pub const STORE_ALIGNMENT: usize = 64;

/// Where a tensor's values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Written by the host before a replay; keeps its value until it is written again.
    Input,
    /// A range of a [`Store`] that starts at this word of 4 bytes.
    Stored(Store, usize),
    /// The output of a node.
    Computed,
}

/// The value of an input before the host writes to it.
#[derive(Debug)]
enum Initial {
    F32(Vec<f32>),
    U32(Vec<u32>),
}

#[derive(Debug)]
struct TensorInfo {
    name: String,
    shape: Vec<usize>,
    dtype: DType,
    origin: Origin,
    kept: bool,
    /// An input's value until the host writes to it.
    initial: Option<Initial>,
    /// The tensor that accumulates its gradient, for trainable parameters.
    gradient: Option<Tensor>,
}

/// A recorded computation.
#[derive(Debug, Default)]
pub struct Graph {
    tensors: Vec<TensorInfo>,
    nodes: Vec<Node>,
    segments: Vec<Range<usize>>,
    scope: Vec<String>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tensor of f32 that the host writes.
    pub fn input(&mut self, name: &str, shape: &[usize]) -> Tensor {
        self.input_of(DType::F32, name, shape)
    }

    /// A tensor of indices or keys, u32, that the host writes.
    pub fn input_indices(&mut self, name: &str, shape: &[usize]) -> Tensor {
        self.input_of(DType::U32, name, shape)
    }

    /// A tensor of any type that the host writes.
    pub fn input_of(&mut self, dtype: DType, name: &str, shape: &[usize]) -> Tensor {
        self.declare(name.to_owned(), shape.to_vec(), dtype, Origin::Input)
    }

    /// A tensor whose value never changes.
    pub fn constant(&mut self, name: &str, shape: &[usize], data: Vec<f32>) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "{name} needs one value per element");
        let tensor = self.input(name, shape);
        self.tensors[tensor.0].initial = Some(Initial::F32(data));
        tensor
    }

    /// A tensor of constant indices.
    pub fn constant_indices(&mut self, name: &str, shape: &[usize], data: Vec<u32>) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "{name} needs one value per element");
        let tensor = self.input_indices(name, shape);
        self.tensors[tensor.0].initial = Some(Initial::U32(data));
        tensor
    }

    /// A tensor of f32 in a store that starts at word `offset`, a multiple of [`STORE_ALIGNMENT`].
    pub fn stored(&mut self, name: &str, shape: &[usize], store: Store, offset: usize) -> Tensor {
        self.stored_of(DType::F32, name, shape, store, offset)
    }

    /// The same for any type. Tensors of `F16` and `Q8_0` are frozen: no op writes them.
    pub fn stored_of(&mut self, dtype: DType, name: &str, shape: &[usize], store: Store, offset: usize) -> Tensor {
        assert_eq!(offset % STORE_ALIGNMENT, 0, "{name} is not aligned");
        self.declare(name.to_owned(), shape.to_vec(), dtype, Origin::Stored(store, offset))
    }

    /// Declares that gradients of `parameter` accumulate in `gradient`, a stored tensor of the same shape.
    pub fn set_gradient(&mut self, parameter: Tensor, gradient: Tensor) {
        assert_eq!(self.shape(parameter), self.shape(gradient), "a gradient has its parameter's shape");
        self.tensors[parameter.0].gradient = Some(gradient);
    }

    /// Applies an op; returns its outputs.
    pub fn push(&mut self, op: impl Op + 'static, inputs: &[Tensor]) -> Vec<Tensor> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|tensor| self.shape(*tensor)).collect();
        let outputs = op
            .output_shapes(&shapes)
            .into_iter()
            .enumerate()
            .map(|(index, shape)| {
                let name = self.scoped(op.name());
                self.declare(name, shape, op.output_type(index), Origin::Computed)
            })
            .collect::<Vec<_>>();
        self.push_into(op, inputs, &outputs);
        outputs
    }

    /// Applies an op with one output.
    pub fn apply(&mut self, op: impl Op + 'static, inputs: &[Tensor]) -> Tensor {
        let outputs = self.push(op, inputs);
        assert_eq!(outputs.len(), 1, "an op with several outputs needs `push`");
        outputs[0]
    }

    /// Applies an op whose outputs are existing tensors in a store.
    pub fn push_into(&mut self, op: impl Op + 'static, inputs: &[Tensor], outputs: &[Tensor]) {
        let label = self.scoped(op.name());
        for (index, tensor) in inputs.iter().enumerate() {
            let (found, expected) = (self.dtype(*tensor), op.input_type(index));
            assert_eq!(found, expected, "{label} reads `{}` as another type", self.name(*tensor));
        }
        for (index, tensor) in outputs.iter().enumerate() {
            let (found, expected) = (self.dtype(*tensor), op.output_type(index));
            assert_eq!(found, expected, "{label} writes `{}` as another type", self.name(*tensor));
        }
        self.nodes.push(Node { op: Arc::new(op), inputs: inputs.to_vec(), outputs: outputs.to_vec(), label });
    }

    /// Records `body` as a segment, such as a block of a network: a part that only reads and computes, so that a
    /// backward pass may run it again instead of keeping its tensors.
    ///
    /// # Panics
    /// If it contains another segment, or writes to a store.
    pub fn segment<T>(&mut self, body: impl FnOnce(&mut Self) -> T) -> T {
        let (start, segments) = (self.nodes.len(), self.segments.len());
        let result = body(self);
        assert_eq!(self.segments.len(), segments, "segments do not nest");
        let mut outputs = self.nodes[start..].iter().flat_map(|node| &node.outputs);
        assert!(outputs.all(|tensor| self.origin(*tensor) == Origin::Computed), "a segment must not write to a store");
        self.segments.push(start..self.nodes.len());
        result
    }

    /// The nodes of each segment, in order.
    pub fn segments(&self) -> &[Range<usize>] {
        &self.segments
    }

    /// Records the nodes of a segment again, with new outputs; returns the new tensor for each old one.
    pub fn repeat(&mut self, segment: Range<usize>) -> HashMap<Tensor, Tensor> {
        let mut repeated: HashMap<Tensor, Tensor> = HashMap::new();
        for index in segment {
            let Node { op, inputs, outputs, label } = &self.nodes[index];
            let (op, outputs, label) = (op.clone(), outputs.clone(), format!("recompute.{label}"));
            let inputs = inputs.iter().map(|tensor| *repeated.get(tensor).unwrap_or(tensor)).collect();
            let again = outputs
                .iter()
                .map(|tensor| {
                    let (shape, dtype) = (self.shape(*tensor).to_vec(), self.dtype(*tensor));
                    let again = self.declare(label.clone(), shape, dtype, Origin::Computed);
                    repeated.insert(*tensor, again);
                    again
                })
                .collect();
            self.nodes.push(Node { op, inputs, outputs: again, label });
        }
        repeated
    }

    /// Moves the nodes from `first` on, one for each entry of `places`, each in front of the node at that index.
    pub fn move_nodes(&mut self, first: usize, places: &[usize]) {
        let mut moved: Vec<(usize, Node)> = places.iter().copied().zip(self.nodes.drain(first..)).collect();
        moved.sort_by_key(|(place, _)| *place);
        // From last to first, so that earlier places stay valid.
        for (place, node) in moved.into_iter().rev() {
            self.nodes.insert(place, node);
        }
        self.segments.clear();
    }

    /// Makes nodes read `other` instead of `tensor`.
    pub fn replace_input(&mut self, nodes: Range<usize>, tensor: Tensor, other: Tensor) {
        for input in self.nodes[nodes].iter_mut().flat_map(|node| &mut node.inputs) {
            if *input == tensor {
                *input = other;
            }
        }
    }

    /// Whether a tensor's value is readable after a replay.
    pub fn is_kept(&self, tensor: Tensor) -> bool {
        self.tensors[tensor.0].kept
    }

    /// Removes the nodes in a range whose results are never read; they must not write to a store.
    pub fn prune(&mut self, nodes: Range<usize>) {
        for index in nodes.rev() {
            let is_read = |tensor: &Tensor| {
                self.tensors[tensor.0].kept || self.nodes[index..].iter().any(|node| node.inputs.contains(tensor))
            };
            if !self.nodes[index].outputs.iter().any(is_read) {
                self.nodes.remove(index);
            }
        }
    }

    /// A scratch tensor of a node; nothing else reads it.
    pub fn scratch(&mut self, shape: &[usize]) -> Tensor {
        self.scratch_of(DType::F32, shape)
    }

    /// The same of any type.
    pub fn scratch_of(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let name = self.scoped("scratch");
        self.declare(name, shape.to_vec(), dtype, Origin::Computed)
    }

    /// Keeps a tensor's value readable after a replay: its memory is not reused.
    pub fn keep(&mut self, tensor: Tensor) -> Tensor {
        self.tensors[tensor.0].kept = true;
        tensor
    }

    /// Records `body` with `name` as a prefix of its nodes' labels. Inside `blocks.0` the layer `blocks.0.attn.qkv`
    /// does not repeat the prefix: its scope is `attn.qkv`.
    pub fn scope<T>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> T) -> T {
        let around = self.scope.last().and_then(|around| name.strip_prefix(around)?.strip_prefix('.'));
        let name = around.unwrap_or(name);
        self.scope.push(name.to_owned());
        let result = body(self);
        self.scope.pop();
        result
    }

    /// A tensor's shape.
    pub fn shape(&self, tensor: Tensor) -> &[usize] {
        &self.tensors[tensor.0].shape
    }

    /// Number of elements of a tensor.
    pub fn elements(&self, tensor: Tensor) -> usize {
        self.shape(tensor).iter().product()
    }

    /// The type of a tensor's elements.
    pub fn dtype(&self, tensor: Tensor) -> DType {
        self.tensors[tensor.0].dtype
    }

    /// Bytes of a tensor.
    pub fn bytes(&self, tensor: Tensor) -> u64 {
        self.dtype(tensor).bytes(self.shape(tensor))
    }

    /// A tensor's name.
    pub fn name(&self, tensor: Tensor) -> &str {
        &self.tensors[tensor.0].name
    }

    /// Where a tensor's values come from.
    pub fn origin(&self, tensor: Tensor) -> Origin {
        self.tensors[tensor.0].origin
    }

    /// Whether a tensor has a value without being written or computed.
    pub fn is_constant(&self, tensor: Tensor) -> bool {
        self.tensors[tensor.0].initial.is_some()
    }

    /// The tensor that accumulates a tensor's gradient, if it is a trainable parameter.
    pub fn gradient(&self, tensor: Tensor) -> Option<Tensor> {
        self.tensors[tensor.0].gradient
    }

    /// The nodes as recorded, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Shapes of a node's tensors.
    pub fn shapes<'a>(&'a self, node: &Node) -> Shapes<'a> {
        let of = |tensors: &[Tensor]| tensors.iter().map(|tensor| self.tensors[tensor.0].shape.as_slice()).collect();
        Shapes { inputs: of(&node.inputs), outputs: of(&node.outputs) }
    }

    /// Floating-point operations of one replay; a multiply-add counts as two.
    pub fn flops(&self) -> u64 {
        self.nodes.iter().map(|node| node.op.flops(&self.shapes(node))).sum()
    }

    /// Dispatches of one replay on a device with this profile.
    pub fn dispatch_count(&self, profile: &DeviceProfile) -> usize {
        self.executed().iter().map(|node| node.op.dispatches(&self.shapes(node), profile).len()).sum()
    }

    fn declare(&mut self, name: String, shape: Vec<usize>, dtype: DType, origin: Origin) -> Tensor {
        assert!(shape.iter().all(|extent| *extent > 0), "{name} has an empty shape {shape:?}");
        self.tensors.push(TensorInfo { name, shape, dtype, origin, kept: false, initial: None, gradient: None });
        Tensor(self.tensors.len() - 1)
    }

    fn scoped(&self, name: &str) -> String {
        self.scope.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(".")
    }

    fn tensors(&self) -> impl Iterator<Item = Tensor> + use<> {
        (0..self.tensors.len()).map(Tensor)
    }
}

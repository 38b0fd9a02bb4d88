//! Memory for intermediate tensors, planned by lifetime.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

use super::{Graph, Node, Origin, Profile, Tensor};
use crate::gpu::PARAMS_STRIDE;

/// A slot for every intermediate tensor; a slot is reused once its tensor has been read for the last time. Each
/// slot becomes a separate buffer, because WebGPU does not let a kernel read one range of a buffer and write
/// another.
#[derive(Debug)]
pub struct MemoryPlan {
    /// Slot of each computed tensor.
    pub slot_of: HashMap<Tensor, usize>,
    /// Bytes of each slot.
    pub slots: Vec<u64>,
    /// Bytes of the tensors that the host writes.
    pub input_bytes: u64,
    /// Bytes that the computed tensors would need without reuse.
    pub naive_bytes: u64,
}

impl MemoryPlan {
    /// Plans a graph for a device with this profile; `nodes` are those of [`Graph::executed`]. A tensor that no
    /// kernel reads or writes, such as the scratch of a kernel that was not chosen, gets no memory.
    ///
    /// The largest tensors choose first (greedy by size, Pisarchyk & Lee 2020): each takes the smallest slot that
    /// is free for its lifetime. That slot is large enough, since all earlier tensors are at least as large.
    pub fn new(graph: &Graph, nodes: &[Node], profile: &Profile) -> Self {
        let bytes = |tensor: Tensor| 4 * graph.elements(tensor) as u64;
        let mut lives: BTreeMap<Tensor, RangeInclusive<usize>> = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            for tensor in used(graph, node, profile) {
                let kept = graph.tensors[tensor.0].kept;
                let end = if kept { nodes.len() } else { index };
                let life = lives.entry(tensor).or_insert(index..=end);
                *life = *life.start()..=end;
            }
        }
        let of_origin = |origin: Origin| graph.tensors().filter(move |tensor| graph.origin(*tensor) == origin);
        let input_bytes = of_origin(Origin::Input).map(bytes).sum();
        let mut computed: Vec<(Tensor, RangeInclusive<usize>)> =
            of_origin(Origin::Computed).filter_map(|tensor| Some((tensor, lives.remove(&tensor)?))).collect();
        let naive_bytes = computed.iter().map(|(tensor, _)| bytes(*tensor)).sum();
        computed.sort_by_key(|(tensor, life)| (Reverse(bytes(*tensor)), *life.start()));

        let mut slot_of = HashMap::new();
        let mut slots: Vec<u64> = Vec::new();
        let mut taken: Vec<Vec<RangeInclusive<usize>>> = Vec::new();
        for (tensor, life) in computed {
            let apart = |other: &RangeInclusive<usize>| other.end() < life.start() || life.end() < other.start();
            // Slots are created in order of size, so the last is the smallest.
            let free = taken.iter().rposition(|others| others.iter().all(apart)).unwrap_or_else(|| {
                slots.push(bytes(tensor));
                taken.push(Vec::new());
                slots.len() - 1
            });
            taken[free].push(life);
            slot_of.insert(tensor, free);
        }
        Self { slot_of, slots, input_bytes, naive_bytes }
    }
}

/// The tensors that the dispatches of a node read and write.
fn used(graph: &Graph, node: &Node, profile: &Profile) -> BTreeSet<Tensor> {
    let dispatches = node.op.dispatches(&graph.shapes(node), profile);
    let bindings = dispatches.iter().flat_map(|dispatch| dispatch.reads.iter().chain(&dispatch.writes));
    bindings.filter_map(|binding| node.bound(*binding)).collect()
}

/// Device bytes of a plan, known before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Bytes with memory reused.
    pub reused: u64,
    /// Bytes if every tensor had its own memory.
    pub naive: u64,
}

/// Bytes that a graph's plan needs on a device with this profile: slots, inputs and the parameters of its
/// dispatches.
pub fn planned_bytes(graph: &Graph, profile: &Profile) -> Planned {
    let memory = MemoryPlan::new(graph, &graph.executed(), profile);
    let fixed = memory.input_bytes + PARAMS_STRIDE * graph.dispatch_count(profile).max(1) as u64;
    Planned { reused: fixed + memory.slots.iter().sum::<u64>(), naive: fixed + memory.naive_bytes }
}

//! Memory for intermediate tensors, planned by lifetime.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

use super::{DeviceProfile, Graph, Node, Origin, Tensor};
use crate::error::{Result, Shortage};
use crate::gpu::PARAMS_STRIDE;

/// A slot for every intermediate tensor; slots are reused when their tensor has been read for the last time. Tensors
/// kept for the host have their own memory, because other plans use the slots between two replays. Each slot becomes
/// its own buffer, because WebGPU does not let a kernel read and write two ranges of one buffer.
#[derive(Debug)]
pub struct MemoryPlan {
    /// Slot of each computed tensor.
    pub slot_of: HashMap<Tensor, usize>,
    /// Bytes of each slot.
    pub slots: Vec<u64>,
    /// The computed tensors that are kept.
    pub kept: Vec<Tensor>,
    /// Bytes of the tensors that the host writes, and of those that are kept for it.
    pub own_bytes: u64,
    /// Bytes that the computed tensors would take without reuse.
    pub naive_bytes: u64,
}

impl MemoryPlan {
    /// Plans a graph for a device with this profile; `nodes` are those of [`Graph::executed`]. A tensor that no
    /// kernel reads or writes, such as the scratch of a kernel that was not chosen, gets no memory.
    ///
    /// The largest tensors choose first (greedy by size, Pisarchyk & Lee 2020): each takes the smallest slot that
    /// is free for its lifetime. That slot is large enough, since all earlier tensors are at least as large.
    pub fn new(graph: &Graph, nodes: &[Node], profile: &DeviceProfile) -> Self {
        let bytes = |tensor: Tensor| graph.bytes(tensor);
        let mut lives: BTreeMap<Tensor, RangeInclusive<usize>> = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            for tensor in used(graph, node, profile) {
                let life = lives.entry(tensor).or_insert(index..=index);
                *life = *life.start()..=index;
            }
        }
        let of_origin = |origin: Origin| graph.tensors().filter(move |tensor| graph.origin(*tensor) == origin);
        let is_kept = |tensor: &Tensor| graph.is_kept(*tensor) && lives.contains_key(tensor);
        let kept: Vec<Tensor> = of_origin(Origin::Computed).filter(is_kept).collect();
        let kept_bytes = kept.iter().map(|tensor| bytes(*tensor)).sum::<u64>();
        let own_bytes = of_origin(Origin::Input).map(bytes).sum::<u64>() + kept_bytes;
        for tensor in &kept {
            lives.remove(tensor);
        }
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
        Self { slot_of, slots, kept, own_bytes, naive_bytes }
    }
}

/// The tensors that the dispatches of a node read and write.
fn used(graph: &Graph, node: &Node, profile: &DeviceProfile) -> BTreeSet<Tensor> {
    let dispatches = node.op.dispatches(&graph.shapes(node), profile);
    let bindings = dispatches.iter().flat_map(|dispatch| dispatch.reads.iter().chain(&dispatch.writes));
    bindings.filter_map(|binding| node.bound(*binding)).collect()
}

/// Checks that kernels on such a device can be given every tensor that they use, before any memory is taken.
///
/// # Errors
/// [`Shortage::Piece`] with the largest tensor that is too large.
pub fn check_tensors(graph: &Graph, profile: &DeviceProfile) -> Result<()> {
    let Some(most) = profile.binding_bytes else { return Ok(()) };
    let executed = graph.executed();
    let tensors = executed.iter().flat_map(|node| used(graph, node, profile));
    let bytes = |tensor: &Tensor| graph.bytes(*tensor);
    let Some(largest) = tensors.filter(|tensor| bytes(tensor) > most).max_by_key(bytes) else { return Ok(()) };
    let of_batch = !matches!(graph.origin(largest), Origin::Stored(..));
    let name = format!("the tensor `{}`", graph.name(largest));
    Err(Shortage::Piece { name, needed: bytes(&largest), limit: most, of_batch }.into())
}

/// Device bytes of a plan, known before it is created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// Bytes that the plan will allocate if it is alone on the device.
    pub reused: u64,
    /// Bytes if every tensor had its own memory.
    pub naive: u64,
    /// Bytes of each slot; the plans of a device share slots.
    pub slots: Vec<u64>,
}

/// Bytes that a graph's plan will allocate on such a device: slots, inputs, kept tensors and the parameters of its
/// dispatches.
pub fn planned_bytes(graph: &Graph, profile: &DeviceProfile) -> Planned {
    MemoryPlan::new(graph, &graph.executed(), profile).planned(graph, profile)
}

impl MemoryPlan {
    /// The bytes of a plan with this memory.
    pub(super) fn planned(&self, graph: &Graph, profile: &DeviceProfile) -> Planned {
        let own = self.own_bytes + PARAMS_STRIDE * graph.dispatch_count(profile).max(1) as u64;
        let reused = own + self.slots.iter().sum::<u64>();
        Planned { reused, naive: own + self.naive_bytes, slots: self.slots.clone() }
    }
}

/// Device bytes of a part of a model: its weights, and the plan that uses them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartMemory {
    /// Bytes of the weights.
    pub weights: u64,
    /// The plan.
    pub plan: Planned,
}

impl PartMemory {
    /// Bytes if nothing else is on the device.
    pub fn alone(&self) -> u64 {
        self.weights + self.plan.reused
    }
}

/// Bytes that plans allocate together if bound in this order: they run one after another and share their slots.
pub fn planned_together(plans: &[Planned]) -> u64 {
    let mut pool: Vec<u64> = Vec::new();
    let mut own = 0;
    for plan in plans {
        own += plan.reused - plan.slots.iter().sum::<u64>();
        let fitting = share(&pool, &plan.slots);
        pool.extend(plan.slots.iter().zip(fitting).filter(|(_, found)| found.is_none()).map(|(bytes, _)| bytes));
    }
    own + pool.iter().sum::<u64>()
}

/// Which buffer of a pool each slot uses: the smallest that is large enough and not used by another slot of the plan;
/// `None` if a new one is needed.
pub(super) fn share(pool: &[u64], slots: &[u64]) -> Vec<Option<usize>> {
    let mut free: BTreeSet<(u64, usize)> = pool.iter().copied().zip(0..).collect();
    let mut take = |bytes: u64| {
        let found = *free.range((bytes, 0)..).next()?;
        free.remove(&found);
        Some(found.1)
    };
    slots.iter().map(|bytes| take(*bytes)).collect()
}

//! Memory for intermediate tensors, planned by lifetime.

use std::collections::HashMap;

use super::{Graph, Node, Origin, Profile, Tensor};
use crate::gpu::PARAMS_STRIDE;

/// A slot for every intermediate tensor; slots are reused when their tensor has been read for the last
/// time. Each slot becomes a buffer of its own, because WebGPU does not let a kernel read and write two
/// ranges of one buffer.
#[derive(Debug)]
pub struct MemoryPlan {
    /// Slot of each computed tensor.
    pub slot_of: HashMap<Tensor, usize>,
    /// Bytes of each slot.
    pub slots: Vec<u64>,
    /// Bytes of the tensors that the host writes.
    pub input_bytes: u64,
    /// Bytes that the computed tensors would take without reuse.
    pub naive_bytes: u64,
}

impl MemoryPlan {
    /// Plans a graph, whose nodes are executed as [`Graph::executed`] says.
    pub fn new(graph: &Graph, nodes: &[Node]) -> Self {
        let last_node = nodes.len();
        let mut last_use: HashMap<Tensor, usize> = HashMap::new();
        for (index, node) in nodes.iter().enumerate() {
            for tensor in node.inputs.iter().chain(&node.outputs) {
                last_use.insert(*tensor, index);
            }
        }
        for tensor in graph.tensors().filter(|tensor| graph.tensors[tensor.0].kept) {
            last_use.insert(tensor, last_node);
        }
        let mut plan = Self { slot_of: HashMap::new(), slots: Vec::new(), input_bytes: 0, naive_bytes: 0 };
        plan.input_bytes = graph
            .tensors()
            .filter(|tensor| graph.origin(*tensor) == Origin::Input)
            .map(|tensor| 4 * graph.elements(tensor) as u64)
            .sum();
        let mut free: Vec<usize> = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            for tensor in &node.outputs {
                if graph.origin(*tensor) == Origin::Computed && !plan.slot_of.contains_key(tensor) {
                    let bytes = 4 * graph.elements(*tensor) as u64;
                    plan.naive_bytes += bytes;
                    let slot = plan.take(&mut free, bytes);
                    plan.slot_of.insert(*tensor, slot);
                }
            }
            let mut ended: Vec<Tensor> = node.inputs.iter().chain(&node.outputs).copied().collect();
            ended.sort_unstable();
            ended.dedup();
            for tensor in ended {
                if last_use[&tensor] == index
                    && let Some(slot) = plan.slot_of.get(&tensor)
                {
                    free.push(*slot);
                }
            }
        }
        plan
    }

    /// The smallest free slot that is large enough; else the largest one, grown; else a new one.
    fn take(&mut self, free: &mut Vec<usize>, bytes: u64) -> usize {
        let fits = |slot: &usize| self.slots[*slot] >= bytes;
        let best = (0..free.len())
            .filter(|at| fits(&free[*at]))
            .min_by_key(|at| self.slots[free[*at]])
            .or_else(|| (0..free.len()).max_by_key(|at| self.slots[free[*at]]));
        match best {
            Some(at) => {
                let slot = free.swap_remove(at);
                self.slots[slot] = self.slots[slot].max(bytes);
                slot
            }
            None => {
                self.slots.push(bytes);
                self.slots.len() - 1
            }
        }
    }
}

/// Device bytes of a plan, known before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What the plan will hold.
    pub reused: u64,
    /// What it would hold if every tensor had memory of its own.
    pub naive: u64,
}

/// Bytes that a graph's plan will hold on such a device: slots, inputs and the parameters of its dispatches.
pub fn planned_bytes(graph: &Graph, profile: &Profile) -> Planned {
    let memory = MemoryPlan::new(graph, &graph.executed());
    let fixed = memory.input_bytes + PARAMS_STRIDE * graph.dispatch_count(profile).max(1) as u64;
    Planned { reused: fixed + memory.slots.iter().sum::<u64>(), naive: fixed + memory.naive_bytes }
}

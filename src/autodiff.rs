//! Reverse-mode differentiation: the backward pass is graph too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::graph::{Graph, Node, Tensor, Wanted};
use crate::ops::{Accumulate, Add, FromHalf, ToHalf};

/// What becomes of the tensors that the forward pass computes and the backward pass reads. None of this
/// changes the forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activations {
    /// Of each segment of the graph only what enters it is kept, and the rest computed again where the
    /// backward pass comes to it (activation checkpointing, Chen et al. 2016): less memory for a second
    /// forward pass. Gradients are the same to the bit.
    pub recompute: bool,
    /// What of the segments is kept, is kept in 16 bits and expanded where the backward pass reads it: half the
    /// memory, and gradients of tensors that are rounded by at most 2⁻¹¹ of their value.
    pub half: bool,
}

/// A tensor of fewer elements is not worth two dispatches.
const WORTH_HALVING: usize = 1024;

/// Records the gradients of `seeds` with respect to every trainable parameter that they depend on (added to
/// the parameter's gradient tensor) and to `wanted` (returned, `None` where nothing depends on it).
///
/// A seed is a tensor together with the gradient of the final scalar with respect to it.
///
/// Parameter gradients accumulate (`+=`), activation gradients are written once: so several micro-batches
/// add up, and the optimizer clears what it has used.
pub fn backward(graph: &mut Graph, seeds: &[(Tensor, Tensor)], wanted: &[Tensor]) -> Vec<Option<Tensor>> {
    backward_with(graph, seeds, wanted, Activations::default())
}

/// [`backward`] with a choice of what becomes of the forward pass's tensors until it reads them.
pub fn backward_with(
    graph: &mut Graph,
    seeds: &[(Tensor, Tensor)],
    wanted: &[Tensor],
    activations: Activations,
) -> Vec<Option<Tensor>> {
    let mut differentiable: BTreeSet<Tensor> = wanted.iter().copied().collect();
    for node in graph.nodes() {
        let depends = |tensor: &Tensor| differentiable.contains(tensor) || graph.gradient(*tensor).is_some();
        if node.inputs.iter().any(depends) {
            differentiable.extend(node.outputs.iter().copied());
        }
    }
    let mut gradients: BTreeMap<Tensor, Tensor> = seeds.iter().copied().collect();
    let forward = graph.nodes().len();
    let mut segments = if activations.recompute { graph.segments().to_vec() } else { Vec::new() };
    // A segment's tensors and those that stand for them. Whatever reads them outside of it comes later in the
    // forward pass, so it has been dealt with before they are in here.
    let mut recomputed: HashMap<Tensor, Tensor> = HashMap::new();
    let mut repetitions = Vec::new();
    for index in (0..forward).rev() {
        let node = &graph.nodes()[index];
        let of_outputs: Vec<Option<Tensor>> =
            node.outputs.iter().map(|tensor| gradients.get(tensor).copied()).collect();
        let inputs = node.inputs.clone();
        let wants: Vec<Wanted> = inputs
            .iter()
            .map(|tensor| match graph.gradient(*tensor) {
                Some(gradient) => Wanted::Into(gradient),
                None if differentiable.contains(tensor) => Wanted::Fresh,
                None => Wanted::No,
            })
            .collect();
        if of_outputs.iter().all(Option::is_none) || wants.iter().all(|want| *want == Wanted::No) {
            continue;
        }
        let (op, outputs) = (Arc::clone(&node.op), node.outputs.clone());
        let scope = node.label.rsplit_once('.').map_or(String::new(), |(scope, _)| scope.to_owned());
        if let Some(segment) = segments.iter().position(|segment| segment.contains(&index)) {
            let first = graph.nodes().len();
            recomputed.extend(graph.repeat(segments.swap_remove(segment)));
            repetitions.push(first..graph.nodes().len());
        }
        let present = |tensors: &[Tensor]| -> Vec<Tensor> {
            tensors.iter().map(|tensor| *recomputed.get(tensor).unwrap_or(tensor)).collect()
        };
        graph.scope(&format!("backward.{scope}"), |graph| {
            let found = op.vjp(graph, &present(&inputs), &present(&outputs), &of_outputs, &wants);
            assert_eq!(found.len(), inputs.len(), "the gradient of {} has an entry an input", op.name());
            for ((tensor, gradient), want) in inputs.iter().zip(found).zip(wants) {
                match (gradient, want) {
                    (None, _) | (_, Wanted::No) => {}
                    (Some(gradient), Wanted::Into(target)) => graph.push_into(Accumulate, &[gradient], &[target]),
                    (Some(gradient), Wanted::Fresh) => {
                        let sum = match gradients.get(tensor) {
                            Some(other) => graph.apply(Add, &[*other, gradient]),
                            None => gradient,
                        };
                        gradients.insert(*tensor, sum);
                    }
                }
            }
        });
    }
    // The last results of a segment are of no use to its gradients.
    for repetition in repetitions.into_iter().rev() {
        graph.prune(repetition);
    }
    if activations.half {
        halve(graph, forward);
    }
    wanted.iter().map(|tensor| gradients.get(tensor).copied()).collect()
}

/// Packs the tensors of segments after their last use in the forward pass, the first `forward` nodes, and
/// expands them before their first use in the backward pass.
///
/// Only first outputs are: the others are statistics of a row that an op leaves to its own gradient. And only
/// those of segments: after them stands the loss, which may take differences between nearly equal tensors.
fn halve(graph: &mut Graph, forward: usize) {
    let backward = forward..graph.nodes().len();
    let mut places = Vec::new();
    for index in graph.segments().to_vec().into_iter().flatten() {
        let tensor = graph.nodes()[index].outputs[0];
        let reads = |node: &Node| node.inputs.contains(&tensor);
        let first_use = graph.nodes()[backward.clone()].iter().position(reads);
        let Some(first_use) = first_use.filter(|_| graph.elements(tensor) >= WORTH_HALVING && !graph.is_kept(tensor))
        else {
            continue;
        };
        let last_use = graph.nodes()[..forward].iter().rposition(reads).unwrap_or(index);
        let halved = graph.apply(ToHalf, &[tensor]);
        let expanded = graph.apply(FromHalf, &[halved]);
        graph.replace_input(backward.clone(), tensor, expanded);
        places.extend([last_use + 1, forward + first_use]);
    }
    graph.move_nodes(backward.end, &places);
}

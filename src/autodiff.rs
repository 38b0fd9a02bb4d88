//! Reverse-mode differentiation: the backward pass is part of the graph too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::graph::{Graph, Node, Tensor, Wanted};
use crate::ops::{Accumulate, Add, FromHalf, ToHalf};

/// How to store the tensors that the forward pass computes and the backward pass reads. The forward pass is not
/// affected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activations {
    /// Keep only the inputs of each segment of the graph, and recompute the rest when the backward pass reaches it
    /// (activation checkpointing, Chen et al. 2016): less memory at the expense of a second forward pass.
    /// Gradients are the same bit for bit.
    pub recompute: bool,
    /// Keep the tensors of segments in 16 bits and expand them where the backward pass reads them: half the
    /// memory, with gradients computed from tensors rounded by at most 2⁻¹¹ of their value.
    pub half: bool,
}

/// A tensor with fewer elements is not worth two dispatches.
const WORTH_HALVING: usize = 1024;

/// Records the gradients of `seeds` with respect to every trainable parameter that they depend on (added to
/// the parameter's gradient tensor) and to `wanted` (returned, `None` where nothing depends on it).
///
/// A seed is a tensor together with the gradient of the final scalar with respect to it.
///
/// Parameter gradients accumulate (`+=`), activation gradients are written once: this way several
/// micro-batches add up, and the optimizer clears the gradients it has used.
pub fn backward(graph: &mut Graph, seeds: &[(Tensor, Tensor)], wanted: &[Tensor]) -> Vec<Option<Tensor>> {
    backward_with(graph, seeds, wanted, Activations::default())
}

/// [`backward`] with a choice of how to store the forward pass's tensors.
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
    // The recomputed tensors of segments, by the originals. Readers outside the segment come later in the
    // forward pass, so they have been handled before the segment's tensors are added here.
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
            assert_eq!(found.len(), inputs.len(), "the gradient of {} needs one entry per input", op.name());
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
    // The gradients of a segment do not need its last results.
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
/// Only first outputs are packed: the others are row statistics that an op keeps for its own gradient. And only
/// in segments: the loss comes after them, and may take differences of nearly equal tensors.
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
        let shape = graph.shape(tensor).to_vec();
        let words = graph.apply(ToHalf, &[tensor]);
        let expanded = graph.apply(FromHalf { shape }, &[words]);
        graph.replace_input(backward.clone(), tensor, expanded);
        places.extend([last_use + 1, forward + first_use]);
    }
    graph.move_nodes(backward.end, &places);
}

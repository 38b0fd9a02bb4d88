//! Reverse-mode differentiation: the backward pass is also part of the graph.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use maybe_async::maybe_async;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::graph::{DType, Graph, Node, Plan, Tensor, Wanted};
use crate::ops::{Accumulate, Add, FromHalf, HalfRange, ToHalf};
use crate::ranks::Team;

/// How to store the tensors that the forward pass computes and the backward pass reads. The forward pass is not
/// affected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activations {
    /// Keep only the inputs of each segment of the graph, and recompute the rest when the backward pass reaches it
    /// (activation checkpointing, Chen et al. 2016): less memory at the expense of a second forward pass.
    /// Gradients are bit-identical.
    pub recompute: bool,
    /// Keep the tensors of segments in 16 bits and expand them where the backward pass reads them: half the memory,
    /// and gradients see tensors that are rounded by at most 2⁻¹¹ of their value. A tensor that does not fit in 16 bits
    /// makes the gradients non-finite, and [`Halves`] names it.
    pub half: bool,
}

/// The tensors that a graph keeps in 16 bits.
#[derive(Clone, Debug)]
pub struct Halves {
    /// What [`ToHalf`] found in each of them: an input that kernels add to.
    ranges: Tensor,
    /// Where each of them is computed.
    names: Vec<String>,
}

impl Halves {
    /// The tensors that did not fit in 16 bits since the last call, on any rank of a team.
    ///
    /// # Errors
    /// If a device is lost, or the connection.
    #[maybe_async]
    pub async fn take(&self, plan: &Plan, team: &Team) -> Result<Vec<LostInHalf>> {
        let words: Vec<u32> = team.agree(plan.read(&[self.ranges]).await)?;
        plan.write(self.ranges, &vec![0_u32; words.len()]);
        let all = team.gather(bytemuck::cast_slice(&words))?;
        let all: Vec<Vec<u32>> = all.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect();
        let ranges = (0..self.names.len()).map(|tensor| {
            let of = |words: &Vec<u32>| HalfRange::from_words([words[2 * tensor], words[2 * tensor + 1]]);
            all.iter().map(of).reduce(HalfRange::with).expect("there is a rank")
        });
        let lost = self.names.iter().zip(ranges).filter(|(_, range)| range.overflows() || range.underflows());
        Ok(lost
            .map(|(tensor, HalfRange { beyond, largest })| LostInHalf { tensor: tensor.clone(), beyond, largest })
            .collect())
    }
}

/// A tensor that does not fit in 16 bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LostInHalf {
    /// Where it is computed, such as `blocks.0.attn.attention`.
    pub tensor: String,
    /// Values that are too large; none if all are too small.
    pub beyond: u32,
    /// The largest magnitude.
    pub largest: f32,
}

impl LostInHalf {
    /// A message about these tensors, if there are any, that says to turn off `key`.
    pub fn explain(all: &[Self], key: &str) -> Option<String> {
        let largest = |lost: &&Self| lost.largest;
        let worst = all.iter().max_by(|a, b| largest(a).total_cmp(&largest(b)))?;
        let Self { tensor, beyond, largest } = worst;
        let more = match all.len() - 1 {
            0 => String::new(),
            1 => " (and one more tensor)".to_owned(),
            more => format!(" (and {more} more tensors)"),
        };
        let seen = match HalfRange::from_words([*beyond, largest.to_bits()]).overflows() {
            true => {
                format!("{beyond} values of {tensor} are beyond 65504, up to {largest:.3e}, and do not fit in 16 bits")
            }
            false => format!("all values of {tensor} are so small, at most {largest:.1e}, that 16 bits lose them"),
        };
        Some(format!("{seen}{more}: set `{key}` = false"))
    }
}

/// What [`backward_with`] recorded.
#[derive(Clone, Debug)]
pub struct Backward {
    /// Gradients of the wanted tensors; `None` for a tensor that nothing depends on.
    pub gradients: Vec<Option<Tensor>>,
    /// The tensors kept in 16 bits, if any.
    pub halves: Option<Halves>,
}

/// A tensor with fewer elements is not worth two dispatches.
const WORTH_HALVING: usize = 1024;

/// Records the gradients of `seeds` with respect to every trainable parameter that they depend on (added to
/// the parameter's gradient tensor) and to `wanted` (returned, `None` where nothing depends on it).
///
/// A seed is a tensor together with the gradient of the final scalar with respect to it.
///
/// Parameter gradients accumulate (`+=`) over micro-batches, and the optimizer clears them after use. Activation
/// gradients are written once.
pub fn backward(graph: &mut Graph, seeds: &[(Tensor, Tensor)], wanted: &[Tensor]) -> Vec<Option<Tensor>> {
    backward_with(graph, seeds, wanted, Activations::default()).gradients
}

/// [`backward`] with a choice of how to store the forward pass's tensors.
pub fn backward_with(
    graph: &mut Graph,
    seeds: &[(Tensor, Tensor)],
    wanted: &[Tensor],
    activations: Activations,
) -> Backward {
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
    // The gradients of a segment do not need its final outputs.
    for repetition in repetitions.into_iter().rev() {
        graph.prune(repetition);
    }
    let halves = if activations.half { halve(graph, forward) } else { None };
    Backward { gradients: wanted.iter().map(|tensor| gradients.get(tensor).copied()).collect(), halves }
}

/// Packs the tensors of segments after their last use in the forward pass, the first `forward` nodes, and
/// expands them before their first use in the backward pass.
///
/// Only first outputs are packed: the others are row statistics that an op saves for its own gradient. And only those of
/// segments: the loss comes after them, and may subtract nearly equal tensors.
fn halve(graph: &mut Graph, forward: usize) -> Option<Halves> {
    let backward = forward..graph.nodes().len();
    let (mut chosen, mut places) = (Vec::new(), Vec::new());
    for index in graph.segments().to_vec().into_iter().flatten() {
        let tensor = graph.nodes()[index].outputs[0];
        let reads = |node: &Node| node.inputs.contains(&tensor);
        let first_use = graph.nodes()[backward.clone()].iter().position(reads);
        let Some(first_use) = first_use.filter(|_| graph.elements(tensor) >= WORTH_HALVING && !graph.is_kept(tensor))
        else {
            continue;
        };
        let last_use = graph.nodes()[..forward].iter().rposition(reads).unwrap_or(index);
        chosen.push((tensor, graph.nodes()[index].label.clone()));
        places.extend([last_use + 1, forward + first_use]);
    }
    if chosen.is_empty() {
        return None;
    }
    let ranges = graph.constant_indices("ranges of halves", &[chosen.len(), 2], vec![0; 2 * chosen.len()]);
    for (slot, (tensor, _)) in chosen.iter().enumerate() {
        let shape = graph.shape(*tensor).to_vec();
        let halved = graph.scratch_of(DType::F16, &shape);
        graph.push_into(ToHalf { slot }, &[*tensor, ranges], &[halved, ranges]);
        let expanded = graph.apply(FromHalf, &[halved]);
        graph.replace_input(backward.clone(), *tensor, expanded);
    }
    graph.move_nodes(backward.end, &places);
    Some(Halves { ranges, names: chosen.into_iter().map(|(_, name)| name).collect() })
}

//! Sums of gradients in a fixed order, whoever computes the terms.
//!
//! The terms of a sum, its *leaves*, have numbers. They are added along a binary tree that depends only on how many there
//! are: node i of level k is the sum of its children 2i and 2i + 1 of level k − 1, as far as there are two. A rank that
//! has some consecutive leaves adds what it can, and is left with at most 2·log₂(leaves) nodes, one if its leaves are all
//! those of a node. These are sent, in pieces, to the rank that adds them up for a slice of the elements; and then every rank
//! gets all slices. So each rank sends and receives about twice the size of a gradient, however many there are.
//!
//! The host adds, in f32: the same bits on every device, and no device memory.

use std::ops::Range;

use super::{Seat, Team};
use crate::error::{Error, Result};

/// Elements that are sent at once.
const PIECE: usize = 1 << 22;

/// A node of the tree: the leaves from `index << level` up to `(index + 1) << level`, as far as there are so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    level: u32,
    index: usize,
}

impl Node {
    /// Its first leaf.
    fn first(self) -> usize {
        self.index << self.level
    }

    fn parent(self) -> Self {
        Self { level: self.level + 1, index: self.index / 2 }
    }

    fn children(self) -> [Self; 2] {
        [0, 1].map(|child| Self { level: self.level - 1, index: 2 * self.index + child })
    }

    /// The root of a tree of so many leaves.
    fn root(leaves: usize) -> Self {
        Self { level: leaves.next_power_of_two().trailing_zeros(), index: 0 }
    }
}

/// What is known of a tree: nodes from left to right, none a child of another.
#[derive(Debug)]
struct Frontier<T> {
    leaves: usize,
    nodes: Vec<(Node, T)>,
}

impl<T> Frontier<T> {
    /// Adds the next leaf, and everything that can then be added; `add(left, right)` adds a sibling to another.
    fn push(&mut self, leaf: usize, value: T, add: impl Fn(&mut T, T)) {
        let (mut node, mut value) = (Node { level: 0, index: leaf }, value);
        let root = Node::root(self.leaves);
        while node != root {
            if node.index % 2 == 1 {
                let sibling = Node { index: node.index - 1, ..node };
                match self.nodes.pop_if(|(last, _)| *last == sibling) {
                    Some((_, mut left)) => {
                        add(&mut left, value);
                        value = left;
                    }
                    None => break,
                }
            } else if (Node { index: node.index + 1, ..node }).first() < self.leaves {
                // Its sibling comes later.
                break;
            }
            node = node.parent();
        }
        self.nodes.push((node, value));
    }
}

/// The nodes that a rank with these leaves is left with.
fn nodes(own: Range<usize>, leaves: usize) -> Vec<Node> {
    let mut frontier = Frontier { leaves, nodes: Vec::new() };
    own.for_each(|leaf| frontier.push(leaf, (), |(), ()| ()));
    frontier.nodes.into_iter().map(|(node, ())| node).collect()
}

fn add(to: &mut [f32], more: &[f32]) {
    to.iter_mut().zip(more).for_each(|(to, more)| *to += more);
}

/// The value of a node from those of `known` nodes below it.
fn combined(node: Node, leaves: usize, known: &[(Node, &[f32])]) -> Vec<f32> {
    if let Some((_, values)) = known.iter().find(|(known, _)| *known == node) {
        return values.to_vec();
    }
    let [left, right] = node.children();
    let mut sum = combined(left, leaves, known);
    if right.first() < leaves {
        add(&mut sum, &combined(right, leaves, known));
    }
    sum
}

/// A sum in the making: what this rank has added of its leaves, each of the same number of elements.
#[derive(Debug)]
pub struct PartialSums {
    /// The next leaf.
    next: usize,
    own: Range<usize>,
    frontier: Frontier<Vec<f32>>,
}

impl PartialSums {
    /// Begins a sum of so many leaves over a team, of which this rank has a share ([`Seat::range`]).
    pub fn new(seat: Seat, leaves: usize) -> Self {
        let own = seat.range(leaves);
        Self { next: own.start, own, frontier: Frontier { leaves, nodes: Vec::new() } }
    }

    /// Adds the next leaf of this rank.
    pub fn push(&mut self, values: Vec<f32>) {
        self.frontier.push(self.next, values, |left: &mut Vec<f32>, right| add(left, &right));
        self.next += 1;
    }

    /// The sum of the leaves of all ranks, which have so many elements, on every rank.
    ///
    /// # Errors
    /// If the connection fails.
    ///
    /// # Panics
    /// If leaves are missing.
    pub fn over(mut self, team: &Team, elements: usize) -> Result<Vec<f32>> {
        assert_eq!(self.next, self.own.end, "every leaf of this rank has been added");
        if !team.is_many() {
            let (_, sum) = self.frontier.nodes.pop().expect("there is a leaf");
            return Ok(sum);
        }
        let mut sum = Vec::with_capacity(elements);
        for first in (0..elements).step_by(PIECE) {
            sum.extend(self.piece(team, first..elements.min(first + PIECE))?);
        }
        Ok(sum)
    }

    /// The sum of some elements.
    fn piece(&self, team: &Team, elements: Range<usize>) -> Result<Vec<f32>> {
        let (seat, leaves) = (team.seat(), self.frontier.leaves);
        let slice = |seat: Seat| {
            let slice = seat.range(elements.len());
            elements.start + slice.start..elements.start + slice.end
        };
        let parts = |seat: Seat| {
            let parts = self.frontier.nodes.iter().map(|(_, values)| bytemuck::cast_slice(&values[slice(seat)]));
            parts.collect::<Vec<&[u8]>>().concat()
        };
        let received = team.exchange(seat.all().map(parts).collect())?;
        let received: Vec<Vec<f32>> = received.iter().map(|bytes| floats(bytes)).collect();
        let length = slice(seat).len();
        let mut known = Vec::new();
        for (other, values) in seat.all().zip(&received) {
            let nodes = nodes(other.range(leaves), leaves);
            if values.len() != nodes.len() * length {
                let (rank, found, expected) = (other.rank, values.len(), nodes.len() * length);
                return Err(Error::failed(format!("rank {rank} sent {found} numbers of a gradient, not {expected}")));
            }
            known.extend(nodes.into_iter().zip(values.chunks(length.max(1))));
        }
        let own = if length == 0 { Vec::new() } else { combined(Node::root(leaves), leaves, &known) };
        let all = team.gather(bytemuck::cast_slice(&own))?;
        Ok(all.iter().flat_map(|bytes| floats(bytes)).collect())
    }
}

/// Numbers as they were sent.
fn floats(bytes: &[u8]) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum as a text, which shows the order.
    fn shown(leaves: usize, shares: usize) -> String {
        let add = |left: &mut String, right: String| *left = format!("({left}+{right})");
        let mut known: Vec<(Node, String)> = Vec::new();
        for seat in (Seat { rank: 0, size: shares }).all() {
            let mut frontier = Frontier { leaves, nodes: Vec::new() };
            seat.range(leaves).for_each(|leaf| frontier.push(leaf, leaf.to_string(), add));
            let expected: Vec<Node> = frontier.nodes.iter().map(|(node, _)| *node).collect();
            assert_eq!(nodes(seat.range(leaves), leaves), expected);
            known.extend(frontier.nodes);
        }
        fn of(node: Node, leaves: usize, known: &[(Node, String)]) -> String {
            if let Some((_, text)) = known.iter().find(|(known, _)| *known == node) {
                return text.clone();
            }
            let [left, right] = node.children();
            match right.first() < leaves {
                true => format!("({}+{})", of(left, leaves, known), of(right, leaves, known)),
                false => of(left, leaves, known),
            }
        }
        of(Node::root(leaves), leaves, &known)
    }

    #[test]
    fn the_order_does_not_depend_on_who_adds() {
        assert_eq!(shown(1, 1), "0");
        assert_eq!(shown(5, 1), "(((0+1)+(2+3))+4)");
        assert_eq!(shown(8, 1), "(((0+1)+(2+3))+((4+5)+(6+7)))");
        for leaves in 1..40 {
            let alone = shown(leaves, 1);
            assert!((2..10).all(|shares| shown(leaves, shares) == alone), "{leaves}: {alone}");
        }
    }

    #[test]
    fn a_rank_sends_few_nodes() {
        for leaves in 1..70_usize {
            let most = 2 * leaves.next_power_of_two().trailing_zeros() as usize;
            for seat in (Seat { rank: 0, size: 3 }).all() {
                assert!(nodes(seat.range(leaves), leaves).len() <= most.max(1));
            }
        }
        // Those with all leaves of a node send one.
        assert!((Seat { rank: 0, size: 4 }).all().all(|seat| nodes(seat.range(16), 16).len() == 1));
    }
}

//! Fuses a node with the one that reads its result, if an op has a kernel that does both.
//!
//! This happens when a plan is created. Models record the plain ops, and these are what is differentiated and what the
//! interpreter runs, so the plain ops are the oracle of the fused kernels.

use std::collections::{HashMap, HashSet};

use super::{Graph, Node, Origin, Tensor};

impl Graph {
    /// The nodes as a plan executes them.
    pub fn executed(&self) -> Vec<Node> {
        let mut readers: HashMap<Tensor, Vec<usize>> = HashMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for tensor in &node.inputs {
                readers.entry(*tensor).or_default().push(index);
            }
        }
        let mut joined: HashMap<usize, Node> = HashMap::new();
        let mut gone: HashSet<usize> = HashSet::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if let Some((reader, both)) = self.joined_with_reader(index, node, &readers)
                && !joined.contains_key(&reader)
            {
                joined.insert(reader, both);
                gone.insert(index);
            }
        }
        let executed = |(index, node): (usize, &Node)| match joined.remove(&index) {
            Some(both) => Some(both),
            None => (!gone.contains(&index)).then(|| node.clone()),
        };
        self.nodes.iter().enumerate().filter_map(executed).collect()
    }

    /// The first reader of a node's only output, and the fused node that replaces the reader.
    fn joined_with_reader(
        &self,
        index: usize,
        node: &Node,
        readers: &HashMap<Tensor, Vec<usize>>,
    ) -> Option<(usize, Node)> {
        let [value] = node.outputs[..] else { return None };
        let of_value = readers.get(&value)?;
        let reader = of_value[0];
        let next = &self.nodes[reader];
        let [result] = next.outputs[..] else { return None };
        if [value, result].iter().any(|tensor| self.origin(*tensor) != Origin::Computed) {
            return None;
        }
        let mut places = (0..next.inputs.len()).filter(|place| next.inputs[*place] == value);
        let (place, None) = (places.next()?, places.next()) else { return None };
        // The first node moves down to the second: its inputs must not change in between.
        if self.nodes[index + 1..reader].iter().any(|between| self.overwrites(between, &node.inputs)) {
            return None;
        }
        let keep = self.tensors[value.0].kept || of_value.len() > 1;
        let op = node.op.joined_with(next.op.name(), place, keep)?;
        let others = next.inputs.iter().copied().filter(|tensor| *tensor != value);
        let both = Node {
            op,
            inputs: node.inputs.iter().copied().chain(others).collect(),
            outputs: [result].into_iter().chain(keep.then_some(value)).collect(),
            label: format!("{}+{}", node.label, next.op.name()),
        };
        Some((reader, both))
    }

    /// Whether a node writes to any of the tensors. Only stored tensors are ever written twice.
    fn overwrites(&self, node: &Node, tensors: &[Tensor]) -> bool {
        let store = |tensor: &Tensor| match self.origin(*tensor) {
            Origin::Stored(store, _) => Some(store),
            Origin::Input | Origin::Computed => None,
        };
        node.outputs
            .iter()
            .filter_map(store)
            .any(|written| tensors.iter().filter_map(store).any(|read| read == written))
    }
}

//! Runs a graph on the host, in f64.

use std::collections::{BTreeMap, HashMap};

use super::{DType, Graph, Initial, Origin, Store, Tensor};

/// Runs a graph with the f64 twins of its ops. u32 elements are whole numbers; elements of 16 and 8 bits are the values
/// that they encode. Stores contain the device's words as whole numbers, which are decoded when the graph runs.
#[derive(Debug, Default)]
pub struct Interpreter {
    /// Contents of the stores, one value per word of 4 bytes.
    pub stores: BTreeMap<Store, Vec<f64>>,
    values: HashMap<Tensor, Vec<f64>>,
}

impl Interpreter {
    /// An interpreter with these store contents.
    pub fn new(stores: BTreeMap<Store, Vec<f64>>) -> Self {
        Self { stores, values: HashMap::new() }
    }

    /// Sets an input.
    pub fn write(&mut self, tensor: Tensor, data: &[f64]) {
        self.values.insert(tensor, data.to_vec());
    }

    /// A tensor's value after [`Interpreter::run`].
    ///
    /// # Panics
    /// If it was neither written nor computed.
    pub fn value(&self, graph: &Graph, tensor: Tensor) -> &[f64] {
        match graph.origin(tensor) {
            Origin::Stored(store, offset) if !is_packed(graph, tensor) => {
                &self.stores[&store][offset..offset + graph.elements(tensor)]
            }
            _ => self.values.get(&tensor).unwrap_or_else(|| panic!("{} has no value", graph.name(tensor))),
        }
    }

    /// Runs every node in order.
    pub fn run(&mut self, graph: &Graph) {
        for tensor in graph.tensors().filter(|tensor| is_packed(graph, *tensor)) {
            if let Origin::Stored(store, offset) = graph.origin(tensor) {
                let (dtype, shape) = (graph.dtype(tensor), graph.shape(tensor));
                let words = &self.stores[&store][offset..offset + dtype.words(shape)];
                let words: Vec<u32> = words.iter().map(|word| *word as u32).collect();
                self.values.insert(tensor, dtype.decode(&words, graph.elements(tensor)));
            }
        }
        for tensor in graph.tensors() {
            if let Some(data) = &graph.tensors[tensor.0].initial {
                self.values.entry(tensor).or_insert_with(|| match data {
                    Initial::F32(data) => data.iter().map(|value| f64::from(*value)).collect(),
                    Initial::U32(data) => data.iter().map(|value| f64::from(*value)).collect(),
                });
            }
        }
        for node in graph.nodes() {
            let shapes = graph.shapes(node);
            let inputs: Vec<&[f64]> = node.inputs.iter().map(|tensor| self.value(graph, *tensor)).collect();
            let results = node.op.reference(&shapes, &inputs);
            assert_eq!(results.len(), node.outputs.len(), "the twin of {} returns every output", node.op.name());
            for (tensor, result) in node.outputs.iter().zip(results) {
                assert_eq!(result.len(), graph.elements(*tensor), "the twin of {} fills its output", node.op.name());
                match graph.origin(*tensor) {
                    Origin::Stored(store, offset) => {
                        let target = self.stores.get_mut(&store).unwrap_or_else(|| panic!("{store:?} is not given"));
                        for (old, new) in target[offset..].iter_mut().zip(result) {
                            *old = if node.op.accumulates() { *old + new } else { new };
                        }
                    }
                    _ => {
                        self.values.insert(*tensor, result);
                    }
                }
            }
        }
    }
}

/// Whether several elements share a word.
fn is_packed(graph: &Graph, tensor: Tensor) -> bool {
    matches!(graph.dtype(tensor), DType::F16 | DType::Q8_0)
}

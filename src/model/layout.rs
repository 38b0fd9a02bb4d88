//! Where the parameters of a network lie in its one flat store.

use std::collections::BTreeMap;

use crate::graph::{Graph, STORE_ALIGNMENT, Store, Tensor};

/// Bound of a size that a file claims, so that products of them can be counted.
pub(super) const MOST: usize = 65_535;

/// One parameter tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name as in checkpoints.
    pub name: String,
    /// Shape as in checkpoints.
    pub shape: Vec<usize>,
    /// First element in the store.
    pub offset: usize,
    /// The optimizer may change it.
    pub trainable: bool,
}

impl Entry {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// All parameters of a network. Trainable ones come first, so that the optimizer runs over one range; the
/// elements between tensors, which pad them to an aligned offset, are zero and stay zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    entries: Vec<Entry>,
    trainable_elements: usize,
    elements: usize,
}

impl Layout {
    /// Lays out `(name, shape, trainable)` in order.
    pub fn new(tensors: impl IntoIterator<Item = (String, Vec<usize>, bool)>) -> Self {
        let (trainable, frozen): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(_, _, trainable)| *trainable);
        let mut layout = Self::default();
        for (name, shape, trainable) in trainable.into_iter().chain(frozen) {
            let elements: usize = shape.iter().product();
            layout.entries.push(Entry { name, shape, offset: layout.elements, trainable });
            layout.elements += elements.next_multiple_of(STORE_ALIGNMENT);
            if trainable {
                layout.trainable_elements = layout.elements;
            }
        }
        layout
    }

    /// The parameters, in the order of the store.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Elements of the store, padding included.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Elements of the range that the optimizer runs over.
    pub fn trainable_elements(&self) -> usize {
        self.trainable_elements
    }

    /// Number of parameters, padding excluded.
    pub fn parameter_count(&self) -> usize {
        self.entries.iter().map(Entry::elements).sum()
    }

    /// Declares the parameters in a graph; with `gradients`, backward passes add to that store.
    ///
    /// A tensor of more than two dimensions is declared as a matrix `[first, rest]`: a convolution whose stride
    /// is its size is a linear layer.
    pub fn declare(&self, graph: &mut Graph, store: Store, gradients: Option<Store>) -> Parameters {
        let tensors = self.entries.iter().map(|entry| {
            let shape = match entry.shape.as_slice() {
                [first, _, _, ..] => vec![*first, entry.elements() / first],
                shape => shape.to_vec(),
            };
            let tensor = graph.stored(&entry.name, &shape, store, entry.offset);
            if let Some(gradients) = gradients.filter(|_| entry.trainable) {
                let gradient = graph.stored(&entry.name, &shape, gradients, entry.offset);
                graph.set_gradient(tensor, gradient);
            }
            (entry.name.clone(), tensor)
        });
        Parameters(tensors.collect())
    }
}

/// The parameters of a network in one graph, by name.
#[derive(Clone, Debug)]
pub struct Parameters(BTreeMap<String, Tensor>);

impl Parameters {
    /// The tensor of a name.
    ///
    /// # Panics
    /// If the network has no such parameter: layout and forward pass disagree.
    pub fn get(&self, name: &str) -> Tensor {
        *self.0.get(name).unwrap_or_else(|| panic!("no parameter is called `{name}`"))
    }

    /// Weight and bias of a linear layer.
    pub fn linear(&self, layer: &str) -> [Tensor; 2] {
        [self.get(&format!("{layer}.weight")), self.get(&format!("{layer}.bias"))]
    }
}

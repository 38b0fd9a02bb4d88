//! The layout of a network's parameters in one flat store.

use std::collections::BTreeMap;

use crate::graph::{Graph, STORE_ALIGNMENT, Store, Tensor};
use crate::ops::{Add, FromHalf, MatMul, Scale, linear, pack_half};

/// Upper bound of the sizes in a file, so that their products do not overflow.
pub(super) const MOST: usize = 65_535;

/// One parameter tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in checkpoints.
    pub name: String,
    /// Its shape in checkpoints.
    pub shape: Vec<usize>,
    /// Its first element in the store.
    pub offset: usize,
    /// Whether the optimizer may change it.
    pub trainable: bool,
}

impl Entry {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The shape in a graph: more than two dimensions become a matrix `[first, rest]`.
    fn declared_shape(&self) -> Vec<usize> {
        match self.shape.as_slice() {
            [first, _, _, ..] => vec![*first, self.elements() / first],
            shape => shape.to_vec(),
        }
    }

    fn packed_words(&self) -> usize {
        self.elements().div_ceil(2).next_multiple_of(STORE_ALIGNMENT)
    }
}

/// All parameters of a network. Trainable ones come first, so that the optimizer runs over one range; the padding
/// elements that align the tensors are zero and stay zero.
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

    /// The parameters, in store order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Number of elements of the store, including padding.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Number of elements of the range that the optimizer runs over.
    pub fn trainable_elements(&self) -> usize {
        self.trainable_elements
    }

    /// Number of parameters, without padding.
    pub fn parameter_count(&self) -> usize {
        self.entries.iter().map(Entry::elements).sum()
    }

    /// Declares the parameters in a graph; with `gradients`, backward passes accumulate in that store.
    ///
    /// A tensor with more than two dimensions is declared as a matrix `[first, rest]`: a convolution whose stride
    /// equals its size is a linear layer.
    pub fn declare(&self, graph: &mut Graph, store: Store, gradients: Option<Store>) -> Parameters {
        let tensors = self.entries.iter().map(|entry| {
            let shape = entry.declared_shape();
            let tensor = graph.stored(&entry.name, &shape, store, entry.offset);
            if let Some(gradients) = gradients.filter(|_| entry.trainable) {
                let gradient = graph.stored(&entry.name, &shape, gradients, entry.offset);
                graph.set_gradient(tensor, gradient);
            }
            (entry.name.clone(), Parameter::Plain(tensor))
        });
        Parameters::new(tensors.collect())
    }

    /// Declares frozen parameters packed by [`Layout::pack`], which only forward passes read. Each use expands its
    /// tensor again, so that at most one layer exists in 32 bits at a time.
    pub fn declare_packed(&self, graph: &mut Graph, store: Store) -> Parameters {
        let mut offset = 0;
        let tensors = self.entries.iter().map(|entry| {
            let words = graph.stored(&entry.name, &[entry.elements().div_ceil(2)], store, offset);
            offset += entry.packed_words();
            (entry.name.clone(), Parameter::Packed(words, entry.declared_shape()))
        });
        Parameters::new(tensors.collect())
    }

    /// Packs laid-out weights into words of two 16-bit numbers.
    pub fn pack(&self, weights: &[f32]) -> Vec<u32> {
        let mut packed = Vec::with_capacity(self.packed_words());
        for entry in &self.entries {
            let end = packed.len() + entry.packed_words();
            packed.extend(pack_half(&weights[entry.offset..entry.offset + entry.elements()]));
            packed.resize(end, 0);
        }
        packed
    }

    /// Number of words that [`Layout::pack`] returns.
    pub fn packed_words(&self) -> usize {
        self.entries.iter().map(Entry::packed_words).sum()
    }
}

/// The parameters of a network in one graph, by name.
#[derive(Clone, Debug)]
pub struct Parameters {
    tensors: BTreeMap<String, Parameter>,
    /// LoRA's factors, by layer.
    lora: BTreeMap<String, f32>,
}

#[derive(Clone, Debug)]
enum Parameter {
    Plain(Tensor),
    /// Words of two numbers, and the shape of the tensor.
    Packed(Tensor, Vec<usize>),
}

impl Parameters {
    fn new(tensors: BTreeMap<String, Parameter>) -> Self {
        Self { tensors, lora: BTreeMap::new() }
    }

    /// Adds LoRA's parameters: matrices `LAYER.lora_A.weight` and `LAYER.lora_B.weight` for each layer in `factors`.
    pub fn with_lora(mut self, matrices: Self, factors: BTreeMap<String, f32>) -> Self {
        self.tensors.extend(matrices.tensors);
        self.lora = factors;
        self
    }

    /// The tensor with this name; a packed one is expanded here.
    ///
    /// # Panics
    /// If the network has no such parameter: layout and forward pass disagree.
    pub fn get(&self, graph: &mut Graph, name: &str) -> Tensor {
        match self.tensors.get(name).unwrap_or_else(|| panic!("no parameter is named `{name}`")) {
            Parameter::Plain(tensor) => *tensor,
            Parameter::Packed(words, shape) => graph.apply(FromHalf { shape: shape.clone() }, &[*words]),
        }
    }

    /// A linear layer, x·Wᵀ + b, plus its LoRA term, factor·(x·Aᵀ)·Bᵀ.
    pub fn linear(&self, graph: &mut Graph, layer: &str, x: Tensor) -> Tensor {
        let [weight, bias] = ["weight", "bias"].map(|part| self.get(graph, &format!("{layer}.{part}")));
        let y = linear(graph, x, weight, bias);
        let Some(factor) = self.lora.get(layer) else { return y };
        let [a, b] = ["lora_A", "lora_B"].map(|part| self.get(graph, &format!("{layer}.{part}.weight")));
        let product = MatMul { transpose_b: true, ..MatMul::default() };
        let narrow = graph.apply(product, &[x, a]);
        let narrow = graph.apply(Scale(*factor), &[narrow]);
        let addition = graph.apply(product, &[narrow, b]);
        graph.apply(Add, &[y, addition])
    }
}

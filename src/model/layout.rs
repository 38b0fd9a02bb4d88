//! The layout of a network's parameters in one flat store.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::weights::WeightSource;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::{DType, Graph, STORE_ALIGNMENT, Store, StoreMemory, Tensor};
use crate::ops::{Add, Scale, linear_in};

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
    pub(super) fn declared_shape(&self) -> Vec<usize> {
        match self.shape.as_slice() {
            [first, _, _, ..] => vec![*first, self.elements() / first],
            shape => shape.to_vec(),
        }
    }

    /// The linear layer whose matrix this is, a convolution included; `None` for a table of embeddings, and for all else.
    pub fn linear_layer(&self) -> Option<&str> {
        let layer = self.name.strip_suffix(".weight")?;
        (self.shape.len() >= 2 && !layer.ends_with("embedding_table")).then_some(layer)
    }

    /// Elements in the store, padding included.
    pub fn stored_elements(&self) -> usize {
        self.elements().next_multiple_of(STORE_ALIGNMENT)
    }
}

/// All parameters of a network. Trainable ones come first, so that the optimizer runs over one range; the padding
/// elements that align the tensors are zero and stay zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    entries: Vec<Entry>,
    trainable_elements: usize,
    elements: usize,
    prefix: &'static str,
}

impl Layout {
    /// Lays out `(name, shape, trainable)` in order.
    pub fn new(tensors: impl IntoIterator<Item = (String, Vec<usize>, bool)>) -> Self {
        let (trainable, frozen): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(_, _, trainable)| *trainable);
        let mut layout = Self::default();
        for (name, shape, trainable) in trainable.into_iter().chain(frozen) {
            let entry = Entry { name, shape, offset: layout.elements, trainable };
            layout.elements += entry.stored_elements();
            layout.entries.push(entry);
            if trainable {
                layout.trainable_elements = layout.elements;
            }
        }
        layout
    }

    /// The same with what published files have in front of every name.
    pub(super) fn published_with(self, prefix: &'static str) -> Self {
        Self { prefix, ..self }
    }

    /// What published files, of models and of adapters, have in front of every name.
    pub fn prefix(&self) -> &'static str {
        self.prefix
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

    /// The store in chunks of at most `most` bytes, split between tensors. A tensor that is larger becomes its own
    /// chunk, which the device then rejects.
    pub fn chunks(&self, most: Option<u64>) -> Vec<Range<usize>> {
        cut(self.entries.iter().map(Entry::stored_elements), most)
    }

    /// The same for the range that the optimizer runs over.
    pub fn trainable_chunks(&self, most: Option<u64>) -> Vec<Range<usize>> {
        let chunks = self.chunks(most).into_iter().map(|chunk| chunk.start..chunk.end.min(self.trainable_elements));
        chunks.filter(|chunk| !chunk.is_empty()).collect()
    }

    /// Uploads laid-out weights to the device.
    ///
    /// # Errors
    /// Those of the source of the weights; if the device does not have enough memory, or does not allow a tensor of this
    /// size.
    pub fn upload(&self, gpu: &Arc<Gpu>, label: &str, weights: &(impl WeightSource + ?Sized)) -> Result<StoreMemory> {
        let memory = StoreMemory::allocate(gpu, label, &self.chunks(gpu.chunk_bytes()))?;
        self.write(gpu, &[&memory], weights)?;
        Ok(memory)
    }

    /// Writes weights, one tensor after the other, to stores of this layout.
    ///
    /// # Errors
    /// Those of the source of the weights.
    pub fn write(&self, gpu: &Gpu, stores: &[&StoreMemory], weights: &(impl WeightSource + ?Sized)) -> Result<()> {
        for entry in &self.entries {
            let values = weights.read(entry)?;
            stores.iter().for_each(|store| store.write_at(gpu, entry.offset, &values));
        }
        Ok(())
    }

    /// Declares the parameters in a graph; with `gradients`, backward passes add to that store.
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
            (entry.name.clone(), tensor)
        });
        Parameters::new(tensors.collect())
    }
}

/// Groups consecutive lengths (in words of 4 bytes) into ranges of at most `most` bytes.
pub(super) fn cut(lengths: impl Iterator<Item = usize>, most: Option<u64>) -> Vec<Range<usize>> {
    let mut chunks: Vec<Range<usize>> = Vec::new();
    let mut end = 0;
    for length in lengths {
        match chunks.last_mut() {
            Some(chunk) if most.is_none_or(|most| DType::U32.bytes(&[end + length - chunk.start]) <= most) => {
                chunk.end = end + length;
            }
            _ => chunks.push(end..end + length),
        }
        end += length;
    }
    chunks
}

/// The parameters of a network in one graph, by name.
#[derive(Clone, Debug)]
pub struct Parameters {
    tensors: BTreeMap<String, Tensor>,
    /// LoRA's factors, by layer.
    lora: BTreeMap<String, f32>,
    /// That of the products of layers.
    precision: DType,
}

impl Parameters {
    pub(super) fn new(tensors: BTreeMap<String, Tensor>) -> Self {
        Self { tensors, lora: BTreeMap::new(), precision: DType::F32 }
    }

    /// The same with products of this [`crate::ops::MatMul::precision`].
    pub fn in_precision(self, precision: DType) -> Self {
        Self { precision, ..self }
    }

    /// Adds LoRA's parameters: matrices `LAYER.lora_A.weight` and `LAYER.lora_B.weight` for each layer in `factors`.
    pub fn with_lora(mut self, matrices: Self, factors: BTreeMap<String, f32>) -> Self {
        self.tensors.extend(matrices.tensors);
        self.lora = factors;
        self
    }

    /// The parameters whose names begin with `prefix`, without it.
    pub(super) fn within(&self, prefix: &str) -> Self {
        let own =
            self.tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), *tensor)));
        Self::new(own.collect()).in_precision(self.precision)
    }

    /// The tensor with this name.
    ///
    /// # Panics
    /// If the network has no such parameter: layout and forward pass disagree.
    pub fn get(&self, name: &str) -> Tensor {
        *self.tensors.get(name).unwrap_or_else(|| panic!("no parameter is named `{name}`"))
    }

    /// A product with a matrix, x·Wᵀ, in the type that it is stored in.
    pub(super) fn product(&self, graph: &mut Graph, matrix: &str, x: Tensor) -> Tensor {
        linear_in(self.precision, graph, x, self.get(matrix), None)
    }

    /// A linear layer, x·Wᵀ + b or without b, plus its LoRA term, factor·(x·Aᵀ)·Bᵀ.
    pub fn linear(&self, graph: &mut Graph, layer: &str, x: Tensor) -> Tensor {
        let weight = self.get(&format!("{layer}.weight"));
        let linear = |graph: &mut Graph, x, weight, bias| linear_in(self.precision, graph, x, weight, bias);
        let y = linear(graph, x, weight, self.tensors.get(&format!("{layer}.bias")).copied());
        let Some(factor) = self.lora.get(layer) else { return y };
        let [a, b] = ["lora_A", "lora_B"].map(|part| self.get(&format!("{layer}.{part}.weight")));
        let narrow = linear(graph, x, a, None);
        let narrow = graph.apply(Scale(*factor), &[narrow]);
        let addition = linear(graph, narrow, b, None);
        graph.apply(Add, &[y, addition])
    }
}

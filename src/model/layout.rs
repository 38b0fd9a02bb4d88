//! The layout of a network's parameters in one flat store.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use half::f16;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{Graph, STORE_ALIGNMENT, Store, StoreMemory, Tensor};
use crate::ops::{Add, FromHalf, HALF_BOUND, MatMul, Scale, linear, pack_half};

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

    /// Elements in the store, padding included.
    pub fn stored_elements(&self) -> usize {
        self.elements().next_multiple_of(STORE_ALIGNMENT)
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
            let entry = Entry { name, shape, offset: layout.elements, trainable };
            layout.elements += entry.stored_elements();
            layout.entries.push(entry);
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

    /// The store in chunks of at most `most` bytes, cut between tensors. A tensor that is larger by itself is a chunk
    /// of its own, which the device then refuses.
    pub fn chunks(&self, most: Option<u64>) -> Vec<Range<usize>> {
        cut(self.entries.iter().map(Entry::stored_elements), most)
    }

    /// The same of the range that the optimizer runs over.
    pub fn trainable_chunks(&self, most: Option<u64>) -> Vec<Range<usize>> {
        let chunks = self.chunks(most).into_iter().map(|chunk| chunk.start..chunk.end.min(self.trainable_elements));
        chunks.filter(|chunk| !chunk.is_empty()).collect()
    }

    /// The same of what [`Layout::pack`] gives.
    pub fn packed_chunks(&self, most: Option<u64>) -> Vec<Range<usize>> {
        cut(self.entries.iter().map(Entry::packed_words), most)
    }

    /// Puts weights, laid out, on the device.
    ///
    /// # Errors
    /// If the device has not enough memory, or does not take so large a tensor.
    pub fn upload(&self, gpu: &Arc<Gpu>, label: &str, weights: &[f32]) -> Result<StoreMemory> {
        StoreMemory::upload(gpu, label, &self.chunks(gpu.chunk_bytes()), weights)
    }

    /// The same in 16 bits, for [`Layout::declare_packed`].
    ///
    /// # Errors
    /// As [`Layout::upload`].
    pub fn upload_packed(&self, gpu: &Arc<Gpu>, label: &str, weights: &[f32]) -> Result<StoreMemory> {
        StoreMemory::upload(gpu, label, &self.packed_chunks(gpu.chunk_bytes()), &self.pack(weights))
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

    /// Whether [`Layout::pack`] rounds every tensor by no more than 2⁻¹¹ of its norm, and at most a hundredth of its
    /// weights to zero. `key` is what asks for it.
    ///
    /// # Errors
    /// [`Error::Input`] if a weight is too large for 16 bits, or most of a tensor too small.
    pub fn check_half(&self, weights: &[f32], key: &str) -> Result<()> {
        for entry in &self.entries {
            let values = &weights[entry.offset..entry.offset + entry.elements()];
            if let Some(problem) = lost_in_half(values, entry.shape.len() > 1) {
                return Err(Error::input(format!(
                    "`{key}` cannot keep {} of the base in 16 bits: {problem}; set `{key}` = false",
                    entry.name
                )));
            }
        }
        Ok(())
    }

    /// Weights, laid out, as words of two 16-bit numbers each; [`Layout::check_half`] says whether they fit.
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

/// Groups lengths (of 4-byte elements) that follow each other into ranges of at most `most` bytes.
fn cut(lengths: impl Iterator<Item = usize>, most: Option<u64>) -> Vec<Range<usize>> {
    let mut chunks: Vec<Range<usize>> = Vec::new();
    let mut end = 0;
    for length in lengths {
        match chunks.last_mut() {
            Some(chunk) if most.is_none_or(|most| 4 * (end + length - chunk.start) as u64 <= most) => {
                chunk.end = end + length;
            }
            _ => chunks.push(end..end + length),
        }
        end += length;
    }
    chunks
}

/// What 16 bits would lose of a tensor's weights, if it is more than they promise.
///
/// Of a bias only large values count: those that round to zero are added to something, and are no larger than 2⁻²⁵. The
/// biases of attention's keys are such, as they have no gradient but rounding.
fn lost_in_half(values: &[f32], is_matrix: bool) -> Option<String> {
    let count = |is: &dyn Fn(f32) -> bool| values.iter().filter(|value| is(value.abs())).count();
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let all = values.len();
    if largest >= HALF_BOUND {
        let beyond = count(&|value| value >= HALF_BOUND);
        return Some(format!("{beyond} of its {all} values are beyond 65504, the largest is {largest:.3e}"));
    }
    let rounded = |value: f32| f16::from_f32(value).to_f64() - f64::from(value);
    let squares = |of: &dyn Fn(f32) -> f64| values.iter().map(|value| of(*value).powi(2)).sum::<f64>();
    let is_exact = squares(&rounded).sqrt() <= squares(&|value| value.into()).sqrt() / 2048.0;
    let [small, lost] = [
        count(&|value| value > 0.0 && value < f16::MIN_POSITIVE.to_f32()),
        count(&|value| value > 0.0 && f16::from_f32(value) == f16::ZERO),
    ];
    // One or another weight that rounds to zero is in every large model. More of them are a part of the tensor that is
    // lost, such as the values of attention, even if its norm hardly knows of it.
    if !is_matrix || is_exact && 100 * lost <= all {
        return None;
    }
    Some(format!(
        "{small} of its {all} values are below 6.1e-5 and lose digits, {lost} of them round to 0, the largest is {largest:.1e}"
    ))
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

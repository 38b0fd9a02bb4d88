//! Frozen weights on the device, in 32 bits or, if the configuration says so, with matrices in 16 or 8 bits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use half::f16;

use super::layout::{Entry, Layout, Parameters, cut};
use super::weights::WeightSource;
use crate::config::WeightType;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{BLOCK, DType, Graph, HALF_BOUND, STORE_ALIGNMENT, Store, StoreMemory, block_scale};

/// Weights that are encoded at once: a whole number of words in every stream of every type.
const AT_ONCE: usize = 1 << 20;

/// How the weights of a [`Layout`] are stored if they are not trained.
///
/// Only the matrices of linear layers are stored in fewer bits, and products read them in that form. Biases, embeddings
/// and positions are small, and stay in 32 bits. A matrix whose rows do not consist of blocks of 32 weights is stored
/// in 16 bits instead of 8.
#[derive(Clone, Debug, PartialEq)]
pub struct Frozen {
    /// What was asked for.
    weights: WeightType,
    tensors: Vec<FrozenTensor>,
}

#[derive(Clone, Debug, PartialEq)]
struct FrozenTensor {
    /// Among the weights.
    entry: Entry,
    /// As declared in a graph.
    shape: Vec<usize>,
    dtype: DType,
    /// Its first word in the store.
    offset: usize,
}

impl FrozenTensor {
    /// Words in the store, padding included.
    fn stored_words(&self) -> usize {
        self.dtype.words(&self.shape).next_multiple_of(STORE_ALIGNMENT)
    }

    /// Its values, which its type can keep.
    fn read<'a>(
        &self,
        weights: &'a (impl WeightSource + ?Sized),
        refusal: &impl Fn(&Entry, DType, &str) -> Error,
    ) -> Result<Cow<'a, [f32]>> {
        let values = weights.read(&self.entry)?;
        match self.lost(&values) {
            None => Ok(values),
            Some(problem) => Err(refusal(&self.entry, self.dtype, &problem)),
        }
    }

    /// Gives the words of its values, piece by piece, each with its place in the store.
    fn encode(&self, values: &[f32], mut put: impl FnMut(usize, &[u32])) {
        // Where the scales of blocks begin, of which two are a word.
        let scales = self.offset + values.len() / 4;
        for (first, piece) in (0..).step_by(AT_ONCE).zip(values.chunks(AT_ONCE)) {
            let words = self.dtype.encode(piece);
            match self.dtype {
                DType::F32 | DType::U32 => put(self.offset + first, &words),
                DType::F16 => put(self.offset + first / 2, &words),
                DType::Q8_0 => {
                    let (codes, of_blocks) = words.split_at(piece.len() / 4);
                    put(self.offset + first / 4, codes);
                    put(scales + first / BLOCK / 2, of_blocks);
                }
            }
        }
    }

    /// What its type would lose of the values, if it is more than rounding.
    fn lost(&self, values: &[f32]) -> Option<String> {
        match self.dtype {
            DType::F32 | DType::U32 => None,
            DType::F16 => lost_in_half(values, "values"),
            DType::Q8_0 => lost_in_half(&values.chunks(BLOCK).map(block_scale).collect::<Vec<f32>>(), "scales"),
        }
    }
}

/// What 16 bits would lose of a tensor's weights, or of their scales, if it is more than rounding.
fn lost_in_half(values: &[f32], what: &str) -> Option<String> {
    let count = |is: &dyn Fn(f32) -> bool| values.iter().filter(|value| is(value.abs())).count();
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let all = values.len();
    if largest >= HALF_BOUND {
        let beyond = count(&|value| value >= HALF_BOUND);
        return Some(format!("{beyond} of its {all} {what} are beyond 65504, the largest is {largest:.3e}"));
    }
    let rounded = |value: f32| f16::from_f32(value).to_f64() - f64::from(value);
    let squares = |of: &dyn Fn(f32) -> f64| values.iter().map(|value| of(*value).powi(2)).sum::<f64>();
    let is_exact = squares(&rounded).sqrt() <= squares(&|value| value.into()).sqrt() / 2048.0;
    let [small, lost] = [
        count(&|value| value > 0.0 && value < f16::MIN_POSITIVE.to_f32()),
        count(&|value| value > 0.0 && f16::from_f32(value) == f16::ZERO),
    ];
    // Every large model has a few weights that round to zero. If there are more, a part of the tensor is lost, such as
    // the values of attention, even if the norm hardly changes.
    if is_exact && 100 * lost <= all {
        return None;
    }
    Some(format!(
        "{small} of its {all} {what} are below 6.1e-5 and lose digits, {lost} of them round to 0, the largest is {largest:.1e}"
    ))
}

/// How a configuration sets a type of weights.
fn by_key(weights: WeightType) -> String {
    format!("`model.weights` = \"{}\"", weights.name())
}

impl Frozen {
    /// Stores the weights of a layout in this type.
    pub fn new(layout: &Layout, weights: WeightType) -> Self {
        Self::of_types(layout, weights, |entry, shape| {
            let is_matrix = entry.linear_layer().is_some();
            match weights {
                WeightType::F16 if is_matrix => DType::F16,
                WeightType::Q8_0 if is_matrix && DType::has_blocks(shape) => DType::Q8_0,
                WeightType::Q8_0 if is_matrix => DType::F16,
                _ => DType::F32,
            }
        })
    }

    /// Stores in 16 bits the matrices that would take more than `most` bytes in 32, and everything else in 32 bits. All
    /// matrices must be operands of products.
    pub fn within(layout: &Layout, most: Option<u64>) -> Self {
        Self::of_types(layout, WeightType::F32, |_, shape| {
            let is_large = most.is_some_and(|most| DType::F32.bytes(shape) > most);
            if is_large && shape.len() > 1 { DType::F16 } else { DType::F32 }
        })
    }

    fn of_types(layout: &Layout, weights: WeightType, dtype: impl Fn(&Entry, &[usize]) -> DType) -> Self {
        let mut tensors = Vec::new();
        let mut offset = 0;
        for entry in layout.entries() {
            let shape = entry.declared_shape();
            let dtype = dtype(entry, &shape);
            let tensor = FrozenTensor { entry: entry.clone(), shape, dtype, offset };
            offset += tensor.stored_words();
            tensors.push(tensor);
        }
        Self { weights, tensors }
    }

    /// Bytes of the store, padding included.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| DType::U32.bytes(&[tensor.stored_words()])).sum()
    }

    /// Bytes of the tensors of each type.
    pub fn bytes_by_type(&self) -> BTreeMap<DType, u64> {
        let mut found = BTreeMap::new();
        for tensor in &self.tensors {
            *found.entry(tensor.dtype).or_default() += tensor.dtype.bytes(&tensor.shape);
        }
        found
    }

    /// The words of a store that holds these weights, laid out as the [`Layout`] says.
    ///
    /// # Errors
    /// [`Error::Input`] if a weight is too large for the type, or most of a tensor too small.
    pub fn pack(&self, weights: &[f32]) -> Result<Vec<u32>> {
        let mut words = vec![0; self.tensors.iter().map(FrozenTensor::stored_words).sum()];
        for tensor in &self.tensors {
            let values = tensor.read(weights, &self.refusal(by_key))?;
            tensor.encode(&values, |at, piece| words[at..at + piece.len()].copy_from_slice(piece));
        }
        Ok(words)
    }

    /// The error if a type that the user set does not keep a tensor. `setting` is how it is set, in messages.
    fn refusal(&self, setting: impl Fn(WeightType) -> String) -> impl Fn(&Entry, DType, &str) -> Error {
        move |entry, dtype, problem| {
            Error::input(format!(
                "{} cannot keep {} of the base in {}: {problem}; set {}",
                setting(self.weights),
                entry.name,
                if dtype == DType::Q8_0 { "blocks of 8 bits" } else { "16 bits" },
                setting(WeightType::F32)
            ))
        }
    }

    /// The weights as a store represents them, each rounded to its type.
    ///
    /// # Errors
    /// As [`Frozen::pack`].
    pub fn rounded(&self, weights: &[f32]) -> Result<Vec<f32>> {
        let (mut rounded, words) = (weights.to_vec(), self.pack(weights)?);
        for FrozenTensor { entry, shape, dtype, offset } in &self.tensors {
            let values = dtype.decode(&words[*offset..offset + dtype.words(shape)], entry.elements());
            for (weight, value) in rounded[entry.offset..].iter_mut().zip(values) {
                // Exact, because no type has more bits.
                *weight = value as f32;
            }
        }
        Ok(rounded)
    }

    /// The store for [`crate::graph::Interpreter`]: values of f32, and the words of all other types as whole numbers.
    ///
    /// # Errors
    /// As [`Frozen::pack`].
    pub fn interpreted(&self, weights: &[f32]) -> Result<Vec<f64>> {
        let words = self.pack(weights)?;
        let mut store: Vec<f64> = words.iter().map(|word| f64::from(*word)).collect();
        for FrozenTensor { offset, entry, .. } in self.tensors.iter().filter(|tensor| tensor.dtype == DType::F32) {
            let values = weights[entry.offset..][..entry.elements()].iter().map(|value| f64::from(*value));
            store.splice(*offset..offset + entry.elements(), values);
        }
        Ok(store)
    }

    /// Uploads laid-out weights to the device, tensor by tensor.
    ///
    /// # Errors
    /// As [`Frozen::pack`], those of the source of the weights, or if the device does not have enough memory.
    pub fn upload(&self, gpu: &Arc<Gpu>, label: &str, weights: &(impl WeightSource + ?Sized)) -> Result<StoreMemory> {
        self.upload_set_by(gpu, label, weights, by_key)
    }

    /// [`Frozen::upload`] for a type of weights that is not set in a configuration: `setting` is how, in messages.
    ///
    /// # Errors
    /// As [`Frozen::upload`].
    pub fn upload_set_by(
        &self,
        gpu: &Arc<Gpu>,
        label: &str,
        weights: &(impl WeightSource + ?Sized),
        setting: impl Fn(WeightType) -> String,
    ) -> Result<StoreMemory> {
        let memory = self.allocate(gpu, label)?;
        self.write(gpu, &memory, weights, self.refusal(setting))?;
        Ok(memory)
    }

    /// Zeroed memory of the device for the weights.
    ///
    /// # Errors
    /// If the device does not have enough memory, or does not allow a tensor of this size.
    pub fn allocate(&self, gpu: &Arc<Gpu>, label: &str) -> Result<StoreMemory> {
        let chunks = cut(self.tensors.iter().map(FrozenTensor::stored_words), gpu.chunk_bytes());
        StoreMemory::allocate(gpu, label, &chunks)
    }

    /// Writes laid-out weights, tensor by tensor, to memory from [`Frozen::allocate`].
    ///
    /// # Errors
    /// Those of the source of the weights; that of `refusal`, which is given the tensor, its type and the problem, if
    /// the type loses more of the weights than rounding does.
    pub fn write(
        &self,
        gpu: &Gpu,
        memory: &StoreMemory,
        weights: &(impl WeightSource + ?Sized),
        refusal: impl Fn(&Entry, DType, &str) -> Error,
    ) -> Result<()> {
        for tensor in &self.tensors {
            let values = tensor.read(weights, &refusal)?;
            match tensor.dtype {
                DType::F32 => memory.write_at(gpu, tensor.offset, &values),
                _ => tensor.encode(&values, |at, words| memory.write_at(gpu, at, words)),
            }
        }
        Ok(())
    }

    /// Declares the parameters in a graph.
    pub fn declare(&self, graph: &mut Graph, store: Store) -> Parameters {
        let tensors = self.tensors.iter().map(|FrozenTensor { entry, shape, dtype, offset }| {
            (entry.name.clone(), graph.stored_of(*dtype, &entry.name, shape, store, *offset))
        });
        Parameters::new(tensors.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix of more weights than are encoded at once, whose last piece ends with one block alone.
    #[test]
    fn pieces_are_the_words_of_the_whole() {
        let shape = vec![33, 32 * 1023];
        let layout = Layout::new(["a.bias", "a.weight"].map(|name| (name.to_owned(), shape.clone(), true)));
        let values: Vec<f32> =
            (0..33 * 32 * 1023_u64).map(|at| ((at * 7919 % 10_007) as f32 - 5000.0) / 3000.0).collect();
        assert!(values.len() > AT_ONCE && !values.len().is_multiple_of(AT_ONCE));
        for weights in WeightType::ALL {
            let frozen = Frozen::new(&layout, weights);
            let tensor = &frozen.tensors[1];
            let expected = tensor.dtype.encode(&values);
            let mut words = vec![0; tensor.offset + tensor.stored_words()];
            tensor.encode(&values, |at, piece| words[at..at + piece.len()].copy_from_slice(piece));
            assert!(words[tensor.offset..][..expected.len()] == expected, "{weights:?}");
        }
    }
}

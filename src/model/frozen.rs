//! Frozen weights on the device, stored as a configuration asks: in 32 bits, or their matrices in 16 or 8.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use half::f16;

use super::layout::{Layout, Parameters, cut};
use crate::config::WeightType;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Throttle};
use crate::graph::{BLOCK, DType, Graph, HALF_BOUND, STORE_ALIGNMENT, Store, StoreMemory, block_scale};

/// Bytes that may wait on the host for their way to the device.
const MOST_WAITING: u64 = 1 << 26;

/// How the weights of a [`Layout`] are stored where nothing trains them.
///
/// Only the matrices of linear layers are stored in fewer bits, and products read them as they are. Biases, embeddings
/// and positions are small, and stay in 32 bits. A matrix whose rows are not made of blocks of 32 weights has 16 bits in
/// place of 8.
#[derive(Clone, Debug, PartialEq)]
pub struct Frozen {
    weights: WeightType,
    tensors: Vec<FrozenTensor>,
}

#[derive(Clone, Debug, PartialEq)]
struct FrozenTensor {
    name: String,
    /// As declared in a graph.
    shape: Vec<usize>,
    dtype: DType,
    /// Its first word in the store.
    offset: usize,
    /// Where it lies among weights, laid out.
    source: Range<usize>,
}

impl FrozenTensor {
    /// Words in the store, padding included.
    fn stored_words(&self) -> usize {
        self.dtype.words(&self.shape).next_multiple_of(STORE_ALIGNMENT)
    }

    /// What would be lost of its values, if it is more than its type promises.
    fn lost(&self, values: &[f32]) -> Option<String> {
        match self.dtype {
            DType::F32 | DType::U32 => None,
            DType::F16 => lost_in_half(values, "values"),
            DType::Q8_0 => lost_in_half(&values.chunks(BLOCK).map(block_scale).collect::<Vec<f32>>(), "scales"),
        }
    }
}

/// What 16 bits would lose of a tensor's weights, or of their scales, if it is more than they promise.
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
    // One or another weight that rounds to zero is in every large model. More of them are a part of the tensor that is
    // lost, such as the values of attention, even if its norm hardly knows of it.
    if is_exact && 100 * lost <= all {
        return None;
    }
    Some(format!(
        "{small} of its {all} {what} are below 6.1e-5 and lose digits, {lost} of them round to 0, the largest is {largest:.1e}"
    ))
}

impl Frozen {
    /// Stores the weights of a layout in this type.
    pub fn new(layout: &Layout, weights: WeightType) -> Self {
        let names: BTreeSet<&str> = layout.entries().iter().map(|entry| entry.name.as_str()).collect();
        let mut tensors = Vec::new();
        let mut offset = 0;
        for entry in layout.entries() {
            let layer = entry.name.strip_suffix(".weight");
            let is_matrix = layer.is_some_and(|layer| names.contains(format!("{layer}.bias").as_str()));
            let shape = entry.declared_shape();
            let dtype = match weights {
                WeightType::F16 if is_matrix => DType::F16,
                WeightType::Q8_0 if is_matrix && DType::has_blocks(&shape) => DType::Q8_0,
                WeightType::Q8_0 if is_matrix => DType::F16,
                _ => DType::F32,
            };
            let source = entry.offset..entry.offset + entry.elements();
            let tensor = FrozenTensor { name: entry.name.clone(), shape, dtype, offset, source };
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
    /// [`Error::Input`] if a weight is too large for so few bits, or most of a tensor too small.
    pub fn pack(&self, weights: &[f32]) -> Result<Vec<u32>> {
        let mut words = Vec::new();
        for tensor in &self.tensors {
            let values = &weights[tensor.source.clone()];
            words.extend(self.encoded(tensor, values, |weights| format!("`model.weights` = \"{}\"", weights.name()))?);
            words.resize(tensor.offset + tensor.stored_words(), 0);
        }
        Ok(words)
    }

    /// The words of one tensor; `setting` is what a user wrote to have them stored so.
    fn encoded(
        &self,
        tensor: &FrozenTensor,
        values: &[f32],
        setting: impl Fn(WeightType) -> String,
    ) -> Result<Vec<u32>> {
        let Some(problem) = tensor.lost(values) else { return Ok(tensor.dtype.encode(values)) };
        Err(Error::input(format!(
            "{} cannot keep {} of the base in {}: {problem}; set {}",
            setting(self.weights),
            tensor.name,
            if tensor.dtype == DType::Q8_0 { "blocks of 8 bits" } else { "16 bits" },
            setting(WeightType::F32)
        )))
    }

    /// The weights that a store of these holds: each rounded as it is stored.
    ///
    /// # Errors
    /// As [`Frozen::pack`].
    pub fn rounded(&self, weights: &[f32]) -> Result<Vec<f32>> {
        let (mut rounded, words) = (weights.to_vec(), self.pack(weights)?);
        for FrozenTensor { shape, dtype, offset, source, .. } in &self.tensors {
            let values = dtype.decode(&words[*offset..offset + dtype.words(shape)], source.len());
            for (weight, value) in rounded[source.clone()].iter_mut().zip(values) {
                // Exact: no type has more bits.
                *weight = value as f32;
            }
        }
        Ok(rounded)
    }

    /// The store as [`crate::graph::Interpreter`] has it: values of f32, and the words of all others as whole numbers.
    ///
    /// # Errors
    /// As [`Frozen::pack`].
    pub fn interpreted(&self, weights: &[f32]) -> Result<Vec<f64>> {
        let words = self.pack(weights)?;
        let mut store: Vec<f64> = words.iter().map(|word| f64::from(*word)).collect();
        for FrozenTensor { offset, source, .. } in self.tensors.iter().filter(|tensor| tensor.dtype == DType::F32) {
            let values = weights[source.clone()].iter().map(|value| f64::from(*value));
            store.splice(*offset..offset + source.len(), values);
        }
        Ok(store)
    }

    /// Puts weights, laid out, on the device.
    ///
    /// # Errors
    /// As [`Frozen::pack`], or if the device has not enough memory.
    pub fn upload(&self, gpu: &Arc<Gpu>, label: &str, weights: &[f32]) -> Result<StoreMemory> {
        StoreMemory::upload(gpu, label, &self.chunks(gpu), &self.pack(weights)?)
    }

    /// The same for weights that are read one tensor after the other, by name: the host holds little more than one of
    /// them. `setting` is how a user asks for a type of weights, in messages.
    ///
    /// # Errors
    /// As [`Frozen::upload`], and whatever `read` returns.
    ///
    /// # Panics
    /// If `read` returns another number of weights than the tensor has.
    pub fn upload_each(
        &self,
        gpu: &Arc<Gpu>,
        label: &str,
        setting: impl Fn(WeightType) -> String,
        mut read: impl FnMut(&str) -> Result<Vec<f32>>,
    ) -> Result<StoreMemory> {
        let memory = StoreMemory::allocate(gpu, label, &self.chunks(gpu))?;
        let (mut throttle, mut waiting) = (Throttle::default(), 0);
        for tensor in &self.tensors {
            let values = read(&tensor.name)?;
            assert_eq!(values.len(), tensor.source.len(), "{} is read whole", tensor.name);
            let words = self.encoded(tensor, &values, &setting)?;
            let bytes = DType::U32.bytes(&[words.len()]);
            let region = memory.region(DType::U32.bytes(&[tensor.offset]), bytes).expect("a tensor lies in one chunk");
            gpu.write(&region.buffer, region.offset, &words);
            // What is written waits on the host until something is submitted.
            waiting += bytes;
            if waiting >= MOST_WAITING {
                throttle.pass(gpu)?;
                waiting = 0;
            }
        }
        throttle.pass(gpu)?;
        Ok(memory)
    }

    fn chunks(&self, gpu: &Gpu) -> Vec<Range<usize>> {
        cut(self.tensors.iter().map(FrozenTensor::stored_words), gpu.chunk_bytes())
    }

    /// Declares the parameters in a graph.
    pub fn declare(&self, graph: &mut Graph, store: Store) -> Parameters {
        let tensors = self.tensors.iter().map(|FrozenTensor { name, shape, dtype, offset, .. }| {
            (name.clone(), graph.stored_of(*dtype, name, shape, store, *offset))
        });
        Parameters::new(tensors.collect())
    }
}

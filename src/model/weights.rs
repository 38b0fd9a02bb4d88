//! Where the weights of a model are: in memory, in a file, or on a device. They are taken tensor by tensor, so that the
//! host never has to hold a large model.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::Arc;

use super::adapter::{Adapter, Merge};
use super::file::{KEY, Model, ModelKind, check, describe, is_pytorch, pytorch_error};
use super::folder::StoredTensors;
use super::layout::Entry;
use super::mmdit::POSITIONS;
use super::stored_transformer::StoredTransformer;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{DType, StoreMemory};
use crate::sniff::what_is;

/// Something that has the weights of a network.
pub trait WeightSource {
    /// The values of a tensor.
    ///
    /// # Errors
    /// If a file or a device cannot be read.
    fn read(&self, entry: &Entry) -> Result<Cow<'_, [f32]>>;
}

/// All weights, laid out.
impl WeightSource for [f32] {
    fn read(&self, entry: &Entry) -> Result<Cow<'_, [f32]>> {
        Ok(Cow::Borrowed(&self[entry.offset..][..entry.elements()]))
    }
}

/// All weights, laid out.
impl WeightSource for Vec<f32> {
    fn read(&self, entry: &Entry) -> Result<Cow<'_, [f32]>> {
        self.as_slice().read(entry)
    }
}

/// A store on a device, laid out.
#[derive(Clone, Copy, Debug)]
pub struct OnDevice<'a> {
    /// The device.
    pub gpu: &'a Gpu,
    /// The store.
    pub memory: &'a StoreMemory,
}

/// Where reading does not wait, as in a browser, a store is read whole instead.
#[cfg(not(target_arch = "wasm32"))]
impl WeightSource for OnDevice<'_> {
    fn read(&self, entry: &Entry) -> Result<Cow<'_, [f32]>> {
        let bytes = |elements: usize| DType::F32.bytes(&[elements]);
        let region = self.memory.region(bytes(entry.offset), bytes(entry.elements()));
        let region = region.expect("no stored tensor lies in two chunks");
        self.gpu.read(&[&region]).map(Cow::Owned)
    }
}

/// The weights of a model that was loaded.
#[derive(Clone, Debug)]
pub enum Weights {
    /// In memory, laid out.
    Memory(Vec<f32>),
    /// In a file, which stays open.
    Stored(StoredTensors),
    /// In the files of a text-to-image transformer.
    Transformer(StoredTransformer),
    /// Those of a base, with an adapter merged into each tensor as it is read.
    Merged(Arc<(Weights, Merge)>),
}

impl From<Vec<f32>> for Weights {
    fn from(weights: Vec<f32>) -> Self {
        Self::Memory(weights)
    }
}

impl WeightSource for Weights {
    fn read(&self, entry: &Entry) -> Result<Cow<'_, [f32]>> {
        match self {
            Self::Memory(weights) => weights.read(entry),
            Self::Stored(tensors) => tensors.read(&entry.name).map(Cow::Owned),
            Self::Transformer(transformer) => transformer.read(entry),
            Self::Merged(merged) => {
                let (base, merge) = &**merged;
                let mut values = base.read(entry)?;
                if merge.changes(entry) {
                    merge.apply(entry, values.to_mut())?;
                }
                Ok(values)
            }
        }
    }
}

/// A source that has its [`Model::crc32`] once all tensors have been read in the order of their layout, for an upload.
#[derive(Debug)]
pub struct Summed<'a, W: ?Sized> {
    weights: &'a W,
    hasher: RefCell<crc32fast::Hasher>,
    /// The offset of the tensor that comes next. Others have been read before.
    next: Cell<usize>,
}

impl<'a, W: ?Sized> Summed<'a, W> {
    /// A source of which nothing has been read.
    pub fn new(weights: &'a W) -> Self {
        Self { weights, hasher: RefCell::default(), next: Cell::new(0) }
    }

    /// The sum of what has been read.
    pub fn crc32(self) -> u32 {
        self.hasher.into_inner().finalize()
    }
}

impl<W: WeightSource + ?Sized> WeightSource for Summed<'_, W> {
    fn read(&self, entry: &Entry) -> Result<Cow<'_, [f32]>> {
        let values = self.weights.read(entry)?;
        if entry.offset == self.next.get() {
            // Those of a text-to-image transformer are cut to the size of its pictures.
            if entry.name != POSITIONS {
                let mut hasher = self.hasher.borrow_mut();
                hasher.update(bytemuck::cast_slice(&values));
                let padding = vec![0.0_f32; entry.stored_elements() - entry.elements()];
                hasher.update(bytemuck::cast_slice(&padding));
            }
            self.next.set(entry.offset + entry.stored_elements());
        }
        Ok(values)
    }
}

/// A model whose weights may stay in their file.
pub type StoredModel = Model<Weights>;

impl StoredModel {
    /// Opens a native file and checks every tensor, one at a time.
    ///
    /// # Errors
    /// As for [`Model::from_bytes`], and if it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let tensors = open_safetensors(path)?;
        let (kind, class_names) = describe(&name, tensors.metadata().get(KEY))?;
        check(&name, &kind.layout(), &tensors)?;
        Ok(kind.with(class_names, Weights::Stored(tensors)))
    }

    /// The model with `scale` times an adapter merged into its weights, each when it is read. `name` is the model in
    /// messages.
    ///
    /// # Errors
    /// [`Error::Input`] if it is not a flow model. Reading a tensor fails if a sum is too large for an f32.
    pub fn with_adapter(self, name: &str, adapter: Adapter, scale: f64) -> Result<Self> {
        let merge = Merge::new(name, adapter, &self.flow_model(name)?, scale);
        Ok(Self { weights: Weights::Merged(Arc::new((self.weights, merge))), ..self })
    }
}

impl From<Model> for StoredModel {
    fn from(Model { kind, class_names, weights, decoder }: Model) -> Self {
        Self { kind, class_names, weights: weights.into(), decoder }
    }
}

impl<W: WeightSource> Model<W> {
    /// The same with all weights in memory.
    ///
    /// # Errors
    /// Those of the source.
    pub fn in_memory(&self) -> Result<Model> {
        let layout = self.kind.layout();
        let mut weights = vec![0.0; layout.elements()];
        for entry in layout.entries() {
            weights[entry.offset..][..entry.elements()].copy_from_slice(&self.weights.read(entry)?);
        }
        let decoder = self.decoder.clone();
        Ok(Model { kind: self.kind.clone(), class_names: self.class_names.clone(), weights, decoder })
    }

    /// CRC-32 of its weights as they lie in one store, padding included.
    ///
    /// # Errors
    /// Those of the source.
    pub fn crc32(&self) -> Result<u32> {
        let summed = Summed::new(&self.weights);
        self.kind.layout().entries().iter().try_for_each(|entry| summed.read(entry).map(drop))?;
        Ok(summed.crc32())
    }
}

/// Opens a safetensors file.
///
/// # Errors
/// [`Error::Input`] if it cannot be read or is something else.
fn open_safetensors(path: &Path) -> Result<StoredTensors> {
    let head = crate::files::head(path, 512)?;
    let name = path.display();
    match what_is(&head) {
        _ if is_pytorch(&head) => Err(pytorch_error(&name)),
        _ if head.is_empty() => Err(Error::input(format!(
            "{name} is not a complete safetensors file (it is empty): fetch or write it again"
        ))),
        // Tensors in it could be read, but they describe no network of this program.
        Some(what) if head.starts_with(b"GGUF") => {
            Err(Error::input(format!("{name} is not safetensors: it is {what}")))
        }
        _ => StoredTensors::open(path),
    }
}

/// Opens another program's safetensors file.
///
/// # Errors
/// [`Error::Input`] if it cannot be read, or if it is a native model: its tensors have the same names as SiT's, but its
/// time convention may differ.
pub fn open_foreign(path: &Path) -> Result<StoredTensors> {
    let tensors = open_safetensors(path)?;
    match tensors.metadata().contains_key(KEY) {
        false => Ok(tensors),
        true => Err(Error::input(format!("{} is a native model already: use it directly", path.display()))),
    }
}

impl ModelKind {
    /// A model of these weights.
    pub fn with<W>(self, class_names: Vec<String>, weights: W) -> Model<W> {
        Model { kind: self, class_names, weights, decoder: None }
    }
}

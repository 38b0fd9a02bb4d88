//! The transformer in files that are larger than the host's memory, read tensor by tensor.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::Dtype;

use super::file::header;
use super::flow_model::{FlowModel, TextModel};
use super::folder::{StoredAs, StoredTensor, StoredTensors, to_diffusers};
use super::layout::Entry;
use super::text_network::TextNetwork;
use super::weights::WeightSource;
use crate::error::{Error, Result};
use crate::files::Streamed;

/// The component of a pipeline that a transformer is.
pub const TRANSFORMER: &str = "transformer";

/// A transformer for states of one size in published files. Of the table of positions only the part for that size is
/// read.
#[derive(Clone, Debug)]
pub struct StoredTransformer {
    network: TextNetwork,
    size: [usize; 2],
    tensors: StoredTensors,
    /// The other files of its pipeline, if that is not on disk yet.
    beside: Arc<[PipelineFile]>,
    /// What its file says of the rest of its pipeline, if anything.
    pipeline: Option<String>,
}

/// The key in the metadata of a transformer's file under which it says what its pipeline is.
pub const PIPELINE: &str = "flowdppo_pipeline";

/// A small file of a pipeline: its path in the folder, and its bytes.
pub type PipelineFile = (&'static str, Vec<u8>);

/// The path of a transformer's weights in the folder of a pipeline.
pub const TRANSFORMER_WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";

impl StoredTransformer {
    /// A new transformer with the weights of a seed, in memory, as it would be in a file. `beside` are the other files of
    /// its pipeline.
    ///
    /// # Errors
    /// [`Error::Input`] if the size of the states has no positions.
    pub fn drawn(model: &TextModel, seed: u64, beside: Vec<PipelineFile>) -> Result<Self> {
        let flow_model = FlowModel::Text(model.clone());
        let (weights, layout) = (flow_model.drawn_weights(seed), flow_model.layout());
        let described = layout.entries().iter().map(|entry| (entry.name.clone(), Dtype::F32, entry.shape.clone()));
        let mut bytes = header(described, Some(("format", "pt".to_owned())));
        for entry in layout.entries() {
            bytes.extend_from_slice(bytemuck::cast_slice(&weights.read(entry)?));
        }
        let stored = Self::new(&model.network, model.size, &StoredTensors::of_bytes("the new transformer", bytes)?)?;
        Ok(Self { beside: beside.into(), ..stored })
    }

    /// The other files of its pipeline, if that is not on disk yet.
    pub fn beside(&self) -> &[PipelineFile] {
        &self.beside
    }

    /// The same, whose file says what its pipeline is.
    #[must_use]
    pub fn of_pipeline(self, record: String) -> Self {
        Self { pipeline: Some(record), ..self }
    }

    /// Checks names and shapes, without reading weights.
    ///
    /// # Errors
    /// [`Error::Input`] if the size has no positions, or a tensor is missing, misshapen or unknown.
    pub fn new(network: &TextNetwork, size: [usize; 2], tensors: &StoredTensors) -> Result<Self> {
        network.check_size(tensors.name(), size)?;
        let stored =
            Self { network: network.clone(), size, tensors: tensors.clone(), beside: Arc::default(), pipeline: None };
        let layout = network.layout(size);
        layout.entries().iter().try_for_each(|entry| stored.check(entry))?;
        let is_known =
            |name: &&String| network.is_unused(name) || layout.entries().iter().any(|entry| entry.name == **name);
        match tensors.tensors().keys().find(|name| !is_known(name)) {
            None => Ok(stored),
            Some(extra) => {
                let file = tensors.name();
                Err(Error::input(format!("{file} has a tensor `{extra}` that its network does not have")))
            }
        }
    }

    /// The published file with these weights in place of its own, in 32 bits. Tensors that are no parameters, and tables of
    /// which only a part is, keep their values.
    pub fn file<'a>(&'a self, weights: &'a (impl WeightSource + ?Sized)) -> Streamed<'a> {
        let layout = self.network.layout(self.size);
        let mut tensors: Vec<(&str, Option<Entry>, Dtype, &StoredTensor)> = Vec::new();
        for (name, stored) in self.tensors.tensors() {
            let is_whole = |entry: &&Entry| self.network.stored_ranges(entry, self.size).is_none();
            let entry = layout.entries().iter().find(|entry| entry.name == *name).filter(is_whole).cloned();
            let dtype = match stored.stored_as() {
                StoredAs::Plain(dtype @ (Dtype::F16 | Dtype::BF16)) if entry.is_none() => dtype,
                _ => Dtype::F32,
            };
            tensors.push((name, entry, dtype, stored));
        }
        // Each begins at a multiple of the size of its numbers.
        tensors.sort_by_key(|(_, _, dtype, _)| std::cmp::Reverse(dtype.bitsize()));
        Streamed::new(move |sink| {
            let described = tensors.iter().map(|(name, _, dtype, stored)| {
                (format!("{}{name}", layout.prefix()), *dtype, stored.shape().to_vec())
            });
            let pipeline = self.pipeline.clone().map(|record| (PIPELINE, record));
            sink.put(&header(described, [("format", "pt".to_owned())].into_iter().chain(pipeline)))?;
            for (_, entry, dtype, stored) in &tensors {
                match (entry, dtype) {
                    (Some(entry), _) => sink.put(bytemuck::cast_slice(&weights.read(entry)?))?,
                    (None, Dtype::F32) => sink.put(bytemuck::cast_slice(&stored.read()?))?,
                    (None, _) => sink.put(&stored.read_bytes()?)?,
                }
            }
            Ok(())
        })
    }

    /// The same network in a file that [`StoredTransformer::file`] wrote.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read or is of another network.
    pub fn reopened(&self, path: &Path) -> Result<Self> {
        Self::new(&self.network, self.size, &to_diffusers(TRANSFORMER, &StoredTensors::open(path)?)?)
    }

    fn check(&self, entry: &Entry) -> Result<()> {
        let name = &entry.name;
        let expected = self.network.stored_shape(entry);
        let Some(found) = self.tensors.tensors().get(name) else {
            let file = self.tensors.name();
            return Err(Error::input(format!("{file} is missing the tensor `{name}` of shape {expected:?}")));
        };
        let found = found.shape();
        if *found == *expected {
            return Ok(());
        }
        Err(Error::input(format!(
            "{}: tensor `{name}` has shape {found:?}, but {expected:?} is expected",
            self.tensors.name()
        )))
    }
}

impl WeightSource for StoredTransformer {
    fn read(&self, entry: &Entry) -> Result<Cow<'_, [f32]>> {
        let name = &entry.name;
        let stored = self.tensors.get(name)?;
        let values = match self.network.stored_ranges(entry, self.size) {
            None => stored.read()?,
            Some(ranges) => {
                let parts = ranges.into_iter().map(|range| stored.range(range)?.read());
                parts.collect::<Result<Vec<_>>>()?.concat()
            }
        };
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(Cow::Owned(values)),
            Some(index) => Err(Error::input(format!(
                "{}: tensor `{name}` is not finite at element {index} ({}): the file is damaged, download it again",
                self.tensors.name(),
                values[index]
            ))),
        }
    }
}

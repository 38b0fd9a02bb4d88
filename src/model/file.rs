//! Model files: safetensors with one metadata entry that describes the network.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo, TensorView};
use serde::{Deserialize, Serialize};

use super::folder::StoredTensors;
use super::layout::{Entry, Layout};
use super::weights::{StoredModel, WeightSource};
use super::{ClassModel, ClassifierConfig, DitConfig, FlowModel, LatentDecoder, Shared, TextModel};
use crate::classes::{Classes, normal_name};
use crate::config::nearest;
use crate::error::{Error, Result};
use crate::files::{Content, Streamed, read_file, stream_atomically};
use crate::sniff::what_is;

/// Metadata key of a file's description, as JSON.
pub(crate) const KEY: &str = "flowdppo_wgpu";

/// Tensors by name: shape and values as f32.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The kind of a network, with its configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ModelKind {
    /// A flow model with classes.
    Dit(DitConfig),
    /// A classifier.
    Classifier(ClassifierConfig),
    /// A flow model with prompts, which is a folder of another program: native files have none.
    #[serde(skip)]
    Text(TextModel),
}

impl ModelKind {
    /// The layout of its parameters.
    pub fn layout(&self) -> Layout {
        match self {
            Self::Dit(config) => config.layout(),
            Self::Classifier(config) => config.layout(),
            Self::Text(model) => model.network.layout(model.size),
        }
    }
}

/// A network with its weights: in memory, or wherever a [`WeightSource`] has them.
#[derive(Clone, Debug, PartialEq)]
pub struct Model<W = Vec<f32>> {
    /// Its kind.
    pub kind: ModelKind,
    /// Names of its classes; empty if none were given.
    pub class_names: Vec<String>,
    /// All parameters, laid out according to [`ModelKind::layout`].
    pub weights: W,
    /// What makes pictures of the states of a flow model with classes, if they are latents. It is not in the model's file.
    pub decoder: Option<Shared<dyn LatentDecoder>>,
}

#[derive(Serialize, Deserialize)]
struct Description {
    #[serde(flatten)]
    kind: ModelKind,
    #[serde(default)]
    class_names: Vec<String>,
}

impl Model {
    /// Reads a native file, which messages call `name`.
    ///
    /// # Errors
    /// [`Error::Input`] if it is not a safetensors file, not a native model, or if a tensor is missing, misshapen,
    /// unknown or not finite.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self> {
        let (tensors, metadata) = parse(name, bytes)?;
        let (kind, class_names) = describe(name, metadata.get(KEY))?;
        let weights = gather(name, &kind.layout(), tensors)?;
        Ok(kind.with(class_names, weights))
    }

    /// Reads a native file from disk into memory; [`StoredModel::open`] leaves the weights there.
    ///
    /// # Errors
    /// As for [`Model::from_bytes`], and if it cannot be read.
    pub fn load(path: &Path) -> Result<Self> {
        StoredModel::open(path)?.in_memory()
    }

    /// The bytes of the file; the same model always gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.file().bytes().expect("memory can be read and written")
    }

    /// The parameters by name.
    pub fn tensors(&self) -> Tensors {
        scatter(&self.kind.layout(), &self.weights)
    }
}

impl<W> Model<W> {
    /// A flow model with its weights, laid out according to [`FlowModel::layout`].
    pub fn of(model: &FlowModel, class_names: &[String], weights: W) -> Self {
        let decoder = match model {
            FlowModel::Dit(model) => model.decoder.clone(),
            FlowModel::Text(_) => None,
        };
        Self { decoder, ..model.kind().with(class_names.to_vec(), weights) }
    }

    /// Its classes; messages call the model `of`.
    pub fn classes<'a>(&'a self, of: &'a str) -> Classes<'a> {
        let count = match &self.kind {
            ModelKind::Dit(config) => config.num_classes,
            ModelKind::Classifier(config) => config.num_classes,
            ModelKind::Text(model) => model.prompts.prompts().len(),
        };
        Classes { of, count, names: &self.class_names }
    }

    /// The sizes and conventions of the network, if this is a flow model.
    ///
    /// # Errors
    /// [`Error::Input`] if it is a classifier.
    pub fn flow_model(&self, name: &str) -> Result<FlowModel> {
        match &self.kind {
            ModelKind::Dit(dit) => {
                Ok(FlowModel::Dit(ClassModel { config: dit.clone(), decoder: self.decoder.clone() }))
            }
            ModelKind::Text(model) => Ok(FlowModel::Text(model.clone())),
            ModelKind::Classifier(_) => Err(needs_flow_model(name)),
        }
    }

    /// The diffusion transformer, if this is one.
    ///
    /// # Errors
    /// [`Error::Input`] if it is something else.
    pub fn dit(&self, name: &str) -> Result<&DitConfig> {
        match &self.kind {
            ModelKind::Dit(config) => Ok(config),
            ModelKind::Classifier(_) => Err(needs_flow_model(name)),
            ModelKind::Text(_) => {
                Err(Error::input(format!("{name} has prompts, but a model with classes is needed here")))
            }
        }
    }

    /// The configuration, if this is a classifier.
    ///
    /// # Errors
    /// [`Error::Input`] if it is a flow model.
    pub fn classifier(&self, name: &str) -> Result<&ClassifierConfig> {
        match &self.kind {
            ModelKind::Classifier(config) => Ok(config),
            ModelKind::Dit(_) | ModelKind::Text(_) => {
                Err(Error::input(format!("{name} is a flow model, but a classifier is needed here")))
            }
        }
    }
}

impl<W: WeightSource> Model<W> {
    /// The file, written tensor by tensor; the same model always has the same bytes. That of a text-to-image model is the
    /// published file of its transformer with these weights.
    ///
    /// # Panics
    /// If it is a text-to-image model without its files.
    pub fn file(&self) -> Streamed<'_> {
        if let ModelKind::Text(model) = &self.kind {
            return model.published.as_ref().expect("what is trained has files").file(&self.weights);
        }
        let description = Description { kind: self.kind.clone(), class_names: self.class_names.clone() };
        let description = serde_json::to_string(&description).expect("sizes and names are always JSON");
        self.written(Some((KEY, description)))
    }

    /// The tensors alone as a file, without what describes the network.
    pub fn plain_file(&self) -> Streamed<'_> {
        self.written(None)
    }

    fn written(&self, metadata: Option<(&'static str, String)>) -> Streamed<'_> {
        let layout = self.kind.layout();
        Streamed::new(move |sink| {
            let entries: BTreeMap<&str, &Entry> = layout.entries().iter().map(|it| (it.name.as_str(), it)).collect();
            let described = entries.values().map(|entry| (entry.name.clone(), Dtype::F32, entry.shape.clone()));
            sink.put(&header(described, metadata.clone()))?;
            entries.values().try_for_each(|entry| sink.put(bytemuck::cast_slice(&self.weights.read(entry)?)))
        })
    }

    /// Writes the file atomically.
    ///
    /// # Errors
    /// If the weights cannot be read, or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        stream_atomically(path, &self.file()).map(drop)
    }
}

fn needs_flow_model(name: &str) -> Error {
    Error::input(format!("{name} is a classifier, but a flow model is needed here"))
}

/// Kind and class names of a network from the entry of a file's metadata.
pub(super) fn describe(name: &str, description: Option<&String>) -> Result<(ModelKind, Vec<String>)> {
    let Some(description) = description else {
        return Err(Error::input(format!(
            "{name} does not describe its network (no `{KEY}` in its metadata): if it is a SiT or DiT \
             checkpoint, convert it first with `flowdppo-wgpu import --format sit`"
        )));
    };
    let Description { kind, class_names }: Description = serde_json::from_str(description)
        .map_err(|cause| Error::input(format!("{name} describes its network in an unknown way: {cause}")))?;
    match &kind {
        ModelKind::Dit(config) => config.check(),
        ModelKind::Classifier(config) => config.check(),
        ModelKind::Text(_) => unreachable!("native files have none"),
    }
    .map_err(|cause| Error::input(format!("{name} describes an impossible network: {cause}")))?;
    Ok((kind, class_names.iter().map(|class| normal_name(class)).collect()))
}

/// Reads all tensors of a safetensors file as f32; whole numbers are converted.
///
/// # Errors
/// [`Error::Input`] with the file and the tensor.
pub fn read_tensors(path: &Path) -> Result<Tensors> {
    let bytes = read_file(path)?;
    parse_tensors(&path.display().to_string(), &bytes)
}

/// Reads all tensors from the bytes of a safetensors file as f32. Messages call the file `name`.
///
/// # Errors
/// [`Error::Input`] with the file and the tensor.
pub fn parse_tensors(name: &str, bytes: &[u8]) -> Result<Tensors> {
    Ok(parse(name, bytes)?.0)
}

/// The bytes of a safetensors file with f32 tensors.
pub fn serialize_tensors(tensors: &Tensors) -> Vec<u8> {
    serialize(tensors, None)
}

/// Writes tensors as f32, atomically.
///
/// # Errors
/// If the file cannot be written.
pub fn write_tensors(path: &Path, tensors: &Tensors) -> Result<()> {
    stream_atomically(path, &serialize_tensors(tensors)).map(drop)
}

/// The bytes of a safetensors file. At most one metadata entry, because several would be written in random order.
pub(super) fn serialize(tensors: &Tensors, metadata: Option<(&'static str, String)>) -> Vec<u8> {
    let described = tensors.iter().map(|(name, (shape, _))| (name.clone(), Dtype::F32, shape.clone()));
    let mut bytes = header(described, metadata);
    tensors.values().for_each(|(_, values)| bytes.extend_from_slice(bytemuck::cast_slice(values)));
    bytes
}

/// The beginning of a safetensors file with these tensors (name, type, shape), whose values must follow in this order:
/// byte for byte what [`safetensors::serialize`] writes, if they are sorted as there.
pub(crate) fn header(
    tensors: impl Iterator<Item = (String, Dtype, Vec<usize>)>,
    metadata: impl IntoIterator<Item = (&'static str, String)>,
) -> Vec<u8> {
    let metadata: HashMap<_, _> = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let metadata = Some(metadata).filter(|metadata| !metadata.is_empty());
    let mut end = 0;
    let infos = tensors.map(|(name, dtype, shape)| {
        let begin = end;
        end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (name, TensorInfo { dtype, shape, data_offsets: (begin, end) })
    });
    let header = Metadata::new(metadata, infos.collect()).expect("the tensors follow each other");
    let mut header = serde_json::to_vec(&header).expect("names and numbers are JSON");
    // Tensors begin at a multiple of 8 bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header].concat()
}

/// Tensors and metadata of a safetensors file.
pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<(Tensors, HashMap<String, String>)> {
    let broken = |cause: &dyn std::fmt::Display| match (is_pytorch(bytes), what_is(bytes)) {
        (true, _) => pytorch_error(&name),
        (false, Some(what)) if !bytes.is_empty() => Error::input(format!("{name} is not safetensors: it is {what}")),
        (false, _) => {
            Error::input(format!("{name} is not a complete safetensors file ({cause}): fetch or write it again"))
        }
    };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|cause| broken(&cause))?;
    let file = SafeTensors::deserialize(bytes).map_err(|cause| broken(&cause))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let mut tensors = Tensors::new();
    for (tensor, view) in file.tensors() {
        let values = convert(&view).ok_or_else(|| {
            Error::input(format!(
                "{name}: tensor `{tensor}` has type {:?}, but only F64, F32, F16, BF16, I64, I32 and U32 are supported",
                view.dtype()
            ))
        })?;
        tensors.insert(tensor, (view.shape().to_vec(), values));
    }
    Ok((tensors, metadata))
}

/// Whether a file starts like the output of `torch.save`: as a zip archive or, until 2020, as a pickle. Safetensors
/// files start with a length of eight bytes, which may look the same, and a `{`.
pub(super) fn is_pytorch(bytes: &[u8]) -> bool {
    (bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80")) && bytes.get(8) != Some(&b'{')
}

pub(super) fn pytorch_error(name: &dyn std::fmt::Display) -> Error {
    Error::input(format!(
        "{name} is a PyTorch checkpoint, not safetensors: convert it with the line of Python under \"Import a checkpoint\" \
         in docs/models.md"
    ))
}

fn convert(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let data = view.data();
    fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
        data.as_chunks::<N>().0.iter().copied()
    }
    Some(match view.dtype() {
        Dtype::F32 => words(data).map(f32::from_le_bytes).collect(),
        Dtype::F64 => words(data).map(|bytes| f64::from_le_bytes(bytes) as f32).collect(),
        Dtype::BF16 => words(data).map(|bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
        Dtype::F16 => words(data).map(|bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        Dtype::I64 => words(data).map(|bytes| i64::from_le_bytes(bytes) as f32).collect(),
        Dtype::I32 => words(data).map(|bytes| i32::from_le_bytes(bytes) as f32).collect(),
        Dtype::U32 => words(data).map(|bytes| u32::from_le_bytes(bytes) as f32).collect(),
        _ => return None,
    })
}

/// Laid-out parameters by name.
pub(super) fn scatter(layout: &Layout, weights: &[f32]) -> Tensors {
    let tensor = |entry: &Entry| {
        let values = weights[entry.offset..entry.offset + entry.elements()].to_vec();
        (entry.name.clone(), (entry.shape.clone(), values))
    };
    layout.entries().iter().map(tensor).collect()
}

/// A hint for a missing name if there is a similar one.
pub(super) fn nearest_tensor<'a>(tensor: &str, present: impl IntoIterator<Item = &'a String>) -> String {
    let present: Vec<&str> = present.into_iter().map(String::as_str).collect();
    nearest(tensor, &present).map_or_else(String::new, |near| format!("; it has `{near}`, which is similar"))
}

/// Named tensors, whose values may have to be read.
pub(super) trait TensorSource {
    /// All names.
    fn names(&self) -> Vec<&String>;

    /// The shape of a tensor; `None` if there is none of that name.
    fn shape(&self, tensor: &str) -> Option<&[usize]>;

    /// The values of a tensor that is there.
    fn values(&self, tensor: &str) -> Result<Cow<'_, [f32]>>;
}

impl TensorSource for Tensors {
    fn names(&self) -> Vec<&String> {
        self.keys().collect()
    }

    fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.get(tensor).map(|(shape, _)| shape.as_slice())
    }

    fn values(&self, tensor: &str) -> Result<Cow<'_, [f32]>> {
        Ok(Cow::Borrowed(&self[tensor].1))
    }
}

impl TensorSource for StoredTensors {
    fn names(&self) -> Vec<&String> {
        self.tensors().keys().collect()
    }

    fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.tensors().get(tensor).map(|stored| stored.shape())
    }

    fn values(&self, tensor: &str) -> Result<Cow<'_, [f32]>> {
        self.read(tensor).map(Cow::Owned)
    }
}

/// Checks that tensors are those of a layout and finite. Shapes come first, because they are only the file's claims.
pub(super) fn check(name: &str, layout: &Layout, tensors: &impl TensorSource) -> Result<()> {
    for entry in layout.entries() {
        let tensor = &entry.name;
        let Some(shape) = tensors.shape(tensor) else {
            let known = |name: &String| layout.entries().iter().any(|entry| entry.name == *name);
            let hint = nearest_tensor(tensor, tensors.names().into_iter().filter(|name| !known(name)));
            return Err(Error::input(format!(
                "{name} is missing the tensor `{tensor}` of shape {:?}{hint}",
                entry.shape
            )));
        };
        if *shape != entry.shape {
            return Err(Error::input(format!(
                "{name}: tensor `{tensor}` has shape {shape:?}, but {:?} is expected",
                entry.shape
            )));
        }
        let values = tensors.values(tensor)?;
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::input(format!(
                "{name}: tensor `{tensor}` is not finite at element {index} ({}): the file is damaged, or its \
                training diverged",
                values[index]
            )));
        }
    }
    let known: BTreeSet<&String> = layout.entries().iter().map(|entry| &entry.name).collect();
    match tensors.names().into_iter().find(|name| !known.contains(name)) {
        Some(extra) => Err(Error::input(format!("{name} has a tensor `{extra}` that its network does not have"))),
        None => Ok(()),
    }
}

/// Arranges tensors according to a layout.
pub(super) fn gather(name: &str, layout: &Layout, mut tensors: Tensors) -> Result<Vec<f32>> {
    // Every tensor is checked before memory is allocated.
    check(name, layout, &tensors)?;
    let mut weights = vec![0.0; layout.elements()];
    for entry in layout.entries() {
        if let Some((_, values)) = tensors.remove(&entry.name) {
            weights[entry.offset..entry.offset + values.len()].copy_from_slice(&values);
        }
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::{Dtype, HashMap, TensorView, Tensors, convert, serialize};

    /// The same header is made here, and the values follow as they come.
    #[test]
    fn files_have_the_bytes_that_the_crate_writes() {
        let tensor = |count: usize| (vec![count], (0..count).map(|at| at as f32).collect());
        let tensors =
            Tensors::from([("b.weight".into(), tensor(3)), ("a".into(), tensor(5)), ("b.bias".into(), tensor(1))]);
        for metadata in [None, Some(("key", "{\"a\": \"größe\"}".to_owned()))] {
            let views = tensors.iter().map(|(name, (shape, values))| {
                (name, TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).unwrap())
            });
            let entries = metadata.clone().map(|(key, value)| HashMap::from([(key.to_owned(), value)]));
            assert_eq!(serialize(&tensors, metadata), safetensors::serialize(views, entries).unwrap());
        }
    }

    /// All bits, against the definition of IEEE 754.
    #[test]
    fn half_precision_is_exact() {
        let bits = 0..=u16::MAX;
        let bytes: Vec<u8> = bits.clone().flat_map(u16::to_le_bytes).collect();
        let view = TensorView::new(Dtype::F16, vec![1 << 16], &bytes).unwrap();
        for (bits, value) in bits.zip(convert(&view).unwrap()) {
            let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
            let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
            let expected = match exponent {
                0 => sign * fraction * 2_f32.powi(-24),
                31 if fraction == 0.0 => sign * f32::INFINITY,
                31 => f32::NAN,
                _ => sign * (1.0 + fraction / 1024.0) * 2_f32.powi(exponent - 15),
            };
            assert!(value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan(), "{bits:#06x}");
        }
    }
}

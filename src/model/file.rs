//! Model files: safetensors with one metadata entry that describes the network.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::layout::{Entry, Layout};
use super::{ClassifierConfig, DitConfig};
use crate::classes::{Classes, normal_name};
use crate::config::nearest;
use crate::error::{Error, Result};
use crate::files::{read_file, write_atomically};
use crate::sniff::what_is;

/// Metadata key of a file's description, as JSON.
pub(crate) const KEY: &str = "flowdppo_wgpu";

/// Tensors by name: shape and values as f32.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The kind of a network, with its configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ModelKind {
    /// A flow model.
    Dit(DitConfig),
    /// A classifier.
    Classifier(ClassifierConfig),
}

impl ModelKind {
    /// The layout of its parameters.
    pub fn layout(&self) -> Layout {
        match self {
            Self::Dit(config) => config.layout(),
            Self::Classifier(config) => config.layout(),
        }
    }
}

/// A network with its weights, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its kind.
    pub kind: ModelKind,
    /// Names of its classes; empty if none were given.
    pub class_names: Vec<String>,
    /// All parameters, laid out according to [`ModelKind::layout`].
    pub weights: Vec<f32>,
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
        let Some(description) = metadata.get(KEY) else {
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
        }
        .map_err(|cause| Error::input(format!("{name} describes an impossible network: {cause}")))?;
        let weights = gather(name, &kind.layout(), tensors)?;
        let class_names = class_names.iter().map(|class| normal_name(class)).collect();
        Ok(Self { kind, class_names, weights })
    }

    /// Its classes; messages call the model `of`.
    pub fn classes<'a>(&'a self, of: &'a str) -> Classes<'a> {
        let count = match &self.kind {
            ModelKind::Dit(config) => config.num_classes,
            ModelKind::Classifier(config) => config.num_classes,
        };
        Classes { of, count, names: &self.class_names }
    }

    /// Reads a native file from disk.
    ///
    /// # Errors
    /// As for [`Model::from_bytes`], and if it cannot be read.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = read_file(path)?;
        Self::from_bytes(&path.display().to_string(), &bytes)
    }

    /// The configuration, if this is a flow model.
    ///
    /// # Errors
    /// [`Error::Input`] if it is a classifier.
    pub fn dit(&self, name: &str) -> Result<&DitConfig> {
        match &self.kind {
            ModelKind::Dit(config) => Ok(config),
            ModelKind::Classifier(_) => {
                Err(Error::input(format!("{name} is a classifier, but a flow model is needed here")))
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
            ModelKind::Dit(_) => Err(Error::input(format!("{name} is a flow model, but a classifier is needed here"))),
        }
    }

    /// The bytes of the file; the same model always has the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let description = Description { kind: self.kind.clone(), class_names: self.class_names.clone() };
        let description = serde_json::to_string(&description).expect("sizes and names are always JSON");
        serialize(&self.tensors(), Some((KEY, description)))
    }

    /// The parameters by name.
    pub fn tensors(&self) -> Tensors {
        scatter(&self.kind.layout(), &self.weights)
    }

    /// Writes the file atomically.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, &self.to_bytes())
    }
}

/// Reads all tensors of a safetensors file as f32; whole numbers are converted.
///
/// # Errors
/// [`Error::Input`] with the file and the tensor.
pub fn read_tensors(path: &Path) -> Result<Tensors> {
    let bytes = read_file(path)?;
    parse_tensors(&path.display().to_string(), &bytes)
}

/// [`read_tensors`] for another program's file.
///
/// # Errors
/// As for [`read_tensors`], and if it is a native model: its tensors have the same names as SiT's, but its time
/// convention may differ.
pub fn read_foreign_tensors(path: &Path) -> Result<Tensors> {
    let bytes = read_file(path)?;
    let name = path.display().to_string();
    match parse(&name, &bytes)? {
        (_, metadata) if metadata.contains_key(KEY) => {
            Err(Error::input(format!("{name} is a native model already: use it directly")))
        }
        (tensors, _) => Ok(tensors),
    }
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
    write_atomically(path, &serialize_tensors(tensors))
}

/// The bytes of a safetensors file. At most one metadata entry, because several would be written in random order.
pub(super) fn serialize(tensors: &Tensors, metadata: Option<(&str, String)>) -> Vec<u8> {
    let metadata = metadata.map(|(key, value)| HashMap::from([(key.to_owned(), value)]));
    let views = tensors.iter().map(|(name, (shape, values))| {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("the shape fits the number of values"))
    });
    safetensors::serialize(views, metadata).expect("f32 tensors are always writable")
}

/// Tensors and metadata of a safetensors file.
pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<(Tensors, HashMap<String, String>)> {
    let broken = |cause: &dyn std::fmt::Display| {
        Error::input(match (is_pytorch(bytes), what_is(bytes)) {
            (true, _) => format!(
                "{name} is a PyTorch checkpoint, not safetensors: convert it with the line of Python under \"Import a \
                 checkpoint\" in docs/models.md"
            ),
            (false, Some(what)) if !bytes.is_empty() => format!("{name} is not safetensors: it is {what}"),
            (false, _) => format!("{name} is not a complete safetensors file ({cause}): fetch or write it again"),
        })
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
fn is_pytorch(bytes: &[u8]) -> bool {
    (bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80")) && bytes.get(8) != Some(&b'{')
}

fn convert(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let data = view.data();
    fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
        data.as_chunks::<N>().0.iter().copied()
    }
    Some(match view.dtype() {
        Dtype::F32 => words(data).map(f32::from_le_bytes).collect(),
        Dtype::F64 => words(data).map(|bytes| f64::from_le_bytes(bytes) as f32).collect(),
        Dtype::BF16 => words(data).map(|bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)).collect(),
        Dtype::F16 => words(data).map(|bytes| half_to_f32(u16::from_le_bytes(bytes))).collect(),
        Dtype::I64 => words(data).map(|bytes| i64::from_le_bytes(bytes) as f32).collect(),
        Dtype::I32 => words(data).map(|bytes| i32::from_le_bytes(bytes) as f32).collect(),
        Dtype::U32 => words(data).map(|bytes| u32::from_le_bytes(bytes) as f32).collect(),
        _ => return None,
    })
}

/// IEEE 754 binary16 to f32.
fn half_to_f32(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    match exponent {
        0 => sign * fraction * 2_f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2_f32.powi(exponent - 15),
    }
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

/// Arranges tensors according to a layout.
pub(super) fn gather(name: &str, layout: &Layout, mut tensors: Tensors) -> Result<Vec<f32>> {
    // Every tensor is checked before memory is allocated, because the sizes are only the file's claims.
    for entry in layout.entries() {
        let tensor = &entry.name;
        let Some((shape, values)) = tensors.get(tensor) else {
            let known = |name: &String| layout.entries().iter().any(|entry| entry.name == *name);
            let hint = nearest_tensor(tensor, tensors.keys().filter(|name| !known(name)));
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
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::input(format!(
                "{name}: tensor `{tensor}` is not finite at element {index} ({}): the file is damaged, or its \
                training diverged",
                values[index]
            )));
        }
    }
    let mut weights = vec![0.0; layout.elements()];
    for entry in layout.entries() {
        if let Some((_, values)) = tensors.remove(&entry.name) {
            weights[entry.offset..entry.offset + values.len()].copy_from_slice(&values);
        }
    }
    match tensors.keys().next() {
        Some(extra) => Err(Error::input(format!("{name} has a tensor `{extra}` that its network does not have"))),
        None => Ok(weights),
    }
}

#[cfg(test)]
mod tests {
    use super::half_to_f32;

    #[test]
    fn half_precision() {
        let cases = [(0x0000, 0.0), (0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (0x0001, 5.960_464_5e-8)];
        for (bits, value) in cases {
            assert_eq!(half_to_f32(bits), value);
        }
        assert!(half_to_f32(0x7c00).is_infinite() && half_to_f32(0x7e01).is_nan());
    }
}

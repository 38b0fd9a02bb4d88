//! Weights that are read tensor by tensor, for encoders that do not fit in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata};
use serde::Deserialize;

use super::super::file::nearest_tensor;
use super::super::folder::{WeightFile, weight_files};
use crate::error::{Error, Result};
use crate::files::read_file;

/// The tensors of a safetensors file, or of the shards of one, which stay on disk until they are read.
#[derive(Debug)]
pub struct Weights {
    /// The file or folder in messages.
    name: String,
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, Stored>,
}

/// Where a tensor is stored.
#[derive(Clone, Debug)]
struct Stored {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Its first byte in the file.
    start: u64,
}

/// `model.safetensors.index.json`: which tensor is in which shard.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The longest header that is accepted.
const LONGEST_HEADER: u64 = 100 << 20;

impl Weights {
    /// Opens a safetensors file, or those of a folder: `model.safetensors`, else the shards in
    /// `model.safetensors.index.json`, else those of the only variant. Only tensors whose names begin with
    /// `prefix` exist, without it.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no such file, or it is not a complete safetensors file.
    pub fn open(path: &Path, prefix: &str) -> Result<Self> {
        let name = path.display().to_string();
        let mut weights = Self { name, files: Vec::new(), tensors: BTreeMap::new() };
        if !path.is_dir() {
            weights.add(path, prefix, |_| true)?;
            return Ok(weights);
        }
        let index = path.join("model.safetensors.index.json");
        let whole = path.join("model.safetensors");
        if whole.is_file() {
            weights.add(&whole, prefix, |_| true)?;
        } else if index.is_file() {
            weights.add_shards(&index, prefix)?;
        } else {
            match only_variant(path)? {
                WeightFile { is_index: true, path, .. } => weights.add_shards(&path, prefix)?,
                WeightFile { path, .. } => weights.add(&path, prefix, |_| true)?,
            }
        }
        Ok(weights)
    }

    /// The file or folder, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn add_shards(&mut self, index: &Path, prefix: &str) -> Result<()> {
        let Index { weight_map } = serde_json::from_slice(&read_file(index)?).map_err(|cause| {
            Error::input(format!("{} is not an index of shards: {cause}: download it again", index.display()))
        })?;
        let mut shards: Vec<&String> = weight_map.values().collect();
        shards.sort();
        shards.dedup();
        for shard in shards {
            // A name that contains a folder could point outside the model.
            if Path::new(shard).file_name().is_none_or(|file| file != shard.as_str()) {
                return Err(Error::input(format!(
                    "{} names the shard `{shard}`, which is not a file next to it: download it again",
                    index.display()
                )));
            }
            self.add(&index.with_file_name(shard), prefix, |tensor| weight_map.get(tensor) == Some(shard))?;
        }
        match weight_map
            .keys()
            .find(|tensor| tensor.strip_prefix(prefix).is_some_and(|tensor| !self.tensors.contains_key(tensor)))
        {
            Some(tensor) => Err(Error::input(format!(
                "{} is missing the tensor `{tensor}`, which {} says it has: download it again",
                weight_map[tensor],
                index.display()
            ))),
            None => Ok(()),
        }
    }

    fn add(&mut self, path: &Path, prefix: &str, belongs: impl Fn(&str) -> bool) -> Result<()> {
        let broken = |cause: &dyn std::fmt::Display| {
            Error::input(format!("{} is not a complete safetensors file ({cause}): download it again", path.display()))
        };
        let mut file = File::open(path).map_err(|cause| Error::unreadable(path, cause))?;
        let length = file.metadata().map_err(|cause| Error::unreadable(path, cause))?.len();
        let mut header = vec![0; 8];
        file.read_exact(&mut header).map_err(|cause| broken(&cause))?;
        let bytes = header.iter().rev().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
        if bytes > LONGEST_HEADER.min(length) {
            return Err(broken(&format!("a header of {bytes} bytes, of {length} altogether")));
        }
        header.resize(8 + bytes as usize, 0);
        file.read_exact(&mut header[8..]).map_err(|cause| broken(&cause))?;
        // Checks that tensors are contiguous, and that their sizes match their shapes.
        let metadata: Metadata = serde_json::from_slice(&header[8..]).map_err(|cause| broken(&cause))?;
        for (tensor, info) in metadata.tensors() {
            let Some(own) = tensor.strip_prefix(prefix).filter(|_| belongs(&tensor)) else { continue };
            if (header.len() + info.data_offsets.1) as u64 > length {
                return Err(broken(&format!("it ends within `{tensor}`")));
            }
            let start = (header.len() + info.data_offsets.0) as u64;
            let stored = Stored { file: self.files.len(), dtype: info.dtype, shape: info.shape.clone(), start };
            self.tensors.insert(own.to_owned(), stored);
        }
        self.files.push((path.to_owned(), file));
        Ok(())
    }

    /// The files that hold the tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// The tensor with this name and shape, if both fit.
    fn find(&self, tensor: &str, shape: &[usize]) -> Result<Stored> {
        let Some(stored) = self.tensors.get(tensor) else {
            let hint = nearest_tensor(tensor, self.tensors.keys());
            return Err(Error::input(format!(
                "{} is missing the tensor `{tensor}` of shape {shape:?}{hint}",
                self.name
            )));
        };
        if stored.shape != shape {
            return Err(Error::input(format!(
                "{}: tensor `{tensor}` has shape {:?}, but {shape:?} is expected",
                self.name, stored.shape
            )));
        }
        Ok(stored.clone())
    }

    /// A tensor of this shape, as f32.
    ///
    /// # Errors
    /// [`Error::Input`] if it is missing, has another shape or a type other than F32, F16 and BF16, or is not finite.
    pub fn read(&self, tensor: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let stored = self.find(tensor, shape)?;
        self.read_elements(tensor, &stored, 0, shape.iter().product())
    }

    /// Rows of a table of this shape, `[rows, columns]`, as f32, concatenated: most of a table of tokens is never
    /// needed.
    ///
    /// # Errors
    /// As [`Weights::read`]; the rows must exist.
    pub fn read_rows(&self, tensor: &str, [rows, columns]: [usize; 2], wanted: &[u32]) -> Result<Vec<f32>> {
        let stored = self.find(tensor, &[rows, columns])?;
        let mut known: BTreeMap<u32, Vec<f32>> = BTreeMap::new();
        let mut values = Vec::with_capacity(wanted.len() * columns);
        for row in wanted {
            if !known.contains_key(row) {
                let read = self.read_elements(tensor, &stored, *row as usize * columns, columns)?;
                known.insert(*row, read);
            }
            values.extend(&known[row]);
        }
        Ok(values)
    }

    fn read_elements(&self, tensor: &str, stored: &Stored, first: usize, count: usize) -> Result<Vec<f32>> {
        let size = match stored.dtype {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            other => {
                return Err(Error::input(format!(
                    "{}: tensor `{tensor}` has type {other:?}, but only F32, F16 and BF16 are supported here",
                    self.name
                )));
            }
        };
        let mut bytes = vec![0; size * count];
        let (path, file) = &self.files[stored.file];
        let mut file: &File = file;
        file.seek(SeekFrom::Start(stored.start + (size * first) as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|cause| Error::unreadable(path, cause))?;
        let pairs = bytes.as_chunks::<2>().0.iter();
        let values: Vec<f32> = match stored.dtype {
            Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect(),
            Dtype::F16 => pairs.map(|pair| f16::from_le_bytes(*pair).to_f32()).collect(),
            _ => pairs.map(|pair| bf16::from_le_bytes(*pair).to_f32()).collect(),
        };
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(Error::input(format!(
                "{}: tensor `{tensor}` is not finite at element {} ({}): download it again",
                self.name,
                first + index,
                values[index]
            ))),
            None => Ok(values),
        }
    }
}

/// The only `model.VARIANT.safetensors` of a folder, or the index of its shards.
fn only_variant(folder: &Path) -> Result<WeightFile> {
    let found: Vec<WeightFile> = weight_files(folder)?.into_iter().filter(|file| !file.variant.is_empty()).collect();
    match found.as_slice() {
        [] => Err(Error::input(format!(
            "{} has neither model.safetensors nor model.safetensors.index.json: download the model again",
            folder.display()
        ))),
        [first, .., last] if first.variant != last.variant => Err(Error::input(format!(
            "{} has no model.safetensors, but several variants ({} and {}): give one of these files instead of the folder",
            folder.display(),
            first.path.display(),
            last.path.display()
        ))),
        [first, ..] => Ok(first.clone()),
    }
}

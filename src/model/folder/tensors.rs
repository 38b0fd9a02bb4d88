//! Named tensors in one or several files, read when they are needed: only headers are read at first, and a tensor is
//! widened to f32 piece by piece, so that the host never has more in memory than the requested tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use safetensors::tensor::Metadata;
use serde_json::Value;

use super::dtype::StoredAs;
use super::gguf;
use crate::error::{Error, Result};
use crate::files::{read_file, without_mark};
use crate::model::file::nearest_tensor;
use crate::sniff::what_is;

/// The longest header of a safetensors file, as in its specification.
const MAX_HEADER: u64 = 100_000_000;

/// Bytes that are read and widened at once.
const AT_ONCE: usize = 1 << 20;

/// An open file, or what would be one.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    length: u64,
    place: Place,
}

/// Where the bytes of a source are.
#[derive(Debug)]
enum Place {
    Disk(Mutex<File>),
    Memory(Vec<u8>),
}

impl Source {
    /// Opens an ordinary file; links are followed.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let unreadable = |cause| Error::unreadable(path, cause);
        // Reading a device or a pipe may never end, and opening one may block forever.
        let found = std::fs::metadata(path).map_err(unreadable)?;
        if !found.is_file() {
            let what = if found.is_dir() { "a directory" } else { "a device or a pipe" };
            return Err(Error::unreadable(path, format!("it is {what}, but a file is needed")));
        }
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        Ok(Self { path: path.to_owned(), length, place: Place::Disk(Mutex::new(file)) })
    }

    /// A file in memory; messages call it `name`.
    fn of_bytes(name: &str, bytes: Vec<u8>) -> Self {
        Self { path: name.into(), length: bytes.len() as u64, place: Place::Memory(bytes) }
    }

    /// Fills a buffer with the bytes from `start` on.
    pub(super) fn read_at(&self, start: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        match &self.place {
            Place::Disk(file) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(start))?;
                file.read_exact(buffer)
            }
            Place::Memory(bytes) => {
                let mut rest = usize::try_from(start).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
                rest.read_exact(buffer)
            }
        }
    }

    /// The first bytes, at most `most` of them.
    pub(super) fn head(&self, most: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.length).map_or(most, |length| length.min(most))];
        self.read_at(0, &mut bytes).map_err(|cause| Error::unreadable(&self.path, cause))?;
        Ok(bytes)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }
}

/// Contiguous numbers in a file.
#[derive(Clone, Debug)]
struct Piece {
    source: Arc<Source>,
    start: u64,
    elements: usize,
}

/// A tensor in a file, or one composed of rows of tensors in files. None of it is in memory.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// Its name in the file, for messages.
    name: Arc<str>,
    shape: Vec<usize>,
    stored_as: StoredAs,
    pieces: Vec<Piece>,
    /// Whether its file has scales for numbers of eight bits, and it is not one of these scales.
    needs_scale: bool,
}

impl StoredTensor {
    pub(super) fn new(
        name: &str,
        shape: Vec<usize>,
        stored_as: StoredAs,
        source: &Arc<Source>,
        start: u64,
        needs_scale: bool,
    ) -> Self {
        let elements = shape.iter().product();
        let pieces = vec![Piece { source: source.clone(), start, elements }];
        Self { name: name.into(), shape, stored_as, pieces, needs_scale }
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How its numbers are stored.
    pub fn stored_as(&self) -> StoredAs {
        self.stored_as
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.pieces.iter().map(|piece| piece.elements).sum()
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.stored_as.bytes(self.elements())
    }

    /// Some of the rows, the slices of the first dimension, without reading anything.
    ///
    /// # Errors
    /// [`Error::Input`] if it has fewer rows, or if its rows do not consist of complete blocks.
    pub fn rows(&self, rows: Range<usize>) -> Result<Self> {
        let Some((count, rest)) = self.shape.split_first().filter(|(count, _)| rows.end <= **count) else {
            return Err(self.wrong(format!("has shape {:?}, but {} rows are needed", self.shape, rows.end)));
        };
        let row = if *count == 0 { 0 } else { self.elements() / count };
        let shape = [&[rows.len()], rest].concat();
        Ok(Self { shape, pieces: self.cut(rows.start * row..rows.end * row)?, ..self.clone() })
    }

    /// Part of the numbers in the order of the file, as a vector.
    ///
    /// # Errors
    /// [`Error::Input`] if there are fewer numbers, or if the range begins or ends within a block.
    pub fn range(&self, elements: Range<usize>) -> Result<Self> {
        if elements.end > self.elements() {
            let shape = &self.shape;
            return Err(self.wrong(format!("has shape {shape:?}, but {} numbers are needed", elements.end)));
        }
        Ok(Self { shape: vec![elements.len()], pieces: self.cut(elements)?, ..self.clone() })
    }

    /// Stacks tensors that are stored in the same way.
    pub(super) fn stacked(parts: &[Self]) -> Option<Self> {
        let first = parts.first()?;
        let is_like = |part: &Self| part.stored_as == first.stored_as && part.shape.get(1..) == first.shape.get(1..);
        if first.shape.is_empty() || !parts.iter().all(is_like) {
            return None;
        }
        let mut all = first.clone();
        all.shape[0] = parts.iter().map(|part| part.shape[0]).sum();
        all.pieces = parts.iter().flat_map(|part| part.pieces.iter().cloned()).collect();
        Some(all)
    }

    /// The same numbers in another shape; `None` if there are more or fewer.
    pub(super) fn reshaped(&self, shape: Vec<usize>) -> Option<Self> {
        let count = shape.iter().try_fold(1_usize, |count, size| count.checked_mul(*size))?;
        (count == self.elements()).then(|| Self { shape, ..self.clone() })
    }

    fn cut(&self, wanted: Range<usize>) -> Result<Vec<Piece>> {
        let (block, _) = self.stored_as.block();
        let (mut found, mut at) = (Vec::new(), 0);
        for piece in &self.pieces {
            let (from, to) = (wanted.start.max(at), wanted.end.min(at + piece.elements));
            if from < to {
                let skipped = from - at;
                if !skipped.is_multiple_of(block) || !(to - from).is_multiple_of(block) {
                    let name = self.stored_as.name();
                    return Err(self.wrong(format!(
                        "is stored as {name} in blocks of {block} numbers, and cannot be split at number {from} or {to}"
                    )));
                }
                let start = piece.start + self.stored_as.bytes(skipped);
                found.push(Piece { source: piece.source.clone(), start, elements: to - from });
            }
            at += piece.elements;
        }
        Ok(found)
    }

    /// Reads it as f32: exact, except for F64 and large integers, which are rounded.
    ///
    /// # Errors
    /// [`Error::Input`] if the file cannot be read (it has changed), or its type is not supported.
    pub fn read(&self) -> Result<Vec<f32>> {
        if self.needs_scale {
            return Err(self.wrong(
                "is scaled fp8, with its scales in separate tensors, which is not supported: use a file with \
                 F16, BF16 or unscaled fp8",
            ));
        }
        let mut values = Vec::with_capacity(self.elements());
        let unsupported = || {
            let name = self.stored_as.name();
            self.wrong(format!(
                "has type {name}, but only F64, F32, F16, BF16, F8_E4M3, F8_E5M2, I64, I32, U32 and U8 can be read"
            ))
        };
        self.visit(|bytes| {
            values.extend(self.stored_as.widen(bytes).ok_or_else(unsupported)?);
            Ok(())
        })?;
        Ok(values)
    }

    /// Reads the bytes as they are stored.
    ///
    /// # Errors
    /// [`Error::Input`] if the file cannot be read.
    pub fn read_bytes(&self) -> Result<Vec<u8>> {
        let mut all = Vec::with_capacity(self.bytes() as usize);
        self.visit(|bytes| {
            all.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(all)
    }

    /// Passes the bytes to `each` in order, in pieces of complete blocks.
    fn visit(&self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let block = self.stored_as.block().1;
        let most = (AT_ONCE / block * block) as u64;
        let mut buffer = Vec::new();
        for piece in &self.pieces {
            let (mut at, end) = (piece.start, piece.start + self.stored_as.bytes(piece.elements));
            while at < end {
                buffer.resize(most.min(end - at) as usize, 0);
                piece.source.read_at(at, &mut buffer).map_err(|cause| {
                    let path = piece.source.path.display();
                    Error::input(format!("cannot read the tensor `{}` of {path}: {cause}", self.name))
                })?;
                each(&buffer)?;
                at += buffer.len() as u64;
            }
        }
        Ok(())
    }

    /// An error about this tensor.
    pub(super) fn wrong(&self, problem: impl std::fmt::Display) -> Error {
        let path = self.pieces.first().map_or_else(String::new, |piece| format!("{}: ", piece.source.path.display()));
        Error::input(format!("{path}tensor `{}` {problem}", self.name))
    }
}

/// A set of named tensors in one or several files.
#[derive(Clone, Debug)]
pub struct StoredTensors {
    /// Its name in messages: a file or an index.
    name: String,
    tensors: BTreeMap<String, StoredTensor>,
    metadata: BTreeMap<String, String>,
    sources: Vec<Arc<Source>>,
}

impl StoredTensors {
    /// A set without tensors and files.
    pub fn none(name: &str) -> Self {
        Self { name: name.to_owned(), tensors: BTreeMap::new(), metadata: BTreeMap::new(), sources: Vec::new() }
    }

    /// Opens a file: safetensors, or GGUF.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read, is something else, or is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let source = Arc::new(Source::open(path)?);
        let name = path.display().to_string();
        let (tensors, metadata) = match source.head(4)?.as_slice() {
            gguf::MAGIC => gguf::read(&source)?,
            _ => read_header(&source)?,
        };
        Ok(Self { name, tensors, metadata, sources: vec![source] })
    }

    /// A safetensors file in memory, which messages call `name`.
    ///
    /// # Errors
    /// [`Error::Input`] if it is something else, or is damaged.
    pub fn of_bytes(name: &str, bytes: Vec<u8>) -> Result<Self> {
        let source = Arc::new(Source::of_bytes(name, bytes));
        let (tensors, metadata) = read_header(&source)?;
        Ok(Self { name: name.to_owned(), tensors, metadata, sources: vec![source] })
    }

    /// Opens the shards that an index (`*.safetensors.index.json`) names. Tensors of a shard that are not in the index
    /// are left out.
    ///
    /// # Errors
    /// [`Error::Input`] if the index or a shard cannot be read or is damaged, or if they do not agree.
    pub fn open_index(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let map = weight_map(path)?;
        let mut all = Self::none(&name);
        let mut place: BTreeMap<String, &str> = BTreeMap::new();
        for shard in map.values().collect::<BTreeSet<_>>() {
            let file = path.with_file_name(shard);
            if !file.exists() {
                return Err(Error::input(format!(
                    "{name} names the shard {shard}, which is missing: download it as well, or all of them again"
                )));
            }
            let found = Self::open(&file)?;
            for (tensor, stored) in found.tensors {
                if let Some(other) = place.insert(tensor.clone(), shard) {
                    return Err(Error::input(format!(
                        "{name}: the tensor `{tensor}` is in two shards, {other} and {shard}: download all of them again"
                    )));
                }
                if map.contains_key(&tensor) {
                    all.tensors.insert(tensor, stored);
                }
            }
            all.metadata.extend(found.metadata);
            all.sources.extend(found.sources);
        }
        match map.iter().find(|(tensor, shard)| place.get(*tensor) != Some(&shard.as_str())) {
            None => Ok(all),
            Some((tensor, shard)) => Err(Error::input(format!(
                "{name} says that the tensor `{tensor}` is in {shard}, but it is not: download all shards again"
            ))),
        }
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    /// The metadata entries of the header.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Paths and lengths of the files.
    pub fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.sources.iter().map(|source| (source.path.as_path(), source.length))
    }

    /// Number of elements of all tensors.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(StoredTensor::elements).sum()
    }

    /// A tensor by its name.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none, with a similar name.
    pub fn get(&self, tensor: &str) -> Result<&StoredTensor> {
        self.tensors.get(tensor).ok_or_else(|| {
            let hint = nearest_tensor(tensor, self.tensors.keys());
            Error::input(format!("{} is missing the tensor `{tensor}`{hint}", self.name))
        })
    }

    /// Reads a tensor as f32.
    ///
    /// # Errors
    /// As [`StoredTensors::get`] and [`StoredTensor::read`].
    pub fn read(&self, tensor: &str) -> Result<Vec<f32>> {
        self.get(tensor)?.read()
    }

    /// Other tensors of the same files.
    pub(super) fn with(&self, name: String, tensors: BTreeMap<String, StoredTensor>) -> Self {
        Self { name, tensors, metadata: self.metadata.clone(), sources: self.sources.clone() }
    }
}

/// The names of the tensors and their shards in an index.
fn weight_map(path: &Path) -> Result<BTreeMap<String, String>> {
    let name = path.display();
    let bytes = read_file(path)?;
    let json: Value = serde_json::from_slice(without_mark(&bytes)).map_err(|cause| {
        let what = what_is(&bytes).filter(|what| !what.contains("JSON") && !what.contains("index"));
        Error::input(match what {
            Some(what) => format!("{name} is not the index of a sharded model: it is {what}"),
            None => format!("{name} is not the index of a sharded model: it is not JSON ({cause})"),
        })
    })?;
    let map = json.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let Some(map) = map else {
        return Err(Error::input(format!(
            "{name} is not the index of a sharded model: it has no `weight_map` with the tensors and their files"
        )));
    };
    let is_plain = |shard: &str| Path::new(shard).file_name().is_some_and(|file| file == shard);
    map.iter()
        .map(|(tensor, shard)| match shard.as_str().filter(|shard| is_plain(shard)) {
            Some(shard) => Ok((tensor.clone(), shard.to_owned())),
            None => Err(Error::input(format!(
                "{name} says that the tensor `{tensor}` is in {shard}: expected the name of a file next to it"
            ))),
        })
        .collect()
}

type Header = (BTreeMap<String, StoredTensor>, BTreeMap<String, String>);

/// Reads and checks the header of a safetensors file.
fn read_header(source: &Arc<Source>) -> Result<Header> {
    let name = source.path.display();
    let broken = |cause: String| {
        Error::input(match source.head(1 << 12).map(|head| what_is(&head)) {
            Ok(Some(what)) => format!("{name} is not safetensors: it is {what}"),
            _ => format!("{name} is not a complete safetensors file ({cause}): fetch or write it again"),
        })
    };
    let mut length = [0; 8];
    if source.length < 8 {
        return Err(broken(format!("it has {} bytes", source.length)));
    }
    source.read_at(0, &mut length).map_err(|cause| Error::unreadable(&source.path, cause))?;
    let header_length = u64::from_le_bytes(length);
    if header_length > MAX_HEADER || header_length > source.length - 8 {
        return Err(broken(format!("its header claims {header_length} bytes, the file has {}", source.length)));
    }
    let mut header = vec![0; header_length as usize];
    source.read_at(8, &mut header).map_err(|cause| Error::unreadable(&source.path, cause))?;
    // Checks that the tensors fill the file without gaps or overlaps, and that shapes and sizes agree.
    let header: Metadata = serde_json::from_slice(&header).map_err(|cause| broken(cause.to_string()))?;
    let begin = 8 + header_length;
    let end = begin + header.data_len() as u64;
    if end != source.length {
        return Err(broken(format!("its tensors end at byte {end}, the file at {}", source.length)));
    }
    let infos = header.tensors();
    let scaled = infos.keys().any(|tensor| is_scale(tensor));
    let tensors = infos.into_iter().map(|(tensor, info)| {
        let stored_as = StoredAs::Plain(info.dtype);
        let start = begin + info.data_offsets.0 as u64;
        let needs_scale = scaled && stored_as.is_fp8();
        let stored = StoredTensor::new(&tensor, info.shape.clone(), stored_as, source, start, needs_scale);
        (tensor, stored)
    });
    Ok((tensors.collect(), header.metadata().clone().unwrap_or_default().into_iter().collect()))
}

/// Whether a tensor is the scale of others, in either form that ComfyUI's files have used.
fn is_scale(tensor: &str) -> bool {
    ["scaled_fp8", "scale_weight", "weight_scale", "scale_input", "input_scale"]
        .iter()
        .any(|end| tensor.rsplit('.').next() == Some(end))
}

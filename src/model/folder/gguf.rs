//! GGUF, the files of llama.cpp's family: a header with keys and tensors, then the numbers in blocks.
//!
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

use std::collections::BTreeMap;
use std::sync::Arc;

use safetensors::tensor::Dtype;

use super::dtype::StoredAs;
use super::tensors::{Source, StoredTensor};
use crate::error::{Error, Result};

/// The first bytes of a file.
pub(super) const MAGIC: &[u8] = b"GGUF";

/// The longest header that is read: tokenizers in language models take a few megabytes.
const MAX_HEADER: usize = 64 << 20;

/// Bytes that are read first; the number doubles until they contain the complete header.
const FIRST: usize = 1 << 16;

/// What went wrong with a header.
enum Wrong {
    /// It continues after the bytes that were read.
    Short,
    /// It cannot be read.
    Bad(String),
}

/// The remaining bytes of the header.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, count: u64) -> Result<&'a [u8], Wrong> {
        let count = usize::try_from(count).map_err(|_| Wrong::Short)?;
        let (first, rest) = self.0.split_at_checked(count).ok_or(Wrong::Short)?;
        self.0 = rest;
        Ok(first)
    }

    fn u32(&mut self) -> Result<u32, Wrong> {
        Ok(self.bytes(4)?.try_into().map_or(0, u32::from_le_bytes))
    }

    fn u64(&mut self) -> Result<u64, Wrong> {
        Ok(self.bytes(8)?.try_into().map_or(0, u64::from_le_bytes))
    }

    fn text(&mut self) -> Result<String, Wrong> {
        let length = self.u64()?;
        Ok(String::from_utf8_lossy(self.bytes(length)?).into_owned())
    }

    /// A value of a type; the elements of arrays are skipped.
    fn value(&mut self, kind: u32, depth: usize) -> Result<String, Wrong> {
        Ok(match kind {
            0 => self.bytes(1)?[0].to_string(),
            1 => (self.bytes(1)?[0] as i8).to_string(),
            7 => (self.bytes(1)?[0] != 0).to_string(),
            2 | 3 => {
                let bytes = self.bytes(2)?;
                u16::from_le_bytes([bytes[0], bytes[1]]).to_string()
            }
            4 => self.u32()?.to_string(),
            5 => self.u32()?.cast_signed().to_string(),
            6 => f32::from_bits(self.u32()?).to_string(),
            8 => self.text()?,
            10 => self.u64()?.to_string(),
            11 => self.u64()?.cast_signed().to_string(),
            12 => f64::from_bits(self.u64()?).to_string(),
            9 if depth < 4 => {
                let (kind, count) = (self.u32()?, self.u64()?);
                for _ in 0..count {
                    self.value(kind, depth + 1)?;
                }
                format!("{count} values")
            }
            _ => return Err(Wrong::Bad(format!("a value of the unknown type {kind}"))),
        })
    }
}

/// A tensor's entry in the header.
struct Entry {
    name: String,
    shape: Vec<usize>,
    stored_as: StoredAs,
    offset: u64,
}

/// The contents of a header, and its length.
struct Header {
    keys: BTreeMap<String, String>,
    entries: Vec<Entry>,
    length: usize,
}

fn parse(bytes: &[u8]) -> Result<Header, Wrong> {
    let mut cursor = Cursor(bytes);
    cursor.bytes(MAGIC.len() as u64)?;
    match cursor.u32()? {
        2 | 3 => {}
        version => return Err(Wrong::Bad(format!("version {version}, but 2 and 3 are supported"))),
    }
    let (tensors, keys) = (cursor.u64()?, cursor.u64()?);
    let mut found = BTreeMap::new();
    for _ in 0..keys {
        let (key, kind) = (cursor.text()?, cursor.u32()?);
        found.insert(key, cursor.value(kind, 0)?);
    }
    let mut entries = Vec::new();
    for _ in 0..tensors {
        entries.push(entry(&mut cursor)?);
    }
    Ok(Header { keys: found, entries, length: bytes.len() - cursor.0.len() })
}

fn entry(cursor: &mut Cursor<'_>) -> Result<Entry, Wrong> {
    let (name, rank) = (cursor.text()?, cursor.u32()?);
    if rank > 8 {
        return Err(Wrong::Bad(format!("the tensor `{name}` has {rank} dimensions")));
    }
    let mut shape = Vec::new();
    for _ in 0..rank {
        shape.push(cursor.u64()? as usize);
    }
    // The first dimension is the contiguous one.
    shape.reverse();
    let stored_as = match cursor.u32()? {
        0 => StoredAs::Plain(Dtype::F32),
        1 => StoredAs::Plain(Dtype::F16),
        2 => StoredAs::Q4_0,
        3 => StoredAs::Q4_1,
        6 => StoredAs::Q5_0,
        8 => StoredAs::Q8_0,
        28 => StoredAs::Plain(Dtype::F64),
        30 => StoredAs::Plain(Dtype::BF16),
        kind => {
            return Err(Wrong::Bad(format!(
                "the tensor `{name}` has GGUF's type {kind}, but only F32, F16, BF16, Q8_0, Q5_0, Q4_1 and Q4_0 can be \
                 read, not the K-quants: use a file of one of these types, such as Q8_0"
            )));
        }
    };
    let offset = cursor.u64()?;
    Ok(Entry { name, shape, stored_as, offset })
}

/// Reads the tensors and the keys of a GGUF file.
pub(super) fn read(source: &Arc<Source>) -> Result<(BTreeMap<String, StoredTensor>, BTreeMap<String, String>)> {
    let name = source.path().display();
    let broken =
        |cause: &str| Error::input(format!("{name} is not a complete GGUF file ({cause}): fetch or write it again"));
    let mut most = FIRST;
    let header = loop {
        let bytes = source.head(most)?;
        match parse(&bytes) {
            Ok(header) => break header,
            Err(Wrong::Bad(cause)) => return Err(Error::input(format!("{name} cannot be read: {cause}"))),
            Err(Wrong::Short) if bytes.len() < most => return Err(broken("it ends within its header")),
            Err(Wrong::Short) if most >= MAX_HEADER => return Err(broken("its header is too long")),
            Err(Wrong::Short) => most *= 2,
        }
    };
    let alignment = match header.keys.get("general.alignment").map(|text| text.parse::<u64>()) {
        None => 32,
        Some(Ok(alignment @ 1..=65_536)) => alignment,
        Some(_) => return Err(broken("its `general.alignment` is not a size")),
    };
    let begin = (header.length as u64).next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for Entry { name: tensor, shape, stored_as, offset } in header.entries {
        let elements = shape.iter().try_fold(1_usize, |count, size| count.checked_mul(*size));
        let whole = elements.filter(|count| {
            shape.last().is_none_or(|row| row.is_multiple_of(stored_as.block().0)) && (*count as u64) < 1 << 48
        });
        let Some(elements) = whole else {
            let kind = stored_as.name();
            return Err(broken(&format!("the tensor `{tensor}` has shape {shape:?}, which {kind} cannot have")));
        };
        let start = begin.checked_add(offset);
        let end = start.and_then(|start| start.checked_add(stored_as.bytes(elements)));
        let (Some(start), Some(_)) = (start, end.filter(|end| *end <= source.length())) else {
            return Err(broken(&format!("the tensor `{tensor}` is beyond its end")));
        };
        let stored = StoredTensor::new(&tensor, shape, stored_as, source, start, false);
        if tensors.insert(tensor.clone(), stored).is_some() {
            return Err(broken(&format!("it has the tensor `{tensor}` twice")));
        }
    }
    Ok((tensors, header.keys))
}

//! Files of safetensors that are larger than the memory: written tensor by tensor, or row by row.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// Where a tensor lies.
#[derive(Clone, Debug)]
struct Place {
    name: String,
    start: u64,
    bytes_of_row: u64,
}

/// A file that is being filled. All of it has to be.
pub(super) struct Writer<'a> {
    path: &'a Path,
    file: &'a mut File,
    places: Vec<Place>,
}

impl<'a> Writer<'a> {
    /// Writes the header of a file with these tensors (name, type, shape) and these entries.
    pub(super) fn begin<'b>(
        path: &'a Path,
        file: &'a mut File,
        tensors: impl IntoIterator<Item = (&'b str, Dtype, Vec<usize>)>,
        metadata: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self> {
        let metadata: Map<String, Value> =
            metadata.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        let mut header = Map::from_iter([("__metadata__".to_owned(), Value::Object(metadata))]);
        let (mut places, mut start) = (Vec::new(), 0);
        for (name, dtype, shape) in tensors {
            let row = shape.iter().skip(1).product::<usize>() as u64 * dtype.bitsize() as u64 / 8;
            let end = start + row * shape.first().copied().unwrap_or(1) as u64;
            let described = json!({"dtype": dtype.to_string(), "shape": shape, "data_offsets": [start, end]});
            header.insert(name.to_owned(), described);
            places.push(Place { name: name.to_owned(), start, bytes_of_row: row });
            start = end;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        // Tensors begin at a multiple of 8 bytes.
        header.resize(header.len().next_multiple_of(8), b' ');
        let before = 8 + header.len() as u64;
        places.iter_mut().for_each(|place| place.start += before);
        let length = (header.len() as u64).to_le_bytes();
        let written = file.write_all(&length).and_then(|()| file.write_all(&header));
        written.map_err(|cause| Error::unwritable(path, cause))?;
        Ok(Self { path, file, places })
    }

    /// Writes bytes from a row of a tensor on.
    pub(super) fn put(&mut self, tensor: &str, row: usize, bytes: &[u8]) -> Result<()> {
        let place = self.places.iter().find(|place| place.name == tensor).expect("the header has it");
        let start = place.start + row as u64 * place.bytes_of_row;
        let written = self.file.seek(SeekFrom::Start(start)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|cause| Error::unwritable(self.path, cause))
    }
}

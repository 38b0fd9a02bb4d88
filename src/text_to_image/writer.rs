//! Files of safetensors that are larger than the memory: written tensor by tensor, or row by row.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use safetensors::tensor::Dtype;

use crate::error::{Error, Result};
use crate::model::header;

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
    /// Writes the header of a file with these tensors (name, type, shape) and an entry of metadata.
    pub(super) fn begin<'b>(
        path: &'a Path,
        file: &'a mut File,
        tensors: impl IntoIterator<Item = (&'b str, Dtype, Vec<usize>)>,
        metadata: (&'static str, String),
    ) -> Result<Self> {
        let (mut places, mut start) = (Vec::new(), 0);
        let described = tensors.into_iter().map(|(name, dtype, shape)| {
            let bytes_of_row = shape.iter().skip(1).product::<usize>() as u64 * dtype.bitsize() as u64 / 8;
            places.push(Place { name: name.to_owned(), start, bytes_of_row });
            start += bytes_of_row * shape.first().copied().unwrap_or(1) as u64;
            (name.to_owned(), dtype, shape)
        });
        let header = header(described, Some(metadata));
        places.iter_mut().for_each(|place| place.start += header.len() as u64);
        file.write_all(&header).map_err(|cause| Error::unwritable(path, cause))?;
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

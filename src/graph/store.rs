//! The device memory of stores, split into chunks, so that a store may be larger than what a device binds at once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use maybe_async::maybe_async;

use super::{DType, Store};
use crate::error::Result;
use crate::gpu::{Buffer, Gpu, Region};

/// The memory of stored tensors.
pub type Stores = BTreeMap<Store, StoreMemory>;

/// The memory of one store: consecutive buffers. Every stored tensor is in one of them.
#[derive(Clone, Debug)]
pub struct StoreMemory {
    chunks: Arc<[Chunk]>,
}

#[derive(Debug)]
struct Chunk {
    /// Its offset in the store, in bytes.
    first: u64,
    buffer: Arc<Buffer>,
}

/// A store of one chunk.
impl From<Arc<Buffer>> for StoreMemory {
    fn from(buffer: Arc<Buffer>) -> Self {
        Self { chunks: Arc::new([Chunk { first: 0, buffer }]) }
    }
}

impl StoreMemory {
    /// Zeroed memory for these consecutive ranges of words of 4 bytes.
    ///
    /// # Errors
    /// If a range is larger than the device allows, or memory runs out.
    pub fn allocate(gpu: &Arc<Gpu>, label: &str, ranges: &[Range<usize>]) -> Result<Self> {
        let chunk = |range: &Range<usize>| {
            let bytes = |words: usize| DType::U32.bytes(&[words]);
            Ok(Chunk { first: bytes(range.start), buffer: gpu.allocate(label, bytes(range.len()))? })
        };
        Ok(Self { chunks: ranges.iter().map(chunk).collect::<Result<_>>()? })
    }

    /// Memory for these ranges, filled with `data`.
    ///
    /// # Errors
    /// As [`StoreMemory::allocate`].
    pub fn upload<T: bytemuck::NoUninit>(
        gpu: &Arc<Gpu>,
        label: &str,
        ranges: &[Range<usize>],
        data: &[T],
    ) -> Result<Self> {
        let memory = Self::allocate(gpu, label, ranges)?;
        memory.write(gpu, data);
        Ok(memory)
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.buffer.bytes()).sum()
    }

    /// Number of buffers.
    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// The region of `bytes` bytes from `offset` on; `None` if they reach beyond the end or into another chunk.
    pub fn region(&self, offset: u64, bytes: u64) -> Option<Region> {
        let chunk = self.chunks.iter().rfind(|chunk| chunk.first <= offset)?;
        let offset = offset - chunk.first;
        (offset + bytes <= chunk.buffer.bytes()).then(|| Region { buffer: chunk.buffer.clone(), offset, bytes })
    }

    /// Bytes from `offset` to the end of its chunk; 0 beyond the last one.
    pub fn room(&self, offset: u64) -> u64 {
        let chunk = self.chunks.iter().rfind(|chunk| chunk.first <= offset);
        chunk.map_or(0, |chunk| (chunk.first + chunk.buffer.bytes()).saturating_sub(offset))
    }

    /// All of it, in order.
    pub fn regions(&self) -> Vec<Region> {
        let whole = |chunk: &Chunk| Region { buffer: chunk.buffer.clone(), offset: 0, bytes: chunk.buffer.bytes() };
        self.chunks.iter().map(whole).collect()
    }

    /// Overwrites all of it.
    ///
    /// # Panics
    /// If `data` has another size.
    pub fn write<T: bytemuck::NoUninit>(&self, gpu: &Gpu, data: &[T]) {
        assert_eq!(size_of_val(data) as u64, self.bytes(), "a store is written whole");
        self.write_at(gpu, 0, data);
    }

    /// Overwrites words of 4 bytes from the word `first` on.
    ///
    /// # Panics
    /// If they reach beyond the end.
    pub fn write_at<T: bytemuck::NoUninit>(&self, gpu: &Gpu, first: usize, data: &[T]) {
        let mut rest: &[u8] = bytemuck::cast_slice(data);
        let mut at = DType::U32.bytes(&[first]);
        assert!(at + rest.len() as u64 <= self.bytes(), "it ends within the store");
        for chunk in &*self.chunks {
            let end = chunk.first + chunk.buffer.bytes();
            if (chunk.first..end).contains(&at) && !rest.is_empty() {
                let (these, others) = rest.split_at(rest.len().min((end - at) as usize));
                gpu.write(&chunk.buffer, at - chunk.first, these);
                (at, rest) = (end, others);
            }
        }
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// If the device is lost.
    #[maybe_async]
    pub async fn read<T: bytemuck::Pod>(&self, gpu: &Gpu) -> Result<Vec<T>> {
        gpu.read(&self.regions().iter().collect::<Vec<_>>()).await
    }

    /// Reads all of it in pieces, in order.
    ///
    /// # Errors
    /// If the device is lost, and those of `each`.
    #[maybe_async]
    pub async fn read_pieces<T: bytemuck::Pod>(
        &self,
        gpu: &Gpu,
        mut each: impl FnMut(&[T]) -> Result<()>,
    ) -> Result<()> {
        for region in self.regions() {
            for first in (0..region.bytes).step_by(PIECE) {
                let bytes = (PIECE as u64).min(region.bytes - first);
                let piece = Region { buffer: region.buffer.clone(), offset: region.offset + first, bytes };
                each(&gpu.read(&[&piece]).await?)?;
            }
        }
        Ok(())
    }
}

/// Bytes that [`StoreMemory::read_pieces`] reads at once.
const PIECE: usize = 1 << 24;

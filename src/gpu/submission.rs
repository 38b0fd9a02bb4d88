//! Submitting work and reading results back.
//!
//! Commands are batched in one encoder ([`Gpu::encode`]) until something must come after them: a large write by the
//! host, a readback, or a separate submission. So a replay, the small writes before it and the copies are one
//! submission.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use maybe_async::maybe_async;

use super::device::{Buffer, Gpu};
use super::layout::Params;
use super::pending::UPLOAD_BYTES;
use super::pipeline::{BoundDispatch, Dispatch, Kernel, Region};
use super::waiting::{Mark, mapped, unreadable};
use crate::error::Result;

/// One step of a submission.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// Runs a kernel.
    Dispatch(&'a BoundDispatch),
    /// Copies all bytes of `from` into `to`.
    Copy {
        /// Source.
        from: &'a Region,
        /// Target, in another buffer.
        to: &'a Region,
    },
    /// Fills a region with zeros.
    Clear(&'a Region),
}

/// Lets the host run ahead of the device, but not far: every pending submission occupies staging memory.
#[derive(Debug, Default)]
pub struct Throttle {
    ahead: VecDeque<Mark>,
}

impl Throttle {
    /// How many parts of the work may be pending.
    const MAX: usize = 2;

    /// Call this after each part of the work: submits it, and returns when at most two parts are pending.
    ///
    /// # Errors
    /// If the device is lost or reported an error.
    #[maybe_async]
    pub async fn pass(&mut self, gpu: &Gpu) -> Result<()> {
        self.ahead.push_back(gpu.mark());
        while self.ahead.len() > Self::MAX
            && let Some(oldest) = self.ahead.pop_front()
        {
            gpu.reach(oldest).await?;
        }
        gpu.check()
    }
}

/// Bytes of the buffers through which data pass to and from the device: every open device holds them, and every plan
/// counts them.
pub const STAGING_BYTES: u64 = (1 << 22) + 4;

/// Bytes of the staging buffer of [`Gpu::read`].
const READBACK_BYTES: u64 = STAGING_BYTES - UPLOAD_BYTES;

/// Bytes that are read back at once: what is larger is split into pieces. Behind a piece comes the number of submissions
/// that are done.
const LARGEST_PIECE: u64 = READBACK_BYTES - 4;

/// The staging buffer of [`Gpu::read`].
#[derive(Debug)]
pub(super) struct Readback {
    staging: Arc<Buffer>,
}

impl Readback {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        Ok(Self { staging: gpu.make_buffer("readback", READBACK_BYTES, wgpu::BufferUsages::MAP_READ, false)? })
    }
}

/// Counts submissions on the device and on the host: they differ if the driver dropped one.
#[derive(Debug)]
pub(super) struct Finished {
    dispatch: BoundDispatch,
    counter: Region,
    submitted: Mutex<u32>,
}

impl Finished {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let counter = Region { buffer: gpu.allocate("finished submissions", 4)?, offset: 0, bytes: 4 };
        let dispatch = Dispatch {
            kernel: Kernel::new("finished"),
            reads: Vec::new(),
            writes: vec![counter.clone()],
            params: Params::default(),
            grid: [1; 3],
        };
        let dispatch = gpu.bind(&[dispatch])?.remove(0);
        Ok(Self { dispatch, counter, submitted: Mutex::new(0) })
    }
}

impl Gpu {
    pub(super) fn encode_dispatch(&self, dispatch: &BoundDispatch, pass: &mut wgpu::ComputePass<'_>) {
        self.dispatches.fetch_add(1, Ordering::Relaxed);
        dispatch.encode(pass);
    }

    /// Submits what is encoded, followed by the dispatch that counts submissions; returns the submission's index
    /// and the count before it.
    pub(super) fn send(&self, mut encoder: wgpu::CommandEncoder) -> (wgpu::SubmissionIndex, u32) {
        self.submissions.fetch_add(1, Ordering::Relaxed);
        let Some(finished) = &self.finished else {
            return (self.queue.submit([encoder.finish()]), 0);
        };
        finished.dispatch.encode(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        let mut submitted = finished.submitted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *submitted;
        *submitted = before.wrapping_add(1);
        (self.queue.submit([encoder.finish()]), before)
    }

    /// Submits commands in order, after the pending ones, as one submission. Does not wait.
    ///
    /// # Errors
    /// If the device is lost or reported an error.
    pub fn submit<'a>(&self, commands: impl IntoIterator<Item = Command<'a>>) -> Result<()> {
        self.encode(commands)?;
        self.flush();
        self.check()
    }

    /// Appends commands to the pending ones. They are submitted before the host reads a buffer or writes much to one,
    /// together with everything encoded until then.
    ///
    /// # Errors
    /// If the device is lost or reported an error.
    pub fn encode<'a>(&self, commands: impl IntoIterator<Item = Command<'a>>) -> Result<()> {
        let mut pending = self.pending();
        let encoder = pending.encoder(&self.device);
        let mut commands = commands.into_iter().peekable();
        while let Some(command) = commands.next() {
            match command {
                Command::Copy { from, to } => encoder.copy_buffer_to_buffer(
                    from.buffer.raw(),
                    from.offset,
                    to.buffer.raw(),
                    to.offset,
                    from.bytes,
                ),
                Command::Clear(region) => {
                    encoder.clear_buffer(region.buffer.raw(), region.offset, Some(region.bytes));
                }
                Command::Dispatch(first) => {
                    // Consecutive dispatches share a pass: one pass per dispatch costs twice as much.
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                    let mut next = Some(first);
                    while let Some(dispatch) = next {
                        self.encode_dispatch(dispatch, &mut pass);
                        next = match commands.peek() {
                            Some(Command::Dispatch(dispatch)) => Some(*dispatch),
                            _ => None,
                        };
                        if next.is_some() {
                            commands.next();
                        }
                    }
                }
            }
        }
        drop(pending);
        self.check()
    }

    /// Submits the pending commands and waits until everything is done.
    ///
    /// # Errors
    /// If the device is lost or reported an error.
    #[maybe_async]
    pub async fn wait(&self) -> Result<()> {
        self.flush();
        self.drain().await?;
        self.bytes_waiting.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Submits the pending commands; returns the end of the last submission.
    fn mark(&self) -> Mark {
        let (index, _) = self.send_pending(&mut self.pending());
        self.mark_of(index)
    }

    /// Reads regions back into one vector, in order, after everything submitted or pending.
    ///
    /// Some drivers return stale bytes and no error for a killed submission, so every submission increments a
    /// counter on the device, and every readback compares it with the host's.
    ///
    /// # Errors
    /// If the device is lost, or an earlier submission did not finish.
    #[maybe_async]
    pub async fn read<T: bytemuck::Pod>(&self, regions: &[&Region]) -> Result<Vec<T>> {
        let bytes: u64 = regions.iter().map(|region| region.bytes).sum();
        let mut data = vec![T::zeroed(); bytes as usize / size_of::<T>()];
        let mut rest: &mut [u8] = bytemuck::cast_slice_mut(&mut data);
        let readback = self.readback.lock().unwrap_or_else(PoisonError::into_inner);
        let readback = readback.as_ref().expect("the device is open");
        for piece in pieces(regions, LARGEST_PIECE) {
            let (these, others) = rest.split_at_mut(piece.iter().map(|region| region.bytes as usize).sum());
            self.read_piece(readback, &piece, these).await?;
            rest = others;
        }
        Ok(data)
    }

    /// Reads regions that fit into the staging buffer together.
    #[maybe_async]
    async fn read_piece(&self, Readback { staging }: &Readback, regions: &[Region], into: &mut [u8]) -> Result<()> {
        self.readbacks.fetch_add(1, Ordering::Relaxed);
        let mut pending = self.pending();
        let encoder = pending.encoder(&self.device);
        let mut at = 0;
        for region in regions {
            encoder.copy_buffer_to_buffer(region.buffer.raw(), region.offset, staging.raw(), at, region.bytes);
            at += region.bytes;
        }
        if let Some(finished) = &self.finished {
            encoder.copy_buffer_to_buffer(finished.counter.buffer.raw(), 0, staging.raw(), at, 4);
        }
        let (_, submitted) = self.send_pending(&mut pending);
        drop(pending);

        let slice = staging.raw().slice(..at + 4);
        mapped(self, &slice).await?;
        let bytes = slice.get_mapped_range().map_err(unreadable)?;
        let (data, tail) = bytes.split_at(at as usize);
        let finished = tail == submitted.to_ne_bytes().as_slice();
        into.copy_from_slice(data);
        drop(bytes);
        staging.raw().unmap();
        if finished { Ok(()) } else { Err(unreadable("the driver dropped a submission")) }
    }
}

/// Regions in order, split into groups of at most `most` bytes each.
fn pieces(regions: &[&Region], most: u64) -> Vec<Vec<Region>> {
    let mut pieces: Vec<Vec<Region>> = Vec::new();
    let mut room = 0;
    for region in regions {
        let mut taken = 0;
        while taken < region.bytes {
            if room == 0 {
                pieces.push(Vec::new());
                room = most;
            }
            let bytes = room.min(region.bytes - taken);
            let part = Region { buffer: region.buffer.clone(), offset: region.offset + taken, bytes };
            pieces.last_mut().expect("one was just made").push(part);
            (taken, room) = (taken + bytes, room - bytes);
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use crate::gpu::{Gpu, Options};

    use super::*;

    #[test]
    fn a_dropped_submission_is_detected() {
        let gpu = Gpu::open(&Options::default().or_environment()).expect("the tests need an adapter");
        let region = Region { buffer: gpu.allocate("data", 4).expect("it is small"), offset: 0, bytes: 4 };
        gpu.write(&region.buffer, 0, &[7_u32]);
        assert_eq!(gpu.read::<u32>(&[&region]).expect("nothing was dropped"), [7]);
        // The host counts a submission that the device never finishes.
        let finished = gpu.finished.as_ref().expect("the device is open");
        *finished.submitted.lock().expect("no thread panicked") += 1;
        let error = gpu.read::<u32>(&[&region]).expect_err("the counts differ");
        assert_eq!(error.exit_code(), 4, "{error}");
    }
    #[test]
    fn large_transfers_are_split_into_pieces() {
        let gpu = Gpu::open(&Options::default().or_environment()).expect("the tests need an adapter");
        let elements = (LARGEST_PIECE / 4 + 100) as usize;
        let region = |bytes| Region { buffer: gpu.allocate("data", bytes).expect("it fits"), offset: 0, bytes };
        let (small, large) = (region(12), region(4 * elements as u64));
        let data: Vec<u32> = (0..elements as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
        gpu.write(&small.buffer, 0, &[1_u32, 2, 3]);
        gpu.write(&large.buffer, 0, &data);
        let read = gpu.read::<u32>(&[&small, &large, &small]).expect("the device works");
        assert_eq!((&read[..3], &read[3 + elements..]), (&[1, 2, 3][..], &[1, 2, 3][..]));
        assert!(read[3..3 + elements] == data, "a piece is missing or misplaced");
        let staging = gpu.readback.lock().expect("nobody panicked").as_ref().map(|it| it.staging.bytes());
        assert_eq!(staging, Some(READBACK_BYTES));
        assert_eq!(pieces(&[&small, &small], 8).iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 1]);
    }
}

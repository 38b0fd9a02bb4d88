//! Commands that wait to be submitted together, and the data of the small writes among them.
//!
//! A write by the queue comes before a whole submission, so every write among other commands would end one. A small
//! write is therefore recorded as a copy from an upload buffer, and the queue writes the data of all of them at once,
//! before their submission.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::device::{Buffer, Gpu};
use super::pipeline::BoundDispatch;
use crate::error::Result;

/// A submission should not run longer than this: drivers kill long ones (Windows after two seconds, some
/// laptops earlier), and the desktop needs the GPU too.
pub const SUBMISSION_BUDGET: Duration = Duration::from_millis(100);

/// Replays are submitted together until they take this long: the cost of a submission, up to 50 us, is then small, and
/// the device does not wait long for the host to record them.
const LONG_ENOUGH: Duration = Duration::from_millis(1);

/// Bytes of the upload buffer: what the small writes of one submission have room for.
pub(super) const UPLOAD_BYTES: u64 = 1 << 18;

/// A write of more bytes is not small: it would be copied once more, which costs as much as a submission.
const LARGEST_SMALL: usize = 1 << 16;

/// Commands waiting to be submitted.
#[derive(Debug)]
pub(super) struct Pending {
    encoder: Option<wgpu::CommandEncoder>,
    /// What the upload buffer contains while these commands run.
    uploads: Vec<u8>,
    /// How long the replays among them take.
    replays: Duration,
}

impl Default for Pending {
    fn default() -> Self {
        Self { encoder: None, uploads: Vec::with_capacity(UPLOAD_BYTES as usize), replays: Duration::ZERO }
    }
}

impl Pending {
    pub(super) fn encoder(&mut self, device: &wgpu::Device) -> &mut wgpu::CommandEncoder {
        let new = || device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.encoder.get_or_insert_with(new)
    }
}

impl Gpu {
    /// The buffer that small writes are copied from.
    pub(super) fn make_upload_buffer(&self) -> Result<Arc<Buffer>> {
        self.make_buffer("uploads", UPLOAD_BYTES, wgpu::BufferUsages::COPY_SRC, false)
    }

    /// The pending commands. Whoever takes them must submit them before releasing the lock, so that no thread's
    /// later commands overtake its earlier ones.
    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Submits the pending commands, even if there are none. Returns what [`Gpu::send`] does.
    pub(super) fn send_pending(&self, pending: &mut Pending) -> (wgpu::SubmissionIndex, u32) {
        pending.encoder(&self.device);
        let encoder = pending.encoder.take().expect("it was just made");
        if let Some(buffer) = self.uploads.get().filter(|_| !pending.uploads.is_empty()) {
            // Earlier submissions have read the buffer when this write comes, later ones see the next.
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.queue.write_buffer(buffer.raw(), 0, &pending.uploads);
            pending.uploads.clear();
        }
        pending.replays = Duration::ZERO;
        self.send(encoder)
    }

    /// Submits the pending commands, if any. Errors show up at the next command or readback.
    pub fn flush(&self) {
        let mut pending = self.pending();
        if pending.encoder.is_some() {
            self.send_pending(&mut pending);
        }
    }

    /// Appends a small write to the pending commands; returns whether it was one.
    pub(super) fn write_small(&self, buffer: &Buffer, offset: u64, data: &[u8]) -> bool {
        let Some(uploads) = self.uploads.get().filter(|_| data.len() <= LARGEST_SMALL) else { return false };
        if data.is_empty() {
            return true;
        }
        let mut pending = self.pending();
        if pending.uploads.len() + data.len() > UPLOAD_BYTES as usize {
            self.send_pending(&mut pending);
        }
        let at = pending.uploads.len() as u64;
        pending.uploads.extend_from_slice(data);
        let encoder = pending.encoder(&self.device);
        encoder.copy_buffer_to_buffer(uploads.raw(), at, buffer.raw(), offset, data.len() as u64);
        true
    }

    /// Appends dispatches that together take `took` to the pending commands. These are submitted before if they would
    /// otherwise take longer than [`SUBMISSION_BUDGET`], and afterwards if they then take long enough.
    ///
    /// # Errors
    /// If the device is lost or reported an error.
    pub fn replay(&self, dispatches: &[BoundDispatch], took: Duration) -> Result<()> {
        let mut pending = self.pending();
        if !pending.replays.is_zero() && pending.replays + took > SUBMISSION_BUDGET {
            self.send_pending(&mut pending);
        }
        let mut pass = pending.encoder(&self.device).begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for dispatch in dispatches {
            self.encode_dispatch(dispatch, &mut pass);
        }
        drop(pass);
        pending.replays += took;
        if pending.replays >= LONG_ENOUGH {
            self.send_pending(&mut pending);
        }
        drop(pending);
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use crate::gpu::{Command, Gpu, Options, Region};

    use super::*;

    #[test]
    fn writes_keep_their_place_among_commands() {
        let gpu = Gpu::open(&Options::default().or_environment()).expect("the tests need an adapter");
        let region = |bytes| Region { buffer: gpu.allocate("data", bytes).expect("it is small"), offset: 0, bytes };
        // Small ones, more than the upload buffer has room for, and a large one now and then.
        let (words, count) = (LARGEST_SMALL / 4 / 8, 100);
        let (written, log) = (region(4 * 8 * words as u64 + 4), region(4 * count));
        let before = gpu.submitted();
        for index in 0..count as u32 {
            match index % 20 {
                19 => gpu.write(&written.buffer, 0, &vec![index; 8 * words + 1]),
                _ => gpu.write(&written.buffer, 0, &vec![index; words]),
            }
            let from = Region { bytes: 4, offset: 4 * (words as u64 - 1), ..written.clone() };
            let to = Region { bytes: 4, offset: 4 * u64::from(index), ..log.clone() };
            gpu.encode([Command::Copy { from: &from, to: &to }]).expect("the device works");
        }
        let read = gpu.read::<u32>(&[&log, &written]).expect("the device works");
        assert!(read[..count as usize].iter().copied().eq(0..count as u32), "{:?}", &read[..count as usize]);
        assert!(read[count as usize..].iter().all(|word| *word == 99));
        let sent = gpu.submitted() - before;
        // Before each large write, after the last, and whenever 32 small ones have filled the upload buffer: never.
        assert_eq!((sent.submissions, sent.writes, sent.readbacks), (6, 10, 1), "{sent:?}");
    }

    #[test]
    fn small_writes_that_have_no_room_are_submitted() {
        let gpu = Gpu::open(&Options::default().or_environment()).expect("the tests need an adapter");
        let data = Region { buffer: gpu.allocate("data", 1 << 16).expect("it is small"), offset: 0, bytes: 1 << 16 };
        let before = gpu.submitted();
        for index in 0..9_u32 {
            gpu.write(&data.buffer, 0, &vec![index; 1 << 14]);
        }
        assert!(gpu.read::<u32>(&[&data]).expect("the device works").iter().all(|word| *word == 8));
        let sent = gpu.submitted() - before;
        assert_eq!((sent.submissions, sent.writes), (3, 3), "four have room: {sent:?}");
    }
}

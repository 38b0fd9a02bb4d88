//! How long dispatches take, by the device's clock if it has one, otherwise by the host's.

use std::sync::Arc;
use std::time::Duration;

use maybe_async::maybe_async;
use web_time::Instant;

use super::device::{Buffer, Gpu};
use super::pipeline::{BoundDispatch, Region};
use super::submission::Command;
use crate::error::Result;

/// Dispatches whose timestamps fit in one query set: WebGPU allows 4096 queries, and each dispatch takes two.
const DISPATCHES_PER_SET: usize = 2048;

/// A query set and the buffer that it is resolved to; created once, when the device is opened.
#[derive(Debug)]
pub(super) struct Timestamps {
    queries: wgpu::QuerySet,
    buffer: Arc<Buffer>,
}

impl Timestamps {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let count = 2 * DISPATCHES_PER_SET as u32;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        Ok(Self {
            queries: gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count,
            }),
            buffer: gpu.make_buffer("timestamps", 8 * u64::from(count), usage, false)?,
        })
    }
}

/// When a dispatch ran.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// When it started. With the device's clock, the first dispatch of a replay starts when the
    /// host started to submit, and the others follow at the intervals that the device measured.
    pub start: Instant,
    /// How long it took; with the host's clock this includes the time of a submission.
    pub took: Duration,
    /// Whether its kernel had not run before.
    pub first: bool,
}

impl Gpu {
    /// Whether dispatches are timed by the device's clock; if not, the host's clock is used and each time includes
    /// that of a submission.
    pub fn has_timestamps(&self) -> bool {
        self.timestamps.is_some()
    }

    /// Runs dispatches one by one, each in its own submission, and returns when each ran.
    ///
    /// # Errors
    /// If the device is lost.
    #[maybe_async]
    pub async fn time(&self, dispatches: &[BoundDispatch]) -> Result<Vec<Timing>> {
        self.wait().await?;
        let start = Instant::now();
        let mut timings = Vec::with_capacity(dispatches.len());
        let Some(timestamps) = &self.timestamps else {
            for dispatch in dispatches {
                timings.push(self.time_on_host(dispatch).await?);
            }
            return Ok(timings);
        };
        for set in dispatches.chunks(DISPATCHES_PER_SET) {
            timings.extend(self.time_on_device(timestamps, set).await?);
        }
        // If the device's clock stands still, only the total time is known.
        if timings.iter().all(|timing| timing.took.is_zero()) {
            let share = start.elapsed() / dispatches.len().max(1) as u32;
            for (index, timing) in timings.iter_mut().enumerate() {
                (timing.start, timing.took) = (start + share * index as u32, share);
            }
        }
        Ok(timings)
    }

    #[maybe_async]
    async fn time_on_host(&self, dispatch: &BoundDispatch) -> Result<Timing> {
        let (start, first) = (Instant::now(), !dispatch.has_run());
        self.submit([Command::Dispatch(dispatch)])?;
        self.wait().await?;
        Ok(Timing { start, took: start.elapsed(), first })
    }

    #[maybe_async]
    async fn time_on_device(&self, timestamps: &Timestamps, dispatches: &[BoundDispatch]) -> Result<Vec<Timing>> {
        let Timestamps { queries, buffer } = timestamps;
        let count = 2 * dispatches.len() as u32;
        let begin = Instant::now();
        let mut first = Vec::with_capacity(dispatches.len());
        for (index, dispatch) in dispatches.iter().enumerate() {
            first.push(!dispatch.has_run());
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some(dispatch.shader),
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: queries,
                    beginning_of_pass_write_index: Some(2 * index as u32),
                    end_of_pass_write_index: Some(2 * index as u32 + 1),
                }),
            });
            self.encode_dispatch(dispatch, &mut pass);
            drop(pass);
            self.send(encoder);
            self.check()?;
        }
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.resolve_query_set(queries, 0..count, buffer.raw(), 0);
        self.send(encoder);
        let all = Region { buffer: buffer.clone(), offset: 0, bytes: 8 * u64::from(count) };
        let ticks: Vec<u64> = self.read(&[&all]).await?;
        let nanoseconds = f64::from(self.queue.get_timestamp_period());
        let between = |from: u64, to: u64| Duration::from_nanos((to.saturating_sub(from) as f64 * nanoseconds) as u64);
        let pairs = ticks.as_chunks::<2>().0;
        let zero = pairs.first().map_or(0, |[from, _]| *from);
        let timing = |([from, to], first): (&[u64; 2], bool)| Timing {
            start: begin + between(zero, *from),
            took: between(*from, *to),
            first,
        };
        Ok(pairs.iter().zip(first).map(timing).collect())
    }
}

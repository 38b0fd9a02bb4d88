//! How long dispatches take: by the device's own clock where it has one, else by the host's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::device::{Buffer, Gpu};
use super::pipeline::{BoundDispatch, Region};
use super::submission::Command;
use crate::error::Result;

/// Dispatches whose timestamps fit one set of queries: WebGPU allows 4096 queries, each takes two.
const A_SET: usize = 2048;

/// A set of queries and where they are resolved to; made once, when the device is opened.
#[derive(Debug)]
pub(super) struct Timestamps {
    queries: wgpu::QuerySet,
    buffer: Arc<Buffer>,
}

impl Timestamps {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let count = 2 * A_SET as u32;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        Ok(Self {
            queries: gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count,
            }),
            buffer: gpu.make_buffer("timestamps", 8 * u64::from(count), usage)?,
        })
    }
}

impl Gpu {
    /// Runs dispatches one by one, each in a submission of its own, and says how long each took.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn time(&self, dispatches: &[BoundDispatch]) -> Result<Vec<Duration>> {
        self.wait()?;
        let start = Instant::now();
        let Some(timestamps) = &self.timestamps else {
            return dispatches.iter().map(|dispatch| self.time_on_host(dispatch)).collect();
        };
        let mut times = Vec::with_capacity(dispatches.len());
        for set in dispatches.chunks(A_SET) {
            times.extend(self.time_on_device(timestamps, set)?);
        }
        // A clock that stands still says nothing; then all that is known is the time of the whole.
        if times.iter().all(Duration::is_zero) {
            let share = start.elapsed() / dispatches.len().max(1) as u32;
            times.fill(share);
        }
        Ok(times)
    }

    fn time_on_host(&self, dispatch: &BoundDispatch) -> Result<Duration> {
        let start = Instant::now();
        self.submit([Command::Dispatch(dispatch)])?;
        self.wait()?;
        Ok(start.elapsed())
    }

    fn time_on_device(&self, timestamps: &Timestamps, dispatches: &[BoundDispatch]) -> Result<Vec<Duration>> {
        let Timestamps { queries, buffer } = timestamps;
        let count = 2 * dispatches.len() as u32;
        for (index, dispatch) in dispatches.iter().enumerate() {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some(dispatch.shader),
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: queries,
                    beginning_of_pass_write_index: Some(2 * index as u32),
                    end_of_pass_write_index: Some(2 * index as u32 + 1),
                }),
            });
            dispatch.encode(&mut pass);
            drop(pass);
            self.send(encoder);
            self.check()?;
        }
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.resolve_query_set(queries, 0..count, buffer.raw(), 0);
        self.send(encoder);
        let ticks: Vec<u64> =
            self.read(&[&Region { buffer: buffer.clone(), offset: 0, bytes: 8 * u64::from(count) }])?;
        let nanoseconds = f64::from(self.queue.get_timestamp_period());
        let duration =
            |[from, to]: &[u64; 2]| Duration::from_nanos((to.saturating_sub(*from) as f64 * nanoseconds) as u64);
        Ok(ticks.as_chunks::<2>().0.iter().map(duration).collect())
    }
}

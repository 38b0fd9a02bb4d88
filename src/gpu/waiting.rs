//! Waiting for the device: a program blocks, a page in a browser must not.
//!
//! Everything that waits is written once, as an `async` function with the attribute `maybe_async`. In a browser it is that;
//! elsewhere the attribute removes `async` and `.await`, and the functions of this module block.

#[cfg(not(target_arch = "wasm32"))]
pub(super) use native::{Mark, mapped, outcome};
#[cfg(target_arch = "wasm32")]
pub(super) use web::{Mark, mapped, outcome};

use crate::error::Error;

/// The error for a readback that failed.
pub(super) fn unreadable(cause: impl std::fmt::Display) -> Error {
    Error::DeviceLost(format!("reading results from the device failed: {cause}"))
}

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::sync::atomic::Ordering;
    use std::sync::mpsc;

    use super::unreadable;
    use crate::error::{Error, Result};
    use crate::gpu::Gpu;

    /// The outcome of a request to the driver.
    pub(in crate::gpu) fn outcome<T>(request: impl Future<Output = T>) -> T {
        pollster::block_on(request)
    }

    /// The end of a submission.
    #[derive(Debug)]
    pub(in crate::gpu) struct Mark(wgpu::SubmissionIndex);

    /// Makes a buffer readable for the host, after everything submitted.
    pub(in crate::gpu) fn mapped(gpu: &Gpu, slice: &wgpu::BufferSlice<'_>) -> Result<()> {
        let (sender, receiver) = mpsc::channel();
        slice.map_async(wgpu::MapMode::Read, move |outcome| {
            // The receiver lives until the message is taken below; otherwise no one is waiting for it.
            let _ = sender.send(outcome);
        });
        gpu.wait()?;
        receiver.recv().map_err(unreadable)?.map_err(unreadable)
    }

    impl Gpu {
        /// Remembers a submission that has just been made.
        pub(in crate::gpu) fn mark_of(&self, index: wgpu::SubmissionIndex) -> Mark {
            Mark(index)
        }

        /// Waits until a submission is done.
        pub(in crate::gpu) fn reach(&self, mark: Mark) -> Result<()> {
            self.poll(wgpu::PollType::Wait { submission_index: Some(mark.0), timeout: None })
        }

        /// Waits until everything submitted is done.
        pub(in crate::gpu) fn drain(&self) -> Result<()> {
            self.poll(wgpu::PollType::wait_indefinitely())
        }

        /// Waits until everything written is on the device, so that the copies on the host are freed. Errors appear at the
        /// next command.
        pub(in crate::gpu) fn settle_writes(&self, bytes: u64) {
            self.queue.submit([]);
            let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
            self.bytes_waiting.store(bytes, Ordering::Relaxed);
        }

        fn poll(&self, until: wgpu::PollType) -> Result<()> {
            let polled = self.device.poll(until);
            self.check()?;
            match polled {
                Ok(_) => Ok(()),
                Err(cause) => Err(Error::DeviceLost(format!("waiting for the device failed: {cause}"))),
            }
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod web {
    use futures_channel::oneshot;

    use super::unreadable;
    use crate::error::Result;
    use crate::gpu::Gpu;

    /// The outcome of a request to the browser.
    pub(in crate::gpu) async fn outcome<T>(request: impl Future<Output = T>) -> T {
        request.await
    }

    /// The end of a submission.
    #[derive(Debug)]
    pub(in crate::gpu) struct Mark(oneshot::Receiver<()>);

    /// Makes a buffer readable for the host, after everything submitted.
    pub(in crate::gpu) async fn mapped(gpu: &Gpu, slice: &wgpu::BufferSlice<'_>) -> Result<()> {
        let (sender, receiver) = oneshot::channel();
        slice.map_async(wgpu::MapMode::Read, move |outcome| {
            let _ = sender.send(outcome);
        });
        let outcome = receiver.await;
        gpu.check()?;
        outcome.map_err(unreadable)?.map_err(unreadable)
    }

    impl Gpu {
        /// Remembers a submission that has just been made.
        pub(in crate::gpu) fn mark_of(&self, _: wgpu::SubmissionIndex) -> Mark {
            let (sender, receiver) = oneshot::channel();
            self.queue.on_submitted_work_done(move || {
                let _ = sender.send(());
            });
            Mark(receiver)
        }

        /// Waits until a submission is done.
        pub(in crate::gpu) async fn reach(&self, mark: Mark) -> Result<()> {
            // A device that is lost may never answer, and drops the sender.
            let _ = mark.0.await;
            self.check()
        }

        /// Waits until everything submitted is done.
        pub(in crate::gpu) async fn drain(&self) -> Result<()> {
            let (sender, receiver) = oneshot::channel();
            self.queue.on_submitted_work_done(move || {
                let _ = sender.send(());
            });
            let _ = receiver.await;
            self.check()
        }

        /// The browser has its own copies, and frees them.
        pub(in crate::gpu) fn settle_writes(&self, _: u64) {}
    }
}

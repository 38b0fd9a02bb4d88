//! The open device: buffers, transfers, counters, and what happens when it is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use maybe_async::maybe_async;

use super::adapter::{self, AdapterDescription, DeviceKind, LimitsMode, Matrices, Options};
use super::pending::Pending;
use super::pipeline::{Pipelines, Region};
use super::pipeline_cache::PipelineCache;
use super::profiler::Profiler;
use super::submission::{Finished, Readback};
use super::timing::Timestamps;
use super::tuning::Tuning;
use super::waiting::outcome;
use super::workspace::Workspace;
use crate::error::{Error, Result, Shortage};

/// A device buffer. Freed when the last owner drops it.
#[derive(Debug)]
pub struct Buffer {
    raw: wgpu::Buffer,
    held: Arc<AtomicU64>,
}

impl Buffer {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.raw.size()
    }

    pub(super) fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.held.fetch_sub(self.raw.size(), Ordering::Relaxed);
    }
}

/// The number of objects created so far; constant while a training loop runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Buffers created.
    pub buffers: u64,
    /// Pipelines created.
    pub pipelines: u64,
    /// Bind groups created.
    pub bind_groups: u64,
    /// Bytes of all live buffers.
    pub bytes_held: u64,
}

/// The work sent to the device so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// Submissions to the queue.
    pub submissions: u64,
    /// Dispatches in them, without those that count submissions.
    pub dispatches: u64,
    /// Writes by the host: one for all small ones of a submission, and one for each large one.
    pub writes: u64,
    /// Times that the host waited for a result and read it.
    pub readbacks: u64,
}

impl std::ops::Sub for Submitted {
    type Output = Self;

    /// What was sent since an earlier moment.
    fn sub(self, earlier: Self) -> Self {
        Self {
            submissions: self.submissions - earlier.submissions,
            dispatches: self.dispatches - earlier.dispatches,
            writes: self.writes - earlier.writes,
            readbacks: self.readbacks - earlier.readbacks,
        }
    }
}

/// Large stores are split into chunks of this size even if a device allows larger buffers: allocators find room for
/// them more easily.
const LARGEST_CHUNK: u64 = 1 << 30;

/// After so many bytes a write waits until those before are on the device: the driver's copies must not pile up on the
/// host.
const LARGEST_WRITE: usize = 1 << 24;

/// What went wrong on the device since the last check.
#[derive(Debug, Default)]
struct Trouble {
    lost: Option<String>,
    error: Option<Error>,
}

/// An open device.
#[derive(Debug)]
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    limits: wgpu::Limits,
    chunk_bytes: u64,
    description: AdapterDescription,
    pub(super) checked: bool,
    subgroups: bool,
    rounds_to_half: bool,
    matrices: Option<Matrices>,
    pub(super) pipelines: Mutex<Pipelines>,
    pub(super) pipeline_cache: Option<PipelineCache>,
    trouble: Arc<Mutex<Trouble>>,
    pub(super) timestamps: Option<Timestamps>,
    /// `None` only while the device is being opened.
    pub(super) finished: Option<Finished>,
    pub(super) readback: Mutex<Option<Readback>>,
    unused: OnceLock<Region>,
    /// Commands waiting to be submitted together.
    pub(super) pending: Mutex<Pending>,
    /// What small writes among them are copied from; not set only while the device is being opened.
    pub(super) uploads: OnceLock<Arc<Buffer>>,
    buffers_made: AtomicU64,
    pub(super) pipelines_made: AtomicU64,
    bind_groups_made: AtomicU64,
    bytes_held: Arc<AtomicU64>,
    /// Bytes written that may not be on the device yet.
    pub(super) bytes_waiting: AtomicU64,
    pub(super) submissions: AtomicU64,
    pub(super) dispatches: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) readbacks: AtomicU64,
    pub(super) profiler: OnceLock<Arc<Profiler>>,
    kernel_nanoseconds: AtomicU64,
    tuning: Arc<Tuning>,
    workspace: Workspace,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// Opens a device.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no adapter, none of that name, or the driver fails; [`Error::Input`] if a variable
    /// of the environment has an unknown value.
    #[maybe_async]
    pub async fn open(options: &Options) -> Result<Arc<Self>> {
        adapter::check_environment()?;
        let found = adapter::listed(&adapter::instance()).await;
        let (adapter, description) = adapter::choose(found, options.device.as_deref())?;
        if description.kind == DeviceKind::Cpu {
            log::warn!("{} is a software driver: everything runs on the CPU", description.name);
        }
        let (required_limits, wanted_features) = match options.limits {
            LimitsMode::Adapter => (
                adapter.limits(),
                wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::PIPELINE_CACHE,
            ),
            LimitsMode::WebgpuDefault => (wgpu::Limits::defaults(), wgpu::Features::empty()),
        };
        let mut required_features = adapter.features() & wanted_features;
        if adapter::is_on("FLOWDPPO_NO_SUBGROUPS") {
            required_features.remove(wgpu::Features::SUBGROUP);
        }
        let matrices = match options.matrices && required_features.contains(wgpu::Features::SUBGROUP) {
            true => Matrices::of(&adapter),
            false => None,
        };
        if matrices.is_some() {
            required_features |= Matrices::FEATURES;
        }
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("flowdppo-wgpu"),
            required_features,
            required_limits: required_limits.clone(),
            // Memory is planned before the run starts: large reserved blocks would only hide the real need.
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            experimental_features: match matrices {
                // SAFETY: nothing of the experimental features is used but products of matrices, whose kernel the op
                // tests compare with its twin.
                Some(_) => unsafe { wgpu::ExperimentalFeatures::enabled() },
                None => wgpu::ExperimentalFeatures::disabled(),
            },
            ..Default::default()
        });
        let opened = outcome(request).await;
        let (device, queue) =
            opened.map_err(|cause| Error::Device(format!("{} cannot open a device: {cause}", description.name)))?;

        let caches = options.pipeline_cache && required_features.contains(wgpu::Features::PIPELINE_CACHE);
        let pipeline_cache = caches.then(|| PipelineCache::load(&device, &adapter.get_info())).flatten();
        let trouble = Arc::new(Mutex::new(Trouble::default()));
        let seen = trouble.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                lock(&seen).lost.get_or_insert(message);
            }
        });
        let seen = trouble.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let error = match error {
                wgpu::Error::OutOfMemory { .. } => Shortage::Reported.into(),
                other => Error::failed(format!("the device reported: {other}")),
            };
            lock(&seen).error.get_or_insert(error);
        }));
        let bytes_held = Arc::new(AtomicU64::new(0));
        let tuning = Arc::new(Tuning::load(&description));
        let mut gpu = Self {
            timestamps: None,
            finished: None,
            unused: OnceLock::new(),
            readback: Mutex::default(),
            pending: Mutex::default(),
            uploads: OnceLock::new(),
            chunk_bytes: options.chunk_bytes.unwrap_or(LARGEST_CHUNK),
            limits: required_limits,
            subgroups: required_features.contains(wgpu::Features::SUBGROUP),
            rounds_to_half: adapter::rounds_to_half(&adapter),
            matrices,
            checked: options.checked,
            device,
            queue,
            description,
            pipelines: Mutex::default(),
            pipeline_cache,
            trouble,
            buffers_made: AtomicU64::new(0),
            pipelines_made: AtomicU64::new(0),
            bind_groups_made: AtomicU64::new(0),
            bytes_held,
            bytes_waiting: AtomicU64::new(0),
            submissions: AtomicU64::new(0),
            dispatches: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            readbacks: AtomicU64::new(0),
            profiler: OnceLock::new(),
            kernel_nanoseconds: AtomicU64::new(0),
            tuning,
            workspace: Workspace::default(),
        };
        gpu.finished = Some(Finished::new(&gpu)?);
        gpu.readback = Mutex::new(Some(Readback::new(&gpu)?));
        gpu.uploads.set(gpu.make_upload_buffer()?).expect("the device is just being opened");
        let unused = Region { buffer: gpu.allocate("unused", 256)?, offset: 0, bytes: 256 };
        gpu.unused.set(unused).expect("the device is just being opened");
        if required_features.contains(wgpu::Features::TIMESTAMP_QUERY) {
            gpu.timestamps = Some(Timestamps::new(&gpu)?);
        }
        log::info!("device: {} ({}, {})", gpu.description.name, gpu.description.backend, gpu.description.driver);
        Ok(Arc::new(gpu))
    }

    /// The adapter of the device.
    pub fn description(&self) -> &AdapterDescription {
        &self.description
    }

    /// Whether subgroup operations may be used.
    pub fn has_subgroups(&self) -> bool {
        self.subgroups
    }

    /// Whether kernels may round to 16 bits with the device's own instructions.
    pub fn rounds_to_half(&self) -> bool {
        self.rounds_to_half
    }

    /// The products of small matrices that kernels may use.
    pub fn matrices(&self) -> Option<Matrices> {
        self.matrices
    }

    /// Bound to bindings of a kernel that a dispatch does not use.
    pub fn unused(&self) -> &Region {
        self.unused.get().expect("the device is open")
    }

    /// The largest tensor that a kernel can be given, in bytes.
    pub fn binding_bytes(&self) -> u64 {
        // Kernels count elements in 32 bits. Up to 4 GiB there are 2^30, and no index that they form, even of
        // an invocation beyond the end, overflows.
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size).min(1 << 32)
    }

    /// The largest chunk of a store, in bytes.
    pub fn chunk_bytes(&self) -> Option<u64> {
        Some(self.chunk_bytes.min(self.binding_bytes()))
    }

    /// Objects created so far.
    pub fn counters(&self) -> Counters {
        Counters {
            buffers: self.buffers_made.load(Ordering::Relaxed),
            pipelines: self.pipelines_made.load(Ordering::Relaxed),
            bind_groups: self.bind_groups_made.load(Ordering::Relaxed),
            bytes_held: self.bytes_held.load(Ordering::Relaxed),
        }
    }

    /// The work submitted so far.
    pub fn submitted(&self) -> Submitted {
        Submitted {
            submissions: self.submissions.load(Ordering::Relaxed),
            dispatches: self.dispatches.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            readbacks: self.readbacks.load(Ordering::Relaxed),
        }
    }

    /// The kernels that `bench --tune` found fastest on this adapter; empty if it has not been run.
    pub fn tuning(&self) -> &Arc<Tuning> {
        &self.tuning
    }

    /// The memory that plans on this device share.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Time that replays have spent in kernels so far, computed from the earlier timing of each plan's dispatches.
    pub fn kernel_time(&self) -> Duration {
        Duration::from_nanos(self.kernel_nanoseconds.load(Ordering::Relaxed))
    }

    /// Adds a replay to [`Gpu::kernel_time`].
    pub(crate) fn add_kernel_time(&self, time: Duration) {
        self.kernel_nanoseconds.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// A zeroed buffer that kernels can use, of at least 4 bytes.
    ///
    /// # Errors
    /// If it is larger than the device allows, or than its memory.
    pub fn allocate(&self, label: &str, bytes: u64) -> Result<Arc<Buffer>> {
        self.make_buffer(label, bytes, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC, false)
    }

    /// [`Gpu::allocate`] for what is smaller if fewer samples are computed together.
    ///
    /// # Errors
    /// As [`Gpu::allocate`]; a message may advise a smaller batch.
    pub fn allocate_for_batch(&self, label: &str, bytes: u64) -> Result<Arc<Buffer>> {
        self.make_buffer(label, bytes, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC, true)
    }

    pub(super) fn allocate_uniform(&self, label: &str, bytes: u64) -> Result<Arc<Buffer>> {
        self.make_buffer(label, bytes, wgpu::BufferUsages::UNIFORM, false)
    }

    pub(super) fn make_buffer(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
        of_batch: bool,
    ) -> Result<Arc<Buffer>> {
        let size = bytes.next_multiple_of(4).max(4);
        if size > self.limits.max_buffer_size {
            let (name, limit) = (format!("the buffer `{label}`"), self.limits.max_buffer_size);
            return Err(Shortage::Piece { name, needed: size, limit, of_batch }.into());
        }
        let raw = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: usage | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.buffers_made.fetch_add(1, Ordering::Relaxed);
        self.bytes_held.fetch_add(size, Ordering::Relaxed);
        let buffer = Arc::new(Buffer { raw, held: self.bytes_held.clone() });
        self.check()?;
        Ok(buffer)
    }

    /// Checks the memory that a plan needs against the device's, before anything is allocated.
    ///
    /// # Errors
    /// [`Shortage::Total`]. If the backend does not report its memory, this check always passes
    /// and the allocation itself decides. `FLOWDPPO_MEMORY_LIMIT_MIB` sets a smaller limit.
    pub fn check_memory(&self, bytes: u64) -> Result<()> {
        let available = adapter::memory_limit().or(self.description.memory_bytes);
        match available {
            Some(available) if bytes > available => {
                Err(Shortage::Total { needed: bytes, available, device: self.description.name.clone() }.into())
            }
            _ => Ok(()),
        }
    }

    /// Writes to a buffer. Everything encoded or submitted later sees the write, nothing earlier does. A small write joins
    /// the pending commands; a large one submits them first.
    pub fn write<T: bytemuck::NoUninit>(&self, buffer: &Buffer, offset: u64, data: &[T]) {
        let data: &[u8] = bytemuck::cast_slice(data);
        if self.write_small(buffer, offset, data) {
            return;
        }
        self.flush();
        for (index, piece) in data.chunks(LARGEST_WRITE).enumerate() {
            let waiting = self.bytes_waiting.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if waiting > 0 && waiting + piece.len() as u64 > LARGEST_WRITE as u64 {
                self.settle_writes(piece.len() as u64);
            }
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.queue.write_buffer(&buffer.raw, offset + (index * LARGEST_WRITE) as u64, piece);
        }
    }

    /// Reports the first error of the device, if there was one.
    ///
    /// # Errors
    /// That error.
    pub fn check(&self) -> Result<()> {
        let mut trouble = lock(&self.trouble);
        if let Some(message) = &trouble.lost {
            return Err(Error::DeviceLost(format!(
                "the device {} was lost ({}): saved files are intact; run the command again, and continue train with \
                 --resume",
                self.description.name,
                message.lines().next().unwrap_or("no reason given")
            )));
        }
        trouble.error.take().map_or(Ok(()), Err)
    }

    /// Marks the device as lost, as if the driver had crashed: everything afterwards fails with
    /// [`Error::DeviceLost`]. For tests of that path.
    pub fn lose(&self) {
        lock(&self.trouble).lost = Some("given up on purpose".into());
        self.device.destroy();
    }

    pub(super) fn bind_group(&self, descriptor: &wgpu::BindGroupDescriptor<'_>) -> wgpu::BindGroup {
        self.bind_groups_made.fetch_add(1, Ordering::Relaxed);
        self.device.create_bind_group(descriptor)
    }

    pub(super) fn check_binding(&self, bytes: u64) -> Result<()> {
        let most = self.binding_bytes();
        if bytes > most {
            return Err(Shortage::Piece { name: "a tensor".into(), needed: bytes, limit: most, of_batch: true }.into());
        }
        Ok(())
    }
}

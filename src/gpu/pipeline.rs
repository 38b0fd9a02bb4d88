//! Kernels, their bindings, and the pipelines created from them.

use std::collections::{HashMap, HashSet};
#[cfg(not(target_arch = "wasm32"))]
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use web_time::Instant;

use super::device::{Buffer, Gpu};
use super::layout::Params;
use super::shader;
use crate::error::Result;

/// A shader with its constants, which together determine the pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// File name in `shaders/` without the extension.
    pub shader: &'static str,
    /// Constants of the file, with the values that replace the defaults.
    pub constants: Vec<(&'static str, u32)>,
}

impl Kernel {
    /// A kernel with the default constants of its file.
    pub fn new(shader: &'static str) -> Self {
        Self { shader, constants: Vec::new() }
    }

    /// The same kernel with one constant replaced.
    pub fn with(mut self, constant: &'static str, value: u32) -> Self {
        self.constants.push((constant, value));
        self
    }
}

/// A range of a buffer.
#[derive(Clone, Debug)]
pub struct Region {
    /// The buffer.
    pub buffer: Arc<Buffer>,
    /// First byte; a multiple of 256.
    pub offset: u64,
    /// Number of bytes, a multiple of 4.
    pub bytes: u64,
}

/// One dispatch: `B` is how tensors are referred to (graph tensors while recording, [`Region`]s when bound).
///
/// The bindings of group 0 are, in this order: the uniform parameters at binding 0, the tensors that are only
/// read, and those that are written.
#[derive(Clone, Debug)]
pub struct Dispatch<B> {
    /// The kernel.
    pub kernel: Kernel,
    /// Tensors that are only read.
    pub reads: Vec<B>,
    /// Tensors that are written (and may be read).
    pub writes: Vec<B>,
    /// The uniform struct.
    pub params: Params,
    /// Workgroups along x, y, z.
    pub grid: [u32; 3],
}

/// Folds a number of workgroups into two dimensions of at most 65 535, the limit that WebGPU guarantees.
/// Shaders undo this with `linear_workgroup` and must guard the remainder. A larger number would need tensors
/// that no device can allocate, and binding those fails.
pub fn grid_1d(workgroups: u64) -> [u32; 3] {
    const MAX: u64 = 65_535;
    let workgroups = workgroups.clamp(1, MAX * MAX);
    let y = workgroups.div_ceil(MAX);
    let x = workgroups.div_ceil(y);
    [x as u32, y as u32, 1]
}

/// A dispatch with its pipeline and bind group, ready to replay.
#[derive(Debug)]
pub struct BoundDispatch {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    grid: [u32; 3],
    /// The bind group keeps this buffer alive in any case, so it is counted as held.
    _params: Arc<Buffer>,
    /// The shader's name, for tables and traces.
    pub shader: &'static str,
}

impl BoundDispatch {
    /// Whether its kernel has run in this process, here or elsewhere, so that the driver has compiled it.
    pub fn has_run(&self) -> bool {
        self.pipeline.ran.load(Ordering::Relaxed)
    }

    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.pipeline.ran.store(true, Ordering::Relaxed);
        pass.set_pipeline(&self.pipeline.raw);
        pass.set_bind_group(0, &self.bind_group, &[]);
        let [x, y, z] = self.grid;
        pass.dispatch_workgroups(x, y, z);
    }
}

/// What identifies a pipeline: its kernel, and the number of tensors it reads and writes.
pub(super) type Key = (Kernel, usize, usize);

/// A compiled kernel.
#[derive(Debug)]
pub(super) struct Pipeline {
    raw: wgpu::ComputePipeline,
    /// The struct that its shader declares as its parameters.
    params: Option<String>,
    /// Whether it has been submitted at least once.
    ran: AtomicBool,
}

/// Pipelines by kernel, created on first use.
pub(super) type Pipelines = HashMap<Key, Arc<Pipeline>>;

/// The struct that a shader declares as its parameters.
fn declared_params(wgsl: &str) -> Option<&str> {
    wgsl.lines().find_map(|line| line.strip_prefix("@group(0) @binding(0) var<uniform> params: ")?.strip_suffix(';'))
}

fn create(gpu: &Gpu, (kernel, reads, writes): &Key) -> Pipeline {
    let (device, checked, reads) = (&gpu.device, gpu.checked, *reads);
    let wgsl = shader::source(kernel.shader, &kernel.constants);
    let params = declared_params(&wgsl).map(str::to_owned);
    let source =
        wgpu::ShaderModuleDescriptor { label: Some(kernel.shader), source: wgpu::ShaderSource::Wgsl(wgsl.into()) };
    let module = if checked {
        device.create_shader_module(source)
    } else {
        // SAFETY: the text is our own and constant; the op tests also run with all checks on, where an
        // out-of-bounds index would change results.
        unsafe { device.create_shader_module_trusted(source, wgpu::ShaderRuntimeChecks::unchecked()) }
    };
    let entries: Vec<wgpu::BindGroupLayoutEntry> = (0..=reads + *writes)
        .map(|binding| wgpu::BindGroupLayoutEntry {
            binding: binding as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match binding {
                    0 => wgpu::BufferBindingType::Uniform,
                    _ => wgpu::BufferBindingType::Storage { read_only: binding <= reads },
                },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    let layout = device
        .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(kernel.shader), entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(kernel.shader),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let raw = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(kernel.shader),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: checked,
            ..Default::default()
        },
        cache: gpu.pipeline_cache.as_ref().map(|cache| &cache.raw),
    });
    Pipeline { raw, params, ran: AtomicBool::new(false) }
}

/// Bytes between the parameters of two dispatches: the largest alignment that WebGPU allows a device to
/// require.
pub const PARAMS_STRIDE: u64 = 256;

impl Gpu {
    /// A pipeline for each dispatch. Missing ones are compiled on all cores, because most of the start-up time is
    /// spent here.
    fn pipelines_for(&self, dispatches: &[Dispatch<Region>]) -> Vec<Arc<Pipeline>> {
        let key = |dispatch: &Dispatch<Region>| (dispatch.kernel.clone(), dispatch.reads.len(), dispatch.writes.len());
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = dispatches.iter().map(key);
        let missing: HashSet<Key> = keys.filter(|key| !pipelines.contains_key(key)).collect();
        let (missing, start) = (Vec::from_iter(missing), Instant::now());
        let made = self.compile(&missing);
        if !made.is_empty() {
            log::debug!("{} pipelines made in {} ms", made.len(), start.elapsed().as_millis());
            self.pipelines_made.fetch_add(made.len() as u64, Ordering::Relaxed);
        }
        pipelines.extend(made.into_iter().map(|(key, pipeline)| (key, Arc::new(pipeline))));
        dispatches.iter().map(|dispatch| pipelines[&key(dispatch)].clone()).collect()
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn compile(&self, missing: &[Key]) -> Vec<(Key, Pipeline)> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
        let share = |first: usize| {
            let mine = missing.iter().skip(first).step_by(threads);
            mine.map(|key| (key.clone(), create(self, key))).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|first| scope.spawn(move || share(first))).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        })
    }

    /// A page has one thread, and its browser compiles in others.
    #[cfg(target_arch = "wasm32")]
    fn compile(&self, missing: &[Key]) -> Vec<(Key, Pipeline)> {
        missing.iter().map(|key| (key.clone(), create(self, key))).collect()
    }

    /// Creates pipelines, parameters and bind groups for a list of dispatches.
    ///
    /// # Errors
    /// If the driver rejects a kernel, a region is larger than a kernel may access, or memory runs out.
    ///
    /// # Panics
    /// If parameters are not those of their shader: a bug in this program, which any test of the kernel finds.
    pub fn bind(&self, dispatches: &[Dispatch<Region>]) -> Result<Vec<BoundDispatch>> {
        let params = self.allocate_uniform("parameters", PARAMS_STRIDE * dispatches.len().max(1) as u64)?;
        let mut bytes = vec![0_u8; params.bytes() as usize];
        let mut bound = Vec::with_capacity(dispatches.len());
        for (index, (dispatch, pipeline)) in dispatches.iter().zip(self.pipelines_for(dispatches)).enumerate() {
            let (shader, own) = (dispatch.kernel.shader, &dispatch.params.bytes);
            assert_eq!(pipeline.params.as_deref(), dispatch.params.name, "{shader}.wgsl has its own parameters");
            bytes[index * PARAMS_STRIDE as usize..][..own.len()].copy_from_slice(own);
            let size_of_params = (own.len() as u64).next_multiple_of(16).max(16);
            let mut entries = vec![entry(0, &params, index as u64 * PARAMS_STRIDE, size_of_params)];
            for region in dispatch.reads.iter().chain(&dispatch.writes) {
                self.check_binding(region.bytes)?;
                entries.push(entry(entries.len() as u32, &region.buffer, region.offset, region.bytes));
            }
            let bind_group = self.bind_group(&wgpu::BindGroupDescriptor {
                label: Some(dispatch.kernel.shader),
                layout: &pipeline.raw.get_bind_group_layout(0),
                entries: &entries,
            });
            bound.push(BoundDispatch {
                pipeline,
                bind_group,
                grid: dispatch.grid,
                _params: params.clone(),
                shader: dispatch.kernel.shader,
            });
        }
        self.write(&params, 0, &bytes);
        self.check()?;
        Ok(bound)
    }
}

fn entry(binding: u32, buffer: &Buffer, offset: u64, bytes: u64) -> wgpu::BindGroupEntry<'_> {
    wgpu::BindGroupEntry {
        binding,
        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: buffer.raw(),
            offset,
            size: std::num::NonZeroU64::new(bytes),
        }),
    }
}

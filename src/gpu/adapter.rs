//! Lists the adapters with what they support, and chooses one.

use maybe_async::maybe_async;
use serde::Serialize;

use super::waiting::outcome;
use crate::error::{Error, Result};

/// The limits that the device is opened with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum LimitsMode {
    /// Everything that the adapter supports.
    #[default]
    Adapter,
    /// Only what WebGPU guarantees everywhere, and no optional features: shows how a minimal WebGPU device
    /// would behave.
    WebgpuDefault,
}

impl LimitsMode {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adapter => "adapter",
            Self::WebgpuDefault => "webgpu-default",
        }
    }
}

/// How to open a device.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Part of an adapter's name, or its index in [`adapters`]; `None` picks the best one.
    pub device: Option<String>,
    /// The limits to request.
    pub limits: LimitsMode,
    /// Turns all run-time checks in shaders back on (bounds, loop limits, zeroed workgroup memory).
    pub checked: bool,
    /// Caches compiled pipelines on disk, in [`crate::cache::directory`], if the backend can.
    pub pipeline_cache: bool,
    /// Also asks for products of small matrices, if the adapter has [`Matrices`]: an experimental feature of wgpu, which
    /// only products of 16 bits use.
    pub matrices: bool,
    /// Splits stores into chunks of at most this size even if the device allows more: for tests.
    pub chunk_bytes: Option<u64>,
}

impl Options {
    /// Fills in options that the caller did not set from `FLOWDPPO_DEVICE`, `FLOWDPPO_LIMITS` and
    /// `FLOWDPPO_CHECKED`, so that a complete test suite can run on another device or with other limits, and turns
    /// the pipeline cache off if `FLOWDPPO_NO_PIPELINE_CACHE` is set.
    pub fn or_environment(mut self) -> Self {
        self.device = self.device.or_else(|| variable("FLOWDPPO_DEVICE"));
        // Anything unknown is an error when a device is opened.
        if variable("FLOWDPPO_LIMITS").as_deref() == Some("webgpu-default") {
            self.limits = LimitsMode::WebgpuDefault;
        }
        self.checked |= is_on("FLOWDPPO_CHECKED");
        self.pipeline_cache &= !is_on("FLOWDPPO_NO_PIPELINE_CACHE");
        self
    }
}

/// An environment variable, if it is set and not empty.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a switch in the environment is on: set to something other than 0.
pub(super) fn is_on(name: &str) -> bool {
    variable(name).is_some_and(|value| value != "0")
}

/// `FLOWDPPO_MEMORY_LIMIT_MIB`, in bytes.
pub(super) fn memory_limit() -> Option<u64> {
    variable(MEMORY_LIMIT)?.parse::<u64>().ok()?.checked_mul(1 << 20)
}

const MEMORY_LIMIT: &str = "FLOWDPPO_MEMORY_LIMIT_MIB";

/// Checks the variables that change how a device is used: a misspelt value must not be ignored.
///
/// # Errors
/// [`Error::Input`] naming the variable and its valid values.
pub(super) fn check_environment() -> Result<()> {
    let wrong = |name: &str, value: &str, expected: &str| {
        Err(Error::input(format!("{name}={value} is not valid: it must be {expected}, or not set")))
    };
    if let Some(value) = variable("FLOWDPPO_LIMITS")
        && !["webgpu-default", "adapter"].contains(&value.as_str())
    {
        return wrong("FLOWDPPO_LIMITS", &value, "webgpu-default or adapter");
    }
    for name in ["FLOWDPPO_CHECKED", "FLOWDPPO_NO_SUBGROUPS", "FLOWDPPO_NO_PIPELINE_CACHE"] {
        if let Some(value) = variable(name)
            && !["0", "1"].contains(&value.as_str())
        {
            return wrong(name, &value, "0 or 1");
        }
    }
    match variable(MEMORY_LIMIT) {
        Some(value) if memory_limit().is_none() => wrong(MEMORY_LIMIT, &value, "a whole number of MiB"),
        _ => Ok(()),
    }
}

/// The kind of processor behind an adapter, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A GPU with its own memory.
    Discrete,
    /// A GPU that shares memory with the CPU.
    Integrated,
    /// A GPU passed to a virtual machine.
    Virtual,
    /// The driver does not say.
    Other,
    /// A software driver that runs on the CPU (lavapipe, SwiftShader, WARP).
    Cpu,
}

/// One adapter, as `devices` prints it, also with `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterDescription {
    /// Position in the list that `--device` accepts.
    pub index: usize,
    /// The driver's name for the device.
    pub name: String,
    /// Vulkan, Metal or DX12.
    pub backend: String,
    /// Driver name and version.
    pub driver: String,
    /// The kind of processor.
    pub kind: DeviceKind,
    /// The backend's number of the vendor: on PCI 4098 is AMD, 4318 NVIDIA, 32902 Intel.
    pub vendor_id: u32,
    /// The vendor's number of the device.
    pub device_id: u32,
    /// Size of the largest memory heap in bytes, if the backend reports it.
    pub memory_bytes: Option<u64>,
    /// Largest buffer, bytes.
    pub max_buffer_size: u64,
    /// Largest range of a buffer that a kernel can access, bytes.
    pub max_storage_buffer_binding_size: u64,
    /// Storage buffers that a kernel can access at once.
    pub max_storage_buffers_per_shader_stage: u32,
    /// Workgroup memory, bytes.
    pub max_compute_workgroup_storage_size: u32,
    /// Invocations per workgroup.
    pub max_compute_invocations_per_workgroup: u32,
    /// Workgroups along one dimension of a dispatch.
    pub max_compute_workgroups_per_dimension: u32,
    /// Whether subgroup operations are supported.
    pub subgroups: bool,
    /// Smallest and largest subgroup.
    pub subgroup_size: [u32; 2],
    /// Whether 16-bit floats are supported.
    pub shader_f16: bool,
    /// Whether timestamp queries are supported.
    pub timestamps: bool,
    /// The products of small matrices that the hardware computes in one instruction, such as
    /// "16x16x16, f16 added to f32"; `train.precision = "f16"` uses some of them.
    pub cooperative_matrices: Vec<String>,
}

/// All adapters, best first: a GPU always comes before a software driver.
///
/// `WGPU_BACKEND` restricts the backends. OpenGL is never used: its compute support is second-rate, and probing
/// it prints noise on machines without a display.
#[cfg(not(target_arch = "wasm32"))]
pub fn adapters() -> Vec<AdapterDescription> {
    listed(&instance()).into_iter().map(|(_, description)| description).collect()
}

pub(super) fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.backends &= wgpu::Backends::PRIMARY;
    wgpu::Instance::new(descriptor)
}

/// In a browser this is the adapter that it prefers, if any: it lists no others.
#[maybe_async]
pub(super) async fn listed(instance: &wgpu::Instance) -> Vec<(wgpu::Adapter, AdapterDescription)> {
    #[cfg(not(target_arch = "wasm32"))]
    let adapters = outcome(instance.enumerate_adapters(wgpu::Backends::all())).await;
    #[cfg(target_arch = "wasm32")]
    let adapters = outcome(instance.request_adapter(&wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    }))
    .await;
    let described = adapters.into_iter().map(|adapter| {
        let description = describe(&adapter);
        (adapter, description)
    });
    let mut found: Vec<(wgpu::Adapter, AdapterDescription)> = described.collect();
    found.sort_by_key(|(_, description)| description.kind);
    for (index, (_, description)) in found.iter_mut().enumerate() {
        description.index = index;
    }
    found
}

/// Picks the adapter that `wanted` (or `WGPU_ADAPTER_NAME`) refers to, or else the best one.
pub(super) fn choose(
    mut found: Vec<(wgpu::Adapter, AdapterDescription)>,
    wanted: Option<&str>,
) -> Result<(wgpu::Adapter, AdapterDescription)> {
    if found.is_empty() {
        return Err(Error::Device(
            "no Vulkan, Metal or DX12 adapter was found: install a graphics driver, or on a machine without a GPU \
             a software driver (`make setup` does this on Debian; package mesa-vulkan-drivers)"
                .into(),
        ));
    }
    let wanted = wanted.filter(|name| !name.is_empty()).map(str::to_owned).or_else(|| variable("WGPU_ADAPTER_NAME"));
    let position = match &wanted {
        None => Some(0),
        // A number that is not an index may still be part of a name: 4090.
        Some(wanted) => wanted.parse::<usize>().ok().filter(|index| *index < found.len()).or_else(|| {
            let wanted = wanted.to_lowercase();
            found.iter().position(|(_, description)| description.name.to_lowercase().contains(&wanted))
        }),
    };
    match position {
        Some(position) => Ok(found.swap_remove(position)),
        None => {
            let names: Vec<String> = found
                .iter()
                .map(|(_, description)| {
                    format!("{} = {} ({})", description.index, description.name, description.backend)
                })
                .collect();
            Err(Error::Device(format!(
                "no adapter matches `{}`: use part of a name or an index from this list: {}",
                wanted.unwrap_or_default(),
                names.join(", ")
            )))
        }
    }
}

fn describe(adapter: &wgpu::Adapter) -> AdapterDescription {
    let info = adapter.get_info();
    let limits = adapter.limits();
    let features = adapter.features();
    AdapterDescription {
        index: 0,
        // Browsers keep it to themselves.
        name: if info.name.is_empty() { "this device".to_owned() } else { info.name },
        backend: format!("{:?}", info.backend),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => DeviceKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => DeviceKind::Integrated,
            wgpu::DeviceType::VirtualGpu => DeviceKind::Virtual,
            wgpu::DeviceType::Cpu => DeviceKind::Cpu,
            wgpu::DeviceType::Other => DeviceKind::Other,
        },
        vendor_id: info.vendor,
        device_id: info.device,
        memory_bytes: memory_bytes(adapter),
        max_buffer_size: limits.max_buffer_size,
        max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
        max_storage_buffers_per_shader_stage: limits.max_storage_buffers_per_shader_stage,
        max_compute_workgroup_storage_size: limits.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: limits.max_compute_invocations_per_workgroup,
        max_compute_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        subgroup_size: [info.subgroup_min_size, info.subgroup_max_size],
        shader_f16: features.contains(wgpu::Features::SHADER_F16),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        cooperative_matrices: adapter.cooperative_matrix_properties().iter().map(matrices).collect(),
    }
}

/// Whether an adapter rounds to the nearest number of 16 bits with instructions of its own.
pub(super) fn rounds_to_half(adapter: &wgpu::Adapter) -> bool {
    // SwiftShader cuts off bits instead, which WGSL allows.
    let cuts_off = adapter.get_info().name.contains("SwiftShader");
    !cuts_off && adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::SHADER_F16_IN_F32)
}

/// Products of square matrices of 16 bits, with sums in 32 bits, that the lanes of a subgroup compute together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrices {
    /// Rows and columns of all three matrices: 8 or 16.
    pub side: u32,
    /// The largest subgroup of the device.
    pub lanes: u32,
}

impl Matrices {
    /// The largest that an adapter has, if it has any and room for the tiles in workgroup memory.
    pub(super) fn of(adapter: &wgpu::Adapter) -> Option<Self> {
        use wgpu::CooperativeScalarType::{F16, F32};
        let (limits, lanes) = (adapter.limits(), adapter.get_info().subgroup_max_size);
        let has_features = adapter.features().contains(Self::FEATURES);
        let has_room = limits.max_compute_workgroup_storage_size >= Self::WORKGROUP_BYTES
            && limits.max_compute_invocations_per_workgroup >= 4 * lanes;
        let properties = adapter.cooperative_matrix_properties();
        let sides =
            properties.iter().filter(|it| it.ab_type == F16 && it.cr_type == F32 && !it.saturating_accumulation);
        let square = sides.filter(|it| it.m_size == it.n_size && it.n_size == it.k_size).map(|it| it.m_size);
        let side = square.filter(|side| [8, 16].contains(side)).max()?;
        (has_features && has_room && lanes > 0).then_some(Self { side, lanes })
    }

    /// What their kernels need.
    pub(super) const FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        .union(wgpu::Features::SHADER_F16)
        .union(wgpu::Features::SUBGROUP);

    /// Their workgroup memory is above WebGPU's default limit; devices with such products have at least this much.
    const WORKGROUP_BYTES: u32 = 32 << 10;
}

fn matrices(of: &wgpu::CooperativeMatrixProperties) -> String {
    let [factors, sum] = [of.ab_type, of.cr_type].map(|scalar| format!("{scalar:?}").to_lowercase());
    let saturating = if of.saturating_accumulation { ", saturating" } else { "" };
    format!("{}x{}x{}, {factors} added to {sum}{saturating}", of.m_size, of.n_size, of.k_size)
}

/// Size of the largest device-local heap. wgpu exposes it only for Vulkan.
#[cfg(not(any(target_vendor = "apple", target_arch = "wasm32")))]
fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the handles are only read from, and do not outlive this function.
    let hal = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = hal.shared_instance().raw_instance();
    // SAFETY: both handles are alive as long as `hal` is.
    let memory = unsafe { instance.get_physical_device_memory_properties(hal.raw_physical_device()) };
    // Bit 0 is DEVICE_LOCAL: the other heaps are host memory.
    let local = memory.memory_heaps_as_slice().iter().filter(|heap| heap.flags.as_raw() & 1 == 1);
    local.map(|heap| heap.size).max()
}

#[cfg(any(target_vendor = "apple", target_arch = "wasm32"))]
fn memory_bytes(_: &wgpu::Adapter) -> Option<u64> {
    None
}

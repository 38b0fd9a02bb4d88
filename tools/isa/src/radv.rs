//! Mesa's driver for AMD GPUs without a GPU: it compiles pipelines and says what they need, but runs nothing.
//!
//! The device has the features that wgpu turns on, above all robust access to buffers: with it the driver must not merge
//! loads of neighbouring elements into wider ones. Modules are translated as wgpu does without run-time checks.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::path::PathBuf;

use ash::vk;
use naga::back::spv;
use naga::front::wgsl::{Frontend, Options};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// Where distributions put the driver's manifest.
const MANIFESTS: [&str; 4] = [
    "/usr/share/vulkan/icd.d/radeon_icd.json",
    "/usr/share/vulkan/icd.d/radeon_icd.x86_64.json",
    "/etc/vulkan/icd.d/radeon_icd.json",
    "/etc/vulkan/icd.d/radeon_icd.x86_64.json",
];

/// The manifest of the driver, if it is installed.
pub fn manifest() -> Option<PathBuf> {
    MANIFESTS.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Why there is no result.
#[derive(Debug)]
pub enum Problem {
    /// This machine lacks the driver, or has one without the device for compilation.
    NoDriver(String),
    /// The driver or naga rejected something.
    Failed(String),
}

impl Problem {
    fn of(what: &str) -> impl Fn(vk::Result) -> Self {
        move |code| Self::Failed(format!("{what} failed: {code}"))
    }
}

/// What a pipeline needs, by the driver's names.
#[derive(Debug)]
pub struct Statistics {
    /// Lanes of a subgroup.
    pub subgroup: u32,
    values: BTreeMap<String, u64>,
}

impl Statistics {
    /// A number; `None` if the driver does not report it.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.values.get(name).copied()
    }
}

/// A device of a GPU family without hardware.
pub struct Compiler {
    device: ash::Device,
    /// Whether the family has instructions for products of matrices.
    pub has_matrices: bool,
    properties: ash::khr::pipeline_executable_properties::Device,
    instance: ash::Instance,
    // Closes the library when it is dropped.
    _entry: ash::Entry,
}

impl Compiler {
    /// Opens the device that the environment variables `VK_DRIVER_FILES` and `RADV_FORCE_FAMILY` select.
    pub fn open(family: &str) -> Result<Self, Problem> {
        // SAFETY: the loader is a library that any Vulkan program runs; everything made with it is destroyed by
        // `Drop` in the opposite order, before the library is closed.
        unsafe {
            let entry = ash::Entry::load()
                .map_err(|cause| Problem::NoDriver(format!("the Vulkan loader cannot be opened: {cause}")))?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let instance = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = entry.create_instance(&instance, None).map_err(Problem::of("opening the driver"))?;
            let physical = find(&instance, family).inspect_err(|_| instance.destroy_instance(None))?;
            let has_matrices = has_matrices(&instance, physical).inspect_err(|_| instance.destroy_instance(None))?;
            let device =
                create_device(&instance, physical, has_matrices).inspect_err(|_| instance.destroy_instance(None))?;
            let properties = ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Self { device, has_matrices, properties, instance, _entry: entry })
        }
    }

    /// Compiles the entry point `main` of a shader.
    pub fn compile(&self, wgsl: &str) -> Result<Statistics, Problem> {
        let (module, words) = translate(wgsl).map_err(Problem::Failed)?;
        let bindings = bindings(&module);
        // SAFETY: the module is valid SPIR-V, and every handle is destroyed after its last use.
        unsafe {
            let device = &self.device;
            let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let set =
                device.create_descriptor_set_layout(&set, None).map_err(Problem::of("describing the bindings"))?;
            let sets = [set];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout =
                device.create_pipeline_layout(&layout, None).map_err(Problem::of("describing the pipeline"))?;
            let shader = vk::ShaderModuleCreateInfo::default().code(&words);
            let shader = device.create_shader_module(&shader, None).map_err(Problem::of("loading the shader"))?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(shader)
                .name(c"main")
                .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE);
            let pipeline = vk::ComputePipelineCreateInfo::default()
                .stage(stage)
                .layout(layout)
                .flags(vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR);
            let made = device.create_compute_pipelines(vk::PipelineCache::null(), &[pipeline], None);
            let statistics = made.map_err(|(_, code)| Problem::of("compiling")(code)).and_then(|pipelines| {
                let statistics = self.statistics(pipelines[0]);
                device.destroy_pipeline(pipelines[0], None);
                statistics
            });
            device.destroy_shader_module(shader, None);
            device.destroy_pipeline_layout(layout, None);
            device.destroy_descriptor_set_layout(set, None);
            statistics
        }
    }

    /// # Safety
    /// The pipeline must be of this device, and have been created to capture statistics.
    unsafe fn statistics(&self, pipeline: vk::Pipeline) -> Result<Statistics, Problem> {
        let failed = Problem::of("reading the statistics");
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        let executable = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(0);
        // SAFETY: as the caller guarantees.
        let (executables, statistics) = unsafe {
            let executables = self.properties.get_pipeline_executable_properties(&info).map_err(&failed)?;
            (executables, self.properties.get_pipeline_executable_statistics(&executable).map_err(&failed)?)
        };
        let subgroup = executables.first().map_or(0, |executable| executable.subgroup_size);
        let mut values = BTreeMap::new();
        for statistic in &statistics {
            let name = statistic.name_as_c_str().map_err(|_| Problem::Failed("a statistic has no name".into()))?;
            if statistic.format == vk::PipelineExecutableStatisticFormatKHR::UINT64 {
                // SAFETY: the format says which field is set.
                values.insert(name.to_string_lossy().into_owned(), unsafe { statistic.value.u64 });
            }
        }
        Ok(Statistics { subgroup, values })
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        // SAFETY: nothing made with them is left.
        unsafe {
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}

/// The device of this family.
///
/// # Safety
/// The instance must be alive.
unsafe fn find(instance: &ash::Instance, family: &str) -> Result<vk::PhysicalDevice, Problem> {
    // SAFETY: as the caller guarantees.
    let devices = unsafe { instance.enumerate_physical_devices() }.map_err(Problem::of("listing devices"))?;
    let mut names = Vec::new();
    for device in devices {
        // SAFETY: the device comes from this instance.
        let properties = unsafe { instance.get_physical_device_properties(device) };
        let name = properties.device_name_as_c_str().unwrap_or_default().to_string_lossy().into_owned();
        // "Null hardware (RADV NAVI31)".
        if name.to_lowercase().contains(&format!("radv {}", family.to_lowercase())) {
            return Ok(device);
        }
        names.push(name);
    }
    Err(Problem::NoDriver(format!(
        "the driver has no device for compilation of the family {family} ({}): Mesa has them up to 26.0, and Debian 12 has \
         Mesa 25 in bookworm-backports",
        if names.is_empty() { "it lists none".to_owned() } else { format!("it lists {}", names.join(", ")) }
    )))
}

/// # Safety
/// The physical device must be of the instance, which must be alive.
unsafe fn has_matrices(instance: &ash::Instance, physical: vk::PhysicalDevice) -> Result<bool, Problem> {
    // SAFETY: as the caller guarantees.
    let extensions = unsafe { instance.enumerate_device_extension_properties(physical) };
    let extensions = extensions.map_err(Problem::of("listing extensions"))?;
    let is_matrices = |name: &CStr| name == ash::khr::cooperative_matrix::NAME;
    Ok(extensions.iter().any(|extension| extension.extension_name_as_c_str().is_ok_and(is_matrices)))
}

/// # Safety
/// The physical device must be of the instance, which must be alive.
unsafe fn create_device(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    has_matrices: bool,
) -> Result<ash::Device, Problem> {
    let always: [&CStr; 2] = [ash::khr::pipeline_executable_properties::NAME, ash::ext::robustness2::NAME];
    let matrices = has_matrices.then_some(ash::khr::cooperative_matrix::NAME);
    let extensions: Vec<_> = always.into_iter().chain(matrices).map(CStr::as_ptr).collect();
    let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
    let features = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
    let mut subgroups = vk::PhysicalDeviceSubgroupSizeControlFeatures::default().subgroup_size_control(true);
    let mut robust =
        vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true).robust_image_access2(true);
    let mut statistics =
        vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
    let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
    let mut memory_model = vk::PhysicalDeviceVulkanMemoryModelFeatures::default()
        .vulkan_memory_model(true)
        .vulkan_memory_model_device_scope(true);
    let mut half = vk::PhysicalDeviceShaderFloat16Int8Features::default().shader_float16(true);
    let mut description = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&extensions)
        .enabled_features(&features)
        .push_next(&mut subgroups)
        .push_next(&mut robust)
        .push_next(&mut statistics);
    if has_matrices {
        description = description.push_next(&mut matrices).push_next(&mut memory_model).push_next(&mut half);
    }
    // SAFETY: as the caller guarantees.
    unsafe { instance.create_device(physical, &description, None) }.map_err(Problem::of("opening the device"))
}

/// SPIR-V as wgpu writes it for a driver of Vulkan 1.3 when run-time checks are off.
fn translate(wgsl: &str) -> Result<(naga::Module, Vec<u32>), String> {
    let capabilities = Capabilities::SUBGROUP
        | Capabilities::SHADER_FLOAT16
        | Capabilities::SHADER_FLOAT16_IN_FLOAT32
        | Capabilities::COOPERATIVE_MATRIX;
    let mut frontend = Frontend::new_with_options(Options { parse_doc_comments: false, capabilities });
    let module = frontend.parse(wgsl).map_err(|cause| cause.emit_to_string(wgsl))?;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .map_err(|cause| cause.emit_to_string(wgsl))?;
    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::empty(),
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..spv::Options::default()
    };
    let words = spv::write_vec(&module, &info, &options, None).map_err(|cause| cause.to_string())?;
    Ok((module, words))
}

fn bindings(module: &naga::Module) -> Vec<vk::DescriptorSetLayoutBinding<'static>> {
    let binding = |variable: &naga::GlobalVariable| {
        let kind = match variable.space {
            naga::AddressSpace::Uniform => vk::DescriptorType::UNIFORM_BUFFER,
            _ => vk::DescriptorType::STORAGE_BUFFER,
        };
        let place = variable.binding?;
        let binding = vk::DescriptorSetLayoutBinding::default().binding(place.binding).descriptor_count(1);
        Some(binding.stage_flags(vk::ShaderStageFlags::COMPUTE).descriptor_type(kind))
    };
    module.global_variables.iter().filter_map(|(_, variable)| binding(variable)).collect()
}

//! Translates one WGSL text with naga to every language that wgpu may pass to a driver.

use naga::back::{hlsl, msl, pipeline_constants::process_overrides, spv};
use naga::front::wgsl::{Frontend, Options};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, Scalar, ShaderStage, TypeInner};

/// The features beyond plain WebGPU that the program may use.
const OPTIONAL: Capabilities = Capabilities::SUBGROUP.union(Capabilities::SHADER_FLOAT16_IN_FLOAT32);

/// Those that a shader has to enable by name.
const ENABLED: [(Capabilities, &str); 2] =
    [(Capabilities::SHADER_FLOAT16, "f16"), (Capabilities::COOPERATIVE_MATRIX, "wgpu_cooperative_matrix")];

/// A validated shader.
#[derive(Debug)]
pub struct Shader {
    module: Module,
    info: ModuleInfo,
    /// What of [`OPTIONAL`] and [`ENABLED`] it is rejected without.
    pub needs: Capabilities,
}

/// A struct in the memory that host and shader share, as naga lays it out.
#[derive(Debug, PartialEq, Eq)]
pub struct SharedStruct {
    pub name: String,
    pub bytes: u32,
    /// Name, type and offset of each member.
    pub members: Vec<(String, String, u32)>,
}

/// The resources that one entry point uses.
#[derive(Debug, PartialEq, Eq)]
pub struct Usage {
    pub entry_point: String,
    pub storage_buffers: u32,
    pub workgroup_bytes: u32,
    pub invocations: u32,
}

impl Shader {
    /// Parses and validates, with no capability that the shader does not need.
    pub fn new(wgsl: &str) -> Result<Self, String> {
        let enabled = |(_, name): &&(Capabilities, &str)| wgsl.lines().any(|line| line == format!("enable {name};"));
        let enabled = ENABLED.iter().filter(enabled).fold(Capabilities::empty(), |all, (it, _)| all | *it);
        let options = Options { parse_doc_comments: false, capabilities: enabled };
        let module = Frontend::new_with_options(options).parse(wgsl).map_err(|e| e.emit_to_string(wgsl))?;
        if !module.entry_points.iter().any(|entry| entry.stage == ShaderStage::Compute) {
            return Err("no compute entry point".to_owned());
        }
        let validate = |capabilities| {
            let mut validator = Validator::new(ValidationFlags::all(), capabilities);
            validator.validate(&module).map_err(|e| e.emit_to_string(wgsl))
        };
        // The fewest that are enough.
        let mut tried = Err(String::new());
        for optional in
            [Capabilities::empty(), Capabilities::SUBGROUP, Capabilities::SHADER_FLOAT16_IN_FLOAT32, OPTIONAL]
        {
            let needs = enabled | optional;
            tried = validate(needs).map(|info| (info, needs));
            if tried.is_ok() {
                break;
            }
        }
        let (info, needs) = tried?;
        Ok(Self { module, info, needs })
    }

    /// Whether it needs subgroups.
    pub fn needs_subgroups(&self) -> bool {
        self.needs.contains(Capabilities::SUBGROUP)
    }

    /// Whether it multiplies matrices that a subgroup holds, which Direct3D does not offer.
    pub fn needs_matrices(&self) -> bool {
        self.needs.contains(Capabilities::COOPERATIVE_MATRIX)
    }

    /// The structs that the host writes or reads: those of uniforms, of storage buffers and of their elements.
    pub fn shared_structs(&self) -> Result<Vec<SharedStruct>, String> {
        let types = &self.module.types;
        let mut found = Vec::new();
        for (_, variable) in self.module.global_variables.iter() {
            let is_uniform = variable.space == AddressSpace::Uniform;
            if !is_uniform && !matches!(variable.space, AddressSpace::Storage { .. }) {
                continue;
            }
            let shared = match types[variable.ty].inner {
                TypeInner::Array { base, .. } => &types[base],
                _ => &types[variable.ty],
            };
            match &shared.inner {
                TypeInner::Struct { members, span } => found.push(SharedStruct {
                    name: shared.name.clone().unwrap_or_default(),
                    bytes: *span,
                    members: members
                        .iter()
                        .map(|member| {
                            (member.name.clone().unwrap_or_default(), scalar(&types[member.ty].inner), member.offset)
                        })
                        .collect(),
                }),
                _ if is_uniform => return Err(format!("the uniform {:?} is not a struct", variable.name)),
                _ => {}
            }
        }
        Ok(found)
    }

    /// A module for each entry point, with overrides replaced by their defaults, as when wgpu creates a pipeline.
    fn pipelines(&self) -> Result<Vec<(String, Module, ModuleInfo)>, String> {
        let of = |entry: &naga::EntryPoint| {
            let key = Some((entry.stage, entry.name.as_str()));
            let (module, info) = process_overrides(&self.module, &self.info, key, &Default::default())
                .map_err(|e| format!("{}: {e}", entry.name))?;
            Ok((entry.name.clone(), module.into_owned(), info.into_owned()))
        };
        self.module.entry_points.iter().map(of).collect()
    }

    /// Translates every entry point to MSL 2.4, HLSL (shader model 6.2, and 5.1 where subgroups are not
    /// needed) and SPIR-V 1.3, with and without run-time checks. Returns the SPIR-V, labelled.
    pub fn translate(&self) -> Result<Vec<(String, Vec<u32>)>, String> {
        let mut spirv = Vec::new();
        for (entry, module, info) in self.pipelines()? {
            for checked in [true, false] {
                let label = format!("{entry}.{}", if checked { "checked" } else { "unchecked" });
                let failed = |language: &str, e: &dyn std::fmt::Display| format!("{label} to {language}: {e}");

                to_msl(&module, &info, &entry, checked).map_err(|e| failed("MSL", &e))?;
                // Direct3D's older compiler stops at 5.1; wgpu then offers no subgroups.
                let models = [hlsl::ShaderModel::V6_2, hlsl::ShaderModel::V5_1];
                let count = if self.needs_matrices() { 0 } else { 1 + usize::from(!self.needs_subgroups()) };
                for model in models.into_iter().take(count) {
                    to_hlsl(&module, &info, model, checked).map_err(|e| failed("HLSL", &e))?;
                }
                // Matrices need the memory model that is a part of 1.5.
                let version = if self.needs_matrices() { (1, 5) } else { (1, 3) };
                let words = to_spirv(&module, &info, &entry, version, checked).map_err(|e| failed("SPIR-V", &e))?;
                spirv.push((label, words));
            }
        }
        Ok(spirv)
    }

    /// The resources that each entry point uses, as counted by the device's limits.
    pub fn usage(&self) -> Result<Vec<Usage>, String> {
        let of = |(entry_point, module, info): (String, Module, ModuleInfo)| {
            let function = info.get_entry_point(0);
            let used = || module.global_variables.iter().filter(|(handle, _)| !function[*handle].is_empty());
            let mut layout = naga::proc::Layouter::default();
            layout.update(module.to_ctx()).map_err(|e| format!("{entry_point}: {e}"))?;
            Ok(Usage {
                storage_buffers: used().map(|(_, v)| u32::from(matches!(v.space, AddressSpace::Storage { .. }))).sum(),
                workgroup_bytes: used()
                    .filter(|(_, v)| v.space == AddressSpace::WorkGroup)
                    // Each variable starts at a multiple of 16, as WebGPU counts them.
                    .map(|(_, v)| layout[v.ty].size.next_multiple_of(16))
                    .sum(),
                invocations: module.entry_points[0].workgroup_size.iter().product(),
                entry_point,
            })
        };
        self.pipelines()?.into_iter().map(of).collect()
    }
}

/// The name of a scalar type, which is the same in WGSL and Rust; how naga describes any other.
fn scalar(inner: &TypeInner) -> String {
    match inner {
        TypeInner::Scalar(Scalar::F32) => "f32".into(),
        TypeInner::Scalar(Scalar::U32) => "u32".into(),
        TypeInner::Scalar(Scalar::I32) => "i32".into(),
        other => format!("{other:?}"),
    }
}

fn policies(checked: bool) -> BoundsCheckPolicies {
    let policy = if checked { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked };
    BoundsCheckPolicies { index: policy, buffer: policy, image_load: policy, binding_array: policy }
}

fn to_msl(module: &Module, info: &ModuleInfo, entry: &str, checked: bool) -> Result<String, String> {
    let options = msl::Options {
        lang_version: (2, 4),
        fake_missing_bindings: true,
        bounds_check_policies: policies(checked),
        zero_initialize_workgroup_memory: checked,
        force_loop_bounding: checked,
        emit_int_div_checks: checked,
        ..Default::default()
    };
    let pipeline =
        msl::PipelineOptions { entry_point: Some((ShaderStage::Compute, entry.to_owned())), ..Default::default() };
    let (text, translated) = msl::write_string(module, info, &options, &pipeline).map_err(|e| e.to_string())?;
    // An entry point that cannot be bound is reported apart from the text.
    translated.entry_point_names.into_iter().find_map(Result::err).map_or(Ok(text), |e| Err(e.to_string()))
}

fn to_hlsl(
    module: &Module,
    info: &ModuleInfo,
    shader_model: hlsl::ShaderModel,
    checked: bool,
) -> Result<String, String> {
    let options = hlsl::Options {
        shader_model,
        fake_missing_bindings: true,
        // The writer panics on `var<immediate>` without it.
        immediates_target: Some(hlsl::BindTarget { space: 255, ..Default::default() }),
        zero_initialize_workgroup_memory: checked,
        restrict_indexing: checked,
        force_loop_bounding: checked,
        ..Default::default()
    };
    let mut text = String::new();
    let pipeline = hlsl::PipelineOptions::default();
    let written =
        hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None).map_err(|e| e.to_string())?;
    written.entry_point_names.into_iter().find_map(Result::err).map_or(Ok(text), |e| Err(e.to_string()))
}

fn to_spirv(
    module: &Module,
    info: &ModuleInfo,
    entry: &str,
    version: (u8, u8),
    checked: bool,
) -> Result<Vec<u32>, spv::Error> {
    let options = spv::Options {
        lang_version: version,
        bounds_check_policies: policies(checked),
        zero_initialize_workgroup_memory: if checked {
            spv::ZeroInitializeWorkgroupMemoryMode::Polyfill
        } else {
            spv::ZeroInitializeWorkgroupMemoryMode::None
        },
        force_loop_bounding: checked,
        emit_int_div_checks: checked,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.to_owned() };
    spv::write_vec(module, info, &options, Some(&pipeline))
}

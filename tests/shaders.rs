//! Every shader is valid, translates to the language of each platform, and stays within WebGPU's default limits. None
//! of this needs a GPU.
//!
//! `spirv-val` checks the SPIR-V if it is installed. `FLOWDPPO_TINT` may contain a command that takes WGSL files and
//! fails if it rejects one, such as `node .ci/tint-check.mjs`.

#[path = "common/skip.rs"]
#[allow(dead_code, reason = "the ops use the rest")]
mod skip;
#[path = "common/translate.rs"]
mod translate;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use flowdppo_wgpu::gpu::shader::{self, all as shaders};
use flowdppo_wgpu::gpu::{Member, StructLayout};
use flowdppo_wgpu::{ops, roofline};
use naga::valid::Capabilities;
use translate::{Shader, SharedStruct};

/// Runs a command and returns what it printed if it fails.
fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("cannot run {command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

fn installed(tool: &str) -> bool {
    Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// `spirv-val` on one module.
fn validate_spirv(folder: &Path, label: &str, words: &[u32]) -> Result<(), String> {
    let file = folder.join(format!("{label}.spv"));
    std::fs::write(&file, bytemuck::cast_slice(words)).map_err(|e| e.to_string())?;
    run(Command::new("spirv-val").args(["--target-env", "vulkan1.2"]).arg(file))
}

/// Fails with every message at once, so that one run shows everything that has to be fixed.
fn report(errors: &[String]) {
    assert!(errors.is_empty(), "\n{}", errors.join("\n"));
}

#[test]
fn every_shader_translates_to_every_platform() {
    let folder = tempfile::tempdir().unwrap();
    let spirv_val = installed("spirv-val");
    if !spirv_val {
        skip::not_checked("spirv-val is not installed: SPIR-V is written but not validated");
    }
    let mut errors = Vec::new();
    for (name, wgsl) in shaders() {
        match Shader::new(&wgsl).and_then(|shader| shader.translate()) {
            Err(e) => errors.push(format!("{name}: {e}")),
            // Debian's spirv-val is older than matrices.
            Ok(modules) if spirv_val && !name.contains("cooperative") => {
                errors.extend(modules.iter().filter_map(|(label, words)| {
                    let label = format!("{name}.{label}");
                    validate_spirv(folder.path(), &label, words).err().map(|e| format!("{label}: spirv-val: {e}"))
                }))
            }
            Ok(_) => {}
        }
    }
    report(&errors);
}

#[test]
fn every_shader_fits_the_default_limits() {
    let limits = wgpu::Limits::defaults();
    // 32 bytes below WebGPU's default: what Apple's A-series chips offer.
    let workgroup_bytes = wgpu::Limits::downlevel_defaults().max_compute_workgroup_storage_size;
    let mut errors = Vec::new();
    for (name, wgsl) in shaders() {
        match Shader::new(&wgsl).and_then(|shader| shader.usage()) {
            Err(e) => errors.push(format!("{name}: {e}")),
            Ok(usages) => errors.extend(
                usages
                    .iter()
                    .filter(|usage| {
                        // Devices with matrices have at least 32 KiB; of others they are not asked.
                        let workgroup_bytes = if name.contains("cooperative") { 32 << 10 } else { workgroup_bytes };
                        usage.storage_buffers > limits.max_storage_buffers_per_shader_stage
                            || usage.workgroup_bytes > workgroup_bytes
                            || usage.invocations > limits.max_compute_invocations_per_workgroup
                    })
                    .map(|usage| format!("{name}: {usage:?} is above WebGPU's default limits")),
            ),
        }
    }
    report(&errors);
}

/// A struct of the host, compared as a [`SharedStruct`] of a shader.
fn of_host(layout: &StructLayout) -> SharedStruct {
    let member = |it: &Member| (it.name.to_owned(), it.scalar.to_owned(), it.offset as u32);
    let members = layout.members.iter().map(member).collect();
    SharedStruct { name: layout.name.to_owned(), bytes: layout.bytes as u32, members }
}

/// What differs between the structs of shaders and those of the host of the same names.
fn differences(shaders: &[(String, String)], host: &[StructLayout]) -> Vec<String> {
    let host: BTreeMap<&str, SharedStruct> = host.iter().map(|layout| (layout.name, of_host(layout))).collect();
    let (mut errors, mut used) = (Vec::new(), BTreeSet::new());
    for (shader, wgsl) in shaders {
        match Shader::new(wgsl).and_then(|shader| shader.shared_structs()) {
            Err(e) => errors.push(format!("{shader}: {e}")),
            Ok(structs) => {
                for it in structs {
                    match host.get(&*it.name) {
                        None => errors.push(format!("{shader}: the host has no struct `{}`", it.name)),
                        Some(same) if *same == it => {}
                        Some(other) => errors.push(format!("{shader}: {it:?}, but the host has {other:?}")),
                    }
                    used.insert(it.name);
                }
            }
        }
    }
    let unused = host.keys().filter(|name| !used.contains(**name));
    errors.extend(unused.map(|name| format!("no shader has the struct `{name}` of the host")));
    errors
}

#[test]
fn host_and_shaders_agree_about_every_struct_that_they_share() {
    let host = [ops::layouts(), roofline::LAYOUTS.to_vec()].concat();
    let names: BTreeSet<_> = host.iter().map(|layout| layout.name).collect();
    assert_eq!(names.len(), host.len(), "every struct is there once");
    report(&differences(&shaders(), &host));
}

/// Only a shader with `subgroup` in its name may need subgroups, only one with `cooperative` matrices, and only with
/// PRECISION=1 may it round to 16 bits; the others are the fallback.
#[test]
fn features_are_optional() {
    let of = |name: &str| {
        let matrices = name.contains("cooperative");
        let features = [
            (name.contains("subgroup") || matrices, Capabilities::SUBGROUP),
            (name.contains("PRECISION=1"), Capabilities::SHADER_FLOAT16_IN_FLOAT32),
            (matrices, Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16),
        ];
        features.into_iter().filter(|(is_needed, _)| *is_needed).fold(Capabilities::empty(), |all, (_, it)| all | it)
    };
    let errors: Vec<_> = shaders()
        .iter()
        .filter_map(|(name, wgsl)| match Shader::new(wgsl) {
            Err(e) => Some(format!("{name}: {e}")),
            Ok(shader) => (shader.needs != of(name)).then(|| format!("{name}: it needs {:?}", shader.needs)),
        })
        .collect();
    report(&errors);
}

#[test]
fn tint_accepts_every_shader() {
    let Ok(command) = std::env::var("FLOWDPPO_TINT") else {
        skip::not_checked("FLOWDPPO_TINT is not set: the shaders are not checked with Tint");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // Tint knows other names for matrices.
    let files = shaders().into_iter().filter(|(name, _)| !name.contains("cooperative")).map(|(name, wgsl)| {
        let file = folder.path().join(format!("{name}.wgsl"));
        std::fs::write(&file, wgsl).unwrap();
        file
    });
    let mut words = command.split_whitespace();
    let program = words.next().expect("FLOWDPPO_TINT is set but empty");
    if let Err(e) = run(Command::new(program).args(words).args(files)) {
        panic!("\n{e}");
    }
}

#[test]
fn shaders_come_with_every_combination_of_their_constants() {
    let names: Vec<String> = shaders().into_iter().map(|(name, _)| name).collect();
    for name in [
        "affine_norm",
        "attention.HEAD_DIM=5",
        "gated_activation_backward.ACTIVATION=1.PACKED=1",
        "attention_backward_query_subgroup.HEAD_DIM=72.ROWS=4.SUBGROUP=64",
        "matmul_subgroup.COLUMNS=1.EPILOGUE=3.PRECISION=2.ROWS=16.SUBGROUP=4.WEIGHTS=2",
        "matmul_cooperative_vec4.EPILOGUE=0.MATRICES=1.SUBGROUP=32.WEIGHTS=1",
        "policy_objective.DIVERGENCE=2.LOG_PROB=1.OBJECTIVE=0",
        "philox_normal.RAW=1",
    ] {
        assert!(names.iter().any(|other| other == name), "{name} is not among {names:?}");
    }
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len(), "every name is there once");
}

// A kernel cannot be created with a constant outside the combinations, so the tests above cover all.

#[test]
#[should_panic(expected = "is not among the tested constants")]
fn a_constant_that_is_not_tested_cannot_be_replaced() {
    shader::source("matmul_tiled", &[("DEPTH", 8)]);
}

#[test]
#[should_panic(expected = "is not among the tested constants")]
fn a_variant_that_is_not_tested_cannot_be_chosen() {
    shader::source("policy_objective", &[("OBJECTIVE", 5)]);
}

#[test]
#[should_panic(expected = "lacks one of the constants")]
fn a_constant_that_a_shader_does_not_have_cannot_be_replaced() {
    shader::source("attention", &[("SUBGROUP", 8)]);
}

// The checks above must be able to fail.

const REVERSE: &str = "
override WIDTH: u32 = 64u;
@group(0) @binding(0) var<storage, read_write> values: array<f32>;
@group(0) @binding(1) var<uniform> scale: f32;
@group(0) @binding(2) var<storage, read> unused: array<f32>;
var<workgroup> tile: array<vec4f, WIDTH>;
@compute @workgroup_size(WIDTH)
fn main(@builtin(local_invocation_index) lane: u32) {
    tile[lane] = vec4f(values[lane] / scale);
    workgroupBarrier();
    for (var i = 0u; i < 4u; i++) { values[lane] += tile[WIDTH - 1u - lane][i]; }
}";

#[test]
fn a_good_shader_passes_and_its_usage_is_counted() {
    let shader = Shader::new(REVERSE).unwrap();
    assert!(shader.needs.is_empty());
    let modules = shader.translate().unwrap();
    let labels: Vec<_> = modules.iter().map(|(label, _)| label.as_str()).collect();
    assert_eq!(labels, ["main.checked", "main.unchecked"]);
    assert!(modules[0].1.len() > modules[1].1.len(), "run-time checks add code");
    let usage = shader.usage().unwrap().remove(0);
    assert_eq!((usage.storage_buffers, usage.workgroup_bytes, usage.invocations), (1, 64 * 16, 64));
}

#[test]
fn subgroups_are_detected_and_translated() {
    let shader = Shader::new(
        "@group(0) @binding(0) var<storage, read_write> values: array<f32>;
        @compute @workgroup_size(32)
        fn main(@builtin(local_invocation_index) lane: u32) { values[lane] = subgroupAdd(values[lane]); }",
    )
    .unwrap();
    assert!(shader.needs_subgroups());
    assert_eq!(shader.translate().unwrap().len(), 2);
}

#[test]
fn a_struct_that_differs_is_found() {
    let member = |name, scalar, offset| Member { name, scalar, offset };
    let good = [member("rows", "u32", 0), member("scale", "f32", 4)];
    let found = |members: &[Member], bytes, name| {
        let wgsl = "struct NormParams { rows: u32, scale: f32, }
            @group(0) @binding(0) var<uniform> params: NormParams;
            @group(0) @binding(1) var<storage, read_write> y: array<NormParams>;
            @compute @workgroup_size(1) fn main() { y[0] = params; }";
        let host = StructLayout { name, bytes, members: members.to_vec().leak() };
        differences(&[("norm".into(), wgsl.into())], &[host])
    };
    assert!(found(&good, 8, "NormParams").is_empty());
    assert_eq!(found(&good, 8, "Norm").len(), 3, "missing at both bindings, and unused");
    for (members, bytes) in [
        (vec![good[1], good[0]], 8),
        (vec![member("row", "u32", 0), good[1]], 8),
        (vec![member("rows", "f32", 0), good[1]], 8),
        (vec![good[0], member("scale", "f32", 8)], 8),
        (vec![good[0]], 8),
        (good.to_vec(), 12),
    ] {
        assert_eq!(found(&members, bytes, "NormParams").len(), 2, "{members:?}, {bytes} bytes");
    }
    let scalar = "@group(0) @binding(0) var<uniform> scale: f32;
        @compute @workgroup_size(1) fn main() { let x = scale; }";
    assert!(differences(&[("scalar".into(), scalar.into())], &[])[0].contains("is not a struct"));
}

#[test]
fn bad_shaders_are_rejected() {
    for (wgsl, expected) in [
        ("fn main() { let x: f32 = 1u; }", "expected"),
        ("fn helper() {}", "no compute entry point"),
        ("enable f16; @compute @workgroup_size(1) fn main() { var x = 1.0h; }", "f16"),
        ("@compute @workgroup_size(1) fn main() { subgroupBarrier(); }", "SUBGROUP_BARRIER"),
        ("override N: u32; @compute @workgroup_size(N) fn main() {}", "Missing value"),
    ] {
        let error = Shader::new(wgsl).and_then(|shader| shader.translate()).expect_err(wgsl);
        assert!(error.contains(expected), "{wgsl}\ngave: {error}");
    }
}

#[test]
fn broken_spirv_is_rejected() {
    if !installed("spirv-val") {
        skip::not_checked("spirv-val is not installed: nobody refuses broken SPIR-V");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut modules = Shader::new(REVERSE).unwrap().translate().unwrap();
    let (label, words) = &mut modules[0];
    validate_spirv(folder.path(), label, words).unwrap();
    words.pop();
    validate_spirv(folder.path(), label, words).unwrap_err();
}

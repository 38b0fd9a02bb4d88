//! `devices`: every adapter, what it supports, and whether it computes correctly.

use clap::Args;
use serde::Serialize;

use super::{Global, say};
use crate::error::{Error, Result};
use crate::gpu::{self, AdapterDescription, DeviceKind, Gpu, Options};
use crate::self_test::{self, Check};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    adapter: AdapterDescription,
    self_test: Vec<Check>,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let options = |device: String| {
        let (limits, checked) = (global.limits, global.checked);
        Options { device: Some(device), limits, checked, pipeline_cache: true, matrices: false, chunk_bytes: None }
            .or_environment()
    };
    let mut reports = Vec::new();
    let wanted = match &global.device {
        Some(name) => vec![Gpu::open(&options(name.clone()))?.description().clone()],
        None => gpu::adapters(),
    };
    if wanted.is_empty() {
        // Opening reports why there is none and what to do.
        Gpu::open(&Options::default())?;
    }
    for adapter in wanted {
        let self_test = match Gpu::open(&options(adapter.index.to_string())) {
            Ok(gpu) => self_test::run(&gpu),
            Err(error) => vec![Check { name: "open", passed: false, detail: error.to_string() }],
        };
        reports.push(Report { adapter, self_test });
    }
    if arguments.json {
        say(serde_json::to_string_pretty(&reports).expect("text and numbers are JSON"));
    } else {
        reports.iter().for_each(print);
    }
    let failed = reports.iter().flat_map(|report| &report.self_test).filter(|check| !check.passed).count();
    match failed {
        0 => Ok(()),
        count => Err(Error::failed(format!("{count} checks failed: results on this device cannot be trusted"))),
    }
}

fn print(report: &Report) {
    let adapter = &report.adapter;
    let kind = match adapter.kind {
        DeviceKind::Discrete => "graphics card",
        DeviceKind::Integrated => "integrated graphics",
        DeviceKind::Virtual => "virtual graphics",
        DeviceKind::Other => "unknown kind",
        DeviceKind::Cpu => "software driver, runs on the CPU",
    };
    let yes = |offered: bool| if offered { "yes" } else { "no" };
    say(format_args!("{}: {} ({kind})", adapter.index, adapter.name));
    say(format_args!("   {} {}", adapter.backend, adapter.driver));
    if let Some(bytes) = adapter.memory_bytes {
        say(format_args!("   memory {} MiB", bytes >> 20));
    }
    say(format_args!(
        "   largest buffer {} MiB, largest tensor {} MiB, {} storage buffers per kernel",
        adapter.max_buffer_size >> 20,
        adapter.max_storage_buffer_binding_size >> 20,
        adapter.max_storage_buffers_per_shader_stage
    ));
    say(format_args!(
        "   {} invocations per workgroup, {} KiB of workgroup memory, {} workgroups per dimension",
        adapter.max_compute_invocations_per_workgroup,
        adapter.max_compute_workgroup_storage_size >> 10,
        adapter.max_compute_workgroups_per_dimension
    ));
    say(format_args!(
        "   subgroups {} ({} to {}), f16 {}, timestamps {}",
        yes(adapter.subgroups),
        adapter.subgroup_size[0],
        adapter.subgroup_size[1],
        yes(adapter.shader_f16),
        yes(adapter.timestamps)
    ));
    if !adapter.cooperative_matrices.is_empty() {
        say(format_args!("   products of small matrices: {}", adapter.cooperative_matrices.join("; ")));
    }
    for check in &report.self_test {
        say(format_args!("   {} {}: {}", if check.passed { "PASS" } else { "FAIL" }, check.name, check.detail));
    }
}

//! A report as Markdown.

use super::{Report, Row, Section};
use crate::gpu::{AdapterDescription, DeviceKind};
use crate::text::{duration, significant};

impl Report {
    /// As Markdown: what passed, the device, and a table for each section.
    pub fn to_markdown(&self) -> String {
        let Self { device, system, opened, .. } = self;
        let quick = if self.quick { " --quick" } else { "" };
        let mut text = format!(
            "# {} ({}, {})\n\n`flowdppo-wgpu doctor{quick}`, version {}, {}: **{}** in {}.\n\n",
            device.name,
            device.backend,
            device.driver,
            self.version,
            self.date,
            if self.passed { "passed" } else { "FAILED" },
            duration(self.seconds),
        );
        text += &table(&["section", "result", "time", "of at most"], self.sections.iter().map(summary));
        let mut notes =
            self.sections.iter().filter_map(|section| Some((section.name, section.failure.as_ref()?))).peekable();
        if notes.peek().is_some() {
            text += "\n";
            notes.for_each(|(name, failure)| text += &format!("- **{name}**: {}\n", one_line(failure)));
        }
        let kernel = opened.kernel.as_ref().map_or(String::new(), |kernel| format!(", only {kernel}"));
        let checks = if opened.checked { ", with run-time checks" } else { "" };
        let subgroups = if opened.subgroups { "" } else { ", without subgroups" };
        let mut facts = facts(device);
        facts.push(["system".into(), format!("{}, {}, {} threads", system.os, system.architecture, system.processors)]);
        facts.push(["opened with".into(), format!("limits: {}{subgroups}{checks}{kernel}", opened.limits)]);
        text += "\n## Device\n\n";
        text += &table(&["", ""], facts.into_iter().map(Vec::from));
        for section in &self.sections {
            text += &format!("\n## {}\n\n", capitalised(section.name));
            if let Some(first) = section.rows.first() {
                text += &table(header(first), section.rows.iter().map(cells));
            }
            if !section.notes.is_empty() {
                text += "\n";
            }
            section.notes.iter().for_each(|note| text += &format!("- {}\n", one_line(note)));
        }
        text
    }
}

fn summary(section: &Section) -> Vec<String> {
    let result = if section.passed { "passed" } else { "FAILED" };
    let times = [section.seconds, section.budget_seconds].map(duration);
    [section.name.to_owned(), result.to_owned()].into_iter().chain(times).collect()
}

/// What matters of an adapter.
fn facts(device: &AdapterDescription) -> Vec<[String; 2]> {
    let kind = match device.kind {
        DeviceKind::Discrete => "graphics card",
        DeviceKind::Integrated => "integrated graphics",
        DeviceKind::Virtual => "virtual graphics",
        DeviceKind::Other => "unknown",
        DeviceKind::Cpu => "software driver",
    };
    let mebibytes = |bytes: u64| format!("{} MiB", bytes >> 20);
    let yes = |offered: bool| if offered { "yes" } else { "no" }.to_owned();
    let [least, most] = device.subgroup_size;
    let subgroups = if device.subgroups { format!("{least} to {most}") } else { "no".into() };
    let matrices = match device.cooperative_matrices.is_empty() {
        true => "none listed".into(),
        false => device.cooperative_matrices.join("; "),
    };
    let facts = [
        ("name", device.name.clone()),
        ("kind", kind.into()),
        ("vendor, device", format!("{:#06x}, {:#06x}", device.vendor_id, device.device_id)),
        ("backend, driver", format!("{}, {}", device.backend, device.driver)),
        ("memory", device.memory_bytes.map_or("not reported".into(), mebibytes)),
        ("largest buffer", mebibytes(device.max_buffer_size)),
        ("largest binding", mebibytes(device.max_storage_buffer_binding_size)),
        ("storage buffers of a kernel", device.max_storage_buffers_per_shader_stage.to_string()),
        ("invocations of a workgroup", device.max_compute_invocations_per_workgroup.to_string()),
        ("memory of a workgroup", format!("{} B", device.max_compute_workgroup_storage_size)),
        ("workgroups along a dimension", device.max_compute_workgroups_per_dimension.to_string()),
        ("subgroups", subgroups),
        ("16-bit floats", yes(device.shader_f16)),
        ("timestamps", yes(device.timestamps)),
        ("cooperative matrices", matrices),
    ];
    facts.map(|(name, value)| [name.into(), value]).into()
}

fn header(of: &Row) -> &'static [&'static str] {
    match of {
        Row::Check(_) => &["check", "result", "figures"],
        Row::Op(_) => &["op", "result", "worst error / largest value", "allowed"],
        Row::Variant(_) => &["kernels", "result", "ops tried", "remark"],
        Row::Measured(_) => &["", "time", "GFLOP/s", "GB/s", "of the limit", "more"],
        Row::Iteration(_) => &["iteration", "result", "reward", "expected", "loss", "expected", "allowed", "time"],
    }
}

fn cells(row: &Row) -> Vec<String> {
    let result = |passed: bool| if passed { "passed" } else { "FAILED" }.to_owned();
    let rate = |rate: Option<f64>| rate.map_or(String::new(), significant);
    match row {
        Row::Check(check) => vec![check.name.into(), result(check.passed), check.detail.clone()],
        Row::Op(op) => {
            let error = match (op.error, &op.failure) {
                (Some(error), _) => format!("{error:.1e}"),
                (None, failure) => failure.clone().unwrap_or_default(),
            };
            vec![op.name.clone(), result(op.passed), error, format!("{:.1e}", op.tolerance)]
        }
        Row::Variant(variant) => {
            vec![variant.name.into(), result(variant.passed), variant.cases.to_string(), variant.detail.clone()]
        }
        Row::Measured(row) => {
            let more: Vec<String> =
                row.details.iter().map(|(name, value)| format!("{name} {}", detail(name, *value))).collect();
            vec![
                row.name.clone(),
                format!("{} ±{:.0} %", duration(row.seconds), 100.0 * row.spread()),
                rate(row.gflop_per_second),
                rate(row.gigabytes_per_second),
                row.of_limit(),
                more.join(", "),
            ]
        }
        Row::Iteration(row) => vec![
            row.iteration.to_string(),
            result(row.passed),
            format!("{:.6}", row.reward),
            format!("{:.6}", row.reward_expected),
            format!("{:.6}", row.loss),
            format!("{:.6}", row.loss_expected),
            format!("{:.1e}", row.tolerance),
            duration(row.seconds),
        ],
    }
}

/// Losses have six digits everywhere.
fn detail(name: &str, value: f64) -> String {
    if name.starts_with("loss") { format!("{value:.6}") } else { significant(value) }
}

/// A table; text cannot end its cells.
fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(header.iter().map(|cell| (*cell).to_owned()).collect());
    text += &format!("|{}\n", "---|".repeat(header.len()));
    for cells in rows {
        text += &line(cells.into_iter().map(|cell| one_line(&cell).replace('|', "\\|")).collect());
    }
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn capitalised(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    first.to_uppercase() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_stays_in_its_row() {
        let text = table(&["a", "b"], [vec!["x | y".to_owned(), "one\n  two".to_owned()]].into_iter());
        assert_eq!(text, "| a | b |\n|---|---|\n| x \\| y | one two |\n");
        assert_eq!(capitalised("ops against f64"), "Ops against f64");
    }
}

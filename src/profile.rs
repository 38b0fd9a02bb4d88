//! Interprets a recording of the device: tables for people, an aggregate and a trace for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::Result;
use crate::files;
use crate::gpu::{Gpu, Recording, Totals, Work};
use crate::roofline::Roofline;

/// Rows of a table; the remaining rows are summed in one more. The aggregate has all of them.
const MOST_ROWS: usize = 25;

/// The sum over dispatches of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ProfileRow {
    /// The name of the kind.
    pub name: String,
    /// Number of dispatches.
    pub count: u64,
    /// Time on the device.
    pub seconds: f64,
    /// Share of the time of all dispatches.
    pub share: f64,
    /// Floating-point operations, a multiply-add counted as two.
    pub flops: f64,
    /// Bytes read and written.
    pub bytes: f64,
    /// The time that the roofline allows for the work, divided by the time that it took: 1 is the limit.
    pub of_roofline: f64,
}

/// One kind of dispatch at one position of one network.
#[derive(Clone, Debug, Serialize)]
pub struct KernelRow {
    /// Phase of the host, such as `rollout`.
    pub host_phase: &'static str,
    /// Label of the node.
    pub label: String,
    /// Name of the op.
    pub op: &'static str,
    /// Name of the shader.
    pub shader: &'static str,
    /// Figures; the name is the phase of the work.
    #[serde(flatten)]
    pub row: ProfileRow,
}

/// A phase of the host.
#[derive(Clone, Debug, Serialize)]
pub struct HostRow {
    /// Its name.
    pub name: &'static str,
    /// How often it ran.
    pub count: u64,
    /// Wall time; a phase within another one counts in both.
    pub seconds: f64,
}

/// The sums over a recording.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// Name of the device.
    pub device: String,
    /// `device` if dispatches were timed by the device's clock, `host` if by wall time.
    pub clock: &'static str,
    /// The measured limits of the device.
    pub roofline: Roofline,
    /// Time of all dispatches.
    pub seconds: f64,
    /// Dispatches.
    pub dispatches: u64,
    /// First runs of kernels, excluded everywhere else: drivers finish compiling in them.
    pub first_runs: u64,
    /// Their time.
    pub first_run_seconds: f64,
    /// Dispatches by op.
    pub by_op: Vec<ProfileRow>,
    /// Dispatches by layer, summed over the blocks of a network.
    pub by_layer: Vec<ProfileRow>,
    /// Dispatches by purpose: sampling, forward, loss, backward, optimizer, evaluation …
    pub by_phase: Vec<ProfileRow>,
    /// Phases of the host.
    pub host: Vec<HostRow>,
    /// Every kind of dispatch separately.
    pub kernels: Vec<KernelRow>,
    #[serde(skip)]
    recording: Recording,
}

impl Profile {
    /// Sums what was recorded on a device, and measures its roofline; `None` unless it is profiled.
    ///
    /// # Errors
    /// If the device is lost or does not have enough memory.
    pub fn of(gpu: &Gpu) -> Result<Option<Self>> {
        let Some(recording) = gpu.profiler().map(|profiler| profiler.recording()) else { return Ok(None) };
        let clock = if gpu.has_timestamps() { "device" } else { "host" };
        Ok(Some(Self::new(gpu.description().name.clone(), clock, Roofline::measure(gpu)?, recording)))
    }

    fn new(device: String, clock: &'static str, roofline: Roofline, recording: Recording) -> Self {
        let all = &recording.totals;
        let seconds = all.iter().map(|(_, _, totals)| totals.took.as_secs_f64()).sum();
        let by = |name: &dyn Fn(&str, &Work) -> String| {
            let mut rows: BTreeMap<String, ProfileRow> = BTreeMap::new();
            for (phase, work, totals) in all {
                rows.entry(name(phase, work)).or_default().add(work, totals, &roofline);
            }
            finish(rows.into_iter().map(|(name, row)| ProfileRow { name, ..row }).collect(), seconds)
        };
        let kernels = all.iter().map(|(host_phase, work, totals)| {
            let mut row = ProfileRow { name: phase_of(host_phase, work).to_owned(), ..ProfileRow::default() };
            row.add(work, totals, &roofline);
            let row = finish(vec![row], seconds).remove(0);
            KernelRow { host_phase, label: work.label.clone(), op: work.op, shader: work.shader, row }
        });
        let host = recording.phases.iter().map(|(name, totals)| HostRow {
            name,
            count: totals.count,
            seconds: totals.took.as_secs_f64(),
        });
        Self {
            device,
            clock,
            roofline,
            seconds,
            dispatches: all.iter().map(|(_, _, totals)| totals.count).sum(),
            first_runs: recording.first_runs.count,
            first_run_seconds: recording.first_runs.took.as_secs_f64(),
            by_op: by(&|_, work| work.op.to_owned()),
            by_layer: by(&|_, work| layer_of(work)),
            by_phase: by(&|phase, work| phase_of(phase, work).to_owned()),
            host: host.collect(),
            kernels: kernels.collect(),
            recording,
        }
    }

    /// The tables, for people.
    pub fn tables(&self) -> String {
        let clock = match self.clock {
            "device" => "by the device's clock",
            _ => "by wall time, each dispatch with the time of a submission: the device offers no timestamps",
        };
        let mut text =
            format!("{} dispatches took {:.3} s on {}, {clock}\n", self.dispatches, self.seconds, self.device);
        let _ = writeln!(
            text,
            "roofline: {:.1} GFLOP/s of multiply-adds, {:.1} GB/s of copying; {} first runs of kernels ({:.3} s) are \
             left out",
            self.roofline.flops_per_second / 1e9,
            self.roofline.bytes_per_second / 1e9,
            self.first_runs,
            self.first_run_seconds
        );
        for (title, rows) in [("phase", &self.by_phase), ("op", &self.by_op), ("layer", &self.by_layer)] {
            text.push('\n');
            text.push_str(&table(title, rows));
        }
        text
    }

    /// Writes the trace, in the format of Perfetto and Chrome's tracing, and the aggregate.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, trace: &Path, aggregate: &Path) -> Result<()> {
        files::write_atomically(trace, self.trace().to_string().as_bytes())?;
        let text = serde_json::to_string_pretty(self).expect("text and numbers are JSON");
        files::write_atomically(aggregate, text.as_bytes())
    }

    /// The events in Chrome's trace format: complete events in microseconds, on a track for the host
    /// and one for the device.
    fn trace(&self) -> Value {
        const HOST: u32 = 1;
        const DEVICE: u32 = 2;
        let metadata = |name: &str, thread: u32, value: &str| json!({ "ph": "M", "name": name, "pid": 1, "tid": thread, "args": { "name": value } });
        let mut events = vec![
            metadata("process_name", HOST, "flowdppo-wgpu"),
            metadata("thread_name", HOST, "host"),
            metadata("thread_name", DEVICE, &format!("device: {}", self.device)),
        ];
        events.extend(self.recording.events.iter().map(|event| {
            let mut value = json!({
                "ph": "X",
                "pid": 1,
                "ts": event.start.as_nanos() as f64 / 1e3,
                "dur": event.took.as_nanos() as f64 / 1e3,
            });
            let extra = match &event.work {
                None => json!({ "name": event.phase, "cat": "host", "tid": HOST }),
                Some(work) => json!({
                    "name": work.label,
                    "cat": if event.first { "first run" } else { phase_of(event.phase, work) },
                    "tid": DEVICE,
                    "args": { "shader": work.shader, "flops": work.flops, "bytes": work.bytes },
                }),
            };
            if let (Value::Object(value), Value::Object(extra)) = (&mut value, extra) {
                value.extend(extra);
            }
            value
        }));
        json!({ "displayTimeUnit": "ms", "traceEvents": events })
    }
}

impl ProfileRow {
    /// Adds dispatches. Until [`finish`], `of_roofline` contains the least seconds that they can take.
    fn add(&mut self, work: &Work, totals: &Totals, roofline: &Roofline) {
        let (flops, bytes) = (work.flops as f64 * totals.count as f64, work.bytes as f64 * totals.count as f64);
        self.count += totals.count;
        self.seconds += totals.took.as_secs_f64();
        self.flops += flops;
        self.bytes += bytes;
        self.of_roofline += roofline.least_seconds(flops, bytes);
    }
}

/// Turns sums into shares, and sorts the slowest first.
fn finish(mut rows: Vec<ProfileRow>, seconds: f64) -> Vec<ProfileRow> {
    for row in &mut rows {
        row.share = if seconds > 0.0 { row.seconds / seconds } else { 0.0 };
        row.of_roofline = if row.seconds > 0.0 { row.of_roofline / row.seconds } else { 0.0 };
    }
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    rows
}

/// The purpose of a dispatch: in an update the first part of its label, otherwise the phase of the host.
fn phase_of<'a>(host: &'a str, work: &Work) -> &'a str {
    match (host, work.label.split('.').next()) {
        ("update", Some("backward")) => "backward",
        ("update", Some("optimizer")) => "optimizer",
        ("update", Some("loss")) => "loss",
        ("update", _) => "forward",
        ("rollout", _) => "sampling",
        (other, _) => other,
    }
}

/// A label without its op and without the number of its block: `blocks.*.attn.qkv`.
fn layer_of(work: &Work) -> String {
    let mut parts: Vec<&str> = work.label.split('.').filter(|part| !part.is_empty()).collect();
    parts.pop();
    for index in 1..parts.len() {
        if parts[index - 1] == "blocks" {
            parts[index] = "*";
        }
    }
    if parts.is_empty() { "(none)".into() } else { parts.join(".") }
}

fn table(title: &str, rows: &[ProfileRow]) -> String {
    let width = rows.iter().take(MOST_ROWS).map(|row| row.name.len()).max().unwrap_or(0).max(title.len()).max(9);
    let mut text = format!(
        "{title:<width$} {:>9} {:>11} {:>7} {:>9} {:>8} {:>9}\n",
        "count", "time", "share", "GFLOP/s", "GB/s", "roofline"
    );
    let mut line = |row: &ProfileRow| {
        let rate = |amount: f64| if row.seconds > 0.0 { amount / row.seconds / 1e9 } else { 0.0 };
        let _ = writeln!(
            text,
            "{:<width$} {:>9} {:>8.1} ms {:>5.1} % {:>9.2} {:>8.2} {:>7.1} %",
            row.name,
            row.count,
            1e3 * row.seconds,
            100.0 * row.share,
            rate(row.flops),
            rate(row.bytes),
            100.0 * row.of_roofline
        );
    };
    rows.iter().take(MOST_ROWS).for_each(&mut line);
    if let Some(rest) = rows.get(MOST_ROWS..).filter(|rest| !rest.is_empty()) {
        let mut sum = ProfileRow { name: format!("{} others", rest.len()), ..ProfileRow::default() };
        for row in rest {
            sum.count += row.count;
            sum.seconds += row.seconds;
            sum.share += row.share;
            sum.flops += row.flops;
            sum.bytes += row.bytes;
            sum.of_roofline += row.of_roofline * row.seconds;
        }
        sum.of_roofline /= sum.seconds.max(f64::MIN_POSITIVE);
        line(&sum);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::gpu::Event;

    fn work(label: &str) -> Arc<Work> {
        Arc::new(Work { label: label.into(), op: "matmul", shader: "matmul_tiled", flops: 400, bytes: 20 })
    }

    fn profile() -> Profile {
        let millis = Duration::from_millis;
        let totals = |count, took| Totals { count, took: millis(took) };
        let labels = ["blocks.0.attn.qkv.matmul", "blocks.11.attn.qkv.matmul", "backward.blocks.3.matmul", "loss.mse"];
        let recording = Recording {
            totals: vec![
                ("rollout", work(labels[0]), totals(2, 500)),
                ("update", work(labels[1]), totals(1, 250)),
                ("update", work(labels[2]), totals(1, 200)),
                ("update", work(labels[3]), totals(1, 50)),
            ],
            phases: [("rollout", totals(1, 600))].into(),
            first_runs: totals(1, 9000),
            events: vec![
                Event { start: millis(1), took: millis(2), phase: "rollout", work: Some(work(labels[0])), first: true },
                Event { start: millis(0), took: millis(4), phase: "rollout", work: None, first: false },
            ],
        };
        let roofline = Roofline { flops_per_second: 8000.0, bytes_per_second: 1000.0 };
        Profile::new("a card".into(), "host", roofline, recording)
    }

    #[test]
    fn every_table_accounts_for_all_the_time() {
        let profile = profile();
        let names = |rows: &[ProfileRow]| rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&profile.by_phase), ["sampling", "forward", "backward", "loss"]);
        assert_eq!(names(&profile.by_layer), ["blocks.*.attn.qkv", "backward.blocks.*", "loss"]);
        for rows in [&profile.by_op, &profile.by_layer, &profile.by_phase] {
            assert!((rows.iter().map(|row| row.share).sum::<f64>() - 1.0).abs() < 1e-12);
            assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), 5);
        }
        assert_eq!((profile.seconds, profile.dispatches), (1.0, 5));
        // 2000 operations take at least 0.25 s, 100 bytes 0.1 s: a quarter of the limit in one second.
        assert!((profile.by_op[0].of_roofline - 0.25).abs() < 1e-12, "{:?}", profile.by_op);
        let text = profile.tables();
        assert!(text.contains("no timestamps") && text.contains("blocks.*.attn.qkv"), "{text}");
        assert!(text.contains("1 first runs of kernels (9.000 s)"), "{text}");
    }

    #[test]
    fn a_long_table_is_cut_and_its_rest_is_summed() {
        let row =
            |index: usize| ProfileRow { name: format!("op {index}"), count: 1, seconds: 1.0, ..ProfileRow::default() };
        let rows = finish((0..MOST_ROWS + 3).map(row).collect(), (MOST_ROWS + 3) as f64);
        let text = table("op", &rows);
        assert_eq!(text.lines().count(), 1 + MOST_ROWS + 1);
        assert!(text.lines().last().is_some_and(|line| line.starts_with("3 others ")), "{text}");
    }

    #[test]
    fn the_trace_has_a_track_for_the_host_and_one_for_the_device() {
        let trace = profile().trace();
        let events = trace["traceEvents"].as_array().unwrap();
        assert_eq!(events.iter().filter(|event| event["ph"] == "M").count(), 3);
        let [dispatch, phase] = &events[3..] else { panic!("{trace}") };
        assert_eq!((&dispatch["ts"], &dispatch["dur"]), (&json!(1000.0), &json!(2000.0)));
        assert_eq!((&dispatch["cat"], &dispatch["args"]["flops"]), (&json!("first run"), &json!(400)));
        assert_eq!((&phase["name"], &phase["cat"]), (&json!("rollout"), &json!("host")));
        assert_ne!(phase["tid"], dispatch["tid"]);
    }
}

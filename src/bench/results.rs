//! Measurements as data: for tables, for files, and to compare with later results.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::measure::Timing;
use crate::error::{Error, Result};
use crate::files::read_text;
use crate::gpu::{AdapterDescription, Gpu, Options};
use crate::graph::DeviceProfile;
use crate::roofline::Roofline;

/// The `format` of every file of results; another number means another format.
const FORMAT: &str = "flowdppo-wgpu bench 1";

/// The limit of the device that a benchmark is closer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Arithmetic: the row `fma`.
    Fma,
    /// Memory: the row `copy`.
    Copy,
}

/// One benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// What was measured.
    pub name: String,
    /// Median time per run in seconds.
    pub seconds: f64,
    /// Lower and upper quartile.
    pub quartiles: [f64; 2],
    /// Runs, warm-up excluded.
    pub runs: usize,
    /// Floating-point operations per second / 10⁹, if they are counted.
    pub gflop_per_second: Option<f64>,
    /// Bytes that must be moved at least, per second / 10⁹, if they are counted.
    pub gigabytes_per_second: Option<f64>,
    /// The limit that binds.
    pub limit: Option<Limit>,
    /// The time that this limit alone would allow, divided by the measured time.
    pub share_of_limit: Option<f64>,
    /// Further values, by name and unit.
    pub details: BTreeMap<String, f64>,
}

impl Measurement {
    /// A row of a benchmark that does `flops` operations and moves `bytes` bytes per run, 0 if they are not
    /// counted.
    pub(super) fn new(name: &str, timing: Timing, flops: u64, bytes: u64) -> Self {
        let [lower, seconds, upper] = timing.quartiles;
        let rate = |amount: u64| (amount > 0).then(|| amount as f64 / seconds / 1e9);
        Self {
            name: name.to_owned(),
            seconds,
            quartiles: [lower, upper],
            runs: timing.runs,
            gflop_per_second: rate(flops),
            gigabytes_per_second: rate(bytes),
            limit: None,
            share_of_limit: None,
            details: BTreeMap::new(),
        }
    }

    /// The same compared with the limits of the device: the slower of arithmetic and memory binds, as in the roofline
    /// model (Williams, Waterman and Patterson 2009).
    pub(super) fn against(mut self, limits: Roofline) -> Self {
        let share = |rate: Option<f64>, limit: f64| rate.map_or(0.0, |rate| 1e9 * rate / limit);
        let fma = share(self.gflop_per_second, limits.flops_per_second);
        let copy = share(self.gigabytes_per_second, limits.bytes_per_second);
        self.limit = Some(if fma >= copy { Limit::Fma } else { Limit::Copy });
        self.share_of_limit = Some(fma.max(copy));
        self
    }

    /// The same with further values.
    pub(super) fn with(mut self, details: impl IntoIterator<Item = (&'static str, f64)>) -> Self {
        self.details.extend(details.into_iter().map(|(name, value)| (name.to_owned(), value)));
        self
    }

    /// The share of the limit in words, such as "12.3 % of fma"; empty if it has none.
    pub fn of_limit(&self) -> String {
        match (self.limit, self.share_of_limit) {
            (Some(limit), Some(share)) => {
                let name = if limit == Limit::Fma { "fma" } else { "copy" };
                format!("{:.1} % of {name}", 100.0 * share)
            }
            _ => String::new(),
        }
    }

    /// Half the distance between the quartiles, as a share of the median.
    pub fn spread(&self) -> f64 {
        (self.quartiles[1] - self.quartiles[0]) / 2.0 / self.seconds
    }
}

/// Results of one run of benchmarks, and where they were measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    format: String,
    /// Version of the program.
    pub version: String,
    /// When, in universal time.
    pub date: String,
    /// The adapter's name.
    pub adapter: String,
    /// Driver and its version.
    pub driver: String,
    /// Vulkan, Metal or DX12.
    pub backend: String,
    /// The limits that the device was opened with.
    pub limits: String,
    /// Run-time checks in shaders were on.
    pub checked: bool,
    /// The variant that `FLOWDPPO_KERNEL` forced.
    pub kernel: Option<String>,
    /// What was measured.
    pub rows: Vec<Measurement>,
    /// What was skipped, and why.
    pub notes: Vec<String>,
}

impl Results {
    pub(super) fn new(gpu: &Gpu, options: &Options) -> Self {
        let AdapterDescription { name, driver, backend, .. } = gpu.description().clone();
        Self {
            format: FORMAT.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            date: now(),
            adapter: name,
            driver,
            backend,
            limits: options.limits.name().into(),
            checked: options.checked,
            kernel: DeviceProfile::of(gpu).forced,
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Reads results that were written before.
    ///
    /// # Errors
    /// [`Error::Input`] if the file cannot be read or contains anything else.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        let wrong = |cause: String| {
            let path = path.display();
            Error::input(format!("{path} does not contain results written by `bench --out` or `bench --json`: {cause}"))
        };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|cause| wrong(cause.to_string()))?;
        match value.get("format").and_then(serde_json::Value::as_str) {
            Some(FORMAT) => serde_json::from_value(value).map_err(|cause| wrong(cause.to_string())),
            Some(other) => Err(wrong(format!("its format is `{other}`, not `{FORMAT}`"))),
            None => Err(wrong("it has no `format`".into())),
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and text are JSON")
    }

    /// The old and new measurements of everything that was measured both times.
    pub fn beside<'a>(&'a self, old: &'a Self) -> Vec<(&'a Measurement, &'a Measurement)> {
        let old = |row: &Measurement| old.rows.iter().find(|old| old.name == row.name);
        self.rows.iter().filter_map(|row| Some((old(row)?, row))).collect()
    }

    /// How the environments of two results differ, one sentence each: ratios then say more about those than about
    /// the program.
    pub fn differences(&self, old: &Self) -> Vec<String> {
        let text = |kernel: &Option<String>| kernel.clone().unwrap_or_else(|| "not set".into());
        let checks = |checked: bool| if checked { "on" } else { "off" }.to_owned();
        [
            ("adapter", old.adapter.clone(), self.adapter.clone()),
            ("driver", old.driver.clone(), self.driver.clone()),
            ("backend", old.backend.clone(), self.backend.clone()),
            ("limits", old.limits.clone(), self.limits.clone()),
            ("checks", checks(old.checked), checks(self.checked)),
            ("FLOWDPPO_KERNEL", text(&old.kernel), text(&self.kernel)),
            ("version", old.version.clone(), self.version.clone()),
        ]
        .into_iter()
        .filter(|(_, old, new)| old != new)
        .map(|(what, old, new)| format!("{what} differs: {old} then, {new} now"))
        .collect()
    }
}

/// This moment in universal time, to the second.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Roofline = Roofline { flops_per_second: 100e9, bytes_per_second: 10e9 };

    fn row(seconds: f64, flops: u64, bytes: u64) -> Measurement {
        let timing = Timing { quartiles: [0.9 * seconds, seconds, 1.1 * seconds], fastest: 0.8 * seconds, runs: 5 };
        Measurement::new("it", timing, flops, bytes).against(LIMITS)
    }

    #[test]
    fn shares_are_relative_to_the_limit_that_binds() {
        // A second of arithmetic, and half a second of memory.
        let compute = row(4.0, 100_000_000_000, 5_000_000_000);
        assert_eq!((compute.limit, compute.share_of_limit), (Some(Limit::Fma), Some(0.25)));
        assert_eq!((compute.gflop_per_second, compute.gigabytes_per_second), (Some(25.0), Some(1.25)));
        let memory = row(2.0, 0, 10_000_000_000);
        assert_eq!((memory.limit, memory.share_of_limit), (Some(Limit::Copy), Some(0.5)));
        assert_eq!(memory.gflop_per_second, None);
        assert!((memory.spread() - 0.1).abs() < 1e-12);
    }
}

//! The report of `doctor` about one device: what it is, whether this program computes correctly on it, and how fast.
//! Anybody can run it and post the result, so nothing in it says whose machine it was made on.

mod benchmarks;
mod markdown;
mod ops;
mod rows;
mod training;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bench::{Measurement, now};
use crate::error::Result;
use crate::gpu::{AdapterDescription, Gpu, Options};
use crate::graph::DeviceProfile;
use crate::run::Progress;
use crate::self_test::{self, Check};
use ops::ComparedOp;
use rows::CheckedVariant;
use training::ComparedIteration;

/// The `format` of every report; another number means another format.
const FORMAT: &str = "flowdppo-wgpu doctor 1";

/// Everything that was found out about a device.
#[derive(Debug, Serialize)]
pub struct Report {
    format: &'static str,
    /// Version of the program.
    version: &'static str,
    /// When, in universal time.
    date: String,
    /// Whether it has less of everything.
    quick: bool,
    /// Whether every section passed.
    passed: bool,
    seconds: f64,
    system: System,
    device: AdapterDescription,
    opened: Opened,
    sections: Vec<Section>,
}

/// The machine, without anything that identifies it.
#[derive(Debug, Serialize)]
struct System {
    os: &'static str,
    architecture: &'static str,
    /// Threads that run at once.
    processors: usize,
}

/// How the device was opened, which options and variables of the environment change.
#[derive(Debug, Serialize)]
struct Opened {
    limits: &'static str,
    checked: bool,
    /// Whether kernels may use subgroups.
    subgroups: bool,
    /// The variant that `FLOWDPPO_KERNEL` forces.
    kernel: Option<String>,
}

/// A part of the report.
#[derive(Debug, Serialize)]
struct Section {
    name: &'static str,
    passed: bool,
    /// Why it did not pass.
    failure: Option<String>,
    seconds: f64,
    /// It begins nothing new after this time: its own, and what the sections before it have left.
    budget_seconds: f64,
    rows: Vec<Row>,
    /// What was left out, and why.
    notes: Vec<String>,
}

/// One result. Those of a section are all of one kind.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Row {
    Check(Check),
    Op(ComparedOp),
    Variant(CheckedVariant),
    Measured(Measurement),
    Iteration(ComparedIteration),
}

impl Row {
    /// What it is about, if it shows a mistake.
    fn failed(&self) -> Option<String> {
        match self {
            Self::Check(check) => (!check.passed).then(|| check.name.to_owned()),
            Self::Op(op) => (!op.passed).then(|| op.name.clone()),
            Self::Variant(variant) => (!variant.passed).then(|| variant.name.to_owned()),
            Self::Iteration(iteration) => (!iteration.passed).then(|| format!("iteration {}", iteration.iteration)),
            Self::Measured(_) => None,
        }
    }
}

/// A section as it is planned.
struct Task {
    name: &'static str,
    /// Seconds, also of a quick report. All together leave a minute of the nine that the documents promise.
    budget: [u64; 2],
    work: fn(&mut Work<'_>) -> Result<()>,
}

const TASKS: [Task; 5] = [
    Task { name: "self-tests", budget: [20, 5], work: self_tests },
    Task { name: "ops against f64", budget: [110, 10], work: ops::run },
    Task { name: "rows on their own", budget: [80, 10], work: rows::run },
    Task { name: "benchmarks", budget: [110, 10], work: benchmarks::run },
    Task { name: "training", budget: [160, 5], work: training::run },
];

/// A section while it is made.
struct Work<'a> {
    gpu: Arc<Gpu>,
    options: &'a Options,
    quick: bool,
    end: Instant,
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Work<'_> {
    /// Whether `left` more steps may begin with the next one; if not, it is noted that they are left out.
    fn has_time(&mut self, left: usize) -> bool {
        let has_time = Instant::now() < self.end;
        if !has_time {
            self.notes.push(format!("left out, because the time was up: the last {left}"));
        }
        has_time
    }
}

fn self_tests(work: &mut Work<'_>) -> Result<()> {
    work.rows.extend(self_test::run(&work.gpu).into_iter().map(Row::Check));
    Ok(())
}

impl Task {
    fn budget(&self, quick: bool) -> Duration {
        Duration::from_secs(self.budget[usize::from(quick)])
    }

    /// Makes the section in this time. Whatever goes wrong ends only this one: a driver that nobody has tried may do anything.
    fn run(&self, gpu: Arc<Gpu>, options: &Options, quick: bool, budget: Duration) -> Section {
        let start = Instant::now();
        let mut work = Work { gpu, options, quick, end: start + budget, rows: Vec::new(), notes: Vec::new() };
        let stopped = match catch_unwind(AssertUnwindSafe(|| (self.work)(&mut work))) {
            Ok(Ok(())) => None,
            Ok(Err(cause)) => Some(cause.to_string()),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason was given");
                Some(format!("the program stopped here by mistake: {text}"))
            }
        };
        let failed: Vec<String> = work.rows.iter().filter_map(Row::failed).collect();
        let wrong = || format!("{} of {} failed: {}", failed.len(), work.rows.len(), first_of(&failed));
        let failure = stopped.or_else(|| (!failed.is_empty()).then(wrong)).map(|text| without_home(&text));
        Section {
            name: self.name,
            passed: failure.is_none(),
            failure,
            seconds: start.elapsed().as_secs_f64(),
            budget_seconds: budget.as_secs_f64(),
            rows: work.rows,
            notes: work.notes.iter().map(|note| without_home(note)).collect(),
        }
    }
}

impl Section {
    /// A section for which the device could not be opened again.
    fn impossible(task: &Task, budget: Duration, cause: &str) -> Self {
        Self {
            name: task.name,
            passed: false,
            failure: Some(without_home(cause)),
            seconds: 0.0,
            budget_seconds: budget.as_secs_f64(),
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// How many names a message has; the tables have them all.
const NAMED: usize = 5;

/// The first names of a list.
fn first_of(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names[..names.len().min(NAMED)].join(", "))
}

/// A message without the path of the user's own folder, which has their name.
fn without_home(text: &str) -> String {
    match dirs::home_dir().filter(|home| home.parent().is_some()) {
        Some(home) => text.replace(&*home.to_string_lossy(), "~"),
        None => text.to_owned(),
    }
}

impl Report {
    /// The sections of a report.
    pub const SECTIONS: u64 = TASKS.len() as u64;

    /// Examines a device, which was opened with these options. After a section that failed it is opened again, as it may
    /// have been lost.
    pub fn new(gpu: Arc<Gpu>, options: &Options, quick: bool, progress: &mut Progress) -> Self {
        let (start, date, profile) = (Instant::now(), now(), DeviceProfile::of(&gpu));
        let device = gpu.description().clone();
        let opened = Opened {
            limits: options.limits.name(),
            checked: options.checked,
            subgroups: gpu.has_subgroups(),
            kernel: profile.forced,
        };
        let (mut open, mut planned) = (Ok(gpu), Duration::ZERO);
        let mut sections: Vec<Section> = Vec::new();
        for (index, task) in TASKS.iter().enumerate() {
            progress.update(index as u64, task.name);
            if sections.last().is_some_and(|section| !section.passed) {
                drop(open);
                open = Gpu::open(options);
            }
            planned += task.budget(quick);
            // It never has less than its own: a section that was late does not leave another without results.
            let budget = planned.saturating_sub(start.elapsed()).max(task.budget(quick));
            sections.push(match &open {
                Ok(gpu) => task.run(gpu.clone(), options, quick, budget),
                Err(cause) => Section::impossible(task, budget, &cause.to_string()),
            });
        }
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION"),
            date,
            quick,
            passed: sections.iter().all(|section| section.passed),
            seconds: start.elapsed().as_secs_f64(),
            system: System {
                os: std::env::consts::OS,
                architecture: std::env::consts::ARCH,
                processors: std::thread::available_parallelism().map_or(1, usize::from),
            },
            device,
            opened,
            sections,
        }
    }

    /// The names of the sections that failed.
    pub fn failed(&self) -> Vec<&'static str> {
        self.sections.iter().filter(|section| !section.passed).map(|section| section.name).collect()
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and text are JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn section(work: fn(&mut Work<'_>) -> Result<()>) -> Section {
        let options = Options::default().or_environment();
        let gpu = Gpu::open(&options).expect("the tests need an adapter");
        Task { name: "a section", budget: [1, 0], work }.run(gpu, &options, true, Duration::ZERO)
    }

    #[test]
    fn a_section_that_fails_says_why_and_keeps_what_it_found() {
        let found = section(|work| {
            work.rows.push(Row::Check(Check { name: "sums", passed: false, detail: String::new() }));
            Ok(())
        });
        assert_eq!((found.passed, found.failure.as_deref()), (false, Some("1 of 1 failed: sums")));
        assert_eq!(first_of(&["a", "b", "c", "d", "e", "f", "g"].map(String::from)), "a, b, c, d, e and 2 more");
        let home = dirs::home_dir().expect("there is one");
        let stopped = section(|_| Err(Error::failed(format!("{}/x is full", dirs::home_dir().unwrap().display()))));
        let says = stopped.failure.expect("it failed");
        assert!(says == "~/x is full" || home.parent().is_none(), "{says}");
        let found = section(|_| panic!("the driver is odd"));
        assert!(found.failure.is_some_and(|says| says.ends_with("by mistake: the driver is odd")));
    }

    #[test]
    fn what_there_is_no_time_for_is_noted() {
        let found = section(|work| {
            assert!(!work.has_time(3));
            Ok(())
        });
        assert!(found.passed);
        assert_eq!(found.notes, ["left out, because the time was up: the last 3"]);
    }
}

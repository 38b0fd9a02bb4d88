//! What ran when and for how long: recorded by plans and phases while a device is profiled, read by reports.
//!
//! Profiling is a property of the open device ([`Gpu::start_profiling`]). While it is on, plans time every
//! dispatch. Results are the same bit for bit, but the run is slower: every dispatch is a separate submission,
//! and the host waits for each replay.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use web_time::Instant;

use super::device::Gpu;
use super::timing::Timing;

/// The phase that counts the iterations of a loop; only the first few keep single dispatches as events.
pub const ITERATION: &str = "iteration";

/// Iterations whose dispatches are kept one by one: one to warm up and two more.
const RECORDED_ITERATIONS: usize = 3;

/// Largest number of events that are kept, about 50 MB of trace.
const MAX_EVENTS: usize = 200_000;

/// What one dispatch of a plan does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Work {
    /// Label of its node.
    pub label: String,
    /// Name of its op.
    pub op: &'static str,
    /// Name of its shader.
    pub shader: &'static str,
    /// Its share of the node's floating-point operations.
    pub flops: u64,
    /// Bytes of everything bound to it, each tensor counted once; a lookup reads fewer.
    pub bytes: u64,
}

/// How often a dispatch ran, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of runs.
    pub count: u64,
    /// Their total time.
    pub took: Duration,
}

/// One interval of the recording.
#[derive(Clone, Debug)]
pub struct Event {
    /// Start, since profiling was started.
    pub start: Duration,
    /// Duration.
    pub took: Duration,
    /// What the host was doing: the innermost phase, or the event's own.
    pub phase: &'static str,
    /// The dispatch, or `None` if the event is a phase.
    pub work: Option<Arc<Work>>,
    /// Whether the kernel ran for the first time, when drivers finish compiling, so its time means little.
    pub first: bool,
}

/// A snapshot of the recording.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Totals of every dispatch by the host's phase, without the first run of each kernel.
    pub totals: Vec<(&'static str, Arc<Work>, Totals)>,
    /// Totals of the host's phases; a nested phase counts in both.
    pub phases: BTreeMap<&'static str, Totals>,
    /// First runs of kernels, which are not in the totals.
    pub first_runs: Totals,
    /// The first events, in the order in which they ended.
    pub events: Vec<Event>,
}

#[derive(Debug, Default)]
struct State {
    stack: Vec<&'static str>,
    totals: BTreeMap<(&'static str, Arc<Work>), Totals>,
    phases: BTreeMap<&'static str, Totals>,
    first_runs: Totals,
    events: Vec<Event>,
    /// End of the newest event on the device.
    device_end: Duration,
}

/// The recording of a device.
#[derive(Debug)]
pub struct Profiler {
    start: Instant,
    state: Mutex<State>,
}

impl Totals {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.took += took;
    }
}

impl Profiler {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), state: Mutex::default() }
    }

    /// Adds a timed replay: what each dispatch does, and when it ran.
    pub fn record(&self, works: &[Arc<Work>], timings: &[Timing]) {
        let mut state = self.lock();
        let phase = state.stack.last().copied().unwrap_or("other");
        let keep = state.phases.get(ITERATION).is_none_or(|totals| totals.count < RECORDED_ITERATIONS as u64);
        for (work, timing) in works.iter().zip(timings) {
            match timing.first {
                true => state.first_runs.add(timing.took),
                false => state.totals.entry((phase, work.clone())).or_default().add(timing.took),
            }
            // A device may start a dispatch before the previous one ends; in the trace they must not overlap.
            let start = timing.start.saturating_duration_since(self.start).max(state.device_end);
            let end = (timing.start + timing.took).saturating_duration_since(self.start).max(start);
            state.device_end = end;
            if keep && state.events.len() < MAX_EVENTS {
                let (took, work, first) = (end - start, Some(work.clone()), timing.first);
                state.events.push(Event { start, took, phase, work, first });
            }
        }
    }

    /// The recording so far.
    pub fn recording(&self) -> Recording {
        let state = self.lock();
        let totals = state.totals.iter().map(|((phase, work), totals)| (*phase, work.clone(), *totals));
        Recording {
            totals: totals.collect(),
            phases: state.phases.clone(),
            first_runs: state.first_runs,
            events: state.events.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A phase of the host, from [`Gpu::phase`] until this is dropped.
#[derive(Debug)]
#[must_use = "the phase ends when this is dropped"]
pub struct Phase(Option<(Arc<Profiler>, &'static str, Instant)>);

impl Drop for Phase {
    fn drop(&mut self) {
        let Some((profiler, phase, begin)) = self.0.take() else { return };
        let (start, took) = (begin.saturating_duration_since(profiler.start), begin.elapsed());
        let mut state = profiler.lock();
        state.stack.pop();
        state.phases.entry(phase).or_default().add(took);
        if state.events.len() < MAX_EVENTS {
            state.events.push(Event { start, took, phase, work: None, first: false });
        }
    }
}

impl Gpu {
    /// From now on, every replay of a plan made after this call is timed and recorded.
    pub fn start_profiling(&self) {
        self.profiler.get_or_init(|| Arc::new(Profiler::new()));
    }

    /// The recording, if the device is profiled.
    pub fn profiler(&self) -> Option<&Profiler> {
        self.profiler.get().map(Arc::as_ref)
    }

    /// Starts a phase of the host, which ends when the result is dropped. Phases may nest. Free unless profiling.
    pub fn phase(&self, name: &'static str) -> Phase {
        Phase(self.profiler.get().map(|profiler| {
            profiler.lock().stack.push(name);
            (profiler.clone(), name, Instant::now())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_follow_each_other_and_are_bounded_while_totals_are_not() {
        let profiler = Profiler::new();
        let work = Arc::new(Work { label: "a.b".into(), op: "b", shader: "b", flops: 1, bytes: 2 });
        let at = |milliseconds: u64, first: bool| Timing {
            start: profiler.start + Duration::from_millis(milliseconds),
            took: Duration::from_millis(3),
            first,
        };
        // The second starts before the first has ended.
        profiler.record(&[work.clone(), work.clone()], &[at(0, true), at(2, false)]);
        let recording = profiler.recording();
        assert_eq!(recording.totals, [("other", work.clone(), Totals { count: 1, took: Duration::from_millis(3) })]);
        assert_eq!(recording.first_runs.count, 1);
        let [first, second] = &recording.events[..] else { panic!("two events: {recording:?}") };
        assert_eq!(second.start, first.start + first.took);
        assert_eq!(second.start + second.took, Duration::from_millis(5));

        profiler.lock().phases.insert(ITERATION, Totals { count: 3, took: Duration::ZERO });
        profiler.record(&[work], &[at(9, false)]);
        let recording = profiler.recording();
        assert_eq!((recording.totals[0].2.count, recording.events.len()), (2, 2));
    }
}

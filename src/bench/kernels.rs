//! The limits of the device, the cost of a dispatch and of a readback, and single kernels.

use super::Suite;
use super::cases::Case;
use super::measure::{seconds, submit};
use super::results::Measurement;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu, Kernel, Params, Region};
use crate::roofline;

/// The arithmetic kernel runs at least this long, so that its launch does not count.
const LONG_ENOUGH: f64 = 0.02;

/// Dispatches per submission.
const DISPATCHES: usize = 500;

fn region(gpu: &Gpu, bytes: u64) -> Result<Region> {
    Ok(Region { buffer: gpu.allocate("benchmark", bytes)?, offset: 0, bytes })
}

impl Suite<'_> {
    /// The arithmetic limit.
    pub(super) fn fma(&mut self) -> Result<()> {
        let mut rounds = 1;
        let bound = loop {
            let bound = [roofline::fma(&self.gpu, rounds)?];
            submit(&self.gpu, &bound)?;
            if seconds(|| submit(&self.gpu, &bound))? > LONG_ENOUGH || rounds >= 1 << 20 {
                break bound;
            }
            rounds *= 2;
        };
        // Per round, so that the row means the same work for any number of rounds.
        let timing = self.pace.dispatches(&self.gpu, &bound)?.per(rounds as usize);
        let flops = roofline::FLOPS_A_ROUND;
        self.limits.flops_per_second = flops as f64 / timing.fastest;
        self.add(Measurement::new("fma", timing, flops, 0));
        Ok(())
    }

    /// The memory traffic limit.
    pub(super) fn copy(&mut self) -> Result<()> {
        let (dispatch, bytes) = roofline::copy(&self.gpu)?;
        let timing = self.pace.dispatches(&self.gpu, &[dispatch])?;
        self.limits.bytes_per_second = bytes as f64 / timing.fastest;
        self.add(Measurement::new("copy", timing, 0, bytes));
        Ok(())
    }

    /// An empty kernel: among others in one submission, and alone with its own submission and wait.
    pub(super) fn dispatch(&mut self) -> Result<()> {
        let empty = Dispatch {
            kernel: Kernel::new("bench_empty"),
            reads: vec![],
            writes: vec![],
            params: Params::default(),
            grid: [1; 3],
        };
        let bound = self.gpu.bind(&[empty])?;
        let many = || submit(&self.gpu, std::iter::repeat_n(&bound[0], DISPATCHES));
        many()?;
        let timing = self.pace.repeat(|| seconds(many))?.per(DISPATCHES);
        let alone = self.pace.repeat(|| seconds(|| submit(&self.gpu, &bound)))?;
        self.add(Measurement::new("dispatch in a submission", timing, 0, 0));
        self.add(Measurement::new("dispatch, submit, wait", alone, 0, 0));
        Ok(())
    }

    /// Transfers of results to the host.
    pub(super) fn readback(&mut self) -> Result<()> {
        for (name, bytes) in [("4 KiB", 4 << 10), ("1 MiB", 1 << 20), ("16 MiB", 16 << 20)] {
            let region = region(&self.gpu, bytes)?;
            let read = || self.gpu.read::<u32>(&[&region]).map(|_| ());
            read()?;
            let timing = self.pace.repeat(|| seconds(read))?;
            self.add(Measurement::new(&format!("readback {name}"), timing, 0, bytes));
        }
        Ok(())
    }

    /// Cases of one op, by increasing cost. The time of one tells whether the next would take too long.
    pub(super) fn kernels(&mut self, cases: Vec<Case>) -> Result<()> {
        let mut seconds_by_work = 0.0;
        for case in cases {
            let (flops, bytes) = (case.graph.flops(), case.bytes());
            let work = if flops > 0 { flops } else { bytes } as f64;
            if !self.is_short_enough(&case.name, work * seconds_by_work) {
                continue;
            }
            let bound = case.bind(&self.gpu);
            let Some(plan) = self.or_too_large(&case.name, bound)? else { continue };
            let timing = self.pace.dispatches(&self.gpu, plan.dispatches())?;
            seconds_by_work = timing.median() / work;
            self.add(Measurement::new(&case.name, timing, flops, bytes).against(self.limits));
        }
        Ok(())
    }
}

//! Measures the two limits of a device in the roofline model (Williams, Waterman and Patterson 2009), with which kernels
//! are compared.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::Result;
use crate::gpu::{
    BoundDispatch, Command, Dispatch, Gpu, Kernel, Params, Region, ShaderStruct, StructLayout, grid_1d, shader_struct,
};

/// In a shorter measurement, the overhead of a submission dominates.
const LONG_ENOUGH: Duration = Duration::from_millis(20);

/// The fastest of several measurements counts: other load can only slow it down.
const REPETITIONS: usize = 3;

/// Bytes that are copied at a time: more than caches contain, and no more than WebGPU allows everywhere.
const COPIED: u64 = 128 << 20;

/// Invocations of the arithmetic kernel: more than any processor runs at once.
const INVOCATIONS: u64 = 1 << 19;

/// Floating-point operations of a round of [`fma`] over all invocations.
pub const FLOPS_A_ROUND: u64 = 64 * INVOCATIONS;

shader_struct! {
    struct RooflineFmaParams {
        rounds: u32,
        factor: f32,
        summand: f32,
    }
}

shader_struct! {
    struct RooflineCopyParams {
        vectors: u32,
    }
}

/// The structs that are shared with the shaders, for the test that compares them.
#[doc(hidden)]
pub const LAYOUTS: [StructLayout; 2] = [RooflineFmaParams::LAYOUT, RooflineCopyParams::LAYOUT];

/// The limits of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Roofline {
    /// Floating-point operations per second in f32, a multiply-add counted as two.
    pub flops_per_second: f64,
    /// Bytes read and written per second.
    pub bytes_per_second: f64,
}

impl Roofline {
    /// Measures the device, which takes some tenths of a second.
    ///
    /// # Errors
    /// If the device is lost or does not have enough memory.
    pub fn measure(gpu: &Gpu) -> Result<Self> {
        Ok(Self { flops_per_second: measure_fma(gpu)?, bytes_per_second: measure_copy(gpu)? })
    }

    /// The highest rate, in operations per second, that work with this many operations per byte can reach.
    pub fn attainable(&self, flops_per_byte: f64) -> f64 {
        self.flops_per_second.min(flops_per_byte * self.bytes_per_second)
    }

    /// The least seconds that work can take. Divided by those that it took, this is the share of
    /// [`Roofline::attainable`] that was reached; it is also defined for work without operations.
    pub fn least_seconds(&self, flops: f64, bytes: f64) -> f64 {
        (flops / self.flops_per_second).max(bytes / self.bytes_per_second)
    }
}

fn measure_fma(gpu: &Gpu) -> Result<f64> {
    let rounds_a_second = rate(|rounds| elapsed(gpu, &[fma(gpu, rounds)?]))?;
    Ok(rounds_a_second * FLOPS_A_ROUND as f64)
}

fn measure_copy(gpu: &Gpu) -> Result<f64> {
    let (dispatch, bytes) = copy(gpu)?;
    let copies_a_second = rate(|amount| elapsed(gpu, std::iter::repeat_n(&dispatch, amount as usize)))?;
    Ok(copies_a_second * bytes as f64)
}

fn region(gpu: &Gpu, bytes: u64) -> Result<Region> {
    Ok(Region { buffer: gpu.allocate("roofline", bytes)?, offset: 0, bytes })
}

/// Pure arithmetic: `rounds` rounds of multiply-adds in registers.
///
/// # Errors
/// If the device does not have enough memory.
pub fn fma(gpu: &Gpu, rounds: u32) -> Result<BoundDispatch> {
    fma_into(gpu, &region(gpu, 4 * INVOCATIONS)?, rounds)
}

fn fma_into(gpu: &Gpu, results: &Region, rounds: u32) -> Result<BoundDispatch> {
    let dispatch = Dispatch {
        kernel: Kernel::new("roofline_fma"),
        reads: Vec::new(),
        writes: vec![results.clone()],
        // Every chain ends at 2.
        params: Params::of(&RooflineFmaParams { rounds, factor: 0.5, summand: 1.0 }),
        grid: grid_1d(INVOCATIONS / 64),
    };
    Ok(gpu.bind(&[dispatch])?.remove(0))
}

/// Pure memory traffic, and how many bytes are read and written.
///
/// # Errors
/// If the device does not have enough memory.
pub fn copy(gpu: &Gpu) -> Result<(BoundDispatch, u64)> {
    let mut bytes = COPIED;
    while bytes > 1 << 20 && gpu.check_memory(gpu.counters().bytes_held + 2 * bytes).is_err() {
        bytes /= 2;
    }
    Ok((copy_between(gpu, &region(gpu, bytes)?, &region(gpu, bytes)?)?, 2 * bytes))
}

fn copy_between(gpu: &Gpu, from: &Region, to: &Region) -> Result<BoundDispatch> {
    let vectors = from.bytes / 16;
    let dispatch = Dispatch {
        kernel: Kernel::new("roofline_copy"),
        reads: vec![from.clone()],
        writes: vec![to.clone()],
        params: Params::of(&RooflineCopyParams { vectors: vectors as u32 }),
        grid: grid_1d(vectors.div_ceil(256)),
    };
    Ok(gpu.bind(&[dispatch])?.remove(0))
}

/// The time of a submission, by the host's clock.
fn elapsed<'a>(gpu: &Gpu, dispatches: impl IntoIterator<Item = &'a BoundDispatch>) -> Result<Duration> {
    gpu.wait()?;
    let start = Instant::now();
    gpu.submit(dispatches.into_iter().map(Command::Dispatch))?;
    gpu.wait()?;
    Ok(start.elapsed())
}

/// Work per second: the amount is increased until it takes long enough for the host's clock, which needs no feature of
/// the device, and until the overhead of a submission is negligible.
fn rate(mut run: impl FnMut(u32) -> Result<Duration>) -> Result<f64> {
    let mut amount = 1;
    while run(amount)? < LONG_ENOUGH && amount < 1 << 24 {
        amount *= 2;
    }
    let mut fastest = Duration::MAX;
    for _ in 0..REPETITIONS {
        fastest = fastest.min(run(amount)?);
    }
    Ok(f64::from(amount) / fastest.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Options;

    #[test]
    fn the_kernels_do_the_counted_work() {
        let gpu = Gpu::open(&Options::default().or_environment()).expect("the tests need an adapter");
        let [results, from, to] = [4 * INVOCATIONS, 4096, 4096].map(|bytes| region(&gpu, bytes).expect("it is small"));
        let data: Vec<u32> = (0..1024).collect();
        gpu.write(&from.buffer, 0, &data);
        let dispatches = [fma_into(&gpu, &results, 100), copy_between(&gpu, &from, &to)]
            .map(|dispatch| dispatch.expect("the kernels are valid"));
        gpu.submit(dispatches.iter().map(Command::Dispatch)).expect("the device works");
        assert_eq!(gpu.read::<u32>(&[&to]).expect("the device works"), data);
        // 32 chains that all end at 2, up to rounding.
        let sums: Vec<f32> = gpu.read(&[&results]).expect("the device works");
        assert!(sums.iter().all(|sum| (sum - 64.0).abs() < 1e-4), "{:?}", &sums[..4]);

        let roofline = Roofline::measure(&gpu).expect("the device works");
        for limit in [roofline.flops_per_second, roofline.bytes_per_second] {
            assert!(limit.is_finite() && limit > 0.0, "{roofline:?}");
        }
    }

    #[test]
    fn little_arithmetic_is_bound_by_memory_and_much_by_arithmetic() {
        let roofline = Roofline { flops_per_second: 100.0, bytes_per_second: 10.0 };
        assert_eq!([1.0, 10.0, 1000.0].map(|intensity| roofline.attainable(intensity)), [10.0, 100.0, 100.0]);
        assert_eq!(roofline.least_seconds(50.0, 20.0), 2.0);
        assert_eq!(roofline.least_seconds(500.0, 20.0), 5.0);
        assert_eq!(roofline.least_seconds(0.0, 20.0), 2.0);
    }

    #[test]
    fn the_work_is_increased_until_it_can_be_timed() {
        let mut most = 0;
        let rate = rate(|amount| {
            most = most.max(amount);
            Ok(Duration::from_micros(100) * amount)
        })
        .expect("nothing fails");
        assert!((rate - 10_000.0).abs() < 1e-6, "{rate}");
        assert_eq!(most, 256, "25.6 ms");
    }
}

//! Benchmarks of kernels and complete steps, for work on them: `cargo bench`, or `cargo bench -- matmul`. They are the
//! cases of `flowdppo-wgpu bench`, which also compares them with the limits of the device.
//!
//! Each figure is one replay of a plan, including the wait for it. Compare figures within one run: machines are noisy.

use std::sync::{Arc, LazyLock};

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use flowdppo_wgpu::bench::BenchmarkStep;
use flowdppo_wgpu::bench::cases::{self, Case};
use flowdppo_wgpu::bench::shapes::{ATTENTION, CONV2D, LINEAR, quickly_measured};
use flowdppo_wgpu::config::Precision;
use flowdppo_wgpu::gpu::{Gpu, Options};
use flowdppo_wgpu::ops::Conv2d;

static GPU: LazyLock<Arc<Gpu>> =
    LazyLock::new(|| Gpu::open(&Options::default().or_environment()).expect("a benchmark needs an adapter"));

fn main() {
    println!("device: {} ({})", GPU.description().name, GPU.description().driver);
    divan::main();
}

/// Times the replay of a case; the rate is in floating-point operations if the ops count them.
fn replay(bencher: Bencher<'_, '_>, case: &Case) {
    let mut plan = case.bind(&GPU).expect("the case fits the device");
    // The first replays compile and measure.
    for _ in 0..3 {
        plan.run().expect("the device works");
    }
    GPU.wait().expect("the device works");
    let replay = || {
        black_box(&mut plan).run().expect("the device works");
        GPU.wait().expect("the device works");
    };
    match case.graph.flops() {
        0 => bencher.bench_local(replay),
        flops => bencher.counter(ItemsCount::new(flops)).bench_local(replay),
    }
}

#[divan::bench(args = quickly_measured(LINEAR), sample_count = 10)]
fn matmul(bencher: Bencher<'_, '_>, sizes: [usize; 3]) {
    replay(bencher, &cases::matmul(sizes));
}

#[divan::bench(args = quickly_measured(ATTENTION), sample_count = 10)]
fn attention(bencher: Bencher<'_, '_>, sizes: [usize; 4]) {
    replay(bencher, &cases::attention(false, sizes));
}

#[divan::bench(args = quickly_measured(ATTENTION), sample_count = 10)]
fn attention_backward(bencher: Bencher<'_, '_>, sizes: [usize; 4]) {
    replay(bencher, &cases::attention(true, sizes));
}

#[divan::bench(args = quickly_measured(CONV2D), sample_count = 10)]
fn conv2d(bencher: Bencher<'_, '_>, [inputs, outputs, side]: [usize; 3]) {
    replay(bencher, &cases::conv2d(Conv2d::same(3), [1, inputs, outputs, side]));
}

#[divan::bench(sample_count = 10)]
fn layer_norm(bencher: Bencher<'_, '_>) {
    replay(bencher, &cases::layer_norms()[1]);
}

/// A complete training step: 32 images of 32x32x3 in 64 tokens, hidden size 128, depth 4; forward, backward, AdamW.
#[divan::bench(sample_count = 5)]
fn flow_matching_step(bencher: Bencher<'_, '_>) {
    let mut benchmark = BenchmarkStep::new(&GPU, 32, 32, Precision::F32).expect("the case fits the device");
    let flops = benchmark.flops();
    let mut step = || {
        benchmark.step().expect("the device works");
        GPU.wait().expect("the device works");
    };
    (0..3).for_each(|_| step());
    bencher.counter(ItemsCount::new(flops)).bench_local(step);
}

#[divan::bench(sample_count = 10)]
fn gelu(bencher: Bencher<'_, '_>) {
    replay(bencher, &cases::gelus()[0]);
}

#[divan::bench(sample_count = 10)]
fn philox_normal(bencher: Bencher<'_, '_>) {
    replay(bencher, &cases::philoxes()[0]);
}

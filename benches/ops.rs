//! Kernels and whole steps, for work on them: `cargo bench`, or `cargo bench -- matmul`.
//!
//! Each figure is one replay of a plan, waited for. Compare within one run: machines are noisy.

use std::sync::{Arc, LazyLock};

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use flowdppo_wgpu::autodiff::{Activations, backward};
use flowdppo_wgpu::config::{Positions, TimeConvention};
use flowdppo_wgpu::gpu::{Gpu, Options};
use flowdppo_wgpu::graph::{Graph, Plan, Stores, Tensor};
use flowdppo_wgpu::model::DitConfig;
use flowdppo_wgpu::ops::{Activation, AdamWSettings, Attention, LayerNorm, MatMul, PhiloxNormal};
use flowdppo_wgpu::optimizer::Optimizer;
use flowdppo_wgpu::pretrain::FlowMatchingGraph;

static GPU: LazyLock<Arc<Gpu>> =
    LazyLock::new(|| Gpu::open(&Options::default().or_environment()).expect("a benchmark needs an adapter"));

fn main() {
    println!("device: {} ({})", GPU.description().name, GPU.description().driver);
    divan::main();
}

/// Times the replay of what `record` records; the rate is in floating-point operations where ops count them.
fn replay(bencher: Bencher<'_, '_>, record: impl Fn(&mut Graph)) {
    let mut graph = Graph::new();
    record(&mut graph);
    let flops = graph.flops();
    let mut plan = Plan::new(&GPU, &graph, &Stores::new()).expect("the case fits the device");
    // The first replays compile and measure.
    for _ in 0..3 {
        plan.run().expect("the device works");
    }
    GPU.wait().expect("the device works");
    let replay = || {
        black_box(&mut plan).run().expect("the device works");
        GPU.wait().expect("the device works");
    };
    match flops {
        0 => bencher.bench_local(replay),
        flops => bencher.counter(ItemsCount::new(flops)).bench_local(replay),
    }
}

/// The gradient of `output` with respect to `inputs`, seeded by a tensor of its shape.
fn differentiate(graph: &mut Graph, output: Tensor, inputs: &[Tensor]) {
    let shape = graph.shape(output).to_vec();
    let seed = graph.input("seed", &shape);
    for gradient in backward(graph, &[(output, seed)], inputs).into_iter().flatten() {
        graph.keep(gradient);
    }
}

const SHAPES: &[[usize; 3]] = &[[256, 256, 256], [512, 512, 512], [2048, 384, 128], [2048, 512, 128], [2560, 256, 64]];

#[divan::bench(args = SHAPES, sample_count = 10)]
fn matmul(bencher: Bencher<'_, '_>, [m, n, k]: &[usize; 3]) {
    replay(bencher, |graph| {
        let operands = [graph.input("a", &[*m, *k]), graph.input("b", &[*n, *k])];
        let c = graph.apply(MatMul { transpose_b: true, ..MatMul::default() }, &operands);
        graph.keep(c);
    });
}

#[divan::bench(args = [[40, 16, 16, 4], [32, 64, 32, 4]], sample_count = 10)]
fn attention(bencher: Bencher<'_, '_>, [batch, tokens, head, heads]: [usize; 4]) {
    replay(bencher, |graph| {
        let qkv = graph.input("qkv", &[batch, tokens, 3 * head * heads]);
        let o = graph.push(Attention { num_heads: heads }, &[qkv])[0];
        differentiate(graph, o, &[qkv]);
    });
}

#[divan::bench(sample_count = 10)]
fn layer_norm(bencher: Bencher<'_, '_>) {
    replay(bencher, |graph| {
        let x = graph.input("x", &[32, 64, 128]);
        let modulation = [graph.input("shift", &[32, 128]), graph.input("scale", &[32, 128])];
        let y = graph.push(LayerNorm, &[x, modulation[0], modulation[1]])[0];
        differentiate(graph, y, &[x]);
    });
}

/// A whole training step: 32 images of 32x32x3 in 64 tokens, hidden size 128, depth 4; forward, backward, AdamW.
#[divan::bench(sample_count = 5)]
fn flow_matching_step(bencher: Bencher<'_, '_>) {
    let config = DitConfig {
        image_size: 32,
        channels: 3,
        patch_size: 4,
        hidden_size: 128,
        depth: 4,
        num_heads: 4,
        mlp_ratio: 4.0,
        num_classes: 10,
        learn_sigma: false,
        time: TimeConvention::Sigma,
        time_scale: 1000.0,
        positions: Positions::SinCos,
    };
    let recorded = FlowMatchingGraph::record(&config, 32, Activations::default());
    let weights = config.initial_weights(0);
    let mut optimizer = Optimizer::new(&GPU, config.layout(), &weights).expect("the case fits the device");
    let mut plan = Plan::new(&GPU, &recorded.graph, optimizer.stores()).expect("the case fits the device");
    let settings = AdamWSettings {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        max_grad_norm: 0.0,
        average_decay: 1.0,
    };
    let mut step = || {
        plan.run().expect("the device works");
        optimizer.update(&settings).expect("the device works");
        GPU.wait().expect("the device works");
    };
    (0..3).for_each(|_| step());
    bencher.counter(ItemsCount::new(recorded.graph.flops())).bench_local(step);
}

#[divan::bench(sample_count = 10)]
fn gelu(bencher: Bencher<'_, '_>) {
    replay(bencher, |graph| {
        let x = graph.input("x", &[2048, 512]);
        let y = graph.apply(Activation::Gelu, &[x]);
        graph.keep(y);
    });
}

#[divan::bench(sample_count = 10)]
fn philox_normal(bencher: Bencher<'_, '_>) {
    replay(bencher, |graph| {
        let keys = graph.input("keys", &[1024, 5]);
        let noise = graph.apply(PhiloxNormal::new(&[1024]), &[keys]);
        graph.keep(noise);
    });
}

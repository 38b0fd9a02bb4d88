//! The kernels that a GPU would run: what ops choose for layers of the sizes that models have.

use std::collections::{BTreeMap, BTreeSet};

use flowdppo_wgpu::autodiff::backward;
use flowdppo_wgpu::bench::cases::{adamws, memory_bound};
use flowdppo_wgpu::bench::shapes::{SD35_MEDIUM, TRANSFORMERS};
use flowdppo_wgpu::gpu::{Kernel, Matrices};
use flowdppo_wgpu::graph::{DType, DeviceProfile, Graph, Tensor};
use flowdppo_wgpu::ops::{
    Activation, Attention, AttentionBias, Conv2d, GatedResidual, LayerNorm, MatMul, RmsNorm, linear,
};

/// Elements of a head.
fn heads() -> BTreeSet<usize> {
    TRANSFORMERS.iter().map(|model| model.head_dim()).collect()
}

/// Columns of tokens, and of the wide layers of MLPs.
fn widths() -> BTreeSet<usize> {
    TRANSFORMERS.iter().flat_map(|model| [model.width, model.mlp]).collect()
}

/// No choice depends on these.
const BATCH: usize = 2;
const TOKENS: usize = 128;

/// Every kernel of these layers, forward and backward, by its name: the shader and its constants.
pub fn kernels() -> BTreeMap<String, Kernel> {
    let mut graphs: Vec<Graph> = heads().into_iter().map(attention).collect();
    graphs.extend(widths().into_iter().flat_map(|columns| [layer_norm(columns), rms_norm(columns), mlp(columns)]));
    // Rows that do not consist of whole vectors, and too few columns for tiles.
    graphs.extend([plain_linear(65, 65), plain_linear(64, 16)]);
    graphs.extend([DType::F16, DType::Q8_0].map(|weights| frozen_linear(weights, DType::F32)));
    graphs.extend([DType::F32, DType::F16, DType::Q8_0].map(|weights| frozen_linear(weights, DType::F16)));
    graphs.extend([attention_bias(), conv2d()]);
    graphs.extend(memory_bound().into_iter().chain(adamws()).map(|case| case.graph));

    // A GPU, whose subgroups do not have one size: what is usual, and what measurements may prefer.
    let gpu = DeviceProfile { rounds_to_half: true, ..DeviceProfile::default() };
    let mut profiles =
        [None, Some("matmul_tiled"), Some("matmul_square128"), Some("attention_register"), Some("conv2d_register")]
            .map(|forced| DeviceProfile { forced: forced.map(str::to_owned), ..gpu.clone() })
            .to_vec();
    profiles.push(DeviceProfile { matrices: Some(Matrices { side: 16, lanes: 64 }), ..gpu });
    let mut found = BTreeMap::new();
    for (graph, profile) in graphs.iter().flat_map(|graph| profiles.iter().map(move |profile| (graph, profile))) {
        for node in graph.executed() {
            for dispatch in node.op.dispatches(&graph.shapes(&node), profile) {
                found.insert(name(&dispatch.kernel), dispatch.kernel);
            }
        }
    }
    found
}

fn name(kernel: &Kernel) -> String {
    let constants = kernel.constants.iter().map(|(constant, value)| format!(".{constant}={value}"));
    [kernel.shader.to_owned()].into_iter().chain(constants).collect()
}

/// A graph of what `record` records for inputs of these shapes, and of the gradients of all of them.
fn differentiated(shapes: &[&[usize]], record: impl FnOnce(&mut Graph, &[Tensor]) -> Tensor) -> Graph {
    let mut graph = Graph::new();
    let inputs: Vec<Tensor> = shapes.iter().map(|shape| graph.input("input", shape)).collect();
    let y = record(&mut graph, &inputs);
    let shape = graph.shape(y).to_vec();
    let d_y = graph.input("d_y", &shape);
    backward(&mut graph, &[(y, d_y)], &inputs);
    graph
}

fn attention(head_dim: usize) -> Graph {
    differentiated(&[&[BATCH, TOKENS, 3 * head_dim]], |graph, x| graph.push(Attention { num_heads: 1 }, x)[0])
}

fn layer_norm(columns: usize) -> Graph {
    let modulation = [BATCH, columns];
    differentiated(&[&[BATCH, TOKENS, columns], &modulation, &modulation], |graph, x| graph.push(LayerNorm, x)[0])
}

fn rms_norm(columns: usize) -> Graph {
    let op = RmsNorm { epsilon: 1e-6 };
    differentiated(&[&[BATCH, TOKENS, columns], &[columns]], |graph, x| graph.push(op, x)[0])
}

/// An MLP with a gated residual connection, so that products have every epilogue.
fn mlp(columns: usize) -> Graph {
    let wide = 4 * columns;
    let shapes: [&[usize]; 6] =
        [&[BATCH, TOKENS, columns], &[wide, columns], &[wide], &[columns, wide], &[columns], &[BATCH, columns]];
    differentiated(&shapes, |graph, x| {
        let hidden = linear(graph, x[0], x[1], Some(x[2]));
        let hidden = graph.apply(Activation::Gelu, &[hidden]);
        let result = linear(graph, hidden, x[3], Some(x[4]));
        graph.apply(GatedResidual, &[x[0], result, x[5]])
    })
}

fn plain_linear(columns: usize, outputs: usize) -> Graph {
    let shapes: [&[usize]; 3] = [&[BATCH, TOKENS, columns], &[outputs, columns], &[outputs]];
    differentiated(&shapes, |graph, x| linear(graph, x[0], x[1], Some(x[2])))
}

/// A layer with frozen weights: its result and the gradient of its input, as products of a precision.
fn frozen_linear(weights: DType, precision: DType) -> Graph {
    let (mut graph, columns) = (Graph::new(), SD35_MEDIUM.width);
    let x = graph.input("x", &[BATCH, TOKENS, columns]);
    let weight = graph.input_of(weights, "weight", &[columns, columns]);
    let product = |transpose_b| MatMul { transpose_b, weights, precision, ..MatMul::default() };
    let y = graph.apply(product(true), &[x, weight]);
    graph.apply(product(false), &[y, weight]);
    graph
}

/// Of text encoders.
fn attention_bias() -> Graph {
    let mut graph = Graph::new();
    let head_dim = SD35_MEDIUM.head_dim();
    let op = AttentionBias::plain(BATCH, 1, head_dim);
    let [q, k, v] = ["q", "k", "v"].map(|name| graph.input(name, &[BATCH * TOKENS, head_dim]));
    graph.push(op, &[q, k, v]);
    graph
}

/// Of autoencoders: from a picture's colours, between channels, and to its colours.
fn conv2d() -> Graph {
    let mut graph = Graph::new();
    let mut x = graph.input("x", &[1, 3, 64, 64]);
    for [inputs, outputs] in [[3, 128], [128, 128], [128, 3]] {
        let weight = graph.input("weight", &[9 * inputs, outputs.next_multiple_of(4)]);
        let bias = graph.input("bias", &[outputs]);
        x = graph.push(Conv2d::same(3), &[x, weight, bias])[0];
    }
    graph
}

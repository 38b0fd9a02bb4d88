//! The kernels worth benchmarking, at the shapes that networks use, for `bench` and `cargo bench`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::shapes::{ATTENTION, BENCHMARKED, CONV2D, LAYER_NORM, LINEAR, measured};
use crate::autodiff::backward;
use crate::error::Result;
use crate::gpu::{Gpu, ShaderStruct};
use crate::graph::{DType, DeviceProfile, Graph, Origin, Plan, Store, Stores, Tensor};
use crate::ops::{
    Activation, AdamW, AdamWSettings, Add, Attention, AttentionBackward, Conv2d, GatedActivation, GatedResidual,
    GroupNorm, LayerNorm, MatMul, NoiseWords, Optimized, PhiloxNormal, Scale,
};

/// A kernel at one shape.
#[derive(Debug)]
pub struct Case {
    /// Its name in tables.
    pub name: String,
    /// A graph of only this op.
    pub graph: Graph,
}

/// Inputs with more elements than this stay zero: filling them takes longer than measuring.
const MAX_FILLED: usize = 1 << 24;

const PARAMETERS: Store = Store("benchmarked parameters");
const GRADIENTS: Store = Store("benchmarked gradients");
const FIRST_MOMENT: Store = Store("benchmarked first moment");
const SECOND_MOMENT: Store = Store("benchmarked second moment");
const AVERAGE: Store = Store("benchmarked average");

impl Case {
    /// What `record` records.
    pub fn new(name: impl Into<String>, record: impl FnOnce(&mut Graph)) -> Self {
        let mut graph = Graph::new();
        record(&mut graph);
        Self { name: name.into(), graph }
    }

    /// Every tensor that it reads or writes, once.
    pub fn tensors(&self) -> BTreeSet<Tensor> {
        self.graph.nodes().iter().flat_map(|node| node.inputs.iter().chain(&node.outputs)).copied().collect()
    }

    /// The inputs that the host writes, with their words, which are the same every time: those of a row do not depend on
    /// the number of rows. Inputs of more than 2²⁴ elements are left out.
    pub fn inputs(&self) -> impl Iterator<Item = (Tensor, Vec<u32>)> {
        let graph = &self.graph;
        let is_written = |tensor: &Tensor| {
            let is_input = graph.origin(*tensor) == Origin::Input && !graph.is_constant(*tensor);
            is_input && graph.elements(*tensor) <= MAX_FILLED
        };
        self.tensors().into_iter().filter(is_written).enumerate().map(|(seed, tensor)| {
            let values = filling(seed, graph.elements(tensor));
            let words = match graph.dtype(tensor) {
                DType::U32 => values.iter().map(|value| value.to_bits()).collect(),
                dtype => dtype.encode(&values),
            };
            (tensor, words)
        })
    }

    /// Bytes that the op must move at least: every input read once and every output written once.
    pub fn bytes(&self) -> u64 {
        let of = |tensors: &[Tensor]| tensors.iter().map(|tensor| self.graph.bytes(*tensor)).sum::<u64>();
        let nodes = self.graph.nodes().iter();
        nodes.map(|node| of(&node.inputs) + of(&node.outputs) * if node.op.accumulates() { 2 } else { 1 }).sum()
    }

    /// The case on a device, with its own stores and inputs that are not all zero: a processor may be faster
    /// on zeros.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub fn bind(&self, gpu: &Arc<Gpu>) -> Result<Plan> {
        self.bind_as(gpu, &DeviceProfile::of(gpu))
    }

    /// [`Case::bind`] with kernels chosen by a profile.
    ///
    /// # Errors
    /// As [`Case::bind`].
    pub fn bind_as(&self, gpu: &Arc<Gpu>, profile: &DeviceProfile) -> Result<Plan> {
        let mut sizes: BTreeMap<Store, u64> = BTreeMap::new();
        for tensor in self.tensors() {
            if let Origin::Stored(store, offset) = self.graph.origin(tensor) {
                let size = sizes.entry(store).or_default();
                *size = (*size).max(DType::U32.bytes(&[offset]) + self.graph.bytes(tensor));
            }
        }
        gpu.check_memory(gpu.counters().bytes_held + sizes.values().sum::<u64>())?;
        let mut stores = Stores::new();
        for (store, bytes) in sizes {
            stores.insert(store, gpu.allocate(store.0, bytes)?.into());
        }
        let plan = Plan::with_profile(gpu, &self.graph, &stores, profile)?;
        for (tensor, words) in self.inputs() {
            plan.write_words(tensor, &words);
        }
        Ok(plan)
    }
}

/// Numbers from -0.5 to below 0.5 that look random, others for each seed: hashed with Chris Wellons's `lowbias32`.
pub fn filling(seed: usize, elements: usize) -> Vec<f32> {
    let number = |index: u32| {
        let mut bits = index ^ (seed as u32).wrapping_mul(0x9e37_79b9);
        bits = (bits ^ (bits >> 16)).wrapping_mul(0x7feb_352d);
        bits = (bits ^ (bits >> 15)).wrapping_mul(0x846c_a68b);
        ((bits ^ (bits >> 16)) >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..elements as u32).map(number).collect()
}

/// Keeps `y` and its gradients to tensors, for a gradient of `y` that is another input.
pub fn keep_with_gradients(graph: &mut Graph, y: Tensor, to: &[Tensor]) {
    graph.keep(y);
    if to.is_empty() {
        return;
    }
    let shape = graph.shape(y).to_vec();
    let d_y = graph.input("d_y", &shape);
    for gradient in backward(graph, &[(y, d_y)], to).into_iter().flatten() {
        graph.keep(gradient);
    }
}

/// The types of a product.
#[derive(Clone, Copy, Debug, Default)]
pub struct Types {
    /// That of frozen weights, or `F32`.
    pub weights: DType,
    /// [`MatMul::precision`].
    pub precision: DType,
}

impl Types {
    /// In the name of a case.
    fn name(self) -> String {
        let of = |dtype: DType, name: String| if dtype == DType::F32 { String::new() } else { name };
        let Self { weights, precision } = self;
        of(weights, format!("{weights} ")) + &of(precision, format!("in {precision} "))
    }
}

impl From<DType> for Types {
    fn from(weights: DType) -> Self {
        Self { weights, ..Self::default() }
    }
}

/// `x·Wᵀ`, as in every linear layer: M rows, N outputs, K inputs.
pub fn matmul(size: [usize; 3]) -> Case {
    matmul_of(DType::F32, size)
}

/// The same with other types.
pub fn matmul_of(types: impl Into<Types>, [m, n, k]: [usize; 3]) -> Case {
    let types @ Types { weights, precision } = types.into();
    Case::new(format!("matmul {}{m}x{n}x{k}", types.name()), |graph| {
        let operands = [graph.input("x", &[m, k]), graph.input_of(weights, "weight", &[n, k])];
        let y = graph.apply(MatMul { transpose_b: true, weights, precision, ..MatMul::default() }, &operands);
        graph.keep(y);
    })
}

/// Gradient of a linear layer's input: `dX = dY·W` with the weight as it is stored, `[K, N]` here.
pub fn matmul_d_x(types: impl Into<Types>, [m, n, k]: [usize; 3]) -> Case {
    let types @ Types { weights, precision } = types.into();
    Case::new(format!("matmul dX {}{m}x{n}x{k}", types.name()), |graph| {
        let operands = [graph.input("d_y", &[m, k]), graph.input_of(weights, "weight", &[k, n])];
        let d_x = graph.apply(MatMul { weights, precision, ..MatMul::default() }, &operands);
        graph.keep(d_x);
    })
}

/// Gradient of a linear layer's weight: `dW += dYᵀ·X`, a sum over all rows. Weights that have one are in 32 bits.
pub fn matmul_d_w(types: impl Into<Types>, [m, n, k]: [usize; 3]) -> Case {
    let types @ Types { precision, .. } = types.into();
    Case::new(format!("matmul dW {}{m}x{n}x{k}", types.name()), |graph| {
        let operands = [graph.input("d_y", &[k, m]), graph.input("x", &[k, n])];
        let op = MatMul { transpose_a: true, accumulate: true, precision, ..MatMul::default() };
        let d_w = graph.stored("d_w", &[m, n], GRADIENTS, 0);
        let scratch = op.scratch(&[k, m], &[k, n]).map(|shape| graph.scratch(&shape));
        let outputs: Vec<Tensor> = [d_w].into_iter().chain(scratch).collect();
        graph.push_into(op, &operands, &outputs);
    })
}

/// All products of a precision, by increasing cost.
pub fn matmuls(precision: DType) -> Vec<Case> {
    let of = |weights: DType| Types { weights, precision };
    let mut cases: Vec<Case> = measured(LINEAR).map(|size| matmul_of(of(DType::F32), size)).collect();
    // Those of [2048, 512, 128].
    cases.extend([DType::F16, DType::Q8_0].map(|weights| matmul_of(of(weights), [2048, 512, 128])));
    cases.extend([matmul_d_x(of(DType::F32), [2048, 128, 512]), matmul_d_w(of(DType::F32), [512, 128, 2048])]);
    cases.sort_by_key(|case| case.graph.flops());
    cases
}

/// Attention forward, or backward.
pub fn attention(backward: bool, [batch, tokens, num_heads, head_dim]: [usize; 4]) -> Case {
    let direction = if backward { "backward" } else { "forward" };
    let name = format!("attention {direction} {}x{tokens}x{head_dim}", batch * num_heads);
    Case::new(name, |graph| {
        let qkv = graph.input("qkv", &[batch, tokens, 3 * num_heads * head_dim]);
        let outputs = if backward {
            let [o, d_o] = ["o", "d_o"].map(|name| graph.input(name, &[batch, tokens, num_heads * head_dim]));
            let logsumexp = graph.input("logsumexp", &[batch, num_heads, tokens]);
            graph.push(AttentionBackward { num_heads }, &[qkv, o, logsumexp, d_o])
        } else {
            graph.push(Attention { num_heads }, &[qkv])
        };
        graph.keep(outputs[0]);
    })
}

/// Attention, by increasing cost.
pub fn attentions(backward: bool) -> Vec<Case> {
    measured(ATTENTION).map(|sizes| attention(backward, sizes)).collect()
}

/// A convolution of square pictures: batch, input channels, output channels, rows and columns of the picture.
pub fn conv2d(op: Conv2d, [batch, inputs, outputs, side]: [usize; 4]) -> Case {
    let kind = match op {
        Conv2d { stride: 2, .. } => " halving",
        Conv2d { upsample: true, .. } => " doubling",
        Conv2d { relu: true, .. } => " with relu",
        _ => "",
    };
    Case::new(format!("conv2d{kind} {inputs}x{side}x{side} to {outputs}"), |graph| {
        let weight = [op.kernel * op.kernel * inputs, outputs.next_multiple_of(4)];
        let shapes = [("x", vec![batch, inputs, side, side]), ("weight", weight.into()), ("bias", vec![outputs])];
        let operands = shapes.map(|(name, shape)| graph.input(name, &shape));
        let y = graph.apply(op, &operands);
        graph.keep(y);
    })
}

/// Convolutions of the decoder of a latent model for one picture, by increasing cost.
pub fn convolutions() -> Vec<Case> {
    let of = |[inputs, outputs, side]: [usize; 3]| conv2d(Conv2d::same(3), [1, inputs, outputs, side]);
    measured(CONV2D).map(of).collect()
}

/// Layer norm with modulation, alone or with its gradients: batch, tokens, columns.
pub fn layer_norm(differentiate: bool, [batch, tokens, columns]: [usize; 3]) -> Case {
    let what = if differentiate { "layer_norm with backward" } else { "layer_norm" };
    Case::new(format!("{what} {}x{columns}", batch * tokens), |graph| {
        let x = graph.input("x", &[batch, tokens, columns]);
        let [shift, scale] = ["shift", "scale"].map(|name| graph.input(name, &[batch, columns]));
        let y = graph.push(LayerNorm, &[x, shift, scale])[0];
        let inputs = [x, shift, scale];
        keep_with_gradients(graph, y, if differentiate { &inputs } else { &[] });
    })
}

/// Layer norm with modulation over the tokens of the benchmark network, alone and with its gradient.
pub fn layer_norms() -> Vec<Case> {
    measured(LAYER_NORM).flat_map(|sizes| [false, true].map(|differentiate| layer_norm(differentiate, sizes))).collect()
}

/// GELU between the layers of an MLP.
pub fn gelus() -> Vec<Case> {
    let (rows, columns) = (2048, BENCHMARKED.mlp);
    vec![Case::new(format!("gelu {rows}x{columns}"), |graph| {
        let x = graph.input("x", &[rows, columns]);
        let y = graph.apply(Activation::Gelu, &[x]);
        graph.keep(y);
    })]
}

/// Every token of four pictures in Stable Diffusion 3.5 medium, and its columns: more than caches contain.
const TOKENS: [usize; 3] = [4, 1178, 1536];

/// Ops between the products of large transformers and autoencoders, all limited by memory.
pub fn memory_bound() -> Vec<Case> {
    let [batch, tokens, columns] = TOKENS;
    let of = |name: &str, record: &dyn Fn(&mut Graph, [Tensor; 2]) -> Tensor| {
        Case::new(format!("{name} {}x{columns}", batch * tokens), |graph| {
            let x = ["x", "h"].map(|name| graph.input(name, &TOKENS));
            let y = record(graph, x);
            graph.keep(y);
        })
    };
    let mut cases = vec![
        of("scale", &|graph, [x, _]| graph.apply(Scale(0.5), &[x])),
        of("silu", &|graph, [x, _]| graph.apply(Activation::Silu, &[x])),
        of("add", &|graph, x| graph.apply(Add, &x)),
        of("gated_activation", &|graph, x| graph.apply(GatedActivation::Silu, &x)),
        of("gated_residual", &|graph, [x, h]| {
            let gate = graph.input("gate", &[batch, columns]);
            graph.apply(GatedResidual, &[x, h, gate])
        }),
    ];
    cases.push(Case::new(format!("gelu with backward {}x{columns}", batch * tokens), |graph| {
        let x = graph.input("x", &TOKENS);
        let y = graph.apply(Activation::Gelu, &[x]);
        keep_with_gradients(graph, y, &[x]);
    }));
    cases.push(Case::new("group_norm 128x256x256", |graph| {
        let x = graph.input("x", &[1, 128, 256, 256]);
        let [scale, bias] = ["scale", "bias"].map(|name| graph.input(name, &[128]));
        let y = GroupNorm { groups: 32, epsilon: 1e-6, silu: true, flat: false }.of(graph, x, scale, bias);
        graph.keep(y);
    }));
    cases
}

/// The benchmark network's optimizer.
pub fn adamw_settings() -> AdamWSettings {
    AdamWSettings {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        loss_scale: 1.0,
        max_grad_norm: 0.0,
        average_decay: 0.9,
    }
}

/// One step of AdamW with this number of parameters.
pub fn adamw(elements: usize) -> Case {
    Case::new(format!("adamw {elements}"), |graph| {
        let settings = bytemuck::cast_slice(&[adamw_settings().at_step(1)]).to_vec();
        let settings = graph.constant("settings", &[settings.len()], settings);
        let sum_squares = graph.constant("sum of squares", &[2], vec![1.0, 0.0]);
        let [parameters, gradients, first_moment, second_moment, average] =
            [PARAMETERS, GRADIENTS, FIRST_MOMENT, SECOND_MOMENT, AVERAGE]
                .map(|store| graph.stored(store.0, &[elements], store, 0));
        let optimized = Optimized { parameters, first_moment, second_moment, gradients, average };
        AdamW.record(graph, optimized, settings, sum_squares);
    })
}

/// AdamW at several numbers of parameters.
pub fn adamws() -> Vec<Case> {
    [1_000_000, 100_000_000].map(adamw).into()
}

/// The noise of pictures of 32x32x3.
pub fn philox(pictures: usize) -> Case {
    Case::new(format!("philox {}", pictures * 3072), |graph| {
        let keys = graph.input_indices("keys", &[pictures, NoiseWords::WORDS]);
        let noise = graph.apply(PhiloxNormal::new(&[3, 32, 32]), &[keys]);
        graph.keep(noise);
    })
}

/// The noise of 1024 pictures.
pub fn philoxes() -> Vec<Case> {
    vec![philox(1024)]
}

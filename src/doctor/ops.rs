//! The ops against their f64 twins, at the sizes that models have: one table of ops, shapes and tolerances.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{Row, Work};
use crate::bench::cases::{
    Case, Types, adamw, conv2d, filling, keep_with_gradients, layer_norm, matmul_d_w, matmul_d_x, matmul_of, philox,
};
use crate::error::{Error, Result};
use crate::gpu::{DeviceKind, Gpu};
use crate::graph::{DType, Graph, Interpreter, Origin, Tensor};
use crate::ops::{
    Activation, Attention, AttentionBias, Conv2d, Embedding, GatedActivation, GatedResidual, GroupNorm, Patches,
    Patchify, RmsNorm, Rope, Scale, SoftmaxRows, cross_entropy, linear, policy_stats, rope_table, sampler_step,
    sum_squares,
};

/// The tolerance of copies, and of single sums and products: the largest error in units of the largest value is a
/// rounding, 2⁻²⁴, or two.
const ROUNDING: f64 = 4.0 / (1 << 24) as f64;

/// That of functions such as exp and tanh, of norms and of short sums: drivers compute functions to ten units in the last
/// place, which is 1e-6. Numbers of 16 bits, or those that TensorFloat-32 keeps, would be off by 1e-3.
const FUNCTIONS: f64 = 1e-5;

/// That of a sum of so many products. Each partial sum is rounded, by 0.58 · 2⁻²⁴ of its size (root of the mean square),
/// and their squares add up to terms / 2 times that of the result: 0.41 · 2⁻²⁴ · √terms. The worst of many is as far above
/// that as the largest value is above the typical one. Ten times as much is allowed, for other orders of summation.
fn of_sum(terms: usize) -> f64 {
    ROUNDING * (terms as f64).sqrt()
}

/// The same if the terms have factors of 16 bits. A device may drop factors below 2⁻¹⁴, and of a sum hardly more than one is
/// so small.
fn of_sum_in_half(terms: usize) -> f64 {
    of_sum(terms) + 1.0 / f64::from(1 << 14)
}

/// An op and its worst error.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ComparedOp {
    /// Op and shape, as in benchmarks.
    pub(super) name: String,
    /// The largest difference from the twin, relative to the largest value of the same result; `None` if a result is not
    /// finite, or there is none.
    pub(super) error: Option<f64>,
    /// The largest that rounding explains.
    pub(super) tolerance: f64,
    pub(super) passed: bool,
    /// Why there is no result.
    pub(super) failure: Option<String>,
}

/// The largest numbers of rows, of tokens, and of pixels along a side. The inner sizes, by which kernels are chosen, are
/// always those of models.
#[derive(Clone, Copy)]
struct Extent {
    rows: usize,
    tokens: usize,
    side: usize,
}

const COMPLETE: Extent = Extent { rows: 2048, tokens: 1024, side: 16 };
/// For a software driver, which shares the processor with the twins.
const REDUCED: Extent = Extent { rows: 128, tokens: 64, side: 8 };
const QUICK: Extent = Extent { rows: 8, tokens: 16, side: 4 };

impl Extent {
    fn rows(self, rows: usize) -> usize {
        rows.min(self.rows)
    }

    fn tokens(self, tokens: usize) -> usize {
        tokens.min(self.tokens)
    }
}

/// Every op with its tolerance.
fn table(extent: Extent) -> Vec<(Case, f64)> {
    let mut table = products(extent);
    table.extend(of_tokens(extent));
    table.extend(of_pictures(extent));
    table.extend(of_training(extent));
    table
}

/// Linear layers: of this program's models and of Stable Diffusion 3.5 medium, with weights of every type.
fn products(extent: Extent) -> Vec<(Case, f64)> {
    let (many, few) = (extent.rows(2048), extent.rows(512));
    let mut table = Vec::new();
    for weights in [DType::F32, DType::F16, DType::Q8_0] {
        table.push((matmul_of(weights, [many, 512, 128]), of_sum(128)));
        table.push((matmul_of(weights, [few, 1536, 1536]), of_sum(1536)));
        table.push((matmul_d_x(weights, [many, 128, 512]), of_sum(512)));
    }
    table.push((matmul_of(DType::F32, [extent.rows(256), 1536, 6144]), of_sum(6144)));
    table.push((matmul_d_w(DType::F32, [512, 128, many]), of_sum(many)));
    let half = Types { weights: DType::F32, precision: DType::F16 };
    table.push((matmul_of(half, [many, 512, 128]), of_sum_in_half(128)));
    table.push((matmul_of(half, [few, 1536, 1536]), of_sum_in_half(1536)));
    table.push((matmul_d_x(half, [many, 128, 512]), of_sum_in_half(512)));
    table.push((matmul_d_w(half, [512, 128, many]), of_sum_in_half(many)));
    let layer = |graph: &mut Graph, [m, n, k]: [usize; 3]| {
        let [x, weight, bias] = [("x", vec![1, m, k]), ("weight", vec![n, k]), ("bias", vec![n])]
            .map(|(name, shape)| graph.input(name, &shape));
        linear(graph, x, weight, Some(bias))
    };
    let gelu = Case::new(format!("matmul with gelu {many}x512x128"), |graph| {
        let h = layer(graph, [many, 512, 128]);
        let y = graph.apply(Activation::Gelu, &[h]);
        graph.keep(y);
    });
    let gated = Case::new(format!("matmul with gated_residual {many}x128x512"), |graph| {
        let h = layer(graph, [many, 128, 512]);
        let [x, gate] =
            [("residual", vec![1, many, 128]), ("gate", vec![1, 128])].map(|(name, shape)| graph.input(name, &shape));
        let y = graph.apply(GatedResidual, &[x, h, gate]);
        graph.keep(y);
    });
    table.extend([(gelu, FUNCTIONS), (gated, of_sum(512))]);
    table
}

/// The other ops of transformers.
fn of_tokens(extent: Extent) -> Vec<(Case, f64)> {
    let (rows, tokens) = (extent.rows(1024), extent.tokens(1024));
    let mut table = vec![
        (attention([8, extent.tokens(256), 4, 32]), FUNCTIONS),
        (attention([8, extent.tokens(256), 4, 64]), FUNCTIONS),
        (attention_bias(extent.tokens(256)), FUNCTIONS),
        (layer_norm(true, [32, extent.tokens(64), 128]), FUNCTIONS),
        (layer_norm(true, [2, tokens, 1536]), FUNCTIONS),
        (rms_norm(&[2, tokens, 24 * 64], 64, true), FUNCTIONS),
        (rms_norm(&[2, tokens, 1536], 1536, true), FUNCTIONS),
    ];
    for op in [Activation::Gelu, Activation::GeluErf, Activation::QuickGelu, Activation::Silu] {
        let activation = Case::new(format!("{op:?} with backward {rows}x512"), |graph| {
            let x = spread(graph, "x", &[rows, 512]);
            let y = graph.apply(op, &[x]);
            keep_with_gradients(graph, y, &[x]);
        });
        table.push((activation, FUNCTIONS));
    }
    for op in [GatedActivation::Gelu, GatedActivation::Silu] {
        let gated = Case::new(format!("gated {op:?} with backward {rows}x2048"), |graph| {
            let gate = spread(graph, "gate", &[rows, 2048]);
            let x = graph.input("x", &[rows, 2048]);
            let y = graph.apply(op, &[gate, x]);
            keep_with_gradients(graph, y, &[gate, x]);
        });
        table.push((gated, FUNCTIONS));
    }
    let gated_residual = Case::new(format!("gated_residual with backward {}x1536", 2 * tokens), |graph| {
        let shapes = [("x", vec![2, tokens, 1536]), ("h", vec![2, tokens, 1536]), ("gate", vec![2, 1536])];
        let inputs = shapes.map(|(name, shape)| graph.input(name, &shape));
        let y = graph.apply(GatedResidual, &inputs);
        keep_with_gradients(graph, y, &inputs);
    });
    let rope = Case::new(format!("rope with backward {}x12x64", 2 * tokens), |graph| {
        let x = graph.input("x", &[2, tokens, 12 * 64]);
        let angles = graph.constant("table", &[tokens, 64], rope_table(tokens, 64));
        let y = graph.apply(Rope { inverse: false }, &[x, angles]);
        keep_with_gradients(graph, y, &[x]);
    });
    let softmax = Case::new(format!("softmax_rows {rows}x1024"), |graph| {
        let x = graph.input("x", &[rows, 1024]);
        let y = graph.apply(SoftmaxRows { factor: 10.0 }, &[x]);
        graph.keep(y);
    });
    table.extend([(gated_residual, FUNCTIONS), (rope, ROUNDING), (softmax, FUNCTIONS)]);
    table
}

/// Ops of pictures and of autoencoders.
fn of_pictures(extent: Extent) -> Vec<(Case, f64)> {
    let side = extent.side;
    let same = Conv2d::same(3);
    let mut table: Vec<(Case, f64)> = [
        (same, 512, 512),
        (same, 16, 512),
        (Conv2d { stride: 2, before: 0, ..same }, 128, 128),
        (Conv2d { upsample: true, ..same }, 256, 256),
        (Conv2d { relu: true, ..same }, 64, 64),
    ]
    .into_iter()
    .map(|(op, inputs, outputs)| (conv2d(op, [1, inputs, outputs, side]), of_sum(9 * inputs)))
    .collect();
    let group_norm = Case::new(format!("group_norm 512x{side}x{side}"), |graph| {
        let shapes = [("x", vec![1, 512, side, side]), ("scale", vec![512]), ("bias", vec![512])];
        let inputs = shapes.map(|(name, shape)| graph.input(name, &shape));
        let op = GroupNorm { groups: 32, epsilon: 1e-6, silu: true, flat: false };
        let y = graph.push(op, &inputs)[0];
        graph.keep(y);
    });
    let images = extent.rows(32);
    let patchify = Case::new(format!("patchify {images}x4x32x32"), |graph| {
        let x = graph.input("x", &[images, 4, 32, 32]);
        let patches = Patches {
            channels: 4,
            vector_channels: 4,
            height: 32,
            width: 32,
            patch_size: 2,
            channel_first: false,
            factor: 1.0,
        };
        let y = graph.apply(Patchify(patches), &[x]);
        keep_with_gradients(graph, y, &[x]);
    });
    table.extend([(group_norm, FUNCTIONS), (patchify, ROUNDING)]);
    table
}

/// Noise, the sampler, losses, and the optimizer.
fn of_training(extent: Extent) -> Vec<(Case, f64)> {
    let rows = extent.rows(160);
    let labels = |graph: &mut Graph| {
        let labels = (0..rows as u32).map(|row| row * 7 % 1000).collect();
        graph.constant_indices("labels", &[rows], labels)
    };
    let sampler = Case::new(format!("sampler_step {rows}x3072"), |graph| {
        let [x, v, noise] = ["x", "v", "noise"].map(|name| graph.input(name, &[rows, 3072]));
        let steps = graph.input("steps", &[rows, 3]);
        let next = sampler_step(graph, x, v, noise, steps);
        graph.keep(next);
    });
    let policy = Case::new(format!("policy_stats with backward {rows}x49152"), |graph| {
        let [new, old, noise] = ["new", "old", "noise"].map(|name| graph.input(name, &[rows, 49_152]));
        let sums = policy_stats(graph, new, old, noise);
        keep_with_gradients(graph, sums, &[new]);
    });
    let loss = Case::new(format!("cross_entropy with backward {rows}x1000"), |graph| {
        let logits = spread(graph, "logits", &[rows, 1000]);
        let (labels, ones) = (labels(graph), graph.constant("ones", &[rows], vec![1.0; rows]));
        let [losses, probabilities, _] = cross_entropy(graph, logits, labels, ones);
        graph.keep(probabilities);
        keep_with_gradients(graph, losses, &[logits]);
    });
    let embedding = Case::new(format!("embedding with backward {rows}x1152"), |graph| {
        let (entries, labels) = (graph.input("table", &[1001, 1152]), labels(graph));
        let y = graph.apply(Embedding, &[entries, labels]);
        keep_with_gradients(graph, y, &[entries]);
    });
    let elements = 500 * extent.rows(2048);
    let norm = Case::new(format!("sum_squares {elements}"), |graph| {
        let x = graph.input("x", &[elements]);
        let sums = sum_squares(graph, x);
        graph.keep(sums);
    });
    vec![
        (philox(extent.rows(1024)), FUNCTIONS),
        (sampler, ROUNDING),
        (policy, FUNCTIONS),
        (loss, FUNCTIONS),
        (embedding, ROUNDING),
        (norm, FUNCTIONS),
        (adamw(elements), FUNCTIONS),
    ]
}

/// An input from -4 to 4, where functions are curved.
fn spread(graph: &mut Graph, name: &str, shape: &[usize]) -> Tensor {
    let x = graph.input(name, shape);
    graph.apply(Scale(8.0), &[x])
}

/// Attention with its gradient, with logits of a few units: batch, tokens, heads, elements of a head.
pub(super) fn attention([batch, tokens, num_heads, head_dim]: [usize; 4]) -> Case {
    Case::new(format!("attention with backward {}x{tokens}x{head_dim}", batch * num_heads), |graph| {
        let qkv = spread(graph, "qkv", &[batch, tokens, 3 * num_heads * head_dim]);
        let outputs = graph.push(Attention { num_heads }, &[qkv]);
        graph.keep(outputs[1]);
        keep_with_gradients(graph, outputs[0], &[qkv]);
    })
}

/// That of T5.
fn attention_bias(tokens: usize) -> Case {
    let (num_heads, head_dim) = (16, 64);
    Case::new(format!("attention_bias {num_heads}x{tokens}x{head_dim}"), |graph| {
        let [q, k, v] = ["q", "k", "v"].map(|name| graph.input(name, &[tokens, num_heads * head_dim]));
        let bias = graph.input("bias", &[num_heads, tokens, tokens]);
        let op = AttentionBias { scale: 1.0, has_bias: true, ..AttentionBias::plain(1, num_heads, head_dim) };
        let o = graph.apply(op, &[q, k, v, bias]);
        graph.keep(o);
    })
}

/// RMS norm with its gradients: to x alone, which has a row per row, or to the weight, too.
pub(super) fn rms_norm(shape: &[usize], columns: usize, with_weight: bool) -> Case {
    let rows = shape.iter().product::<usize>() / columns;
    Case::new(format!("rms_norm with backward {rows}x{columns}"), |graph| {
        let (x, weight) = (graph.input("x", shape), graph.input("weight", &[columns]));
        let y = graph.push(RmsNorm { epsilon: 1e-6 }, &[x, weight])[0];
        keep_with_gradients(graph, y, &[x, weight][..if with_weight { 2 } else { 1 }]);
    })
}

pub(super) fn run(work: &mut Work<'_>) -> Result<()> {
    let extent = match (work.quick, work.gpu.description().kind) {
        (true, _) => QUICK,
        (false, DeviceKind::Cpu) => REDUCED,
        (false, _) => COMPLETE,
    };
    let table = table(extent);
    let count = table.len();
    for (index, (case, tolerance)) in table.into_iter().enumerate() {
        if !work.has_time(count - index) {
            break;
        }
        let (error, failure) = match worst_error(&work.gpu, &case) {
            Ok(error) => (error, error.is_none().then(|| "a result is not finite".to_owned())),
            Err(cause @ Error::DeviceLost(_)) => {
                return Err(cause.followed_by(&format!(" (it computed {})", case.name)));
            }
            Err(cause) => (None, Some(cause.to_string())),
        };
        let passed = error.is_some_and(|error| error <= tolerance);
        work.rows.push(Row::Op(ComparedOp { name: case.name, error, tolerance, passed, failure }));
    }
    Ok(())
}

/// The largest error of all results, `None` if one is not finite.
fn worst_error(gpu: &Arc<Gpu>, case: &Case) -> Result<Option<f64>> {
    let graph = &case.graph;
    let mut plan = case.bind(gpu)?;
    let mut stores = BTreeMap::new();
    for (seed, tensor) in case.tensors().into_iter().enumerate() {
        if let Origin::Stored(store, _) = graph.origin(tensor) {
            // None is negative: some are means of squares.
            let values: Vec<f32> = filling(seed, graph.elements(tensor)).into_iter().map(|value| value + 0.5).collect();
            plan.write(tensor, &values);
            stores.insert(store, values.into_iter().map(f64::from).collect());
        }
    }
    let mut twin = Interpreter::new(stores);
    for (tensor, words) in case.inputs() {
        twin.write(tensor, &graph.dtype(tensor).decode(&words, graph.elements(tensor)));
    }
    plan.run()?;
    twin.run(graph);
    let is_result = |tensor: &Tensor| graph.is_kept(*tensor) || matches!(graph.origin(*tensor), Origin::Stored(..));
    let mut worst = Some(0.0);
    for tensor in case.tensors().into_iter().filter(is_result) {
        let actual: Vec<f32> = plan.read(&[tensor])?;
        let error = relative_error(&actual, twin.value(graph, tensor));
        worst = worst.zip(error).map(|(worst, error)| f64::max(worst, error));
    }
    Ok(worst)
}

/// The largest difference, relative to the largest expected value; `None` if an actual value is not finite.
fn relative_error(actual: &[f32], expected: &[f64]) -> Option<f64> {
    let largest = expected.iter().fold(f64::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    let mut differences = actual.iter().zip(expected).map(|(actual, expected)| f64::from(*actual) - expected);
    let worst = differences.try_fold(0.0, |worst: f64, it| it.is_finite().then(|| worst.max(it.abs())))?;
    Some(worst / largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_the_largest_value() {
        assert_eq!(relative_error(&[1.0, -4.0], &[1.5, -4.0]), Some(0.125));
        assert_eq!(relative_error(&[0.0], &[0.0]), Some(0.0));
        assert!(relative_error(&[1e-3], &[0.0]).is_some_and(|error| error > 1.0));
        for value in [f32::NAN, f32::INFINITY] {
            assert_eq!(relative_error(&[1.0, value], &[1.0, 1.0]), None);
        }
    }

    /// A report compares what it says: every shipped size has the same ops, and names are not used twice.
    #[test]
    fn all_extents_have_the_same_ops() {
        let names = |extent: Extent| -> Vec<String> {
            let table = table(extent);
            let names: std::collections::BTreeSet<String> = table.iter().map(|(case, _)| case.name.clone()).collect();
            assert_eq!(names.len(), table.len());
            table.into_iter().map(|(case, _)| case.name.split(' ').next().unwrap_or_default().to_owned()).collect()
        };
        let all = names(COMPLETE);
        assert!(all.len() >= 35);
        assert_eq!(names(REDUCED), all);
        assert_eq!(names(QUICK), all);
    }
}

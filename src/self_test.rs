//! A two-second self-test with known answers: does this device compute correctly?

use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::flow::noise::{NoiseKey, Stream, philox4x32_10};
use crate::gpu::{Gpu, ShaderStruct};
use crate::graph::{Graph, Interpreter, Plan, Stores, Tensor};
use crate::ops::{self, Activation, MatMul, NoiseWords, PhiloxNormal};

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// Whether the check passed.
    pub passed: bool,
    /// Figures.
    pub detail: String,
}

/// What it found, or what was wrong.
type Examine = fn(&Arc<Gpu>) -> Result<String>;

/// Runs every check; a check that cannot run counts as failed.
pub fn run(gpu: &Arc<Gpu>) -> Vec<Check> {
    let checks: [(&'static str, Examine); 6] = [
        ("matmul against f64", matmul),
        ("Philox known answers", philox),
        ("reduction", reduction),
        ("non-finite detector", non_finite),
        ("saturated tanh and exp", saturation),
        ("determinism", determinism),
    ];
    checks
        .into_iter()
        .map(|(name, check)| match check(gpu) {
            Ok(detail) => Check { name, passed: true, detail },
            Err(error) => Check { name, passed: false, detail: error.to_string() },
        })
        .collect()
}

/// Runs a graph of one input and one output.
fn compute(gpu: &Arc<Gpu>, graph: &mut Graph, inputs: &[(Tensor, &[u32])], output: Tensor) -> Result<Vec<u32>> {
    graph.keep(output);
    let mut plan = Plan::new(gpu, graph, &Stores::new())?;
    for (tensor, words) in inputs {
        plan.write_words(*tensor, words);
    }
    plan.run()?;
    plan.read(&[output])
}

/// Repeatable normals.
fn normals(sample: u32, count: usize) -> Vec<f32> {
    let mut stream = Stream::new(NoiseKey { seed: 1, rollout: 0, sample, step: 0 });
    (0..count).map(|_| stream.normal() as f32).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn matmul(gpu: &Arc<Gpu>) -> Result<String> {
    let (m, n, k) = (131, 67, 259);
    let mut graph = Graph::new();
    let tensors = [graph.input("a", &[m, k]), graph.input("b", &[k, n])];
    let c = graph.apply(MatMul::default(), &tensors);
    let data = [normals(0, m * k), normals(1, k * n)];
    let mut twin = Interpreter::default();
    for (tensor, values) in tensors.iter().zip(&data) {
        twin.write(*tensor, &values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>());
    }
    twin.run(&graph);
    let words = data.each_ref().map(|values| bits(values));
    let actual = compute(gpu, &mut graph, &[(tensors[0], &words[0]), (tensors[1], &words[1])], c)?;
    let expected = twin.value(&graph, c);
    let error: f64 =
        actual.iter().zip(expected).map(|(word, value)| (f64::from(f32::from_bits(*word)) - value).powi(2)).sum();
    let nmse = error / expected.iter().map(|value| value * value).sum::<f64>();
    // 1e-6 relative.
    expect(nmse < 1e-12, format!("normalised mean squared error {nmse:.1e}"))
}

fn philox(gpu: &Arc<Gpu>) -> Result<String> {
    let key = NoiseKey { seed: 0x0123_4567_89ab_cdef, rollout: 7, sample: 11, step: 13 };
    let mut graph = Graph::new();
    let keys = graph.input_indices("keys", &[1, NoiseWords::WORDS]);
    let words = graph.apply(PhiloxNormal { row_shape: vec![64], raw: true }, &[keys]);
    let actual = compute(gpu, &mut graph, &[(keys, bytemuck::cast_slice(&[NoiseWords::from(key)]))], words)?;
    let expected: Vec<u32> = (0..16).flat_map(|index| key.block(index)).collect();
    // The generator itself against its authors' known answer.
    let known = philox4x32_10([0; 4], [0; 2]) == [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8];
    expect(known && actual == expected, "64 words".into())
}

fn reduction(gpu: &Arc<Gpu>) -> Result<String> {
    let data = normals(2, 100_003);
    let sums = sum_squares(gpu, &data)?;
    let expected: f64 = data.iter().map(|value| f64::from(*value).powi(2)).sum();
    let error = (f64::from(sums[0]) / expected - 1.0).abs();
    expect(error < 1e-6 && sums[1] == 0.0, format!("relative error {error:.1e}"))
}

fn non_finite(gpu: &Arc<Gpu>) -> Result<String> {
    let mut data = normals(3, 10_007);
    (data[5], data[5000], data[10_006]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    let sums = sum_squares(gpu, &data)?;
    expect(sums[1] == 3.0 && sums[0].is_finite(), format!("{} of 3 found", sums[1]))
}

fn sum_squares(gpu: &Arc<Gpu>, data: &[f32]) -> Result<[f32; 2]> {
    let mut graph = Graph::new();
    let x = graph.input("x", &[data.len()]);
    let sums = ops::sum_squares(&mut graph, x);
    let words = compute(gpu, &mut graph, &[(x, &bits(data))], sums)?;
    Ok([f32::from_bits(words[0]), f32::from_bits(words[1])])
}

fn saturation(gpu: &Arc<Gpu>) -> Result<String> {
    for op in [Activation::Gelu, Activation::Silu] {
        let mut graph = Graph::new();
        let x = graph.input("x", &[2]);
        let y = graph.apply(op, &[x]);
        let words = compute(gpu, &mut graph, &[(x, &bits(&[150.0, -150.0]))], y)?;
        let [high, low] = [f32::from_bits(words[0]), f32::from_bits(words[1])];
        expect((high - 150.0).abs() < 1e-3 && low.abs() < 1e-3, format!("{op:?}(±150) = {high}, {low}"))?;
    }
    Ok("GELU and SiLU at ±150".into())
}

fn determinism(gpu: &Arc<Gpu>) -> Result<String> {
    let data = normals(4, 100_003);
    let first = sum_squares(gpu, &data)?;
    expect(sum_squares(gpu, &data)?.map(f32::to_bits) == first.map(f32::to_bits), "the same bits twice".into())
}

fn expect(passed: bool, detail: String) -> Result<String> {
    if passed { Ok(detail) } else { Err(Error::failed(detail)) }
}

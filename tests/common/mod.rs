//! One device for a whole test binary, repeatable data, and the two checks that every op passes.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod gradient_check;
pub mod ranks;
pub mod skip;
pub mod tiny;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use flowdppo_wgpu::autodiff::backward;
use flowdppo_wgpu::gpu::{Gpu, Options};
use flowdppo_wgpu::graph::{DType, DeviceProfile, Graph, Interpreter, Plan, Stores, Tensor};

/// A file or folder of another program's format that ships with the tests.
pub fn formats(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name)
}

/// The device of this test binary. Without an adapter, tests fail.
pub fn gpu() -> &'static Arc<Gpu> {
    static GPU: LazyLock<Arc<Gpu>> = LazyLock::new(|| {
        Gpu::open(&Options::default().or_environment()).expect("the tests need a Vulkan, Metal or DX12 adapter")
    });
    &GPU
}

/// A device of its own that cuts stores into chunks of at most this size.
pub fn cutting_stores(chunk_bytes: u64) -> Arc<Gpu> {
    let options = Options { chunk_bytes: Some(chunk_bytes), ..Options::default() };
    Gpu::open(&options.or_environment()).expect("it was opened before")
}

/// The elements of an input.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// Roughly normal, f32.
    Normal,
    /// Normal times this factor, f32.
    Scaled(f32),
    /// Uniform between two bounds, f32.
    Between(f32, f32),
    /// These values, repeated cyclically, f32.
    Fixed(&'static [f32]),
    /// Integers below this, u32.
    Index(u32),
}

/// An input of a case.
#[derive(Clone, Debug)]
pub struct Input {
    pub shape: Vec<usize>,
    pub values: Values,
    /// Whether the gradient with respect to it is checked.
    pub differentiate: bool,
}

impl Input {
    pub fn new(shape: &[usize], values: Values) -> Self {
        Self { shape: shape.to_vec(), values, differentiate: !matches!(values, Values::Index(_)) }
    }

    pub fn normal(shape: &[usize]) -> Self {
        Self::new(shape, Values::Normal)
    }

    pub fn index(shape: &[usize], below: u32) -> Self {
        Self::new(shape, Values::Index(below))
    }

    pub fn constant(mut self) -> Self {
        self.differentiate = false;
        self
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        if matches!(self.values, Values::Index(_)) { DType::U32 } else { DType::F32 }
    }

    fn declare(&self, graph: &mut Graph) -> Tensor {
        graph.input_of(self.dtype(), "input", &self.shape)
    }
}

/// splitmix64: small, and independent of the generator under test.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Sum of twelve uniforms: normal enough for test data.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    /// Elements as 32-bit words for the device.
    pub fn words(&mut self, input: &Input) -> Vec<u32> {
        (0..input.elements())
            .map(|index| match input.values {
                Values::Fixed(values) => values[index % values.len()].to_bits(),
                Values::Normal => (self.normal() as f32).to_bits(),
                Values::Scaled(factor) => (self.normal() as f32 * factor).to_bits(),
                Values::Between(low, high) => (low + (high - low) * self.uniform() as f32).to_bits(),
                Values::Index(below) => (self.bits() % u64::from(below)) as u32,
            })
            .collect()
    }
}

fn as_f64(input: &Input, words: &[u32]) -> Vec<f64> {
    input.dtype().decode(words, input.elements())
}

/// Mean squared error over mean square, which is independent of scale. 1e-12 is a relative error of 1e-6, about ten
/// roundings of f32 (6e-8 each).
pub fn nmse(actual: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    assert!(actual.iter().all(|value| value.is_finite()), "a result is not finite");
    let error: f64 = actual.iter().zip(expected).map(|(a, e)| (f64::from(*a) - e).powi(2)).sum();
    let scale: f64 = expected.iter().map(|e| e * e).sum();
    if error == 0.0 { 0.0 } else { error / scale.max(f64::MIN_POSITIVE) }
}

/// Runs what `build` records on the device, for inputs of f32 given as (shape, words); returns the words of every
/// output.
pub fn run(inputs: &[(&[usize], &[u32])], build: impl Fn(&mut Graph, &[Tensor]) -> Vec<Tensor>) -> Vec<Vec<u32>> {
    let inputs: Vec<_> = inputs.iter().map(|(shape, words)| (DType::F32, *shape, *words)).collect();
    run_of(&inputs, build)
}

/// The same for inputs of any type.
pub fn run_of(
    inputs: &[(DType, &[usize], &[u32])],
    build: impl Fn(&mut Graph, &[Tensor]) -> Vec<Tensor>,
) -> Vec<Vec<u32>> {
    let mut graph = Graph::new();
    let tensors: Vec<Tensor> = inputs.iter().map(|(dtype, shape, _)| graph.input_of(*dtype, "input", shape)).collect();
    let outputs = build(&mut graph, &tensors);
    for tensor in &outputs {
        graph.keep(*tensor);
    }
    let mut plan = Plan::new(gpu(), &graph, &Stores::new()).expect("the case fits the device");
    for ((.., words), tensor) in inputs.iter().zip(&tensors) {
        plan.write_words(*tensor, words);
    }
    plan.run().expect("the device works");
    outputs.iter().map(|tensor| plan.read(&[*tensor]).expect("the device works")).collect()
}

/// f32 elements as the words of the device.
pub fn words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Words of the device as f32 elements.
pub fn floats(words: &[u32]) -> Vec<f32> {
    words.iter().map(|word| f32::from_bits(*word)).collect()
}

/// Checks that the first rows of `many` have the same bits as alone. Every input and output has one row per first
/// index; `build` adds all other tensors.
pub fn check_rows_are_independent(
    name: &str,
    many: usize,
    inputs: &[Input],
    build: impl Fn(&mut Graph, &[Tensor]) -> Vec<Tensor>,
) {
    let mut random = Random(3);
    let data: Vec<Vec<u32>> = inputs.iter().map(|input| random.words(input)).collect();
    let outputs_of = |rows: usize| {
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|input| [&[rows], &input.shape[1..]].concat()).collect();
        let cases: Vec<(DType, &[usize], &[u32])> = (shapes.iter().zip(inputs).zip(&data))
            .map(|((shape, input), words)| (input.dtype(), shape.as_slice(), &words[..shape.iter().product()]))
            .collect();
        run_of(&cases, &build)
    };
    let all = outputs_of(many);
    for rows in [1, 2, 5] {
        for (index, (few, all)) in outputs_of(rows).iter().zip(&all).enumerate() {
            assert_eq!(few[..], all[..few.len()], "{name}: {rows} rows of output {index} depend on the others");
        }
    }
}

/// The device's profile, with this kernel variant forced in ops that have it. Variants that need subgroups are reported
/// on a device without them, and its default kernel is tested instead. The checks below ensure that any other variant is
/// run.
pub fn forcing(variant: &str) -> DeviceProfile {
    let profile = DeviceProfile { forced: Some(variant.to_owned()), ..DeviceProfile::of(gpu()) };
    if variant.contains("subgroup") && profile.subgroup_size.is_none() {
        let what = format!("{variant}: the device has no subgroups of one size");
        // Some steps of .ci/run test exactly that.
        let is_meant = ["FLOWDPPO_NO_SUBGROUPS", "FLOWDPPO_LIMITS"].iter().any(|name| std::env::var_os(name).is_some());
        if is_meant { skip::report(&what) } else { skip::not_checked(&what) }
    }
    profile
}

/// Asserts that ops with a kernel of the forced name run it, and that there is one.
fn assert_forced(name: &str, graph: &Graph, profile: &DeviceProfile) {
    let Some(forced) = profile.forced.as_deref() else { return };
    if forced.contains("subgroup") && profile.subgroup_size.is_none() {
        return;
    }
    let mut runs = 0;
    for node in graph.executed() {
        let shapes = graph.shapes(&node);
        let Some(choice) = node.op.choice(&shapes, profile).filter(|choice| choice.kernels.contains(&forced)) else {
            continue;
        };
        for dispatch in node.op.dispatches(&shapes, profile) {
            let shader = dispatch.kernel.shader;
            let plain =
                ["attention_", "conv2d_", "layer_norm_", "rms_norm_"].iter().find_map(|op| forced.split_once(op));
            let is_forced = match plain {
                // The plain variant has the op's name.
                Some((_, kind)) => ["subgroup", "tiled", "workgroup"]
                    .iter()
                    .all(|other| shader.contains(&format!("_{other}")) == (kind == *other)),
                None => shader.starts_with(forced.split('.').next().unwrap_or_default()) || shader == "sum_rows",
            };
            assert!(is_forced, "{name}: {} runs {shader} instead of {forced} ({choice:?})", node.label);
            runs += 1;
        }
    }
    assert!(runs > 0, "{name}: no op runs {forced}");
}

/// Runs what `build` records on the device and by the f64 twins, and compares every output.
pub fn check_forward(
    name: &str,
    inputs: &[Input],
    tolerance: f64,
    build: impl Fn(&mut Graph, &[Tensor]) -> Vec<Tensor>,
) {
    check_forward_on(&DeviceProfile::of(gpu()), name, inputs, tolerance, build);
}

/// [`check_forward`] with kernels chosen by a profile.
pub fn check_forward_on(
    profile: &DeviceProfile,
    name: &str,
    inputs: &[Input],
    tolerance: f64,
    build: impl Fn(&mut Graph, &[Tensor]) -> Vec<Tensor>,
) {
    let mut graph = Graph::new();
    let tensors: Vec<Tensor> = inputs.iter().map(|input| input.declare(&mut graph)).collect();
    let outputs = build(&mut graph, &tensors);
    for tensor in &outputs {
        graph.keep(*tensor);
    }
    assert_forced(name, &graph, profile);
    let mut plan = Plan::with_profile(gpu(), &graph, &Stores::new(), profile).expect("the case fits the device");
    let mut twin = Interpreter::default();
    let mut random = Random(1);
    for (input, tensor) in inputs.iter().zip(&tensors) {
        let words = random.words(input);
        plan.write_words(*tensor, &words);
        twin.write(*tensor, &as_f64(input, &words));
    }
    plan.run().expect("the device works");
    twin.run(&graph);
    for (index, tensor) in outputs.iter().enumerate() {
        let actual: Vec<f32> = plan.read(&[*tensor]).expect("the device works");
        let error = nmse(&actual, twin.value(&graph, *tensor));
        assert!(error <= tolerance, "{name}: output {index} has NMSE {error:.2e}, allowed are {tolerance:.0e}");
    }
}

/// Checks the gradient of a random weighting of all outputs: the twins' backward pass against central
/// differences of the twins, and the device's backward pass against the twins'.
pub fn check_gradient(
    name: &str,
    inputs: &[Input],
    tolerance: f64,
    build: impl Fn(&mut Graph, &[Tensor]) -> Vec<Tensor>,
) {
    check_gradient_on(&DeviceProfile::of(gpu()), name, inputs, tolerance, build);
}

/// [`check_gradient`] with kernels chosen by a profile.
pub fn check_gradient_on(
    profile: &DeviceProfile,
    name: &str,
    inputs: &[Input],
    tolerance: f64,
    build: impl Fn(&mut Graph, &[Tensor]) -> Vec<Tensor>,
) {
    let mut graph = Graph::new();
    let tensors: Vec<Tensor> = inputs.iter().map(|input| input.declare(&mut graph)).collect();
    let outputs = build(&mut graph, &tensors);
    let forward_nodes = graph.nodes().len();
    let seeds: Vec<Tensor> = outputs
        .iter()
        .map(|tensor| {
            let shape = graph.shape(*tensor).to_vec();
            graph.keep(*tensor);
            graph.input("seed", &shape)
        })
        .collect();
    let wanted: Vec<Tensor> =
        inputs.iter().zip(&tensors).filter(|(input, _)| input.differentiate).map(|(_, tensor)| *tensor).collect();
    let pairs: Vec<(Tensor, Tensor)> = outputs.iter().copied().zip(seeds.iter().copied()).collect();
    let gradients: Vec<Tensor> = backward(&mut graph, &pairs, &wanted)
        .into_iter()
        .map(|gradient| gradient.expect("the outputs depend on every differentiable input"))
        .collect();
    for gradient in &gradients {
        graph.keep(*gradient);
    }

    assert_forced(name, &graph, profile);
    let mut plan = Plan::with_profile(gpu(), &graph, &Stores::new(), profile).expect("the case fits the device");
    let mut twin = Interpreter::default();
    let mut random = Random(2);
    let mut data: Vec<Vec<f64>> = Vec::new();
    for (input, tensor) in inputs.iter().zip(&tensors) {
        let words = random.words(input);
        plan.write_words(*tensor, &words);
        data.push(as_f64(input, &words));
        twin.write(*tensor, &data[data.len() - 1]);
    }
    let mut weights: Vec<Vec<f64>> = Vec::new();
    for seed in &seeds {
        let weight: Vec<f32> = (0..graph.elements(*seed)).map(|_| random.normal() as f32).collect();
        plan.write(*seed, &weight);
        weights.push(weight.iter().map(|value| f64::from(*value)).collect());
        twin.write(*seed, &weights[weights.len() - 1]);
    }
    plan.run().expect("the device works");
    twin.run(&graph);

    // The forward part alone, for differences.
    let mut forward = Graph::new();
    let forward_inputs: Vec<Tensor> = inputs.iter().map(|input| input.declare(&mut forward)).collect();
    let forward_outputs = build(&mut forward, &forward_inputs);
    assert_eq!(forward.nodes().len(), forward_nodes, "recording is repeatable");
    // The weighted sum of all outputs, and the sum of the magnitudes of its terms.
    let sums = |data: &[Vec<f64>]| -> [f64; 2] {
        let mut run = Interpreter::default();
        for (tensor, values) in forward_inputs.iter().zip(data) {
            run.write(*tensor, values);
        }
        run.run(&forward);
        let terms = |(tensor, weight): (&Tensor, &Vec<f64>)| -> Vec<f64> {
            run.value(&forward, *tensor).iter().zip(weight).map(|(y, w)| y * w).collect()
        };
        let terms = forward_outputs.iter().zip(&weights).flat_map(terms);
        terms.fold([0.0; 2], |[sum, magnitude], term| [sum + term, magnitude + term.abs()])
    };
    let [_, magnitude] = sums(&data);
    let differentiable = (0..inputs.len()).filter(|index| inputs[*index].differentiate);
    for (index, gradient) in differentiable.zip(&gradients) {
        let analytic = twin.value(&graph, *gradient).to_vec();
        // At most 64 elements, spread evenly: each costs two forward passes.
        let stride = data[index].len().div_ceil(64);
        for element in (0..data[index].len()).step_by(stride) {
            let step = 1e-5;
            let mut shifted = data.clone();
            shifted[index][element] += step;
            let [above, _] = sums(&shifted);
            shifted[index][element] -= 2.0 * step;
            let difference = (above - sums(&shifted)[0]) / (2.0 * step);
            let error = (difference - analytic[element]).abs();
            // Truncation is the third derivative times step^2 / 6, about 1e-11 times up to a few hundred; each of
            // the two sums is off by some roundings of its terms.
            let rounding = 16.0 * f64::EPSILON * magnitude / step;
            assert!(
                error <= 1e-8 * (1.0 + difference.abs()) + rounding,
                "{name}: d/d input {index}[{element}] is {difference:.8} by differences, {:.8} by the backward pass",
                analytic[element]
            );
        }
        let actual: Vec<f32> = plan.read(&[*gradient]).expect("the device works");
        let error = nmse(&actual, &analytic);
        assert!(error <= tolerance, "{name}: gradient of input {index} has NMSE {error:.2e}, allowed {tolerance:.0e}");
    }
}

/// What `build` records for all inputs but the last, and its gradients of the first `count`; the last input is the
/// incoming gradient. For shapes at which differences would take too long: the twins are the oracle.
pub fn with_gradient(
    count: usize,
    build: impl Fn(&mut Graph, &[Tensor]) -> Vec<Tensor>,
) -> impl Fn(&mut Graph, &[Tensor]) -> Vec<Tensor> {
    move |graph, x| {
        let (dy, x) = x.split_last().expect("the last input is the gradient");
        let y = build(graph, x)[0];
        let gradients = backward(graph, &[(y, *dy)], &x[..count]);
        [y].into_iter().chain(gradients.into_iter().map(|gradient| gradient.expect("y depends on it"))).collect()
    }
}

/// Both checks.
pub fn check(name: &str, inputs: &[Input], tolerance: f64, build: impl Fn(&mut Graph, &[Tensor]) -> Vec<Tensor>) {
    check_forward(name, inputs, tolerance, &build);
    check_gradient(name, inputs, tolerance, &build);
}

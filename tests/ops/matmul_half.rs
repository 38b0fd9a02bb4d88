//! Products whose operands are rounded to 16 bits: in every kernel, by the device and by integer arithmetic, and as
//! products of small matrices where the device has them.

use std::sync::{Arc, LazyLock};

use flowdppo_wgpu::gpu::{Gpu, Matrices, Options};
use flowdppo_wgpu::graph::{DType, DeviceProfile, Graph, Interpreter, Plan, Shapes, Store, Stores, Tensor};
use flowdppo_wgpu::ops::{Activation, MatMul, linear_in};
use half::f16;

use super::matmul::{TOLERANCE, VARIANTS, operands, tolerance, transposes};
use crate::common::{Input, Random, Values, check_forward_on, floats, forcing, gpu, nmse, skip};

const HALF: MatMul = MatMul {
    transpose_a: false,
    transpose_b: false,
    batched: false,
    accumulate: false,
    weights: DType::F32,
    precision: DType::F16,
};

/// Every kernel, with each of the two ways to round that the device has. Without long tests, all but smaller tiles of
/// subgroups round as the device does, and two by integer arithmetic, too: one reads operands element by element, the
/// other as vectors.
fn profiles() -> Vec<DeviceProfile> {
    let is_long = skip::long_tests();
    let is_checked = |variant: &&str| is_long || !variant.contains("ROWS");
    let mut profiles: Vec<DeviceProfile> = VARIANTS.into_iter().filter(is_checked).map(forcing).collect();
    let integer = if is_long { &VARIANTS[..] } else { &["matmul_register", "matmul_tiled"] };
    profiles.extend(integer.iter().map(|variant| DeviceProfile { rounds_to_half: false, ..forcing(variant) }));
    profiles
}

#[test]
fn products_of_16_bits_match_their_twin() {
    for shape in [[1, 1, 1], [5, 7, 9], [67, 33, 65], [130, 72, 36]] {
        for (transpose_a, transpose_b) in transposes() {
            // Transposes have nothing to do with rounding.
            let is_rounded_twice = transpose_b && !transpose_a;
            let op = MatMul { transpose_a, transpose_b, ..HALF };
            for profile in profiles().into_iter().filter(|profile| profile.rounds_to_half || is_rounded_twice) {
                let name = format!("{profile:?} {op:?} {shape:?}");
                let inputs = operands(transpose_a, transpose_b, shape);
                check_forward_on(&profile, &name, &inputs, TOLERANCE, |graph, x| vec![graph.apply(op, &[x[0], x[1]])]);
            }
        }
    }
}

#[test]
fn layers_of_16_bits_with_everything_that_follows_match_their_twins() {
    // Real sizes: the hidden size of Stable Diffusion 3.5 medium, and a bias.
    let [m, n, k] = [5, 132, 1536];
    let inputs = [Input::normal(&[m, k]), Input::new(&[n, k], Values::Scaled(0.03)), Input::normal(&[n])];
    for profile in profiles() {
        // A device may drop numbers below 2^-14. Two of a thousand weights near 0.03 are, and they are off by half as much.
        let tolerance = if profile.rounds_to_half { 4e-9 } else { tolerance(k) };
        check_forward_on(&profile, &format!("{profile:?}"), &inputs, tolerance, |graph, x| {
            let y = linear_in(DType::F16, graph, x[0], x[1], Some(x[2]));
            vec![graph.apply(Activation::Gelu, &[y])]
        });
    }
}

/// What the device makes of x·1, which is x after rounding.
fn rounded(profile: &DeviceProfile, values: &[f32]) -> Vec<f32> {
    let mut graph = Graph::new();
    let x = graph.input("x", &[values.len(), 1]);
    let one = graph.input("one", &[1, 1]);
    let y = graph.apply(HALF, &[x, one]);
    graph.keep(y);
    let mut plan = Plan::with_profile(gpu(), &graph, &Stores::new(), profile).expect("it is small");
    plan.write(x, values);
    plan.write(one, &[1.0_f32]);
    plan.run().expect("the device works");
    plan.read(&[y]).expect("the device works")
}

#[test]
fn operands_round_to_the_nearest_with_ties_to_even() {
    let mut values = vec![0.0_f32, 1.0, -1.0, 65504.0, -65504.0, 65519.9, 0.1, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0];
    let mut random = Random(7);
    values.extend((0..500).map(|_| (random.normal() * (20.0 * random.normal()).exp2()) as f32));
    values.retain(|value| value.abs() < 65520.0);
    for profile in profiles() {
        for (value, actual) in values.iter().zip(rounded(&profile, &values)) {
            let expected = f16::from_f32(*value).to_f32();
            // The device's own conversion may drop numbers below 2^-14.
            let is_dropped = profile.rounds_to_half && expected.abs() < 6.2e-5 && actual == 0.0;
            assert!(actual == expected || is_dropped, "{profile:?}: {value:e} became {actual:e}, not {expected:e}");
        }
    }
}

#[test]
fn what_16_bits_cannot_hold_does_not_stay_finite() {
    for profile in profiles() {
        for value in [65520.0, -1e30, f32::INFINITY, f32::NAN] {
            let [actual] = rounded(&profile, &[value])[..] else { panic!("there is one") };
            assert!(!actual.is_finite(), "{profile:?}: {value:e} became {actual:e}");
        }
    }
}

#[test]
fn rounding_changes_the_bits_and_all_ways_to_round_agree() {
    let shape = [70, 68, 36];
    let inputs = operands(false, true, shape);
    let mut random = Random(4);
    let data = inputs.each_ref().map(|input| random.words(input));
    let run = |profile: &DeviceProfile, precision: DType| {
        let op = MatMul { transpose_b: true, precision, ..HALF };
        Case { op, inputs: inputs.to_vec(), data: data.to_vec() }.run(gpu(), profile)
    };
    let plain = run(&forcing("matmul_register"), DType::F32);
    let expected = run(&DeviceProfile { rounds_to_half: false, ..forcing("matmul_register") }, DType::F16);
    assert!(plain != expected);
    if !DeviceProfile::of(gpu()).cpu {
        return skip::not_checked("variants of matmul bit for bit: the device is no software driver");
    }
    for profile in profiles() {
        assert!(run(&profile, DType::F16) == expected, "{profile:?}");
    }
}

#[test]
fn gradients_are_products_of_the_same_precision() {
    let mut graph = Graph::new();
    let [x, weight] = [[9, 12], [7, 12]].map(|shape| graph.input("operand", &shape));
    let y = linear_in(DType::F16, &mut graph, x, weight, None);
    let seed = graph.input("seed", &[9, 7]);
    flowdppo_wgpu::autodiff::backward(&mut graph, &[(y, seed)], &[x, weight]);
    let products: Vec<String> = graph.nodes().iter().map(|node| format!("{:?}", node.op)).collect();
    assert_eq!(products.len(), 3, "{products:?}");
    assert!(products.iter().all(|product| product.contains("precision: F16")), "{products:?}");
}

#[test]
fn matrices_are_only_for_large_products_of_16_bits_on_a_gpu() {
    let matrices = Some(Matrices { side: 16, lanes: 32 });
    let gpu = DeviceProfile { rounds_to_half: true, matrices, ..DeviceProfile::default() };
    let shader = |profile: &DeviceProfile, op: MatMul, [m, n, k]: [usize; 3]| {
        let (a, b, c) = ([m, k], [k, n], [m, n]);
        let shapes = Shapes { inputs: vec![&a, &b], outputs: vec![&c] };
        use flowdppo_wgpu::graph::Op;
        op.dispatches(&shapes, profile).remove(0).kernel
    };
    for rows in [1, 64, 100_000] {
        assert_eq!(shader(&gpu, HALF, [rows, 64, 32]).shader, "matmul_cooperative_vec4");
        assert_eq!(shader(&gpu, HALF, [rows, 66, 33]).shader, "matmul_cooperative");
        assert_eq!(shader(&gpu, HALF, [rows, 60, 32]).shader, "matmul_tiled_vec4");
        assert_eq!(shader(&gpu, MatMul::default(), [rows, 64, 32]).shader, "matmul_tile128_vec4");
    }
    let forced = DeviceProfile { forced: Some("matmul_cooperative".into()), ..gpu.clone() };
    assert_eq!(shader(&forced, HALF, [8, 8, 8]).shader, "matmul_cooperative_vec4");
    assert_eq!(shader(&forced, MatMul::default(), [8, 8, 8]).shader, "matmul_register", "it would round");
    let cpu = DeviceProfile { cpu: true, subgroup_size: Some(8), ..gpu };
    assert_eq!(shader(&cpu, HALF, [8, 64, 32]).shader, "matmul_subgroup", "software drivers are slow at it");
}

/// A device that was opened for matrices, if the adapter has any.
fn with_matrices() -> Option<(&'static Arc<Gpu>, DeviceProfile)> {
    static GPU: LazyLock<Arc<Gpu>> = LazyLock::new(|| {
        let options = Options { matrices: true, ..Options::default() }.or_environment();
        Gpu::open(&options).expect("it was opened before")
    });
    let profile = DeviceProfile { forced: Some("matmul_cooperative".into()), ..DeviceProfile::of(&GPU) };
    if profile.matrices.is_none() {
        skip::report("products of matrices: the device has none; lavapipe has from Mesa 26 on");
        return None;
    }
    Some((&GPU, profile))
}

/// A product, its operands and their words.
struct Case {
    op: MatMul,
    inputs: Vec<Input>,
    data: Vec<Vec<u32>>,
}

impl Case {
    fn new(op: MatMul, inputs: &[Input]) -> Self {
        let mut random = Random(9);
        Self { op, inputs: inputs.to_vec(), data: inputs.iter().map(|input| random.words(input)).collect() }
    }

    fn record(&self) -> (Graph, Vec<Tensor>, Tensor) {
        let mut graph = Graph::new();
        let tensors: Vec<Tensor> =
            self.inputs.iter().map(|input| graph.input_of(input.dtype(), "input", &input.shape)).collect();
        let y = graph.apply(self.op, &tensors);
        graph.keep(y);
        (graph, tensors, y)
    }

    fn run(&self, gpu: &Arc<Gpu>, profile: &DeviceProfile) -> Vec<u32> {
        let (graph, tensors, y) = self.record();
        let mut plan = Plan::with_profile(gpu, &graph, &Stores::new(), profile).expect("it is small");
        for (tensor, words) in tensors.iter().zip(&self.data) {
            plan.write_words(*tensor, words);
        }
        plan.run().expect("the device works");
        plan.read(&[y]).expect("the device works")
    }

    fn twin(&self) -> Vec<f64> {
        let (graph, tensors, y) = self.record();
        let mut twin = Interpreter::default();
        for ((tensor, words), input) in tensors.iter().zip(&self.data).zip(&self.inputs) {
            twin.write(*tensor, &input.dtype().decode(words, input.shape.iter().product()));
        }
        twin.run(&graph);
        twin.value(&graph, y).to_vec()
    }
}

#[test]
fn products_of_matrices_match_their_twin() {
    let Some((gpu, profile)) = with_matrices() else { return };
    // One element, edges in all directions, complete tiles, and a real depth.
    for [m, n, k] in [[1, 1, 1], [5, 7, 9], [131, 67, 45], [132, 68, 36], [128, 64, 32], [260, 200, 96], [9, 70, 1536]]
    {
        for (transpose_a, transpose_b) in transposes() {
            let op = MatMul { transpose_a, transpose_b, ..HALF };
            let case = Case::new(op, &operands(transpose_a, transpose_b, [m, n, k]));
            let error = nmse(&floats(&case.run(gpu, &profile)), &case.twin());
            assert!(error <= tolerance(k), "{op:?} {m}x{n}x{k}: NMSE {error:.2e}");
        }
    }
    let batched = MatMul { batched: true, transpose_b: true, ..HALF };
    let case = Case::new(batched, &[Input::normal(&[3, 70, 20]), Input::normal(&[3, 36, 20])]);
    let error = nmse(&floats(&case.run(gpu, &profile)), &case.twin());
    assert!(error <= TOLERANCE, "batched: NMSE {error:.2e}");
}

#[test]
fn products_of_matrices_read_frozen_weights() {
    let Some((gpu, profile)) = with_matrices() else { return };
    let [m, n, k] = [66, 68, 64];
    for weights in [DType::F16, DType::Q8_0] {
        let op = MatMul { transpose_b: true, weights, ..HALF };
        let mut random = Random(3);
        let x = random.words(&Input::normal(&[m, k]));
        let stored = weights.encode(&floats(&random.words(&Input::normal(&[n, k]))));
        let mut graph = Graph::new();
        let inputs = [graph.input("x", &[m, k]), graph.input_of(weights, "weight", &[n, k])];
        let y = graph.apply(op, &inputs);
        graph.keep(y);
        let mut plan = Plan::with_profile(gpu, &graph, &Stores::new(), &profile).expect("it is small");
        let mut twin = Interpreter::default();
        plan.write_words(inputs[0], &x);
        plan.write_words(inputs[1], &stored);
        twin.write(inputs[0], &DType::F32.decode(&x, m * k));
        twin.write(inputs[1], &weights.decode(&stored, n * k));
        plan.run().expect("the device works");
        twin.run(&graph);
        let actual: Vec<f32> = plan.read(&[y]).expect("the device works");
        let error = nmse(&actual, twin.value(&graph, y));
        assert!(error <= TOLERANCE, "{weights}: NMSE {error:.2e}");
    }
}

#[test]
fn a_row_of_a_product_of_matrices_does_not_depend_on_others_or_its_position() {
    let Some((gpu, profile)) = with_matrices() else { return };
    for [m, n, k] in [[133, 67, 45], [140, 68, 44]] {
        let all = Case::new(HALF, &[Input::normal(&[m, k]), Input::normal(&[k, n])]);
        let expected = all.run(gpu, &profile);
        for rows in [1, 9, 65, 130] {
            let mut few = Case::new(HALF, &[Input::normal(&[rows, k]), Input::normal(&[k, n])]);
            few.data = vec![all.data[0][..rows * k].to_vec(), all.data[1].clone()];
            assert_eq!(few.run(gpu, &profile), expected[..rows * n], "{rows} of {m} rows");
        }
        let mut same = Case::new(HALF, &[Input::normal(&[m, k]), Input::normal(&[k, n])]);
        same.data[0] = all.data[0][..k].repeat(m);
        same.data[1] = all.data[1].clone();
        let rows = same.run(gpu, &profile);
        assert!(rows.chunks(n).all(|row| row == &expected[..n]), "{m}x{n}x{k}");
    }
}

#[test]
fn products_of_matrices_accumulate_over_slices_of_k() {
    let Some((gpu, profile)) = with_matrices() else { return };
    const SUM: Store = Store("sum");
    let [m, n, k] = [132, 68, 500];
    let op = MatMul { transpose_a: true, accumulate: true, ..HALF };
    let inputs = operands(true, false, [m, n, k]);
    let mut graph = Graph::new();
    let tensors = inputs.each_ref().map(|input| graph.input("operand", &input.shape));
    let sum = graph.stored("sum", &[m, n], SUM, 0);
    let scratch = graph.scratch(&op.scratch(&[k, m], &[k, n]).expect("K is worth slicing"));
    graph.push_into(op, &tensors, &[sum, scratch]);
    let stores = Stores::from([(SUM, gpu.allocate("sum", 4 * (m * n) as u64).expect("it is small").into())]);
    let mut plan = Plan::with_profile(gpu, &graph, &stores, &profile).expect("it is small");
    let mut twin = Interpreter::new([(SUM, vec![0.0; m * n])].into());
    let mut random = Random(5);
    for (tensor, input) in tensors.iter().zip(&inputs) {
        let words = random.words(input);
        plan.write_words(*tensor, &words);
        twin.write(*tensor, &DType::F32.decode(&words, words.len()));
    }
    for round in 1..=2 {
        plan.run().expect("the device works");
        twin.run(&graph);
        let actual: Vec<f32> = plan.read(&[sum]).expect("the device works");
        let error = nmse(&actual, twin.value(&graph, sum));
        assert!(error <= TOLERANCE, "round {round}: NMSE {error:.2e}");
    }
}

#[test]
fn an_epilogue_of_a_product_of_matrices_changes_no_bit() {
    let Some((gpu, profile)) = with_matrices() else { return };
    let [m, n, k] = [70, 68, 36];
    let mut random = Random(2);
    let data = [&[m, k][..], &[n, k], &[n]].map(|shape| random.words(&Input::normal(shape)));
    let run = |keep: bool| -> Vec<u32> {
        let mut graph = Graph::new();
        let tensors = [&[m, k][..], &[n, k], &[n]].map(|shape| graph.input("input", shape));
        let y = linear_in(DType::F16, &mut graph, tensors[0], tensors[1], Some(tensors[2]));
        let z = graph.apply(Activation::Gelu, &[y]);
        graph.keep(z);
        if keep {
            // Read by two nodes, so that the product is written, too.
            let again = graph.apply(Activation::Silu, &[y]);
            graph.keep(again);
        }
        let mut plan = Plan::with_profile(gpu, &graph, &Stores::new(), &profile).expect("it is small");
        for (tensor, words) in tensors.iter().zip(&data) {
            plan.write_words(*tensor, words);
        }
        plan.run().expect("the device works");
        plan.read(&[z]).expect("the device works")
    };
    assert_eq!(run(false), run(true));
}

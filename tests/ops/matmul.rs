use std::sync::Arc;

use flowdppo_wgpu::bench::shapes::{LINEAR, tested};
use flowdppo_wgpu::gpu::{DeviceKind, Tuning};
use flowdppo_wgpu::graph::{DType, DeviceProfile, Graph, Interpreter, Op, Plan, Shapes, Store, Stores};
use flowdppo_wgpu::ops::{MatMul, SumRows, linear};

use crate::common::{Input, Random, check, check_forward, check_forward_on, check_gradient, forcing, gpu, nmse, skip};

/// A sum of up to 1536 products in f32: each partial sum is rounded, by 4e-8 of its size (root of the mean square of
/// 2^-24 / sqrt(3) over a binade), and their squares add up to K / 2 times that of the result: 3.2e-16 K.
pub const TOLERANCE: f64 = 1e-12;

/// The same for any K.
pub fn tolerance(k: usize) -> f64 {
    TOLERANCE * (k as f64 / 1536.0).max(1.0)
}

/// One interface, one oracle.
pub const VARIANTS: [&str; 7] = [
    "matmul_register",
    "matmul_subgroup",
    "matmul_subgroup.ROWS=8",
    "matmul_subgroup.ROWS=4",
    "matmul_tiled",
    "matmul_tile128",
    "matmul_square128",
];

pub fn transposes() -> impl Iterator<Item = (bool, bool)> {
    [(false, false), (false, true), (true, false), (true, true)].into_iter()
}

/// Kernels are chosen by the columns and the depth; a few tiles of columns stand for many.
fn shapes() -> impl Iterator<Item = [usize; 3]> {
    tested(LINEAR, skip::long_tests(), |[_, n, k]| [3, n.min(131), k]).into_iter()
}

/// Whether differences of every product can be taken quickly.
fn is_small([m, n, k]: &[usize; 3]) -> bool {
    m * n * k < 1 << 19 && *n < 131
}

pub fn operands(transpose_a: bool, transpose_b: bool, [m, n, k]: [usize; 3]) -> [Input; 2] {
    let a = if transpose_a { [k, m] } else { [m, k] };
    let b = if transpose_b { [n, k] } else { [k, n] };
    [Input::normal(&a), Input::normal(&b)]
}

#[test]
fn matmul_all_transposes_and_odd_shapes() {
    for [m, n, k] in shapes().filter(is_small) {
        for (transpose_a, transpose_b) in transposes() {
            let inputs = operands(transpose_a, transpose_b, [m, n, k]);
            let op = MatMul { transpose_a, transpose_b, ..MatMul::default() };
            for variant in VARIANTS {
                let name = format!("{variant} {op:?} {m}x{n}x{k}");
                check_forward_on(&forcing(variant), &name, &inputs, TOLERANCE, |graph, x| {
                    vec![graph.apply(op, &[x[0], x[1]])]
                });
            }
            check_gradient(&format!("{op:?} {m}x{n}x{k}"), &inputs, TOLERANCE, |graph, x| {
                vec![graph.apply(op, &[x[0], x[1]])]
            });
        }
    }
}

/// The sizes of real models: sums over the hidden size or that of the MLP, and more rows than a tile.
#[test]
fn matmul_of_real_sizes() {
    for shape in shapes().filter(|shape| !is_small(shape)) {
        let [m, n, k] = shape;
        for (transpose_a, transpose_b) in transposes() {
            let inputs = operands(transpose_a, transpose_b, shape);
            let op = MatMul { transpose_a, transpose_b, ..MatMul::default() };
            for variant in VARIANTS {
                let name = format!("{variant} {op:?} {m}x{n}x{k}");
                check_forward_on(&forcing(variant), &name, &inputs, tolerance(k), |graph, x| {
                    vec![graph.apply(op, &[x[0], x[1]])]
                });
            }
        }
        let [a, b] = operands(false, true, shape);
        check_gradient(&format!("linear {m}x{n}x{k}"), &[a, b, Input::normal(&[n])], tolerance(k), |graph, x| {
            vec![linear(graph, x[0], x[1], Some(x[2]))]
        });
    }
}

#[test]
fn matmul_batched() {
    // The second one is read four elements at a time.
    for [m, n, k] in [[6, 7, 5], [68, 36, 20]] {
        for (transpose_a, transpose_b) in transposes() {
            let inputs = operands(transpose_a, transpose_b, [m, n, k]).map(|input| {
                let shape = [vec![3], input.shape].concat();
                Input::normal(&shape)
            });
            let op = MatMul { transpose_a, transpose_b, batched: true, ..MatMul::default() };
            for variant in VARIANTS {
                check_forward_on(&forcing(variant), &format!("{variant} {op:?}"), &inputs, TOLERANCE, |graph, x| {
                    vec![graph.apply(op, &[x[0], x[1]])]
                });
            }
            check_gradient(&format!("{op:?}"), &inputs, TOLERANCE, |graph, x| vec![graph.apply(op, &[x[0], x[1]])]);
        }
    }
}

#[test]
fn matmul_larger_than_a_workgroup() {
    let inputs = [Input::normal(&[517, 96]), Input::normal(&[131, 96]), Input::normal(&[131])];
    for variant in VARIANTS {
        check_forward_on(&forcing(variant), variant, &inputs, TOLERANCE, |graph, x| {
            vec![linear(graph, x[0], x[1], Some(x[2]))]
        });
    }
}

#[test]
fn matmul_past_65535_workgroups() {
    // A single column keeps the output below 128 MiB: 64 tiles of 4 rows per workgroup, or one of 16 or 64 rows.
    for (variant, rows) in [("matmul_register", 64 * 4), ("matmul_subgroup", 16), ("matmul_tiled", 64)] {
        let inputs = [Input::normal(&[65_536 * rows + 5, 1]), Input::normal(&[1, 1])];
        check_forward_on(&forcing(variant), variant, &inputs, TOLERANCE, |graph, x| {
            vec![graph.apply(MatMul::default(), &[x[0], x[1]])]
        });
    }
    // Twice as many rows would be larger than that: 64 or 128 columns.
    for (variant, columns) in [("matmul_tile128", 64), ("matmul_square128", 128)] {
        let inputs = [Input::normal(&[1, 1]), Input::normal(&[1, 65_536 * columns + 5])];
        check_forward_on(&forcing(variant), variant, &inputs, TOLERANCE, |graph, x| {
            vec![graph.apply(MatMul::default(), &[x[0], x[1]])]
        });
    }
}

#[test]
fn linear_with_bias_over_leading_dimensions() {
    let inputs = [Input::normal(&[3, 5, 6]), Input::normal(&[9, 6]), Input::normal(&[9])];
    check("linear", &inputs, TOLERANCE, |graph, x| vec![linear(graph, x[0], x[1], Some(x[2]))]);
}

/// The bits of a product of these operands.
fn product(variant: &str, (transpose_a, transpose_b): (bool, bool), shape: [usize; 3], words: [&[u32]; 2]) -> Vec<u32> {
    let mut graph = Graph::new();
    let operands = operands(transpose_a, transpose_b, shape).map(|input| graph.input("operand", &input.shape));
    let c = graph.apply(MatMul { transpose_a, transpose_b, ..MatMul::default() }, &operands);
    graph.keep(c);
    let mut plan = Plan::with_profile(gpu(), &graph, &Stores::new(), &forcing(variant)).expect("it is small");
    for (operand, words) in operands.iter().zip(words) {
        plan.write_words(*operand, words);
    }
    plan.run().expect("the device works");
    plan.read(&[c]).expect("the device works")
}

/// The bits of the first `rows` rows of a product of the same random operands.
fn bits(variant: &str, rows: usize, (transpose_a, transpose_b): (bool, bool), [m, n, k]: [usize; 3]) -> Vec<u32> {
    let mut random = Random(4);
    let [a, b] = operands(transpose_a, transpose_b, [m, n, k]).map(|input| random.words(&input));
    let first_rows =
        if transpose_a { a.chunks(m).flat_map(|row| row[..rows].to_vec()).collect() } else { a[..rows * k].to_vec() };
    product(variant, (transpose_a, transpose_b), [rows, n, k], [&first_rows, &b])
}

#[test]
fn matmul_of_a_row_does_not_depend_on_the_number_of_rows() {
    // The second one is read four elements at a time.
    for (shape, fewer) in [([133, 37, 45], [1, 9, 65]), ([140, 68, 44], [4, 68, 132])] {
        for variant in VARIANTS {
            for transposes in transposes() {
                let all = bits(variant, shape[0], transposes, shape);
                for rows in fewer {
                    let few = bits(variant, rows, transposes, shape);
                    assert_eq!(few, all[..rows * shape[1]], "{variant} {shape:?}, {rows} rows");
                }
            }
        }
    }
}

#[test]
fn matmul_of_a_row_does_not_depend_on_its_position() {
    for [m, n, k] in [[133, 37, 45], [140, 68, 44]] {
        let mut random = Random(6);
        let [row, b] = [[1, k], [k, n]].map(|shape| random.words(&Input::normal(&shape)));
        for variant in VARIANTS {
            let c = product(variant, (false, false), [m, n, k], [&row.repeat(m), &b]);
            assert!(c.chunks(n).all(|row| row == &c[..n]), "{variant} {m}x{n}x{k}");
        }
    }
}

#[test]
fn matmul_variants_agree_bit_for_bit_on_a_cpu() {
    // All add in the same order with one rounding per step. GPU drivers may reorder, software drivers do not.
    if gpu().description().kind != DeviceKind::Cpu {
        return skip::not_checked("variants of matmul bit for bit: the device is no software driver");
    }
    // The second one is read four elements at a time.
    for shape in [[70, 37, 45], [68, 36, 20], [140, 260, 52]] {
        for transposes in transposes() {
            let expected = bits(VARIANTS[0], shape[0], transposes, shape);
            for variant in &VARIANTS[1..] {
                assert_eq!(bits(variant, shape[0], transposes, shape), expected, "{variant} {shape:?}");
            }
        }
    }
}

#[test]
fn matmul_accumulates_over_slices_of_k() {
    const SUM: Store = Store("sum");
    for (m, n, k) in [(5, 7, 129), (3, 70, 1000), (65, 2, 400), (68, 12, 264), (132, 68, 268)] {
        for (transpose_a, transpose_b) in transposes() {
            let op = MatMul { transpose_a, transpose_b, accumulate: true, ..MatMul::default() };
            let inputs = operands(transpose_a, transpose_b, [m, n, k]);
            let mut graph = Graph::new();
            let tensors = [0, 1].map(|index| graph.input("operand", &inputs[index].shape));
            let sum = graph.stored("sum", &[m, n], SUM, 0);
            let scratch = op.scratch(&inputs[0].shape, &inputs[1].shape).expect("K is worth slicing");
            let scratch = graph.scratch(&scratch);
            graph.push_into(op, &tensors, &[sum, scratch]);
            for variant in VARIANTS {
                let stores =
                    Stores::from([(SUM, gpu().allocate("sum", 4 * (m * n) as u64).expect("it is small").into())]);
                let mut plan = Plan::with_profile(gpu(), &graph, &stores, &forcing(variant)).expect("it is small");
                let mut twin = Interpreter::new([(SUM, vec![0.0; m * n])].into());
                let mut random = Random(5);
                for (tensor, input) in tensors.iter().zip(&inputs) {
                    let words = random.words(input);
                    plan.write_words(*tensor, &words);
                    let values: Vec<f64> = words.iter().map(|word| f64::from(f32::from_bits(*word))).collect();
                    twin.write(*tensor, &values);
                }
                for round in 1..=2 {
                    plan.run().expect("the device works");
                    twin.run(&graph);
                    let actual: Vec<f32> = plan.read(&[sum]).expect("the device works");
                    let error = nmse(&actual, twin.value(&graph, sum));
                    assert!(error <= TOLERANCE, "{variant} {op:?} {m}x{n}x{k}, round {round}: NMSE {error:.2e}");
                }
            }
        }
    }
}

#[test]
fn the_kernel_does_not_depend_on_the_number_of_rows() {
    let profiles = [
        DeviceProfile::default(),
        DeviceProfile { subgroup_size: Some(32), ..DeviceProfile::default() },
        DeviceProfile { cpu: true, ..DeviceProfile::default() },
        DeviceProfile { cpu: true, subgroup_size: Some(8), ..DeviceProfile::default() },
    ];
    let chosen = |profile: &DeviceProfile, rows: usize, n: usize, k: usize| {
        let shapes = [[rows, k], [k, n], [rows, n]];
        let shapes = Shapes { inputs: vec![&shapes[0], &shapes[1]], outputs: vec![&shapes[2]] };
        MatMul::default().dispatches(&shapes, profile).into_iter().map(|dispatch| dispatch.kernel).collect::<Vec<_>>()
    };
    for profile in &profiles {
        for (n, k) in [(1, 1), (8, 64), (64, 8), (384, 1536)] {
            let alone = chosen(profile, 1, n, k);
            assert_eq!(alone.len(), 1, "a product is one dispatch");
            for rows in [2, 64, 100_000] {
                assert_eq!(chosen(profile, rows, n, k), alone, "{profile:?} {rows}x{n}x{k}");
            }
        }
    }
    let names = profiles.map(|profile| chosen(&profile, 64, 384, 384)[0].shader);
    assert_eq!(names, ["matmul_tile128_vec4", "matmul_tile128_vec4", "matmul_register", "matmul_subgroup"]);
}

#[test]
fn a_measured_kernel_is_used_for_its_workload_whatever_the_rows() {
    let kernels =
        [("matmul n=64 k=32", "matmul_register"), ("matmul n=64 m=16 at accumulate", "matmul_subgroup.ROWS=4")];
    let tuning = Tuning::new(kernels.map(|(workload, kernel)| (workload.to_owned(), kernel.to_owned())));
    let tuned = DeviceProfile { subgroup_size: Some(8), tuning: Arc::new(tuning), ..DeviceProfile::default() };
    let kernel = |profile: &DeviceProfile, op: MatMul, [m, n, k]: [usize; 3]| {
        let a = if op.transpose_a { [k, m] } else { [m, k] };
        let b = if op.transpose_b { [n, k] } else { [k, n] };
        let c = [m, n];
        let shapes = Shapes { inputs: vec![&a, &b], outputs: vec![&c] };
        op.dispatches(&shapes, profile).remove(0).kernel
    };
    let gradient = MatMul { transpose_a: true, accumulate: true, ..MatMul::default() };
    for rows in [1, 64, 100_000] {
        assert_eq!(kernel(&tuned, MatMul::default(), [rows, 64, 32]).shader, "matmul_register");
        // A gradient of a weight sums over all rows.
        let of_gradient = kernel(&tuned, gradient, [16, 64, rows]);
        assert_eq!(of_gradient.shader, "matmul_subgroup");
        assert!(of_gradient.constants.contains(&("ROWS", 4)), "{of_gradient:?}");
        // Workloads that were not measured use the default.
        assert_eq!(kernel(&tuned, MatMul::default(), [rows, 64, 33]).shader, "matmul_tile128");
        let transposed = MatMul { transpose_b: true, ..MatMul::default() };
        assert_eq!(kernel(&tuned, transposed, [rows, 64, 32]).shader, "matmul_tile128_vec4");
        // Too few columns, a short K, and too few rows of a weight's gradient.
        for (op, shape) in
            [(MatMul::default(), [rows, 60, 64]), (MatMul::default(), [rows, 64, 16]), (gradient, [124, 64, 4 * rows])]
        {
            assert_eq!(kernel(&tuned, op, shape).shader, "matmul_tiled_vec4", "{op:?} {shape:?}");
        }
        assert_eq!(kernel(&tuned, gradient, [128, 64, rows]).shader, "matmul_tile128_vec4");
    }
    let forced = DeviceProfile { forced: Some("matmul_tiled".into()), ..tuned.clone() };
    assert_eq!(
        kernel(&forced, MatMul::default(), [8, 64, 32]).shader,
        "matmul_tiled_vec4",
        "a forced kernel takes precedence"
    );
    let other = DeviceProfile { forced: Some("attention_register".into()), ..tuned.clone() };
    assert_eq!(kernel(&other, MatMul::default(), [8, 64, 32]).shader, "matmul_register", "but only for its op");
    // A table must not select a kernel that the device cannot run.
    let without = DeviceProfile { subgroup_size: None, ..tuned };
    assert_eq!(kernel(&without, gradient, [16, 64, 8]).shader, "matmul_tiled_vec4");
}

#[test]
fn sum_rows() {
    for (outer, rows, columns) in [(1, 1, 1), (1, 64, 3), (1, 65, 7), (3, 130, 5), (2, 1000, 1), (7, 16, 33)] {
        check_forward("sum_rows", &[Input::normal(&[outer, rows, columns])], TOLERANCE, |graph, x| {
            vec![graph.push(SumRows { outer, columns, accumulate: false }, &[x[0]])[0]]
        });
    }
}

#[test]
fn parameter_gradients_accumulate() {
    const PARAMETERS: Store = Store("parameters");
    const GRADIENTS: Store = Store("gradients");
    let mut graph = Graph::new();
    let x = graph.input("x", &[2, 1]);
    let seed = graph.input("seed", &[2, 1]);
    let weight = graph.stored("weight", &[1, 1], PARAMETERS, 0);
    let bias = graph.stored("bias", &[1], PARAMETERS, 64);
    let weight_gradient = graph.stored("weight gradient", &[1, 1], GRADIENTS, 0);
    let bias_gradient = graph.stored("bias gradient", &[1], GRADIENTS, 64);
    graph.set_gradient(weight, weight_gradient);
    graph.set_gradient(bias, bias_gradient);
    let y = linear(&mut graph, x, weight, Some(bias));
    flowdppo_wgpu::autodiff::backward(&mut graph, &[(y, seed)], &[]);
    let mut stores = Stores::new();
    for store in [PARAMETERS, GRADIENTS] {
        stores.insert(store, gpu().allocate(store.0, 512).expect("it is small").into());
    }
    let mut plan = Plan::new(gpu(), &graph, &stores).expect("it is small");
    plan.write(x, &[2.0_f32, 3.0]);
    plan.write(seed, &[1.0_f32, 10.0]);
    for round in 1..=3 {
        plan.run().expect("the device works");
        let gradients: Vec<f32> = plan.read(&[weight_gradient, bias_gradient]).expect("the device works");
        assert_eq!(gradients, [32.0 * round as f32, 11.0 * round as f32]);
    }
}

/// Every variant of an op can be forced by its name, and is listed in the message about a misspelt name.
#[test]
fn every_choice_has_a_listed_name() {
    let variants: Vec<&str> = flowdppo_wgpu::ops::variants().collect();
    let mut graph = Graph::new();
    let [x, weight] = [[96, 128], [128, 128]].map(|shape| graph.input("operand", &shape));
    graph.apply(MatMul { transpose_b: true, ..MatMul::default() }, &[x, weight]);
    let qkv = graph.input("qkv", &[2, 9, 3 * 16]);
    graph.push(flowdppo_wgpu::ops::Attention { num_heads: 2 }, &[qkv]);
    let profile = DeviceProfile { subgroup_size: Some(8), ..DeviceProfile::default() };
    let mut count = 0;
    for node in graph.nodes() {
        let choice = node.op.choice(&graph.shapes(node), &profile).expect("it has variants");
        for kernel in choice.kernels.iter().chain([&choice.usual]) {
            assert!(variants.contains(kernel), "{kernel} is not among {variants:?}");
            count += 1;
        }
    }
    assert!(count >= 6, "{count}");
}

/// Weights of a type on the device, decoded by the twin: every kernel computes the same bits as with the decoded weights
/// in f32, forward (x·Wᵀ, with a bias) and backward (dY·W), and is as close to f64.
#[test]
fn frozen_weights_are_read_as_they_are_stored() {
    // Complete vectors of four, and with 16 bits also rows that start in the middle of a word.
    let shapes = [(DType::F16, [9, 7, 13]), (DType::F16, [66, 36, 20]), (DType::F16, [130, 70, 65])];
    let shapes = shapes
        .into_iter()
        .chain([[1, 1, 32], [5, 3, 32], [70, 68, 96], [67, 33, 64], [131, 132, 64]].map(|shape| (DType::Q8_0, shape)));
    for (weights, [m, n, k]) in shapes {
        let mut random = Random(6);
        let [x, w, dy, bias] = [&[m, k][..], &[n, k], &[m, n], &[n]].map(|shape| random.words(&Input::normal(shape)));
        let mut values: Vec<f32> = w.iter().map(|word| 0.1 * f32::from_bits(*word)).collect();
        (values[0], values[1]) = (0.0, 3e-6);
        let stored = weights.encode(&values);
        let decoded: Vec<f32> = weights.decode(&stored, n * k).into_iter().map(|value| value as f32).collect();
        for variant in VARIANTS {
            let run = |dtype: DType, words: &[u32]| -> [Vec<u32>; 2] {
                let mut graph = Graph::new();
                let weight = graph.input_of(dtype, "weight", &[n, k]);
                let inputs = [("x", vec![m, k]), ("dy", vec![m, n]), ("bias", vec![n])];
                let [x_in, dy_in, bias_in] = inputs.map(|(name, shape)| graph.input(name, &shape));
                let y = linear(&mut graph, x_in, weight, Some(bias_in));
                let dx =
                    flowdppo_wgpu::autodiff::backward(&mut graph, &[(y, dy_in)], &[x_in])[0].expect("y depends on x");
                graph.keep(y);
                graph.keep(dx);
                let mut plan =
                    Plan::with_profile(gpu(), &graph, &Stores::new(), &forcing(variant)).expect("it is small");
                let mut twin = Interpreter::default();
                for (tensor, words) in [(x_in, &x), (dy_in, &dy), (bias_in, &bias)] {
                    plan.write_words(tensor, words);
                    twin.write(tensor, &DType::F32.decode(words, words.len()));
                }
                plan.write_words(weight, words);
                twin.write(weight, &dtype.decode(words, n * k));
                plan.run().expect("the device works");
                twin.run(&graph);
                [y, dx].map(|tensor| {
                    let actual: Vec<f32> = plan.read(&[tensor]).expect("the device works");
                    let error = nmse(&actual, twin.value(&graph, tensor));
                    assert!(error <= TOLERANCE, "{variant} {weights} {m}x{n}x{k}: NMSE {error:.2e}");
                    actual.iter().map(|value| value.to_bits()).collect()
                })
            };
            let as_stored = run(weights, &stored);
            assert!(as_stored == run(DType::F32, &DType::F32.encode(&decoded)), "{variant} {weights} {m}x{n}x{k}");
        }
    }
}

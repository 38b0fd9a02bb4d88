use flowdppo_wgpu::graph::Store;
use flowdppo_wgpu::graph::{Graph, Plan, Stores};
use flowdppo_wgpu::ops::{MatMul, SumRows, linear};

use crate::common::{Input, check, check_forward, gpu};

/// A sum of K products in f32: about sqrt(K) roundings, below 1e-6 relative for the K used here.
const TOLERANCE: f64 = 1e-12;

fn transposes() -> impl Iterator<Item = (bool, bool)> {
    [(false, false), (false, true), (true, false), (true, true)].into_iter()
}

#[test]
fn matmul_all_transposes_and_odd_shapes() {
    for (m, n, k) in [(1, 1, 1), (2, 3, 5), (4, 4, 4), (7, 1, 13), (1, 17, 3), (33, 18, 65), (64, 48, 32)] {
        for (transpose_a, transpose_b) in transposes() {
            let a = if transpose_a { [k, m] } else { [m, k] };
            let b = if transpose_b { [n, k] } else { [k, n] };
            let op = MatMul { transpose_a, transpose_b, ..MatMul::default() };
            check(&format!("{op:?} {m}x{n}x{k}"), &[Input::normal(&a), Input::normal(&b)], TOLERANCE, |graph, x| {
                vec![graph.apply(op, &[x[0], x[1]])]
            });
        }
    }
}

#[test]
fn matmul_batched() {
    for (transpose_a, transpose_b) in transposes() {
        let a = if transpose_a { [3, 5, 6] } else { [3, 6, 5] };
        let b = if transpose_b { [3, 7, 5] } else { [3, 5, 7] };
        let op = MatMul { transpose_a, transpose_b, batched: true, accumulate: false };
        check(&format!("{op:?}"), &[Input::normal(&a), Input::normal(&b)], TOLERANCE, |graph, x| {
            vec![graph.apply(op, &[x[0], x[1]])]
        });
    }
}

#[test]
fn matmul_larger_than_a_workgroup() {
    let inputs = [Input::normal(&[517, 96]), Input::normal(&[131, 96]), Input::normal(&[131])];
    check_forward("linear", &inputs, TOLERANCE, |graph, x| vec![linear(graph, x[0], x[1], x[2])]);
}

#[test]
fn matmul_past_65535_workgroups() {
    // A single column: each tile of 4 x 4 is a quarter full, which keeps the output below 128 MiB.
    let inputs = [Input::normal(&[65_536 * 64 * 4 + 5, 1]), Input::normal(&[1, 1])];
    check_forward("matmul", &inputs, TOLERANCE, |graph, x| vec![graph.apply(MatMul::default(), &[x[0], x[1]])]);
}

#[test]
fn linear_with_bias_over_leading_dimensions() {
    let inputs = [Input::normal(&[3, 5, 6]), Input::normal(&[9, 6]), Input::normal(&[9])];
    check("linear", &inputs, TOLERANCE, |graph, x| vec![linear(graph, x[0], x[1], x[2])]);
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
    let y = linear(&mut graph, x, weight, bias);
    flowdppo_wgpu::autodiff::backward(&mut graph, &[(y, seed)], &[]);
    let mut stores = Stores::new();
    for store in [PARAMETERS, GRADIENTS] {
        stores.insert(store, gpu().allocate(store.0, 512).expect("it is small"));
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

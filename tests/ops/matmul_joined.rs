use flowdppo_wgpu::autodiff::backward;
use flowdppo_wgpu::graph::{DeviceProfile, Graph, Tensor};
use flowdppo_wgpu::ops::{Activation, GatedResidual, linear};

use crate::common::{Input, check_forward_on, check_gradient, forcing, gpu, run};

/// As for the product alone: what follows adds one or two roundings.
const TOLERANCE: f64 = 1e-12;

const VARIANTS: [&str; 5] =
    ["matmul_register", "matmul_subgroup", "matmul_tiled", "matmul_tile128", "matmul_square128"];

/// Batch, tokens, columns, K.
const SHAPES: [[usize; 4]; 6] =
    [[1, 1, 1, 1], [3, 5, 7, 13], [2, 64, 96, 33], [1, 517, 19, 40], [5, 16, 64, 64], [3, 65, 68, 36]];

fn with_gelu(graph: &mut Graph, x: &[Tensor], keep: bool) -> Vec<Tensor> {
    let product = linear(graph, x[0], x[1], Some(x[2]));
    let result = graph.apply(Activation::Gelu, &[product]);
    if keep { vec![result, product] } else { vec![result] }
}

fn with_gate(graph: &mut Graph, x: &[Tensor], keep: bool) -> Vec<Tensor> {
    let product = linear(graph, x[0], x[1], Some(x[2]));
    let result = graph.apply(GatedResidual, &[x[3], product, x[4]]);
    if keep { vec![result, product] } else { vec![result] }
}

fn inputs([batch, tokens, columns, k]: [usize; 4]) -> [Input; 5] {
    [&[batch, tokens, k][..], &[columns, k], &[columns], &[batch, tokens, columns], &[batch, columns]]
        .map(Input::normal)
}

/// The names of the ops that a plan would execute.
fn executed(inputs: &[Input], build: impl Fn(&mut Graph, &[Tensor]) -> Vec<Tensor>) -> Vec<&'static str> {
    let mut graph = Graph::new();
    let tensors: Vec<Tensor> = inputs.iter().map(|input| graph.input("input", &input.shape)).collect();
    for tensor in build(&mut graph, &tensors) {
        graph.keep(tensor);
    }
    assert_eq!(graph.dispatch_count(&DeviceProfile::of(gpu())), graph.executed().len(), "a node is a dispatch here");
    graph.executed().iter().map(|node| node.op.name()).collect()
}

#[test]
fn a_product_and_what_follows_it_are_one_kernel() {
    for shape in SHAPES {
        let inputs = inputs(shape);
        for keep in [false, true] {
            assert_eq!(executed(&inputs[..3], |graph, x| with_gelu(graph, x, keep)), ["matmul+gelu"]);
            assert_eq!(executed(&inputs, |graph, x| with_gate(graph, x, keep)), ["matmul+gated_residual"]);
            for variant in VARIANTS {
                let name = format!("{variant} {shape:?}, keep {keep}");
                check_forward_on(&forcing(variant), &name, &inputs[..3], TOLERANCE, |graph, x| {
                    with_gelu(graph, x, keep)
                });
                check_forward_on(&forcing(variant), &name, &inputs, TOLERANCE, |graph, x| with_gate(graph, x, keep));
            }
        }
    }
}

#[test]
fn past_65535_workgroups() {
    let rows = 65_536 * 64 * 4 / 16 + 5;
    let inputs = [Input::normal(&[rows, 1]), Input::normal(&[1, 1]), Input::normal(&[1])];
    for variant in VARIANTS {
        check_forward_on(&forcing(variant), variant, &inputs, TOLERANCE, |graph, x| with_gelu(graph, x, true));
    }
}

/// The rollout does not keep the product, the update does: the result must be the same to the bit.
#[test]
fn keeping_the_product_does_not_change_the_result() {
    for shape in SHAPES {
        let inputs = inputs(shape);
        let mut random = crate::common::Random(7);
        let words: Vec<Vec<u32>> = inputs.iter().map(|input| random.words(input)).collect();
        let data: Vec<(&[usize], &[u32])> =
            inputs.iter().zip(&words).map(|(input, words)| (input.shape.as_slice(), words.as_slice())).collect();
        for build in [with_gelu, with_gate] {
            let [alone, kept] = [false, true].map(|keep| run(&data, |graph, x| build(graph, x, keep)));
            assert!(alone[0] == kept[0], "{shape:?}");
        }
    }
}

#[test]
fn gradients_pass_through_the_joined_kernels() {
    for [batch, tokens, columns, k] in SHAPES {
        if batch * tokens > 100 {
            continue;
        }
        let shapes: [&[usize]; 5] = [&[batch, tokens, k], &[columns, k], &[columns], &[k, columns], &[k]];
        let mut inputs = shapes.map(Input::normal).to_vec();
        inputs.push(Input::normal(&[batch, k]));
        let block = |graph: &mut Graph, x: &[Tensor]| {
            let hidden = linear(graph, x[0], x[1], Some(x[2]));
            let hidden = graph.apply(Activation::Gelu, &[hidden]);
            let out = linear(graph, hidden, x[3], Some(x[4]));
            vec![graph.apply(GatedResidual, &[x[0], out, x[5]])]
        };
        // Ten times the tolerance of one product: two products and a GELU follow each other.
        check_gradient(&format!("{batch} {tokens} {columns} {k}"), &inputs, 10.0 * TOLERANCE, block);

        let mut graph = Graph::new();
        let tensors: Vec<Tensor> = inputs.iter().map(|input| graph.input("input", &input.shape)).collect();
        let seed = graph.input("seed", &[batch, tokens, k]);
        let out = block(&mut graph, &tensors);
        backward(&mut graph, &[(out[0], seed)], &tensors);
        let names: Vec<_> = graph.executed().iter().map(|node| node.op.name()).collect();
        for name in ["matmul+gelu", "matmul+gated_residual", "matmul+gelu_backward"] {
            assert!(names.contains(&name), "{name} is not among {names:?}");
        }
    }
}

#[test]
fn a_product_that_is_read_in_between_stays_alone() {
    // Both operands of the sum are products: neither is the second op of the other.
    let mut graph = Graph::new();
    let [x, weight, gate] = [&[2, 3, 4][..], &[4, 4], &[2, 4]].map(|shape| graph.input("input", shape));
    let product = graph.apply(flowdppo_wgpu::ops::MatMul::default(), &[x, weight]);
    let result = graph.apply(GatedResidual, &[product, product, gate]);
    graph.keep(result);
    assert_eq!(graph.executed().len(), 2, "an op that reads the product twice is not joined");
}

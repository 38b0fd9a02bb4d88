//! Gradients that are not needed cost nothing: no node, no dispatch, no tensor that is only written. The needed ones have
//! the same bits as when all are computed.

use std::collections::BTreeSet;

use flowdppo_wgpu::autodiff::backward;
use flowdppo_wgpu::graph::{Binding, DeviceProfile, Graph, Plan, Stores, Tensor};
use flowdppo_wgpu::ops::{
    Activation, Add, AddBroadcast, Attention, Embedding, GatedActivation, GatedResidual, Guidance, Join, LayerNorm,
    MatMul, Patches, Patchify, Scale, Split, VelocityOfData, policy_stats,
};

use crate::common::{Input, Random, gpu};

type Build = fn(&mut Graph, &[Tensor]) -> Vec<Tensor>;

/// A graph with its gradients of the inputs in `subset`.
struct Recorded {
    graph: Graph,
    inputs: Vec<Tensor>,
    seeds: Vec<Tensor>,
    gradients: Vec<Tensor>,
    forward: usize,
}

impl Recorded {
    fn new(inputs: &[Input], subset: &[usize], build: Build) -> Self {
        let mut graph = Graph::new();
        let tensors: Vec<Tensor> =
            inputs.iter().map(|input| graph.input_of(input.dtype(), "input", &input.shape)).collect();
        let outputs = build(&mut graph, &tensors);
        let forward = graph.nodes().len();
        let mut pairs = Vec::new();
        for output in &outputs {
            let shape = graph.shape(*output).to_vec();
            pairs.push((*output, graph.input("seed", &shape)));
        }
        let wanted: Vec<Tensor> = subset.iter().map(|index| tensors[*index]).collect();
        let found = backward(&mut graph, &pairs, &wanted);
        let gradients: Vec<Tensor> =
            found.into_iter().map(|gradient| gradient.expect("the outputs depend on it")).collect();
        for gradient in &gradients {
            graph.keep(*gradient);
        }
        Self { graph, inputs: tensors, seeds: pairs.into_iter().map(|(_, seed)| seed).collect(), gradients, forward }
    }

    /// Fails if a dispatch of the backward pass writes something that is neither requested nor read.
    fn assert_nothing_is_thrown_away(&self, name: &str) {
        let profile = DeviceProfile::of(gpu());
        let (mut read, mut written) = (BTreeSet::new(), BTreeSet::new());
        for node in &self.graph.nodes()[self.forward..] {
            for dispatch in node.op.dispatches(&self.graph.shapes(node), &profile) {
                let bound = |bindings: &[Binding]| {
                    bindings.iter().filter_map(|binding| node.bound(*binding)).collect::<Vec<_>>()
                };
                read.extend(bound(&dispatch.reads));
                written.extend(bound(&dispatch.writes));
            }
        }
        let useless: Vec<&str> = written
            .iter()
            .filter(|tensor| !read.contains(*tensor) && !self.gradients.contains(*tensor))
            .map(|tensor| self.graph.name(*tensor))
            .collect();
        assert!(useless.is_empty(), "{name}: {useless:?} is computed and thrown away");
    }

    fn gradients(&self, data: &[Vec<u32>]) -> Vec<Vec<u32>> {
        let mut plan = Plan::new(gpu(), &self.graph, &Stores::new()).expect("the case fits the device");
        for (tensor, words) in self.inputs.iter().zip(data) {
            plan.write_words(*tensor, words);
        }
        let mut random = Random(6);
        for seed in &self.seeds {
            plan.write_words(*seed, &random.words(&Input::normal(self.graph.shape(*seed))));
        }
        plan.run().expect("the device works");
        self.gradients.iter().map(|tensor| plan.read(&[*tensor]).expect("the device works")).collect()
    }
}

/// Every subset of the gradients, compared with all of them.
fn check_unwanted(name: &str, inputs: &[Input], build: Build) {
    let differentiable: Vec<usize> = (0..inputs.len()).filter(|index| inputs[*index].differentiate).collect();
    let mut random = Random(5);
    let data: Vec<Vec<u32>> = inputs.iter().map(|input| random.words(input)).collect();
    let all = Recorded::new(inputs, &differentiable, build);
    all.assert_nothing_is_thrown_away(name);
    let expected = all.gradients(&data);
    for choice in 1..(1_usize << differentiable.len()) - 1 {
        let places: Vec<usize> = (0..differentiable.len()).filter(|place| choice >> place & 1 == 1).collect();
        let subset: Vec<usize> = places.iter().map(|place| differentiable[*place]).collect();
        let some = Recorded::new(inputs, &subset, build);
        some.assert_nothing_is_thrown_away(&format!("{name} for {subset:?}"));
        for (place, gradient) in places.iter().zip(some.gradients(&data)) {
            assert!(gradient == expected[*place], "{name}: gradient {place} differs if only {subset:?} are needed");
        }
    }
}

#[test]
fn every_op_computes_only_the_gradients_that_are_needed() {
    // One pass over tokens, and two.
    for tokens in [3, 130] {
        let x = Input::normal(&[2, tokens, 8]);
        let of_sample = Input::normal(&[2, 8]);
        check_unwanted("layer_norm", &[x.clone(), of_sample.clone(), of_sample.clone()], |graph, x| {
            vec![graph.push(LayerNorm, x)[0]]
        });
        check_unwanted("gated_residual", &[x.clone(), x, of_sample], |graph, x| vec![graph.apply(GatedResidual, x)]);
    }
    let matrix = Input::normal(&[3, 5]);
    for parts in [2, 3, 6] {
        check_unwanted("join", &vec![matrix.clone(); parts], |graph, x| vec![graph.apply(Join, x)]);
    }
    check_unwanted("add", &[matrix.clone(), matrix.clone()], |graph, x| vec![graph.apply(Add, x)]);
    check_unwanted("add_broadcast", &[Input::normal(&[130, 5]), Input::normal(&[5])], |graph, x| {
        vec![graph.apply(AddBroadcast, x)]
    });
    check_unwanted("guidance", &[matrix.clone(), matrix.clone()], |graph, x| {
        vec![graph.apply(Guidance { guidance_scale: 3.0 }, x)]
    });
    check_unwanted("gated_activation", &[matrix.clone(), matrix.clone()], |graph, x| {
        vec![graph.apply(GatedActivation::Silu, x)]
    });
    let sigma = Input::normal(&[3]).constant();
    check_unwanted("velocity_of_data", &[matrix.clone(), matrix.clone(), sigma], |graph, x| {
        vec![graph.apply(VelocityOfData { floor: 0.05 }, x)]
    });
    check_unwanted("embedding", &[matrix.clone(), Input::index(&[4], 3)], |graph, x| vec![graph.apply(Embedding, x)]);
    check_unwanted("matmul", &[matrix.clone(), Input::normal(&[5, 4]), Input::normal(&[4])], |graph, x| {
        vec![graph.apply(MatMul::default(), x)]
    });
    check_unwanted("policy_stats", &[matrix.clone(), matrix.clone().constant(), matrix.constant()], |graph, x| {
        vec![policy_stats(graph, x[0], x[1], x[2])]
    });
}

/// The gradient of an op with one input is not recorded unless it is needed.
#[test]
fn the_backward_pass_stops_where_nothing_is_needed() {
    let build: Build = |graph, x| {
        let patches = Patches {
            channels: 1,
            vector_channels: 1,
            height: 4,
            width: 4,
            patch_size: 2,
            channel_first: false,
            factor: 1.0,
        };
        let frozen = graph.apply(Patchify(patches), &[x[0]]);
        let frozen = graph.apply(Scale(2.0), &[frozen]);
        let frozen = graph.apply(Activation::Silu, &[frozen]);
        let qkv = graph.apply(MatMul::default(), &[frozen, x[1]]);
        let frozen = graph.push(Attention { num_heads: 1 }, &[qkv])[0];
        vec![graph.apply(MatMul::default(), &[frozen, x[2]])]
    };
    let inputs = [Input::normal(&[2, 1, 4, 4]), Input::normal(&[4, 12]), Input::normal(&[4, 3])];
    let last = Recorded::new(&inputs, &[2], build);
    last.assert_nothing_is_thrown_away("network");
    assert_eq!(last.graph.nodes().len() - last.forward, 1, "a gradient of one weight is one product");
    check_unwanted("network", &inputs, build);
}

/// Parts of a split that nothing depends on have a gradient of zero.
#[test]
fn a_split_with_unused_parts_has_a_gradient() {
    let (rows, columns) = (3, 5);
    for (parts, used) in [(2, vec![1]), (3, vec![0, 2]), (6, vec![0, 1, 4])] {
        let mut graph = Graph::new();
        let x = graph.input("x", &[rows, parts * columns]);
        let outputs = graph.push(Split { parts }, &[x]);
        let seeds: Vec<(Tensor, Tensor)> =
            used.iter().map(|part| (outputs[*part], graph.input("seed", &[rows, columns]))).collect();
        let gradient = backward(&mut graph, &seeds, &[x])[0].expect("the parts depend on x");
        graph.keep(gradient);
        let mut plan = Plan::new(gpu(), &graph, &Stores::new()).expect("the case fits the device");
        for (part, (_, seed)) in used.iter().zip(&seeds) {
            let values: Vec<f32> = (0..rows * columns).map(|index| (100 * part + index + 1) as f32).collect();
            plan.write(*seed, &values);
        }
        plan.run().expect("the device works");
        let found: Vec<f32> = plan.read(&[gradient]).expect("the device works");
        for (index, value) in found.iter().enumerate() {
            let (row, part, column) = (index / (parts * columns), index / columns % parts, index % columns);
            let expected = if used.contains(&part) { 100 * part + row * columns + column + 1 } else { 0 };
            assert_eq!(*value, expected as f32, "{parts} parts, {used:?} used: element {index}");
        }
    }
}

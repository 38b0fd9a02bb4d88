//! Kernels whose invocations have four elements each if rows consist of whole vectors, or else one.

use flowdppo_wgpu::gpu::{DeviceKind, Kernel, ShaderStruct};
use flowdppo_wgpu::graph::{DeviceProfile, Graph, Plan, Store, Stores, Tensor};
use flowdppo_wgpu::ops::{
    Accumulate, Activation, AdamW, AdamWSettings, AdamWStep, Add, AddBroadcast, GatedActivation, GatedResidual,
    GroupNorm, Optimized, Scale, sum_squares,
};

use crate::common::{Input, Random, check_forward, check_gradient, gpu, skip};

/// An op of tensors of the same shape and, for some, of a smaller one.
struct Case {
    name: &'static str,
    build: fn(&mut Graph, &[Tensor]) -> Tensor,
    /// The shapes of its inputs, given that of the first.
    inputs: fn(&[usize]) -> Vec<Vec<usize>>,
    /// Inputs with a gradient, from the first on.
    differentiated: usize,
}

fn twice(shape: &[usize]) -> Vec<Vec<usize>> {
    vec![shape.to_vec(); 2]
}

fn once(shape: &[usize]) -> Vec<Vec<usize>> {
    vec![shape.to_vec()]
}

fn cases() -> Vec<Case> {
    vec![
        Case { name: "gelu", build: |g, x| g.apply(Activation::Gelu, x), inputs: once, differentiated: 1 },
        Case { name: "gelu_erf", build: |g, x| g.apply(Activation::GeluErf, x), inputs: once, differentiated: 1 },
        Case { name: "quick_gelu", build: |g, x| g.apply(Activation::QuickGelu, x), inputs: once, differentiated: 1 },
        Case { name: "silu", build: |g, x| g.apply(Activation::Silu, x), inputs: once, differentiated: 1 },
        Case { name: "scale", build: |g, x| g.apply(Scale(-0.3), x), inputs: once, differentiated: 1 },
        Case { name: "add", build: |g, x| g.apply(Add, x), inputs: twice, differentiated: 2 },
        Case { name: "geglu", build: |g, x| g.apply(GatedActivation::Gelu, x), inputs: twice, differentiated: 2 },
        Case { name: "swiglu", build: |g, x| g.apply(GatedActivation::Silu, x), inputs: twice, differentiated: 2 },
        Case {
            name: "add_broadcast",
            build: |g, x| g.apply(AddBroadcast, x),
            inputs: |shape| vec![shape.to_vec(), shape[1..].to_vec()],
            differentiated: 1,
        },
        Case {
            // The gradient of the gate is a sum, and no kernel of this kind.
            name: "gated_residual",
            build: |g, x| g.apply(GatedResidual, x),
            inputs: |shape| vec![shape.to_vec(), shape.to_vec(), vec![shape[0], shape[2]]],
            differentiated: 2,
        },
        Case {
            name: "group_norm",
            build: |g, x| GroupNorm { groups: 1, epsilon: 1e-6, silu: true, flat: false }.of(g, x[0], x[1], x[2]),
            inputs: |shape| vec![shape.to_vec(), vec![shape[1]], vec![shape[1]]],
            differentiated: 0,
        },
    ]
}

/// Whole vectors: one, several, and more than a workgroup has; and rows that have none.
const SHAPES: [[usize; 3]; 5] = [[1, 1, 4], [2, 3, 8], [3, 5, 260], [2, 3, 7], [1, 65, 33]];

fn inputs(case: &Case, shape: [usize; 3]) -> Vec<Input> {
    let shapes = (case.inputs)(&shape).into_iter().enumerate();
    let input = |(index, shape): (usize, Vec<usize>)| {
        if index < case.differentiated { Input::normal(&shape) } else { Input::normal(&shape).constant() }
    };
    shapes.map(input).collect()
}

#[test]
fn one_element_and_four_match_the_twin() {
    for (case, shape) in cases().iter().flat_map(|case| SHAPES.map(|shape| (case, shape))) {
        let name = format!("{} of {shape:?}", case.name);
        let build = |graph: &mut Graph, x: &[Tensor]| vec![(case.build)(graph, x)];
        // Short sums, and functions that drivers compute to a few units in the last place.
        if case.differentiated > 0 {
            check_gradient(&name, &inputs(case, shape), 1e-12, build);
        }
        check_forward(&name, &inputs(case, shape), 1e-12, build);
    }
}

/// The words of tensors after a run.
fn run(graph: &Graph, stores: &Stores, given: &[Tensor], read: &[Tensor]) -> Vec<Vec<u32>> {
    let mut plan = Plan::new(gpu(), graph, stores).expect("it is small");
    for (seed, tensor) in given.iter().enumerate() {
        plan.write_words(*tensor, &Random(seed as u64).words(&Input::normal(graph.shape(*tensor))));
    }
    plan.run().expect("the device works");
    read.iter().map(|tensor| plan.read(&[*tensor]).expect("the device works")).collect()
}

/// Whether the bits of one element and four at a time can be compared: GPU drivers may contract differently, software
/// drivers do not.
fn rounds_alike() -> bool {
    let is_cpu = gpu().description().kind == DeviceKind::Cpu;
    if !is_cpu {
        skip::not_checked("elements one at a time and four at a time: the device is no software driver");
    }
    is_cpu
}

#[test]
fn one_element_and_four_have_the_same_bits_on_a_cpu() {
    if !rounds_alike() {
        return;
    }
    // Those of tensors of one shape, which may as well have one dimension: that has one element per invocation.
    for case in cases().iter().filter(|case| (case.inputs)(&[2, 3, 8]).iter().all(|shape| *shape == [2, 3, 8])) {
        let [four, one] = [vec![3, 5, 260], vec![3 * 5 * 260]].map(|shape| {
            let mut graph = Graph::new();
            let x: Vec<Tensor> = (case.inputs)(&shape).iter().map(|shape| graph.input("x", shape)).collect();
            let y = (case.build)(&mut graph, &x);
            graph.keep(y);
            run(&graph, &Stores::new(), &x, &[y])
        });
        assert!(one == four, "{}", case.name);
    }
}

const STORES: [Store; 5] =
    [Store("parameters"), Store("first moment"), Store("second moment"), Store("gradients"), Store("average")];

/// Everything that a step of AdamW changes.
fn stepped(elements: usize) -> Vec<Vec<u32>> {
    let mut graph = Graph::new();
    let given = [0; 2].map(|_| graph.input("given", &[elements]));
    let settings = AdamWSettings {
        loss_scale: 256.0,
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        max_grad_norm: 0.0,
        average_decay: 0.9,
    };
    let step = bytemuck::cast_slice(&[settings.at_step(3)]).to_vec();
    let settings = graph.constant("settings", &[AdamWStep::WORDS], step);
    let stored = STORES.map(|store| graph.stored(store.0, &[elements], store, 0));
    let [parameters, first_moment, second_moment, gradients, average] = stored;
    graph.push_into(Accumulate, &[given[0]], &[parameters]);
    graph.push_into(Accumulate, &[given[1]], &[gradients]);
    let sums = sum_squares(&mut graph, gradients);
    AdamW.record(&mut graph, Optimized { parameters, first_moment, second_moment, gradients, average }, settings, sums);
    let mut stores = Stores::new();
    for store in STORES {
        let buffer = gpu().allocate(store.0, 4 * elements as u64).expect("it is small");
        gpu().write(&buffer, 0, &vec![0.25_f32; elements]);
        stores.insert(store, buffer.into());
    }
    run(&graph, &stores, &given, &stored)
}

#[test]
fn adamw_steps_one_element_and_four_alike() {
    if !rounds_alike() {
        return;
    }
    for elements in [4, 68, 2052] {
        let [four, one] = [elements, elements - 1].map(stepped);
        for (one, four) in one.iter().zip(&four) {
            assert!(one[..] == four[..elements - 1], "{elements} elements");
        }
    }
}

/// The number of rows decides nothing.
#[test]
fn four_at_a_time_depends_on_columns_only() {
    let kernel = |shape: &[usize]| -> Kernel {
        let mut graph = Graph::new();
        let x = graph.input("x", shape);
        graph.apply(Activation::Gelu, &[x]);
        let node = &graph.nodes()[0];
        node.op.dispatches(&graph.shapes(node), &DeviceProfile::of(gpu())).swap_remove(0).kernel
    };
    for rows in [1, 3, 4, 64] {
        assert_eq!(kernel(&[rows, 5, 12]).constants, [("PACKED", 1)]);
        assert_eq!(kernel(&[rows, 4, 13]).constants, [("PACKED", 0)]);
        assert_eq!(kernel(&[rows]).constants, [("PACKED", 0)]);
    }
}

//! Kernels whose invocations have one element each or four. Tests of single ops run what the device chooses; these run
//! both, on any device.

use flowdppo_wgpu::gpu::{DeviceKind, Kernel, ShaderStruct};
use flowdppo_wgpu::graph::{DeviceProfile, Graph, Plan, Store, Stores, Tensor};
use flowdppo_wgpu::ops::{
    Accumulate, Activation, AdamW, AdamWSettings, AdamWStep, Add, AddBroadcast, GatedActivation, GatedResidual,
    GroupNorm, Optimized, Scale, sum_squares,
};

use crate::common::{Input, Random, check_forward_on, check_gradient_on, gpu, skip};

/// One per element, and four.
fn profiles() -> [DeviceProfile; 2] {
    [true, false].map(|cpu| DeviceProfile { cpu, ..DeviceProfile::of(gpu()) })
}

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
        for profile in profiles() {
            let name = format!("{} of {shape:?}, cpu: {}", case.name, profile.cpu);
            let build = |graph: &mut Graph, x: &[Tensor]| vec![(case.build)(graph, x)];
            // Short sums, and functions that drivers compute to a few units in the last place.
            if case.differentiated > 0 {
                check_gradient_on(&profile, &name, &inputs(case, shape), 1e-12, build);
            }
            check_forward_on(&profile, &name, &inputs(case, shape), 1e-12, build);
        }
    }
}

/// The words of tensors after a run.
fn run(profile: &DeviceProfile, graph: &Graph, stores: &Stores, given: &[Tensor], read: &[Tensor]) -> Vec<Vec<u32>> {
    let mut plan = Plan::with_profile(gpu(), graph, stores, profile).expect("it is small");
    for (seed, tensor) in given.iter().enumerate() {
        plan.write_words(*tensor, &Random(seed as u64).words(&Input::normal(graph.shape(*tensor))));
    }
    plan.run().expect("the device works");
    read.iter().map(|tensor| plan.read(&[*tensor]).expect("the device works")).collect()
}

#[test]
fn one_element_and_four_have_the_same_bits_on_a_cpu() {
    // Each element has the same roundings. GPU drivers may contract differently, software drivers do not.
    if gpu().description().kind != DeviceKind::Cpu {
        return skip::not_checked("elements one at a time and four at a time: the device is no software driver");
    }
    for (case, shape) in cases().iter().flat_map(|case| SHAPES.map(|shape| (case, shape))) {
        let mut graph = Graph::new();
        let x: Vec<Tensor> = (case.inputs)(&shape).iter().map(|shape| graph.input("x", shape)).collect();
        let y = (case.build)(&mut graph, &x);
        graph.keep(y);
        let [alone, four] = profiles().map(|profile| run(&profile, &graph, &Stores::new(), &x, &[y]));
        // The sums of group norm have the same order in both.
        assert!(alone == four, "{} of {shape:?}", case.name);
    }
}

const STORES: [Store; 5] =
    [Store("parameters"), Store("first moment"), Store("second moment"), Store("gradients"), Store("average")];

/// Everything that a step of AdamW changes.
fn stepped(profile: &DeviceProfile, elements: usize) -> Vec<Vec<u32>> {
    let mut graph = Graph::new();
    let given = [0; 2].map(|_| graph.input("given", &[elements]));
    let settings = AdamWSettings {
        loss_scale: 256.0,
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        max_grad_norm: 1.0,
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
    run(profile, &graph, &stores, &given, &stored)
}

#[test]
fn adamw_steps_one_element_and_four_alike() {
    for elements in [4, 68, 2052, 67] {
        let [alone, four] = profiles().map(|profile| stepped(&profile, elements));
        for (alone, four) in alone.iter().zip(&four) {
            let [alone, four] = [alone, four].map(|words| words.iter().map(|word| f32::from_bits(*word)));
            for (alone, four) in alone.zip(four) {
                // A few roundings of a parameter of about 1.
                assert!((alone - four).abs() < 1e-6, "{alone} and {four}, of {elements}");
            }
        }
        assert!(gpu().description().kind != DeviceKind::Cpu || alone == four, "the bits of {elements} elements");
    }
}

/// The number of rows decides nothing.
#[test]
fn four_at_a_time_depends_on_columns_and_the_device() {
    let kernel = |profile: &DeviceProfile, shape: &[usize]| -> Kernel {
        let mut graph = Graph::new();
        let x = graph.input("x", shape);
        graph.apply(Activation::Gelu, &[x]);
        let node = &graph.nodes()[0];
        node.op.dispatches(&graph.shapes(node), profile).swap_remove(0).kernel
    };
    let [one, four] = profiles();
    for rows in [1, 3, 4, 64] {
        assert_eq!(kernel(&four, &[rows, 5, 12]).constants, [("PACKED", 1)]);
        assert_eq!(kernel(&four, &[rows, 4, 13]).constants, [("PACKED", 0)]);
        assert_eq!(kernel(&four, &[rows]).constants, [("PACKED", 0)]);
        assert_eq!(kernel(&one, &[rows, 5, 12]).constants, [("PACKED", 0)]);
    }
}

//! Options that save memory change no result, and no two live tensors share memory.

use std::collections::BTreeSet;

use flowdppo_wgpu::autodiff::Activations;
use flowdppo_wgpu::config::{Config, WeightType};
use flowdppo_wgpu::data;
use flowdppo_wgpu::graph::{
    DeviceProfile, Graph, MemoryPlan, Node, Origin, Plan, Stores, Tensor, planned_bytes, planned_together,
};
use flowdppo_wgpu::model::{BASE, ConditionInput, DitConfig, FlowModel, Frozen, Network};
use flowdppo_wgpu::ops::{MatMul, Scale};
use flowdppo_wgpu::optimizer::{GRADIENTS, PARAMETERS};
use flowdppo_wgpu::pretrain::{FlowMatchingGraph, Pretraining};
use flowdppo_wgpu::rl::{Trainer, UpdateGraph};

use crate::common::{Random, floats, gpu, nmse, tiny};
use crate::{classes_of, classifier_file, config, flow_model_of, own_gpu, read, saved};

const RECOMPUTE: Activations = Activations { recompute: true, half: false };

/// The profiles of a software driver and of a GPU.
fn profiles() -> [DeviceProfile; 2] {
    [DeviceProfile { cpu: true, ..DeviceProfile::default() }, DeviceProfile::default()]
}

/// Gradients of flow matching on a batch of four, and the loss.
fn flow_matching(activations: Activations) -> (Vec<f32>, Vec<f32>) {
    let model = tiny::dit(3);
    let flow_model = &flow_model_of(&model);
    let it = FlowMatchingGraph::record(&flow_model.into(), 4, activations);
    let buffer = |values: &[f32]| {
        let buffer = gpu().allocate("store", 4 * values.len() as u64).expect("it is small");
        gpu().write(&buffer, 0, values);
        buffer
    };
    let gradients = buffer(&vec![0.0; flow_model.layout().trainable_elements()]);
    let stores = Stores::from([(PARAMETERS, buffer(&model.weights).into()), (GRADIENTS, gradients.clone().into())]);
    let mut plan = Plan::new(gpu(), &it.graph, &stores).expect("it is small");
    let mut random = Random(5);
    plan.write(it.images, &(0..4 * 64).map(|_| random.normal() as f32).collect::<Vec<f32>>());
    plan.write(classes_of(it.condition), &[0_u32, 1, 2, 3]);
    plan.write(it.time, &[50.0_f32, 300.0, 700.0, 950.0]);
    plan.write(it.keys, &[7_u32; 20]);
    plan.write(it.to_noisy, &[0.5_f32, 0.0, 0.5].repeat(4));
    plan.write(it.weight, &[0.25_f32; 4]);
    plan.run().expect("the device works");
    (floats(&read(gpu(), &gradients)), plan.read(&[it.loss]).expect("the device works"))
}

#[test]
fn gradients_are_the_same_with_activation_checkpointing() {
    let (gradients, loss) = flow_matching(Activations::default());
    assert!(gradients.iter().filter(|gradient| **gradient != 0.0).count() > 1000);
    let (recomputed, same_loss) = flow_matching(RECOMPUTE);
    assert!(recomputed == gradients, "recomputed activations give other gradients");
    assert_eq!(same_loss, loss);
}

#[test]
fn a_run_is_the_same_with_activation_checkpointing() {
    let (_folder, file) = classifier_file();
    let model = tiny::dit(2);
    for guidance_scale in [1.0, 2.5] {
        let checkpoint = |activation_checkpointing: bool| {
            let mut config = tiny::config(&file);
            config.rollout.guidance_scale = guidance_scale;
            config.train.activation_checkpointing = activation_checkpointing;
            let mut trainer = Trainer::new(gpu(), (&config).into(), &model).expect("it is small");
            for iteration in 0..2 {
                trainer.iteration(iteration).expect("the device works");
            }
            saved(&trainer, 2)
        };
        assert!(checkpoint(true) == checkpoint(false), "guidance {guidance_scale}: other bytes");
    }
}

#[test]
fn activation_checkpointing_takes_a_second_forward_pass_and_less_memory() {
    let model = tiny::dit(4);
    let flow_model = &flow_model_of(&model);
    for guidance_scale in [1.0, 2.5] {
        let record = |activation_checkpointing: bool| {
            let mut config = config();
            config.rollout.guidance_scale = guidance_scale;
            config.train.activation_checkpointing = activation_checkpointing;
            UpdateGraph::record(&(&config).into(), &flow_model.into()).expect("it fits the model").graph
        };
        let (stored, recomputed) = (record(false), record(true));
        let passes = if guidance_scale == 1.0 { 1 } else { 2 };
        assert_eq!(recomputed.segments().len(), 4 * passes, "a segment a block");
        let again: Vec<&str> = (recomputed.nodes().iter())
            .filter(|node| node.label.starts_with("recompute."))
            .map(|node| node.op.name())
            .collect();
        // The last sum of a block is the input of the next, which is kept.
        assert_eq!(again.iter().filter(|name| **name == "gated_residual").count(), 4 * passes);
        assert_eq!(again.iter().filter(|name| **name == "matmul").count(), 5 * 4 * passes);
        assert_eq!(recomputed.nodes().len(), stored.nodes().len() + again.len());
        let of_blocks: u64 = stored
            .segments()
            .iter()
            .flat_map(|segment| &stored.nodes()[segment.clone()])
            .map(|node| node.op.flops(&stored.shapes(node)))
            .sum();
        assert_eq!(recomputed.flops(), stored.flops() + of_blocks);
        for profile in profiles() {
            let bytes = |graph: &Graph| planned_bytes(graph, &profile).reused;
            assert!(recomputed.dispatch_count(&profile) > stored.dispatch_count(&profile));
            assert!(10 * bytes(&recomputed) < 8 * bytes(&stored), "{} of {}", bytes(&recomputed), bytes(&stored));
        }
    }
}

/// The tensors that the kernels of a node access on a device.
fn touched(graph: &Graph, node: &Node, profile: &DeviceProfile) -> BTreeSet<Tensor> {
    let dispatches = node.op.dispatches(&graph.shapes(node), profile);
    dispatches
        .iter()
        .flat_map(|dispatch| dispatch.reads.iter().chain(&dispatch.writes))
        .filter_map(|binding| node.bound(*binding))
        .collect()
}

#[test]
fn no_slot_is_used_by_two_tensors_at_once() {
    let model = tiny::dit(3);
    for (recompute, half) in [(false, false), (true, false), (false, true), (true, true)] {
        let graph =
            FlowMatchingGraph::record(&(&flow_model_of(&model)).into(), 3, Activations { recompute, half }).graph;
        for profile in profiles() {
            let nodes = graph.executed();
            let plan = MemoryPlan::new(&graph, &nodes, &profile);
            // Tracks which tensor's value a slot contains, and compares it with the tensor that each node reads.
            let mut holds: Vec<Option<Tensor>> = vec![None; plan.slots.len()];
            for node in &nodes {
                let touched = touched(&graph, node, &profile);
                // Kept tensors have their own memory.
                let computed =
                    |tensor: &&Tensor| graph.origin(**tensor) == Origin::Computed && !plan.kept.contains(*tensor);
                for tensor in node.inputs.iter().filter(computed).filter(|tensor| touched.contains(tensor)) {
                    assert_eq!(holds[plan.slot_of[tensor]], Some(*tensor), "{}: overwritten", node.label);
                }
                let inputs: BTreeSet<usize> =
                    node.inputs.iter().filter_map(|tensor| plan.slot_of.get(tensor).copied()).collect();
                for tensor in node.outputs.iter().filter(computed).filter(|tensor| touched.contains(tensor)) {
                    let slot = plan.slot_of[tensor];
                    assert!(!inputs.contains(&slot), "{}: read and written at once", node.label);
                    assert!(plan.slots[slot] >= graph.bytes(*tensor));
                    holds[slot] = Some(*tensor);
                }
            }
            let bytes: u64 = plan.slots.iter().sum();
            assert!(3 * bytes < 2 * plan.naive_bytes, "{bytes} of {} bytes", plan.naive_bytes);
        }
    }
}

/// Plans run one after another, so they share the memory of their slots; kept tensors survive while another plan runs.
#[test]
fn plans_share_their_slots_and_keep_their_results() {
    let gpu = own_gpu();
    let plan = |elements: usize, factor: f32| {
        let mut graph = Graph::new();
        let x = graph.input("x", &[elements]);
        let between = graph.apply(Scale(factor), &[x]);
        let y = graph.apply(Scale(factor), &[between]);
        graph.keep(y);
        let planned = planned_bytes(&graph, &DeviceProfile::of(&gpu));
        (Plan::new(&gpu, &graph, &Stores::new()).expect("it is small"), x, y, planned)
    };
    // The first readback allocates the memory of all plans.
    gpu.read::<u32>(&[gpu.unused()]).expect("the device works");
    let before = gpu.counters().bytes_held;
    let (mut large, large_x, large_y, large_planned) = plan(1000, 2.0);
    assert_eq!(gpu.counters().bytes_held - before, large_planned.reused, "alone it has all of it");
    let (mut small, small_x, small_y, small_planned) = plan(300, 3.0);
    let together = planned_together(&[large_planned.clone(), small_planned.clone()]);
    assert_eq!(gpu.counters().bytes_held - before, together);
    assert_eq!(together, large_planned.reused + small_planned.reused - 1200, "the smaller slot is shared");
    // In the other order nothing fits, unless room was reserved before.
    assert_eq!(
        planned_together(&[small_planned.clone(), large_planned.clone()]),
        large_planned.reused + small_planned.reused
    );
    large.write(large_x, &[1.0_f32; 1000]);
    small.write(small_x, &[1.0_f32; 300]);
    for _ in 0..3 {
        large.run().expect("the device works");
        small.run().expect("the device works");
        assert_eq!(large.read::<f32>(&[large_y]).expect("the device works"), [4.0; 1000]);
        assert_eq!(small.read::<f32>(&[small_y]).expect("the device works"), [9.0; 300]);
    }
    drop((large, small));
    assert_eq!(gpu.counters().bytes_held, before, "memory is released");
}

#[test]
fn scratch_that_no_kernel_reads_takes_no_memory() {
    let product = MatMul { transpose_a: true, accumulate: true, ..MatMul::default() };
    let scratch = product.scratch(&[4096, 8], &[4096, 16]).expect("the sum is long");
    let mut graph = Graph::new();
    let [a, b] = [8, 16].map(|columns| graph.input("operand", &[4096, columns]));
    let target = graph.stored("gradient", &[8, 16], GRADIENTS, 0);
    let partial = graph.scratch(&scratch);
    graph.push_into(product, &[a, b], &[target, partial]);
    let [software, hardware] = profiles().map(|profile| MemoryPlan::new(&graph, &graph.executed(), &profile));
    assert_eq!(hardware.slots, [4 * scratch.iter().product::<usize>() as u64]);
    assert!(software.slots.is_empty() && software.naive_bytes == 0, "{software:?}");
    // No memory is bound there either. The device is for this test only, because counters belong to the device.
    let gpu = own_gpu();
    let store = gpu.allocate("gradients", 4 * 128).expect("it is small");
    let before = gpu.counters().buffers;
    Plan::with_profile(&gpu, &graph, &Stores::from([(GRADIENTS, store.into())]), &profiles()[0]).expect("it is small");
    assert_eq!(gpu.counters().buffers - before, 3, "two inputs and the parameters");
}

#[test]
fn half_activations_round_gradients_and_nothing_else() {
    let (gradients, loss) = flow_matching(Activations::default());
    let exact: Vec<f64> = gradients.iter().map(|gradient| f64::from(*gradient)).collect();
    for recompute in [false, true] {
        let (rounded, same_loss) = flow_matching(Activations { recompute, half: true });
        assert_eq!(same_loss, loss, "the forward pass differs");
        assert_ne!(rounded, gradients);
        // A gradient is a sum of products, each with a few factors that are off by up to 2^-11, in either
        // direction: more than two such errors do not remain.
        let layout = flow_model_of(&tiny::dit(3)).layout();
        for entry in layout.entries().iter().filter(|entry| entry.trainable) {
            let range = entry.offset..entry.offset + entry.elements();
            let error = nmse(&rounded[range.clone()], &exact[range]).sqrt();
            assert!(error < 2.0 / 2048.0, "{}: relative error {error:.1e}", entry.name);
        }
    }
}

/// Mean losses of the first and the last steps of a short pretraining.
fn pretrained(change: impl Fn(&mut Config)) -> [f64; 2] {
    let mut config = Config::default();
    config.pretrain.batch_size = 32;
    config.pretrain.micro_batch = 16;
    config.pretrain.steps = 40;
    config.pretrain.warmup_steps = 4;
    config.pretrain.learning_rate = 4e-3;
    change(&mut config);
    let data = data::load(&config.data).expect("it is built in");
    let dit = DitConfig { num_classes: 10, ..tiny::dit(2).dit("tiny").expect("it is one").clone() };
    let flow_model = FlowModel::from(&dit);
    let weights = flow_model.initial_weights(1);
    let network = Network::from(&flow_model);
    let mut training =
        Pretraining::new(gpu(), (&config).into(), &network, &data, &weights, &Stores::new()).expect("it is small");
    let losses = (0..40).flat_map(|step| {
        training.step(step).expect("the device works");
        training.outcomes().expect("the device works")
    });
    let losses: Vec<f64> = losses.map(|report| report.loss).collect();
    [&losses[..10], &losses[30..]].map(|losses| losses.iter().sum::<f64>() / 10.0)
}

#[test]
fn a_network_learns_equally_well_with_half_activations() {
    let [first, last] = pretrained(|_| {});
    assert!(last < 0.8 * first, "it learns: {first}, {last}");
    for activation_checkpointing in [false, true] {
        let [_, half] = pretrained(|config| {
            config.pretrain.half_activations = true;
            config.pretrain.activation_checkpointing = activation_checkpointing;
        });
        assert_ne!(half, last, "no gradient is rounded");
        assert!((half - last).abs() < 1e-3 * last, "{half} instead of {last}");
    }
}

#[test]
fn half_activations_take_less_memory() {
    let model = tiny::dit(4);
    for profile in profiles() {
        let bytes = |half: bool| {
            let graph =
                FlowMatchingGraph::record(&(&flow_model_of(&model)).into(), 32, Activations { recompute: false, half })
                    .graph;
            MemoryPlan::new(&graph, &graph.executed(), &profile).slots.iter().sum::<u64>()
        };
        let (whole, half) = (bytes(false), bytes(true));
        // Statistics, and tensors that live in one pass only, are not packed.
        assert!(10 * half < 7 * whole, "{half} of {whole} bytes");
    }
}

#[test]
fn a_frozen_base_computes_the_same_as_its_rounded_weights() {
    // Matrices with 32 inputs, so that there are 8-bit blocks; those of the patches stay in 16 bits.
    let model = tiny::dit_of_width(2, 32);
    let (flow_model, weights) = (flow_model_of(&model), &model.weights);
    let mut random = Random(9);
    let layout = flow_model.layout();
    let x: Vec<f32> = (0..2 * flow_model.dim()).map(|_| random.normal() as f32).collect();
    let velocity = |weight_type: WeightType, weights: &[f32]| -> Vec<u32> {
        let frozen = Frozen::new(&layout, weight_type);
        let mut graph = Graph::new();
        let x_in = graph.input("x", &flow_model.batch_shape(2));
        let (time, labels) = (graph.input("time", &[2]), graph.input_indices("labels", &[2]));
        let network = flow_model.network(frozen.declare(&mut graph, BASE));
        let v = network.guided_velocity(&mut graph, x_in, time, ConditionInput::Classes(labels), 2.0);
        graph.keep(v);
        let store = frozen.upload(gpu(), BASE.0, weights).expect("it is small");
        assert_eq!(store.bytes(), frozen.bytes());
        let mut plan = Plan::new(gpu(), &graph, &Stores::from([(BASE, store)])).expect("it is small");
        plan.write(x_in, &x);
        plan.write(time, &[150.0_f32, 720.0]);
        plan.write(labels, &[0_u32, 2]);
        plan.run().expect("the device works");
        plan.read(&[v]).expect("the device works")
    };
    let exact = velocity(WeightType::F32, weights);
    let exact_f64: Vec<f64> = floats(&exact).into_iter().map(f64::from).collect();
    let bytes = |weights| Frozen::new(&layout, weights).bytes();
    // Rounding by 2⁻¹² and by 1/255 of the largest value of a block, in a dozen layers.
    for (weight_type, most, share) in [(WeightType::F16, 1e-3, 0.6), (WeightType::Q8_0, 4e-2, 0.45)] {
        let rounded = Frozen::new(&layout, weight_type).rounded(weights).expect("they fit");
        let stored = velocity(weight_type, weights);
        assert!(stored == velocity(WeightType::F32, &rounded), "the bits differ from those of the rounded weights");
        assert!(stored == velocity(weight_type, weights), "the same bits twice");
        let error = nmse(&floats(&stored), &exact_f64).sqrt();
        assert!(error > 0.0 && error < most, "{weight_type:?}: relative error {error:.1e}");
        assert!((bytes(weight_type) as f64) < share * bytes(WeightType::F32) as f64, "{weight_type:?}");
    }
}

/// The figures for the built-in model in docs/models.md.
#[test]
fn the_built_in_model_hardly_changes_in_fewer_bits() {
    let model = flowdppo_wgpu::assets::load_model("builtin:digits8-base").expect("it is built in");
    let flow_model = &flow_model_of(&model);
    let mut random = Random(10);
    let x: Vec<f32> = (0..4 * flow_model.dim()).map(|_| random.normal() as f32).collect();
    let velocity = |weights: WeightType| -> Vec<f32> {
        let frozen = Frozen::new(&flow_model.layout(), weights);
        let mut graph = Graph::new();
        let x_in = graph.input("x", &flow_model.batch_shape(4));
        let (time, labels) = (graph.input("time", &[4]), graph.input_indices("labels", &[4]));
        let network = flow_model.network(frozen.declare(&mut graph, BASE));
        let v = network.guided_velocity(&mut graph, x_in, time, ConditionInput::Classes(labels), 1.0);
        graph.keep(v);
        let store = frozen.upload(gpu(), BASE.0, &model.weights).expect("it is small");
        let mut plan = Plan::new(gpu(), &graph, &Stores::from([(BASE, store)])).expect("it is small");
        plan.write(x_in, &x);
        plan.write(time, &[0.2, 0.5, 0.8, 1.0].map(|sigma| flow_model.time_of(sigma)));
        plan.write(labels, &[0_u32, 3, 7, 9]);
        plan.run().expect("the device works");
        plan.read(&[v]).expect("the device works")
    };
    let exact: Vec<f64> = velocity(WeightType::F32).into_iter().map(f64::from).collect();
    for (weights, most) in [(WeightType::F16, 5e-4), (WeightType::Q8_0, 7e-3)] {
        let error = nmse(&velocity(weights), &exact).sqrt();
        assert!(error > 1e-6 && error < most, "{weights:?}: relative error {error:.2e}");
    }
}

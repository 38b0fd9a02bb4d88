//! Fine-tuning a text-to-image model: the loss and the gradients of a micro-batch against computations in f64.

use std::collections::BTreeMap;

use flowdppo_wgpu::autodiff::Activations;
use flowdppo_wgpu::config::{Config, WeightType};
use flowdppo_wgpu::flow::noise::{NoiseKey, normals};
use flowdppo_wgpu::graph::{Graph, Interpreter, Store, Tensor};
use flowdppo_wgpu::model::{Adapter, BASE, ConditionInput, FlowModel, Frozen, Model, Network};
use flowdppo_wgpu::optimizer::PARAMETERS;
use flowdppo_wgpu::pretrain::FlowMatchingGraph;

use super::training::model;
use crate::common::gradient_check::{Loss, Values, noise_words};
use crate::common::{Random, tiny};

/// The noise levels of a batch of two: of the second caption, and of none.
const SIGMAS: [f32; 2] = [0.35, 0.8];
const CONDITIONS: [Option<usize>; 2] = [Some(1), None];

/// An adapter of every kind of layer, both of whose matrices have an effect.
fn adapter(flow_model: &FlowModel) -> Adapter {
    let mut config = Config::default();
    let targets = ["attn.to_q", "attn.to_out.0", "attn.add_k_proj", "attn2.to_v", "proj_out"];
    (config.lora.rank, config.lora.targets) = (2, targets.map(str::to_owned).into());
    let adapter = Adapter::begin(&config.lora, 0, flow_model).expect("it fits the model").expect("there is one");
    tiny::disturbed_adapter(flow_model, adapter, 0.2, 61)
}

fn key(sample: u32) -> NoiseKey {
    NoiseKey { seed: 5, rollout: 3, sample, step: 9 }
}

fn latents(dim: usize) -> Vec<f32> {
    let mut random = Random(62);
    (0..2 * dim).map(|_| random.normal() as f32).collect()
}

/// The embeddings of the batch as inputs of a graph.
fn embeddings(flow_model: &FlowModel, condition: ConditionInput) -> Vec<(Tensor, Values)> {
    let (ConditionInput::Prompts { given, .. }, FlowModel::Text(text)) = (condition, flow_model) else {
        panic!("the model has prompts")
    };
    let (mut context, mut pooled) = (Vec::new(), Vec::new());
    for prompt in CONDITIONS {
        let found = text.prompts.embedding(prompt).expect("they are in memory");
        context.extend(found.context);
        pooled.extend(found.pooled);
    }
    let of_pooled = given.pooled.expect("the network takes pooled embeddings");
    vec![(given.context, Values::F32(context)), (of_pooled, Values::F32(pooled))]
}

fn times(flow_model: &FlowModel) -> Values {
    Values::F32(SIGMAS.map(|sigma| flow_model.time_of(f64::from(sigma))).to_vec())
}

type Stores = BTreeMap<Store, Vec<f32>>;

/// The store of an adapter, and its frozen base in 16 bits for the device and for the twin.
fn stores(model: &Model, flow_model: &FlowModel, adapter: &Adapter) -> (Stores, (Vec<u32>, Vec<f64>)) {
    let frozen = Frozen::new(&flow_model.layout(), WeightType::F16);
    let base = (frozen.pack(&model.weights).expect("it fits"), frozen.interpreted(&model.weights).expect("it fits"));
    (Stores::from([(PARAMETERS, adapter.weights.clone())]), base)
}

#[test]
fn the_loss_and_the_gradient_of_an_adapter_are_right() {
    let model = model();
    let flow_model = &model.flow_model("tiny").expect("it is one");
    let adapter = adapter(flow_model);
    let network = Network::new(flow_model, Some(&adapter), WeightType::F16);
    let it = FlowMatchingGraph::record(&network, 2, Activations { recompute: true, half: false });
    let mut inputs = embeddings(flow_model, it.condition);
    inputs.extend([
        (it.images, Values::F32(latents(flow_model.dim()))),
        (it.time, times(flow_model)),
        (it.keys, Values::U32((0..2).flat_map(|sample| noise_words(key(sample))).collect())),
        (it.to_noisy, Values::F32(SIGMAS.iter().flat_map(|sigma| [1.0 - sigma, 0.0, *sigma]).collect())),
        (it.weight, Values::F32(vec![0.5; 2])),
    ]);
    let scalar = |twin: &Interpreter| twin.value(&it.graph, it.loss).iter().sum();
    let (stores, base) = stores(&model, flow_model, &adapter);
    let loss = Loss { graph: &it.graph, inputs, stores, layout: network.layout(), scalar: &scalar, base: Some(base) };
    let matrices: Vec<f64> = adapter.weights.iter().map(|value| f64::from(*value)).collect();
    let (found, expected) = (scalar(&loss.twin(&matrices)), by_hand(&model, flow_model, &adapter));
    // Both are in f64; only the factors 1 - sigma are rounded to f32.
    assert!((found - expected).abs() < 1e-6 * expected, "{found} instead of {expected}");
    // Three blocks in f32, and angles of time features of up to 1000.
    loss.check("fine-tuning", 1e-9);
}

/// The mean of (v(x, σ) − (ε − x0))² with x = (1 − σ)·x0 + σ·ε, in f64: the network is recorded alone, and all else is
/// computed here.
fn by_hand(model: &Model, flow_model: &FlowModel, adapter: &Adapter) -> f64 {
    let network = Network::new(flow_model, Some(adapter), WeightType::F16);
    let mut graph = Graph::new();
    let x = graph.input("x", &flow_model.batch_shape(2));
    let time = graph.input("time", &[2]);
    let condition = ConditionInput::declare(&mut graph, flow_model, 2, false);
    let velocity = network.declare(&mut graph, PARAMETERS, None).velocity(&mut graph, x, time, condition);
    let (_, (_, base)) = stores(model, flow_model, adapter);
    let matrices = adapter.weights.iter().map(|value| f64::from(*value)).collect();
    let mut twin = Interpreter::new([(PARAMETERS, matrices), (BASE, base)].into());
    let mut inputs = embeddings(flow_model, condition);
    inputs.push((time, times(flow_model)));
    for (tensor, values) in inputs {
        let Values::F32(values) = values else { panic!("they are all of f32") };
        twin.write(tensor, &values.into_iter().map(f64::from).collect::<Vec<_>>());
    }
    let (dim, x0) = (flow_model.dim(), latents(flow_model.dim()));
    let epsilon: Vec<f64> = (0..2).flat_map(|sample| normals(key(sample), dim)).collect();
    let sigma = |index: usize| f64::from(SIGMAS[index / dim]);
    let noisy: Vec<f64> =
        (0..2 * dim).map(|index| (1.0 - sigma(index)) * f64::from(x0[index]) + sigma(index) * epsilon[index]).collect();
    twin.write(x, &noisy);
    twin.run(&graph);
    let squares = twin.value(&graph, velocity).iter().zip(&epsilon).zip(&x0);
    squares.map(|((v, epsilon), x0)| (v - (epsilon - f64::from(*x0))).powi(2)).sum::<f64>() / (2 * dim) as f64
}

//! Whole networks against references made elsewhere.

mod common;

use std::path::Path;

use common::gpu;
use flowdppo_wgpu::autodiff::backward;
use flowdppo_wgpu::config::{Positions, TimeConvention};
use flowdppo_wgpu::graph::{Graph, Plan, Stores};
use flowdppo_wgpu::model::{Dit, DitConfig, Model, import_sit, read_tensors};
use flowdppo_wgpu::ops::{AdamWSettings, mean_squared_error, sampler_step};
use flowdppo_wgpu::optimizer::{GRADIENTS, Optimizer, PARAMETERS};

fn formats(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name)
}

/// The velocity of a model at given states, on the device.
fn velocity(model: &Model, x: &[f32], sigma: &[f64], labels: &[u32]) -> Vec<f32> {
    let config = model.dit("model").expect("it is a flow model");
    let batch = labels.len();
    let mut graph = Graph::new();
    let tensors =
        [graph.input("x", &config.image_shape(batch)), graph.input("time", &[batch]), graph.input("labels", &[batch])];
    let parameters = config.layout().declare(&mut graph, PARAMETERS, None);
    let v = Dit::new(config, parameters).velocity(&mut graph, tensors[0], tensors[1], tensors[2]);
    graph.keep(v);
    let weights = gpu().allocate("weights", 4 * model.weights.len() as u64).expect("it is small");
    gpu().write(&weights, 0, &model.weights);
    let mut plan = Plan::new(gpu(), &graph, &Stores::from([(PARAMETERS, weights)])).expect("it is small");
    plan.write(tensors[0], x);
    let time: Vec<f32> = sigma.iter().map(|sigma| config.time_of(*sigma)).collect();
    plan.write(tensors[1], &time);
    plan.write(tensors[2], labels);
    plan.run().expect("the device works");
    plan.read(&[v]).expect("the device works")
}

#[test]
fn sit_tiny_gives_its_reference_output() {
    let tensors = read_tensors(&formats("sit_tiny/model.safetensors")).expect("the file is whole");
    let model = import_sit("sit_tiny", tensors, Some(2)).expect("it is a SiT checkpoint");
    let config = model.dit("sit_tiny").expect("it is a flow model");
    assert!(config.learn_sigma && config.num_classes == 10 && config.depth == 2 && config.image_size == 8);
    let io = read_tensors(&formats("sit_tiny/io.safetensors")).expect("the file is whole");
    let labels: Vec<u32> = io["y"].1.iter().map(|label| *label as u32).collect();
    // SiT's time is 1 - sigma, its velocity data - noise; ours is noise - data.
    let sigma: Vec<f64> = io["t"].1.iter().map(|time| 1.0 - f64::from(*time)).collect();
    let actual = velocity(&model, &io["x"].1, &sigma, &labels);
    let expected: Vec<f64> = io["out"].1.iter().map(|value| -f64::from(*value)).collect();
    // 1e-5 relative: a dozen layers of f32 sums of up to 128 terms on either side.
    let error = common::nmse(&actual, &expected).sqrt();
    assert!(error < 1e-5, "relative error {error:.1e}");
}

#[test]
fn native_files_hold_the_same_model() {
    let tensors = read_tensors(&formats("sit_tiny/model.safetensors")).expect("the file is whole");
    let model = import_sit("sit_tiny", tensors.clone(), Some(2)).expect("it is a SiT checkpoint");
    let bytes = model.to_bytes();
    assert_eq!(Model::from_bytes("copy", &bytes).expect("it is native"), model);
    assert_eq!(model.to_bytes(), bytes, "the same model gives the same bytes");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    model.save(&path).expect("the folder is writable");
    assert_eq!(read_tensors(&path).expect("the file is whole"), tensors, "names, shapes and values are SiT's");
}

/// The benchmark network: every peer implements it exactly, with the same deterministic weights and data, and
/// sees these losses in its first four steps (PyTorch, f32).
#[test]
fn benchmark_network_has_the_expected_losses() {
    const BATCH: usize = 32;
    let config = DitConfig {
        image_size: 32,
        channels: 3,
        patch_size: 4,
        hidden_size: 128,
        depth: 4,
        num_heads: 4,
        mlp_ratio: 4.0,
        num_classes: 10,
        learn_sigma: false,
        time: TimeConvention::Sit,
        time_scale: 1000.0,
        positions: Positions::SinCos,
    };
    let layout = config.layout();
    assert_eq!(layout.parameter_count() - 64 * 128, 1_283_632, "positions are not parameters there");
    let mut weights = config.initial_weights(0);
    let mut set = |name: &str, values: Vec<f32>| {
        let entry = layout.entries().iter().find(|entry| entry.name == name).expect("the network has it");
        weights[entry.offset..entry.offset + entry.elements()].copy_from_slice(&values);
    };
    for (index, name) in benchmark_order(config.depth).iter().enumerate() {
        let elements =
            layout.entries().iter().find(|entry| entry.name == *name).expect("the network has it").elements();
        let mut values: Vec<f32> =
            (0..elements).map(|j| (0.05 * (0.37 * j as f64 + index as f64).sin()) as f32).collect();
        if name == "x_embedder.proj.weight" {
            // Its patch vectors run over (row, column, channel), a convolution's over (channel, row, column).
            let other = values.clone();
            for output in 0..128 {
                for within in 0..48 {
                    let (channel, pixel) = (within / 16, within % 16);
                    values[output * 48 + within] = other[output * 48 + pixel * 3 + channel];
                }
            }
        }
        set(name, values);
    }

    let mut graph = Graph::new();
    let shape = config.image_shape(BATCH);
    let [x0, x1] = ["noise", "data"].map(|name| graph.input(name, &shape));
    let time = graph.input("time", &[BATCH]);
    let labels = graph.input("labels", &[BATCH]);
    let mixture = graph.input("mixture", &[BATCH, 3]);
    let difference = graph.constant("difference", &[BATCH, 3], [1.0, 0.0, -1.0].repeat(BATCH));
    let x_t = sampler_step(&mut graph, x0, x0, x1, mixture);
    // Our velocity is noise - data.
    let target = sampler_step(&mut graph, x0, x0, x1, difference);
    let parameters = layout.declare(&mut graph, PARAMETERS, Some(GRADIENTS));
    let velocity = Dit::new(&config, parameters).velocity(&mut graph, x_t, time, labels);
    let weight = graph.constant("weight", &[BATCH], vec![1.0 / BATCH as f32; BATCH]);
    let loss = mean_squared_error(&mut graph, velocity, target, weight);
    graph.keep(loss);
    let ones = graph.constant("ones", &[BATCH], vec![1.0; BATCH]);
    backward(&mut graph, &[(loss, ones)], &[]);
    // 10.68 GFLOP of matrix products in linear layers and attention.
    assert!((10.0e9..11.5e9).contains(&(graph.flops() as f64)), "{} FLOP", graph.flops());

    let mut optimizer = Optimizer::new(gpu(), layout, &weights).expect("it is small");
    let mut plan = Plan::new(gpu(), &graph, optimizer.stores()).expect("it is small");
    let elements: usize = shape.iter().product();
    let data: Vec<f32> = (0..elements).map(|j| (0.01 * j as f64).sin() as f32).collect();
    let noise: Vec<f32> = (0..elements).map(|j| (0.013 * j as f64 + 1.0).cos() as f32).collect();
    let times: Vec<f64> = (0..BATCH).map(|b| (b as f64 + 0.5) / BATCH as f64).collect();
    plan.write(x0, &noise);
    plan.write(x1, &data);
    plan.write(time, &times.iter().map(|t| config.time_of(1.0 - t)).collect::<Vec<f32>>());
    plan.write(labels, &(0..BATCH as u32).map(|b| b % 11).collect::<Vec<u32>>());
    plan.write(mixture, &times.iter().flat_map(|t| [1.0 - *t as f32, 0.0, *t as f32]).collect::<Vec<f32>>());
    let settings = AdamWSettings {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        max_grad_norm: 0.0,
        average_decay: 1.0,
    };
    for expected in [1.467_740, 1.149_926, 1.089_689, 1.056_275] {
        plan.run().expect("the device works");
        let losses: Vec<f32> = plan.read(&[loss]).expect("the device works");
        let loss: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
        optimizer.update(&settings).expect("the device works");
        // Six digits are given; Adam's first steps divide by the gradient's size, which amplifies the
        // rounding of small gradients.
        assert!((loss - expected).abs() < 2e-5, "loss {loss:.6}, expected {expected:.6}");
    }
}

/// The order in which the benchmark numbers its tensors.
fn benchmark_order(depth: usize) -> Vec<String> {
    let mut names = vec![];
    let mut linear = |layer: &str| names.extend([format!("{layer}.weight"), format!("{layer}.bias")]);
    for layer in ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2"] {
        linear(layer);
    }
    let mut blocks = vec![];
    for block in 0..depth {
        for layer in ["adaLN_modulation.1", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"] {
            for part in ["weight", "bias"] {
                blocks.push(format!("blocks.{block}.{layer}.{part}"));
            }
        }
    }
    names.push("y_embedder.embedding_table.weight".into());
    names.extend(blocks);
    for layer in ["final_layer.adaLN_modulation.1", "final_layer.linear"] {
        names.extend([format!("{layer}.weight"), format!("{layer}.bias")]);
    }
    names
}

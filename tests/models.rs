//! Whole networks against references made elsewhere.

mod common;

use std::path::Path;

use common::gpu;
use flowdppo_wgpu::bench::BenchmarkStep;
use flowdppo_wgpu::graph::{Graph, Plan, Stores};
use flowdppo_wgpu::model::{Dit, Model, import_sit, read_tensors};
use flowdppo_wgpu::optimizer::PARAMETERS;

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
/// sees the same losses in its first four steps (PyTorch, f32).
#[test]
fn benchmark_network_has_the_expected_losses() {
    let mut step = BenchmarkStep::new(gpu(), 32, 32).expect("it is small");
    assert_eq!(step.parameters(), 1_283_632);
    // 10.68 GFLOP of matrix products in linear layers and attention.
    assert!((10.0e9..11.5e9).contains(&(step.flops() as f64)), "{} FLOP", step.flops());
    let losses = step.first_losses().expect("the device works");
    let expected = [1.467_740, 1.149_926, 1.089_689, 1.056_275];
    assert_eq!(losses.len(), expected.len());
    for ((loss, compared), expected) in losses.into_iter().zip(expected) {
        assert_eq!(compared, Some(expected), "the program compares with it too");
        // Six digits are given; Adam's first steps divide by the gradient's size, which amplifies the
        // rounding of small gradients.
        assert!((loss - expected).abs() < 2e-5, "loss {loss:.6}, expected {expected:.6}");
    }
}

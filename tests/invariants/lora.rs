//! Adapters: they start as zero, learn like all weights, and are merged, saved and resumed without loss.

use std::collections::BTreeSet;
use std::path::Path;

use flowdppo_wgpu::config::{ADAPTER_BASE, Config, LoraReference, ObjectiveName, Sampler, WeightType};
use flowdppo_wgpu::files::Content;
use flowdppo_wgpu::graph::{DeviceProfile, Graph, Origin, Plan, Stores};
use flowdppo_wgpu::model::{ADAPTER_CONFIG, ADAPTER_MODEL, Adapter, BASE, ConditionInput, Model, Network, StoredModel};
use flowdppo_wgpu::optimizer::{AVERAGE, PARAMETERS};
use flowdppo_wgpu::rl::{Trainer, UpdateGraph};
use flowdppo_wgpu::run::checkpoint;

use crate::common::{Random, gpu, nmse, tiny};
use crate::{Parts, classifier_file, config, flow_model_of, saved};

/// An adapter of rank 3 on every layer.
fn adapter(model: &Model) -> Adapter {
    let mut config = config();
    (config.lora.rank, config.lora.targets) = (3, vec!["*".into()]);
    Adapter::begin(&config.lora, config.run.seed, &flow_model_of(model))
        .expect("it fits the model")
        .expect("there is one")
}

/// The guided velocity at four states, of a model or of an adapter on it.
fn velocity(model: &Model, adapter: Option<&Adapter>, guidance_scale: f32) -> Vec<f32> {
    let flow_model = &flow_model_of(model);
    let network = Network::new(flow_model, adapter, WeightType::F32);
    let mut graph = Graph::new();
    let x = graph.input("x", &flow_model.batch_shape(4));
    let (time, labels) = (graph.input("time", &[4]), graph.input_indices("labels", &[4]));
    let v = network.declare(&mut graph, PARAMETERS, None);
    let v = v.guided_velocity(&mut graph, x, time, ConditionInput::Classes(labels), guidance_scale);
    graph.keep(v);
    let buffer = |values: &[f32]| {
        let buffer = gpu().allocate("store", 4 * values.len() as u64).expect("it is small");
        gpu().write(&buffer, 0, values);
        buffer
    };
    let trained = adapter.map_or(&model.weights, |adapter| &adapter.weights);
    let stores = Stores::from([(PARAMETERS, buffer(trained).into()), (BASE, buffer(&model.weights).into())]);
    let mut plan = Plan::new(gpu(), &graph, &stores).expect("it is small");
    let mut random = Random(3);
    plan.write(x, &(0..4 * 64).map(|_| random.normal() as f32).collect::<Vec<f32>>());
    plan.write(time, &[30.0_f32, 350.0, 720.0, 990.0]);
    plan.write(labels, &[0_u32, 1, 2, 0]);
    plan.run().expect("the device works");
    plan.read(&[v]).expect("the device works")
}

/// The averaged adapter of a run.
fn averaged(trainer: &Trainer) -> Adapter {
    let lora = trainer.network().lora.clone().expect("an adapter is trained");
    Adapter { lora, weights: trainer.optimizer.read(AVERAGE).expect("the device works") }
}

/// W + scale · (alpha / rank) · B·A of every adapted layer, by the definition: summed in f64 and rounded once.
fn merged(adapter: &Adapter, model: &Model, scale: f64) -> Model {
    let mut merged = model.clone();
    let (base, matrices) = (model.kind.layout(), adapter.lora.layout(&flow_model_of(model)));
    let values = |name: String| {
        let entry = matrices.entries().iter().find(|entry| entry.name == name).expect("the layer has it");
        &adapter.weights[entry.offset..entry.offset + entry.elements()]
    };
    for layer in adapter.lora.layers() {
        let (a, b) =
            (values(format!("{}.lora_A.weight", layer.layer)), values(format!("{}.lora_B.weight", layer.layer)));
        let weight = format!("{}.weight", layer.layer);
        let entry = base.entries().iter().find(|entry| entry.name == weight).expect("the base has the layer");
        let (inputs, factor) = (a.len() / layer.rank, scale * f64::from(layer.alpha) / layer.rank as f64);
        for (at, value) in merged.weights[entry.offset..entry.offset + entry.elements()].iter_mut().enumerate() {
            let (output, input) = (at / inputs, at % inputs);
            let product = |r: usize| f64::from(b[output * layer.rank + r]) * f64::from(a[r * inputs + input]);
            *value = (f64::from(*value) + factor * (0..layer.rank).map(product).sum::<f64>()) as f32;
        }
    }
    merged
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_new_adapter_changes_no_bit() {
    let model = tiny::dit(2);
    let adapter = adapter(&model);
    assert!(adapter.weights.iter().filter(|weight| **weight != 0.0).count() > 500, "A is drawn");
    for guidance_scale in [1.0, 2.5] {
        let [base, with] = [None, Some(&adapter)].map(|adapter| velocity(&model, adapter, guidance_scale));
        assert_eq!(bits(&with), bits(&base));
    }
}

/// An adapter on attention layers alone needs no gradient of shifts, scales and gates, or of anything before the first
/// block.
#[test]
fn an_update_computes_no_unused_gradient() {
    let model = tiny::dit(2);
    let flow_model = &flow_model_of(&model);
    let mut dispatches = Vec::new();
    for (rank, targets, activation_checkpointing) in
        [(0, vec![], false), (3, vec!["*"], false), (3, vec!["attn.*"], false), (3, vec!["attn.*"], true)]
    {
        let mut config = config();
        config.rollout.guidance_scale = 2.0;
        config.train.activation_checkpointing = activation_checkpointing;
        (config.lora.rank, config.lora.targets) = (rank, targets.into_iter().map(str::to_owned).collect());
        let adapter = Adapter::begin(&config.lora, config.run.seed, flow_model).expect("it fits");
        let network = Network::new(flow_model, adapter.as_ref(), WeightType::F32);
        let graph = UpdateGraph::record(&(&config).into(), &network).expect("it fits").graph;
        let profile = DeviceProfile::of(gpu());
        let (mut read, mut written) = (BTreeSet::new(), BTreeSet::new());
        for node in graph.nodes() {
            for dispatch in node.op.dispatches(&graph.shapes(node), &profile) {
                read.extend(dispatch.reads.iter().filter_map(|binding| node.bound(*binding)));
                if node.label.contains("backward.") {
                    written.extend(dispatch.writes.iter().filter_map(|binding| node.bound(*binding)));
                }
            }
        }
        assert!(written.len() > 20, "the backward pass is found by its labels");
        let useless: Vec<&str> = written
            .iter()
            .filter(|tensor| graph.origin(**tensor) == Origin::Computed && !graph.is_kept(**tensor))
            .filter(|tensor| !read.contains(*tensor))
            .map(|tensor| graph.name(*tensor))
            .collect();
        assert!(useless.is_empty(), "rank {rank} on {:?}: {useless:?}", config.lora.targets);
        dispatches.push(graph.dispatch_count(&profile));
    }
    assert!(dispatches[2] < dispatches[1], "{dispatches:?}");
}

#[test]
fn merged_weights_compute_the_same_as_the_adapter() {
    let model = tiny::dit(2);
    let new = adapter(&model);
    assert!(merged(&new, &model, 1.0) == model, "B is zero");
    let adapter = tiny::disturbed_adapter(&flow_model_of(&model), new, 0.2, 6);
    let base = velocity(&model, None, 2.0);
    let with: Vec<f64> = velocity(&model, Some(&adapter), 2.0).into_iter().map(f64::from).collect();
    let all = merged(&adapter, &model, 1.0);
    // 1e-5 relative: W + B·A is rounded once, x·A and its product with B in each of a dozen layers on the other side.
    let error = nmse(&velocity(&all, None, 2.0), &with).sqrt();
    assert!(error < 1e-5, "relative error {error:.1e}");
    assert!(nmse(&base, &with) > 1e-2, "the adapter does something");
}

#[test]
fn an_adapter_is_on_policy_at_first_and_learns() {
    let model = tiny::dit(2);
    for (guidance_scale, activation_checkpointing, half_activations, beta, weights) in [
        (1.0, false, false, 0.0, WeightType::F32),
        (2.5, true, false, 0.1, WeightType::F16),
        (1.0, false, true, 0.0, WeightType::Q8_0),
        (2.5, false, false, 0.1, WeightType::Q8_0),
    ] {
        let mut config = config();
        config.model.weights = weights;
        config.lora.rank = 2;
        config.rollout.guidance_scale = guidance_scale;
        config.objective.reference.beta = beta;
        config.train.activation_checkpointing = activation_checkpointing;
        config.train.half_activations = half_activations;
        let mut parts = Parts::new(gpu(), &config, &model);
        for iteration in 0..2 {
            let rollout = parts.collect(iteration);
            let records = parts.learn(&rollout);
            let ratios =
                |update: usize| records[update].outcomes.iter().map(|outcome| outcome.ratio).collect::<Vec<f32>>();
            assert!(ratios(0).iter().all(|ratio| *ratio == 1.0), "{:?}", ratios(0));
            assert!(records[0].outcomes.iter().all(|outcome| outcome.kl == 0.0));
            assert!(ratios(1).iter().all(|ratio| *ratio != 1.0), "{:?}", ratios(1));
        }
    }
}

#[test]
fn activation_checkpointing_changes_no_bit_of_an_adapter() {
    let model = tiny::dit(2);
    let trained = |activation_checkpointing: bool| {
        let mut config = config();
        config.lora.rank = 2;
        config.train.activation_checkpointing = activation_checkpointing;
        let mut parts = Parts::new(gpu(), &config, &model);
        let rollout = parts.collect(0);
        parts.learn(&rollout);
        bits(&parts.optimizer.read(PARAMETERS).expect("the device works"))
    };
    assert!(trained(true) == trained(false));
}

/// A trainer of the tiny model with an adapter.
fn trainer(file: &Path, model: &Model, change: impl Fn(&mut Config)) -> Trainer {
    let mut config = tiny::config(file);
    config.lora.rank = 2;
    change(&mut config);
    Trainer::new(gpu(), (&config).into(), model).expect("it is small")
}

#[test]
fn a_resumed_adapter_ends_in_the_same_bytes() {
    let (folder, file) = classifier_file();
    let model = tiny::dit(1);
    for name in [ObjectiveName::FlowDppo, ObjectiveName::Nft] {
        let change = |config: &mut Config| {
            config.objective.name = name;
            config.model.weights = WeightType::Q8_0;
            if name == ObjectiveName::Nft {
                config.model.weights = WeightType::F16;
                config.rollout.sampler = Sampler::Ode;
            }
        };
        let run = |trainer: &mut Trainer, from: u64, to: u64| {
            for iteration in from..to {
                trainer.iteration(iteration).expect("the device works");
            }
        };
        let mut whole = trainer(&file, &model, change);
        run(&mut whole, 0, 4);

        let checkpoints = folder.path().join(format!("{name:?}"));
        let mut first = trainer(&file, &model, change);
        run(&mut first, 0, 2);
        let files = saved(&first, 2);
        checkpoint::save(&checkpoints, 2, &files, 1).expect("the folder is writable");
        let found = checkpoint::latest(&checkpoints).expect("it is complete").expect("there is one");
        let mut second = trainer(&file, &model, change);
        assert_eq!(second.restore(&found).expect("it is the same run"), 2);
        run(&mut second, 2, 4);
        assert!(saved(&second, 4) == saved(&whole, 4), "{name:?}");

        // It does not contain the base, and the folder is itself an adapter.
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        let expected = [
            "adapter_training.safetensors",
            ADAPTER_CONFIG,
            ADAPTER_MODEL,
            ADAPTER_BASE,
            "optimizer.safetensors",
            "state.json",
        ];
        assert_eq!(names, expected);
        let found_adapter =
            Adapter::load(&checkpoints.join("000002"), &flow_model_of(&model)).expect("it is an adapter");
        assert_eq!(found_adapter, averaged(&first));

        let refusal = |trainer: &mut Trainer| trainer.restore(&found).expect_err("it is another run").to_string();
        let other = tiny::disturbed(model.clone(), 0.01, 9);
        let message = refusal(&mut trainer(&file, &other, change));
        assert!(message.contains("was trained from a base whose weights have the CRC-32"), "{message}");
        let message = refusal(&mut trainer(&file, &model, |config| {
            change(config);
            config.lora.alpha = Some(3.0);
        }));
        assert!(message.contains("contains a different adapter than `lora` describes"), "{message}");
        let message = refusal(&mut trainer(&file, &model, |config| {
            change(config);
            config.lora.rank = 0;
        }));
        assert!(message.contains("contains an adapter, but `lora` now trains all weights"), "{message}");
    }
}

#[test]
fn full_training_is_also_bound_to_its_base() {
    let (folder, file) = classifier_file();
    let (model, other) = (tiny::dit(1), tiny::disturbed(tiny::dit(1), 0.01, 9));
    let trainer = |model: &Model| Trainer::new(gpu(), (&tiny::config(&file)).into(), model).expect("it is small");
    let mut files = saved(&trainer(&model), 3);
    let restored = |model: &Model, files: &[(&'static str, Vec<u8>)]| {
        checkpoint::save(folder.path(), 3, files, 1).expect("the folder is writable");
        trainer(model).restore(&checkpoint::latest(folder.path()).expect("it is complete").expect("there is one"))
    };
    assert_eq!(restored(&model, &files).expect("it is the same run"), 3);
    let message = restored(&other, &files).expect_err("it is another base").to_string();
    assert!(message.contains("was trained from a base whose weights have the CRC-32"), "{message}");
    // Older versions did not record the base.
    let (_, state) = files.iter_mut().find(|(name, _)| *name == "state.json").expect("it is there");
    let mut value: serde_json::Value = serde_json::from_slice(state).expect("it is JSON");
    let keys = value.as_object_mut().expect("it is a table");
    assert!(["base_crc32", "adapter"].iter().all(|key| keys.remove(*key).is_some()));
    *state = value.to_string().into_bytes();
    assert_eq!(restored(&other, &files).expect("it may be the same run"), 3);
}

#[test]
fn an_adapter_is_merged_by_its_definition() {
    let (folder, file) = classifier_file();
    let model = tiny::dit(1);
    let path = folder.path().join("base.safetensors");
    model.save(&path).expect("the folder is writable");
    let mut trainer = trainer(&file, &model, |_| {});
    trainer.iteration(0).expect("the device works");
    let adapter = averaged(&trainer);
    for scale in [1.0, 0.5, 0.0, -0.5] {
        let expected = merged(&adapter, &model, scale);
        let stored = StoredModel::open(&path).expect("it is whole");
        let stored = stored.with_adapter("it", adapter.clone(), scale).expect("it is a flow model");
        assert!(stored.in_memory().expect("it fits") == expected, "scale {scale}");
        assert_eq!(expected != model, scale != 0.0, "scale {scale}");
        assert!(stored.file().bytes().expect("it fits") == expected.to_bytes(), "scale {scale}");
    }
}

#[test]
fn training_continues_from_a_saved_adapter() {
    let (folder, file) = classifier_file();
    let model = tiny::dit(1);
    let mut first = trainer(&file, &model, |_| {});
    first.iteration(0).expect("the device works");
    let saved = averaged(&first);
    let path = folder.path().join("adapter");
    saved.save(&path, &flow_model_of(&model)).expect("the folder is writable");
    let second = trainer(&file, &model, |config| {
        (config.lora.rank, config.lora.adapter) = (0, Some(path.clone()));
    });
    assert_eq!(averaged(&second), saved);
    let mut config = config();
    (config.lora.rank, config.lora.adapter) = (5, Some(path));
    let message = Adapter::begin(&config.lora, config.run.seed, &flow_model_of(&model))
        .expect_err("it has another rank")
        .to_string();
    assert!(message.contains("`lora.rank` is 5, but `lora.adapter`") && message.contains("has rank 2"), "{message}");
}

#[test]
fn a_checkpoint_without_the_adapter_at_the_start_is_measured_from_the_base_alone() {
    let (folder, file) = classifier_file();
    let model = tiny::dit(1);
    let path = folder.path().join("adapter");
    averaged(&trainer(&file, &model, |_| {})).save(&path, &flow_model_of(&model)).unwrap();
    let resumed = |reference| {
        trainer(&file, &model, |config| {
            (config.lora.rank, config.lora.adapter, config.lora.reference) = (0, Some(path.clone()), reference);
        })
    };
    let mut files = saved(&resumed(LoraReference::Start), 1);
    let checkpoints = folder.path().join("checkpoints");
    let restored = |reference, files: &[(&'static str, Vec<u8>)]| {
        checkpoint::save(&checkpoints, 1, files, 1).expect("the folder is writable");
        resumed(reference).restore(&checkpoint::latest(&checkpoints).expect("it is complete").expect("there is one"))
    };
    for reference in [LoraReference::Start, LoraReference::Base] {
        assert_eq!(restored(reference, &files).expect("it is the same run"), 1);
    }
    // As an older version wrote it.
    files.retain(|(name, _)| *name != "adapter_start.safetensors");
    assert_eq!(restored(LoraReference::Base, &files).expect("it measures like that version"), 1);
    let message = restored(LoraReference::Start, &files).expect_err("nothing says where it began").to_string();
    assert!(message.contains("resume with --set lora.reference=base"), "{message}");
}

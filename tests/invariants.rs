//! Properties of every run on every device, one test each.

mod common;

mod invariants {
    mod adapter_files;
    mod chunks;
    mod dump;
    mod gradients;
    mod latency;
    mod lora;
    mod memory;
    mod methods;
    mod not_finite;
    mod precision;
    mod ranks;
    mod rewards;
    mod solver;
}

use std::path::PathBuf;
use std::sync::Arc;

use common::{gpu, tiny, words};
use flowdppo_wgpu::Result;
use flowdppo_wgpu::config::{Config, ObjectiveName, Sampler, ThresholdUnit, WeightType};
use flowdppo_wgpu::evaluate::{Evaluator, Reference};
use flowdppo_wgpu::files::Content;
use flowdppo_wgpu::gpu::{Buffer, Gpu, Options, Region, STAGING_BYTES};
use flowdppo_wgpu::graph::{DeviceProfile, Stores, Tensor};
use flowdppo_wgpu::model::{Adapter, BASE, ConditionInput, FlowModel, Model, Network, START};
use flowdppo_wgpu::optimizer::{Optimizer, PARAMETERS};
use flowdppo_wgpu::preview::Preview;
use flowdppo_wgpu::reward::Rewards;
use flowdppo_wgpu::rl::{
    Rollout, RolloutCollector, STATES, Trainer, UpdateRecord, UpdateSettings, Updater, VELOCITIES,
};
use flowdppo_wgpu::sampling::{ModelOnDevice, SamplerTable};

/// The tiny classifier as a file, for use in configurations.
fn classifier_file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("classifier.safetensors");
    tiny::classifier().save(&path).expect("the folder is writable");
    (folder, path)
}

/// A configuration of the tiny model for tests that take rewards from elsewhere.
fn config() -> Config {
    tiny::config("no classifier".as_ref())
}

/// The files of a checkpoint.
fn saved(trainer: &Trainer, iteration: u64) -> Vec<(&'static str, Vec<u8>)> {
    let files = trainer.checkpoint(iteration).expect("the device works").into_iter();
    files.map(|(name, content)| (name, content.bytes().expect("the device works"))).collect()
}

fn flow_model_of<W>(model: &Model<W>) -> FlowModel {
    model.flow_model("the tiny model").expect("it is a flow model")
}

/// The input of the numbers of classes.
fn classes_of(condition: ConditionInput) -> Tensor {
    match condition {
        ConditionInput::Classes(classes) => classes,
        ConditionInput::Prompts { .. } => panic!("the model has classes"),
    }
}

/// The parts of a trainer, without rewards.
struct Parts {
    optimizer: Optimizer,
    collector: RolloutCollector,
    updater: Updater,
}

impl Parts {
    fn new(gpu: &Arc<Gpu>, config: &Config, model: &Model) -> Self {
        let flow_model = &flow_model_of(model);
        let adapter = Adapter::begin(&config.lora, config.run.seed, flow_model).expect("it fits the model");
        let network = Network::new(flow_model, adapter.as_ref(), config.model.weights);
        let network = network.in_precision(config.train.precision);
        let weights = adapter.as_ref().map_or(&model.weights, |adapter| &adapter.weights);
        let optimizer = Optimizer::new(gpu, network.layout(), weights).expect("it is small");
        let mut kept = Stores::new();
        if config.lora.starts_from_adapter() {
            let store = gpu.allocate(START.0, 4 * weights.len() as u64).expect("it is small");
            gpu.write(&store, 0, weights);
            kept.insert(START, store.into());
        }
        if adapter.is_some() || config.objective.reference.beta > 0.0 {
            let base = network.frozen().upload(gpu, BASE.0, &model.weights).expect("it is small");
            kept.insert(BASE, base);
        }
        let mut drawing = match config.objective.name {
            ObjectiveName::Nft => optimizer.average_stores(),
            _ => optimizer.stores().clone(),
        };
        drawing.extend(kept.clone());
        let cost = Trainer::cost(&config.into(), flow_model, &DeviceProfile::of(gpu)).expect("it fits the model");
        let _held = cost.reserve(gpu).expect("it is small");
        let settings = UpdateSettings::from(config);
        let collector =
            RolloutCollector::new(gpu, settings.of_rollouts(), &network, vec![0, 1, 2], &drawing).expect("it is small");
        let mut others = collector.stores();
        others.extend(kept);
        let updater = Updater::new(gpu, &settings, &network, &optimizer, others).expect("it is small");
        Self { optimizer, collector, updater }
    }

    fn collect(&mut self, index: u32) -> Rollout {
        self.collector.collect(index).expect("the device works")
    }

    fn learn(&mut self, rollout: &Rollout) -> Vec<UpdateRecord> {
        let advantages: Vec<f64> = (0..rollout.requests.len()).map(advantage).collect();
        self.updater.learn(rollout, &advantages, &mut self.optimizer).expect("the device works")
    }

    /// Bits of the states and velocities of the rollout on the device; DiffusionNFT has no velocities.
    fn trajectory(&self) -> [Vec<u32>; 2] {
        let stores = self.collector.stores();
        [STATES, VELOCITIES]
            .map(|store| stores.get(&store).map_or(Vec::new(), |memory| memory.read(gpu()).expect("the device works")))
    }
}

fn read(gpu: &Gpu, buffer: &Arc<Buffer>) -> Vec<u32> {
    let region = Region { buffer: buffer.clone(), offset: 0, bytes: buffer.bytes() };
    gpu.read(&[&region]).expect("the device works")
}

/// Some advantage of either sign.
fn advantage(sample: usize) -> f64 {
    2.0 * (0.7 + 1.3 * sample as f64).sin()
}

#[test]
fn the_first_update_is_on_policy_to_the_bit() {
    let model = tiny::dit(2);
    for guidance_scale in [1.0, 2.5] {
        for (updates, micro_batch) in [(1, 1), (1, 3), (1, 12), (2, 1), (2, 3), (2, 6)] {
            let mut config = config();
            config.rollout.guidance_scale = guidance_scale;
            config.rollout.micro_batch = 4;
            config.train.updates_per_rollout = updates;
            config.train.micro_batch = micro_batch;
            // How activations are stored does not affect the forward pass.
            config.train.half_activations = micro_batch == 3;
            config.train.activation_checkpointing = micro_batch == 6;
            let mut parts = Parts::new(gpu(), &config, &model);
            // Also with trained weights.
            for iteration in 0..2 {
                let rollout = parts.collect(iteration);
                assert_eq!(rollout.trained.len(), 3);
                let records = parts.learn(&rollout);
                let case = format!("guidance {guidance_scale}, {updates} updates, micro-batch {micro_batch}");
                assert_eq!(records[0].outcomes.len(), 12 / updates * 3);
                for outcome in &records[0].outcomes {
                    assert_eq!(outcome.ratio.to_bits(), 1.0_f32.to_bits(), "{case}: the ratio is {}", outcome.ratio);
                    assert_eq!(outcome.kl.to_bits(), 0.0_f32.to_bits(), "{case}: the KL is {}", outcome.kl);
                }
                let last = records.last().expect("there are updates");
                let moved = last.outcomes.iter().filter(|outcome| outcome.ratio != 1.0 && outcome.kl > 0.0);
                assert_eq!(moved.count(), last.outcomes.len(), "{case}: the policy does not move");
            }
        }
    }
}

#[test]
fn updates_do_not_change_the_trajectory() {
    let mut parts = Parts::new(gpu(), &config(), &tiny::dit(1));
    let rollout = parts.collect(0);
    let weights = parts.optimizer.read(PARAMETERS).expect("the device works");
    let before = parts.trajectory();
    assert!(before.iter().flatten().filter(|word| **word == 0).count() < 10, "a trajectory is stored");
    parts.learn(&rollout);
    assert_ne!(parts.optimizer.read(PARAMETERS).expect("the device works"), weights);
    assert_eq!(parts.trajectory(), before, "the anchor has moved");
}

#[test]
fn samples_do_not_depend_on_the_batch_they_are_drawn_in() {
    let model = tiny::dit(2);
    let draw = |micro_batch: usize, guidance_scale: f64| {
        let mut config = config();
        config.rollout.micro_batch = micro_batch;
        config.rollout.guidance_scale = guidance_scale;
        let mut parts = Parts::new(gpu(), &config, &model);
        let rollout = parts.collect(5);
        (words(&rollout.images), parts.trajectory())
    };
    for guidance_scale in [1.0, 2.5] {
        let all = draw(12, guidance_scale);
        for micro_batch in [1, 3, 4] {
            assert!(draw(micro_batch, guidance_scale) == all, "micro-batch {micro_batch} draws other samples");
        }
    }
}

#[test]
fn the_seed_determines_every_byte() {
    let (_folder, file) = classifier_file();
    let model = tiny::dit(1);
    let checkpoint = |seed: u64| {
        let mut config = tiny::config(&file);
        config.run.seed = seed;
        let mut trainer = Trainer::new(gpu(), (&config).into(), &model).expect("it is small");
        for iteration in 0..2 {
            trainer.iteration(iteration).expect("the device works");
        }
        saved(&trainer, 2)
    };
    let first = checkpoint(7);
    assert_eq!(first.len(), 4);
    let second = checkpoint(7);
    let other = checkpoint(8);
    for (index, (name, bytes)) in first.iter().enumerate() {
        assert!(*bytes == second[index].1, "{name}: the same seed gives other bytes");
        let differs = *bytes != other[index].1;
        assert_eq!(differs, *name != "state.json", "{name}: another seed");
    }
}

#[test]
fn the_mask_needs_several_updates_and_a_finite_threshold() {
    let (_folder, file) = classifier_file();
    let model = tiny::dit(1);
    // Largest and mean dropped share over the updates of two iterations.
    let dropped = |updates: usize, epochs: usize, threshold: f64, unit: ThresholdUnit| -> Vec<f64> {
        let mut config = tiny::config(&file);
        config.train.updates_per_rollout = updates;
        config.train.inner_epochs = epochs;
        config.objective.kl_mask_threshold = threshold;
        config.objective.threshold_unit = unit;
        let mut trainer = Trainer::new(gpu(), (&config).into(), &model).expect("it is small");
        let found = (0..2).map(|iteration| trainer.iteration(iteration).expect("the device works"));
        let updates: Vec<_> = found.flat_map(|found| found.updates).collect();
        assert!(updates.iter().all(|update| !update.skipped));
        updates.iter().map(|update| update.masked_fraction).collect()
    };
    for unit in [ThresholdUnit::Mean, ThresholdUnit::Sum] {
        for threshold in [1e-3, 1e-12, 1e-30, f64::MIN_POSITIVE] {
            assert_eq!(dropped(1, 1, threshold, unit), [0.0; 2], "one update, threshold {threshold:e}");
        }
    }
    let several = dropped(2, 2, 1e-12, ThresholdUnit::Mean);
    assert!(several[1..4].iter().all(|share| *share > 0.0), "a tiny threshold masks nothing: {several:?}");
    assert_eq!([several[0], several[4]], [0.0; 2], "the first update of a rollout masks");
    assert_eq!(dropped(2, 2, f64::INFINITY, ThresholdUnit::Sum), [0.0; 8]);
}

/// A device for one test only, because counters belong to the device.
fn own_gpu() -> Arc<Gpu> {
    Gpu::open(&Options::default().or_environment()).expect("the tests need an adapter")
}

#[test]
fn nothing_is_allocated_or_compiled_after_the_first_iteration() {
    let (_folder, file) = classifier_file();
    let gpu = own_gpu();
    let (config, model) = (tiny::config(&file), tiny::dit(1));
    let flow_model = &flow_model_of(&model);
    let mut trainer = Trainer::new(&gpu, (&config).into(), &model).expect("it is small");
    let base = flow_model.layout().upload(&gpu, "base", &model.weights).expect("it is small");
    let mut stores = trainer.optimizer.average_stores();
    stores.insert(BASE, base.clone());
    let reference = Reference { network: flow_model.into(), stores: Stores::from([(PARAMETERS, base)]) };
    let tuned = ModelOnDevice { network: &flow_model.into(), class_names: &[], stores: &stores };
    let mut evaluator =
        Evaluator::new(&gpu, &config.eval, &config.rollout, tuned, Some(&reference)).expect("it is small");
    let mut preview = Preview::new(&gpu, &config.preview, &[], tuned, 16, 1.0).expect("it is small");
    let table = SamplerTable::ode(&flow_model.schedule(), config.preview.steps).expect("it is a schedule");
    let mut whole_iteration = |index: u64| -> Result<_> {
        trainer.iteration(index)?;
        evaluator.evaluate(trainer.rewards(), index)?;
        preview.draw(&table)?;
        saved(&trainer, index + 1);
        Ok(gpu.counters())
    };
    let first = whole_iteration(0).expect("the device works");
    assert!(first.buffers > 0 && first.pipelines > 0 && first.bind_groups > 0 && first.bytes_held > 0);
    for index in 1..4 {
        assert_eq!(whole_iteration(index).expect("the device works"), first, "iteration {}", index + 1);
    }
}

#[test]
fn the_plan_predicts_the_memory() {
    let (folder, file) = classifier_file();
    let gpu = own_gpu();
    let model = tiny::dit(2);
    let profile = DeviceProfile::of(&gpu);
    for (guidance_scale, micro_batch, rollout_micro_batch, group_size, beta, name, activation_checkpointing, rank) in [
        (1.0, 3, 4, 6, 0.0, ObjectiveName::FlowDppo, false, 0),
        (2.5, 1, 12, 6, 0.1, ObjectiveName::FlowDppo, true, 0),
        (1.0, 5, 1, 5, 0.0, ObjectiveName::GrpoGuard, false, 0),
        (1.0, 3, 4, 6, 0.0, ObjectiveName::Nft, true, 0),
        (1.0, 3, 4, 6, 0.0, ObjectiveName::FlowDppo, false, 2),
        (2.5, 1, 12, 6, 0.1, ObjectiveName::FlowDppo, true, 3),
        (1.0, 3, 4, 6, 0.0, ObjectiveName::Nft, true, 2),
    ] {
        let mut config = tiny::config(&file);
        config.objective.name = name;
        config.objective.reference.beta = beta;
        if name == ObjectiveName::Nft {
            config.rollout.sampler = Sampler::Ode;
        }
        config.rollout.guidance_scale = guidance_scale;
        config.rollout.micro_batch = rollout_micro_batch;
        config.rollout.group_size = group_size;
        config.train.micro_batch = micro_batch;
        config.train.activation_checkpointing = activation_checkpointing;
        config.train.half_activations = micro_batch < 5;
        config.model.weights = if activation_checkpointing { WeightType::Q8_0 } else { WeightType::F16 };
        config.lora.rank = rank;
        if rank > 2 {
            let adapter = Adapter::begin(&config.lora, config.run.seed, &flow_model_of(&model))
                .expect("it fits the model")
                .expect("there is one");
            let folder = folder.path().join("adapter");
            adapter.save(&folder, &flow_model_of(&model)).expect("the folder is writable");
            config.lora.adapter = Some(folder);
        }
        let cost = Trainer::cost(&(&config).into(), &flow_model_of(&model), &profile).expect("it fits the model");
        let held = || gpu.counters().bytes_held;

        let before = held();
        let parts = Parts::new(&gpu, &config, &model);
        let planned = cost.memory.bytes() - STAGING_BYTES;
        assert_eq!(held() - before, planned, "optimizer, rollout and update; the staging buffer was there before");
        assert!(cost.memory.naive_bytes() > cost.memory.bytes(), "memory is reused");
        drop(parts);
        assert_eq!(held(), before, "memory is released");

        let rewards =
            Rewards::new(&gpu, &config.reward, &flow_model_of(&model).pictures(&[])).expect("it fits the model");
        let of_rewards = held() - before;
        drop(rewards);
        let trainer = Trainer::new(&gpu, (&config).into(), &model).expect("it is small");
        let of_trainer = held() - before;
        // The classifier may share the slots of the update.
        assert!((planned..=planned + of_rewards).contains(&of_trainer), "the whole trainer: {of_trainer}");
        drop(trainer);
    }
}

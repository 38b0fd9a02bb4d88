//! What small models on large devices wait for: submissions, writes and readbacks. Their number must not grow with steps or
//! micro-batches where the device can go on alone, and when results are read must not change them.

use flowdppo_wgpu::config::Config;
use flowdppo_wgpu::data::Dataset;
use flowdppo_wgpu::evaluate::{Evaluator, Reference};
use flowdppo_wgpu::gpu::Submitted;
use flowdppo_wgpu::graph::Stores;
use flowdppo_wgpu::model::BASE;
use flowdppo_wgpu::optimizer::{AVERAGE, FIRST_MOMENT, GRADIENTS, PARAMETERS, SECOND_MOMENT, STEPS_AT_ONCE};
use flowdppo_wgpu::pretrain::Pretraining;
use flowdppo_wgpu::reward::Rewards;
use flowdppo_wgpu::sampling::ModelOnDevice;

use crate::common::{tiny, words};
use crate::{Parts, classifier_file, config, flow_model_of, own_gpu};

#[test]
fn an_iteration_reads_twice_and_writes_once_per_replay() {
    let gpu = own_gpu();
    let (model, mut counts) = (tiny::dit(1), Vec::new());
    for epochs in [1, 3] {
        let mut config = config();
        config.rollout.micro_batch = 4;
        config.train.micro_batch = 3;
        config.train.updates_per_rollout = 2;
        config.train.inner_epochs = epochs;
        let mut parts = Parts::new(&gpu, &config, &model);
        // The first replays compile and measure.
        for index in 0..3 {
            let rollout = parts.collect(index);
            parts.learn(&rollout);
        }
        let before = gpu.submitted();
        let rollout = parts.collect(3);
        let drawn = gpu.submitted() - before;
        parts.learn(&rollout);
        let learned = gpu.submitted() - before;

        // Three batches, each with its noise and its steps; then 3 trained steps of 4 micro-batches, and 2 updates.
        let draws = 3 * (1 + config.rollout.steps) as u64;
        let learns = (epochs * (3 * 4 + 2)) as u64;
        let check = |what: &str, sent: Submitted, replays: u64, readbacks: u64| {
            assert_eq!(sent.readbacks, readbacks, "{what}: {sent:?}");
            // A replay is a submission at most, a part of the work has an end, and a readback is one.
            assert!(sent.writes <= replays, "{what}: {sent:?} for {replays} replays");
            assert!(sent.submissions <= replays + 5 + readbacks, "{what}: {sent:?} for {replays} replays");
        };
        check("rollout", drawn, draws, 1);
        check("iteration", learned, draws + learns, 2);
        counts.push(learned.dispatches);
    }
    assert!(counts[1] > counts[0], "{counts:?}");
}

#[test]
fn an_evaluation_reads_as_often_for_any_number_of_steps() {
    let (_folder, file) = classifier_file();
    let (gpu, model) = (own_gpu(), tiny::dit(1));
    let flow_model = &flow_model_of(&model);
    let readbacks = [2, 7].map(|steps| {
        let mut config = tiny::config(&file);
        (config.rollout.steps, config.eval.steps) = (steps, steps);
        let upload = || flow_model.layout().upload(&gpu, "base", &model.weights).expect("it is small");
        let stores = Stores::from([(PARAMETERS, upload()), (BASE, upload())]);
        let reference = Reference { network: flow_model.into(), stores: Stores::from([(PARAMETERS, upload())]) };
        let tuned = ModelOnDevice { network: &flow_model.into(), class_names: &[], stores: &stores };
        let mut evaluator =
            Evaluator::new(&gpu, &config.eval, &config.rollout, tuned, Some(&reference)).expect("it is small");
        let mut rewards = Rewards::new(&gpu, &config.reward, &flow_model.pictures(&[])).expect("it fits the model");
        for iteration in 0..2 {
            evaluator.evaluate(&mut rewards, iteration).expect("the device works");
        }
        let before = gpu.submitted();
        let found = evaluator.evaluate(&mut rewards, 2).expect("the device works");
        // The policy is the base.
        assert_eq!(found.drift.expect("there is a base").velocity_msd, 0.0);
        (gpu.submitted() - before).readbacks
    });
    assert_eq!(readbacks[0], readbacks[1]);
}

/// Pictures of noise.
fn data() -> Dataset {
    Dataset {
        image_size: 8,
        channels: 1,
        images: (0..256).map(|pixel| (1.7 * f64::from(pixel)).sin() as f32).collect(),
        labels: vec![0, 1, 2, 0],
        class_names: vec!["a".into(), "b".into(), "c".into()],
        originals: None,
    }
}

#[test]
fn pretraining_does_not_depend_on_when_outcomes_are_read() {
    let (gpu, model, data) = (own_gpu(), tiny::dit(1), data());
    let flow_model = flow_model_of(&model);
    let mut config = Config::default();
    (config.pretrain.batch_size, config.pretrain.micro_batch) = (4, 2);
    let steps = STEPS_AT_ONCE + 4;
    let train = |is_read: &dyn Fn(usize) -> bool| {
        let mut training =
            Pretraining::new(&gpu, (&config).into(), &(&flow_model).into(), &data, &model.weights, &Stores::new())
                .expect("it fits the data");
        let (mut losses, mut skipped, mut readbacks) = (Vec::new(), Vec::new(), 0);
        for step in 0..steps {
            // One is skipped before outcomes are read, and one on the way to the next time.
            if [5, STEPS_AT_ONCE + 1].contains(&step) {
                let mut gradients = vec![0.0; training.optimizer.gradient_elements()];
                gradients[7] = f32::NAN;
                training.optimizer.write(GRADIENTS, &gradients);
            }
            let before = gpu.submitted();
            training.step(step).expect("the device works");
            // The first replays may read the device's clock.
            if step > 2 {
                readbacks += (gpu.submitted() - before).readbacks;
            }
            if is_read(step + 1) || (step + 1).is_multiple_of(STEPS_AT_ONCE) || step + 1 == steps {
                for report in training.outcomes().expect("a few are tolerated") {
                    assert_eq!(report.step, losses.len(), "steps are in order");
                    losses.push(report.loss);
                    skipped.extend(report.norm.skipped.then_some(report.step));
                }
            }
        }
        let optimizer = &training.optimizer;
        assert_eq!((optimizer.step, optimizer.uncounted), (steps as u64 - 1, 1), "one no longer counts");
        let stores = [PARAMETERS, FIRST_MOMENT, SECOND_MOMENT, AVERAGE]
            .map(|store| words(&optimizer.read(store).expect("the device works")));
        (losses.iter().map(|loss| loss.to_bits()).collect::<Vec<u64>>(), skipped, stores, readbacks)
    };
    let each = train(&|_| true);
    let [seldom, sometimes] = [train(&|_| false), train(&|done| done == 7)];
    assert_eq!(each.1, [5, STEPS_AT_ONCE + 1]);
    assert_eq!([each.3, seldom.3, sometimes.3], [0; 3], "a step reads nothing");
    for other in [&seldom, &sometimes] {
        assert!((&other.0, &other.1, &other.2) == (&each.0, &each.1, &each.2), "the steps differ");
    }
}

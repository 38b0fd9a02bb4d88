//! Non-finite values are never learned from, are counted, and end a run if they persist.

use flowdppo_wgpu::Result;
use flowdppo_wgpu::config::{Config, Eta};
use flowdppo_wgpu::fit_classifier::Fitting;
use flowdppo_wgpu::graph::Stores;
use flowdppo_wgpu::optimizer::{AVERAGE, FIRST_MOMENT, GRADIENTS, PARAMETERS, SECOND_MOMENT};
use flowdppo_wgpu::pretrain::Pretraining;
use flowdppo_wgpu::reward::{Batch, Reward, Rewards};
use flowdppo_wgpu::rl::Trainer;

use crate::common::{gpu, tiny};
use crate::{advantage, classifier_file, flow_model_of};

/// Everything that an update changes.
fn state(trainer: &Trainer) -> Vec<Vec<f32>> {
    let read = |store| trainer.optimizer.read(store).expect("the device works");
    [PARAMETERS, FIRST_MOMENT, SECOND_MOMENT, AVERAGE].map(read).to_vec()
}

/// Spoils one of the gradients that the next update will use.
fn spoil_gradient(trainer: &Trainer, value: f32) {
    let mut gradients = vec![0.0; trainer.optimizer.layout().trainable_elements()];
    gradients[100] = value;
    trainer.optimizer.write(GRADIENTS, &gradients);
}

#[test]
fn gradients_that_are_not_finite_change_nothing_and_are_counted() {
    let (_folder, file) = classifier_file();
    let mut config = tiny::config(&file);
    (config.train.updates_per_rollout, config.train.inner_epochs) = (1, 1);
    config.train.max_skipped_updates = 2;
    let mut trainer = Trainer::new(gpu(), (&config).into(), &tiny::dit(1)).expect("it is small");
    trainer.iteration(0).expect("the device works");
    let before = state(&trainer);
    let mut average = before[3].clone();
    for (iteration, value) in [(1, f32::NAN), (2, f32::NEG_INFINITY)] {
        spoil_gradient(&trainer, value);
        let found = trainer.iteration(iteration).expect("two in a row are tolerated");
        assert_eq!(found.skipped(), 1);
        assert_eq!(state(&trainer)[..3], before[..3], "the update was skipped, the weights are the same");
        assert_eq!(trainer.optimizer.step, 1, "a skipped update does not count");
        // The average still moves towards the weights.
        assert_ne!(state(&trainer)[3], average);
        average = state(&trainer)[3].clone();
        let left = trainer.optimizer.read(GRADIENTS).expect("the device works");
        assert!(left.iter().all(|gradient| *gradient == 0.0), "nothing is left for the next update");
    }
    // A good one resets the count.
    assert_eq!(trainer.iteration(3).expect("the device works").skipped(), 0);
    assert_ne!(state(&trainer)[0], before[0]);
    assert_eq!(trainer.optimizer.step, 2);
    for iteration in [4, 5] {
        spoil_gradient(&trainer, f32::INFINITY);
        trainer.iteration(iteration).expect("two in a row are tolerated");
    }
    let before = state(&trainer);
    spoil_gradient(&trainer, f32::NAN);
    let error = trainer.iteration(6).expect_err("three in a row are too many");
    assert_eq!(error.exit_code(), 1);
    for part in ["3 updates in a row", "not finite", "iteration 7", "train.learning_rate"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    assert_eq!(state(&trainer)[..3], before[..3]);
}

#[test]
fn only_the_spoilt_update_of_a_rollout_is_skipped() {
    let (_folder, file) = classifier_file();
    let mut config = tiny::config(&file);
    config.train.max_skipped_updates = 1;
    let mut trainer = Trainer::new(gpu(), (&config).into(), &tiny::dit(1)).expect("it is small");
    spoil_gradient(&trainer, f32::NAN);
    let found = trainer.iteration(0).expect("the last update was good");
    let skipped: Vec<bool> = found.updates.iter().map(|update| update.skipped).collect();
    assert_eq!(skipped, [true, false, false, false]);
    assert_eq!(trainer.optimizer.step, 3);
    assert!(state(&trainer).iter().flatten().all(|value| value.is_finite()));

    // It counts although good ones follow.
    config.train.max_skipped_updates = 0;
    let mut trainer = Trainer::new(gpu(), (&config).into(), &tiny::dit(1)).expect("it is small");
    spoil_gradient(&trainer, f32::NAN);
    let error = trainer.iteration(0).expect_err("none is tolerated");
    assert!(error.to_string().contains("1 updates in a row"), "{error}");
}

#[test]
fn a_policy_that_explodes_stops_the_run_with_finite_weights() {
    let (_folder, file) = classifier_file();
    let cases: [fn(&mut Config); 2] = [
        // Weights so large that velocities overflow from the second update on.
        |config| config.train.learning_rate = 1e30,
        // Noise so small that the likelihood's slope b/s has a square beyond f32.
        |config| config.rollout.eta = Eta::All(1e-25),
    ];
    for (index, change) in cases.iter().enumerate() {
        let mut config = tiny::config(&file);
        config.train.max_skipped_updates = 5;
        change(&mut config);
        let mut trainer = Trainer::new(gpu(), (&config).into(), &tiny::dit(1)).expect("it is small");
        let error = (0..4).find_map(|iteration| trainer.iteration(iteration).err());
        let error = error.unwrap_or_else(|| panic!("case {index} ends in an error"));
        assert_eq!(error.exit_code(), 1, "{error}");
        assert!(error.to_string().contains("finite"), "case {index}: {error}");
        assert!(state(&trainer).iter().flatten().all(|value| value.is_finite()), "case {index}");
    }
}

/// A reward that is not a number for one sample.
#[derive(Debug)]
struct Spoilt(f64, [String; 1]);

impl Reward for Spoilt {
    fn components(&self) -> &[String] {
        &self.1
    }

    fn score(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f64>>> {
        let mut scores: Vec<f64> = (0..batch.labels.len()).map(advantage).collect();
        scores[7] = self.0;
        Ok(vec![scores])
    }
}

#[test]
fn a_reward_that_is_not_finite_is_an_error_that_names_the_sample() {
    let (_folder, file) = classifier_file();
    let mut trainer = Trainer::new(gpu(), (&tiny::config(&file)).into(), &tiny::dit(1)).expect("it is small");
    let before = state(&trainer);
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let spoilt = Box::new(Spoilt(value, ["spoilt".into()]));
        let (members, model) = (vec![("spoilt".into(), spoilt as _, 1.0.into())], tiny::dit(1));
        let spoilt = Rewards::of(members, &flow_model_of(&model).pictures(&[]));
        *trainer.rewards() = spoilt.expect("its weight is for all components");
        let error = trainer.iteration(0).expect_err("the reward is not finite");
        assert!(error.to_string().contains("sample 7"), "{error}");
        assert_eq!(error.exit_code(), 1);
        assert_eq!(state(&trainer), before, "nothing was learned from it");
    }
}

#[test]
fn supervised_training_also_skips_and_stops() {
    let mut config = Config::default();
    config.train.max_skipped_updates = 2;
    (config.pretrain.batch_size, config.pretrain.micro_batch, config.classifier.batch_size) = (4, 4, 4);
    let data = flowdppo_wgpu::data::Dataset {
        image_size: 8,
        channels: 1,
        images: vec![f32::NAN; 64],
        labels: vec![0],
        class_names: vec!["a".into(), "b".into(), "c".into()],
        originals: None,
    };
    let model = tiny::dit(1);
    let flow_model = flow_model_of(&model);
    let mut pretraining =
        Pretraining::new(gpu(), (&config).into(), &(&flow_model).into(), &data, &model.weights, &Stores::new())
            .expect("it fits the data");
    let classifier = tiny::classifier();
    let network = classifier.classifier("the tiny classifier").expect("it is one");
    let mut fitting = Fitting::new(gpu(), (&config).into(), network, &data).expect("it is small");
    let before = fitting.optimizer.read(PARAMETERS).expect("the device works");
    for step in 0..2 {
        pretraining.step(step).expect("the device works");
        fitting.step(step).expect("the device works");
    }
    let reports = pretraining.outcomes().expect("two in a row are tolerated");
    assert_eq!(
        reports.iter().map(|report| (report.step, report.norm.skipped)).collect::<Vec<_>>(),
        [(0, true), (1, true)]
    );
    // The outcomes of the others are still unknown.
    for step in 2..4 {
        pretraining.step(step).expect("the device works");
        fitting.step(step).expect("the device works");
    }
    let errors = [pretraining.outcomes().err(), fitting.outcomes().err()];
    for (error, key) in errors.iter().zip(["pretrain.learning_rate", "classifier.learning_rate"]) {
        let error = error.as_ref().expect("three in a row are too many").to_string();
        assert!(error.contains("3 updates in a row") && error.contains("step 3") && error.contains(key), "{error}");
    }
    assert_eq!(pretraining.optimizer.read(PARAMETERS).expect("the device works"), model.weights);
    assert_eq!(fitting.optimizer.read(PARAMETERS).expect("the device works"), before);
    for optimizer in [&pretraining.optimizer, &fitting.optimizer] {
        assert_eq!((optimizer.step, optimizer.uncounted), (4, 3), "they count until a multiple of 16");
    }
}

//! Samples with known scores.

use std::time::Duration;

use flowdppo_wgpu::classes::Classes;
use flowdppo_wgpu::config;
use flowdppo_wgpu::model;
use flowdppo_wgpu::reward::{Batch, Description, Limits, Purpose, Reward, ScoringContext, Subject};
use flowdppo_wgpu::shape::ImageShape;
use flowdppo_wgpu::shape::from_byte;
use flowdppo_wgpu::{Error, Result};

/// Grey pictures of 4x4 pixels, each with a different pattern.
pub struct Pictures {
    pub bytes: Vec<[u8; 16]>,
    images: Vec<f32>,
    labels: Vec<u32>,
    pub class_names: Vec<String>,
    pub descriptions: Vec<Description>,
}

/// What a model with classes of these names makes.
pub fn model_of(names: &[String]) -> model::Pictures<'_> {
    let classes = Classes { of: "the model", count: names.len(), names };
    model::Pictures { shape: ImageShape::square(1, 4), classes, prompts: &[] }
}

pub fn pictures(count: usize) -> Pictures {
    let picture = |index: usize| std::array::from_fn(|pixel| (index * 31 + pixel * pixel * 7) as u8);
    let bytes: Vec<[u8; 16]> = (0..count).map(picture).collect();
    Pictures {
        images: bytes.iter().flatten().map(|byte| from_byte(*byte)).collect(),
        labels: (0..count as u32).map(|index| index % 3).collect(),
        class_names: class_names(),
        descriptions: Description::of_classes(&config::Reward::default(), &model_of(&class_names())).unwrap(),
        bytes,
    }
}

fn class_names() -> Vec<String> {
    ["zero", "one", "two \"{2}\""].map(String::from).to_vec()
}

impl Pictures {
    pub fn subject(&self) -> Subject<'_> {
        Subject { class_names: &self.class_names, shape: ImageShape::square(1, 4), descriptions: &self.descriptions }
    }

    pub fn score(&self, reward: &mut impl Reward) -> Result<Vec<Vec<f64>>> {
        let Self { images, labels, class_names, .. } = self;
        let context = ScoringContext { purpose: Purpose::Training, iteration: 5 };
        let numbers: Vec<usize> = (0..labels.len()).collect();
        reward.score(&Batch {
            images,
            labels,
            numbers: &numbers,
            class_names,
            shape: ImageShape::square(1, 4),
            context,
        })
    }

    /// The mean of each picture, 0 to 1.
    pub fn brightness(&self) -> Vec<f64> {
        self.bytes.iter().map(|bytes| bytes.iter().map(|byte| f64::from(*byte)).sum::<f64>() / 16.0 / 255.0).collect()
    }
}

/// Generous limits: on a busy machine even a healthy program starts slowly.
pub fn limits(batch: usize, workers: usize, retries: usize) -> Limits {
    Limits { timeout: Duration::from_secs(60), retries, batch, workers }
}

/// Sums in another order differ by a few roundings; JSON may add one more.
pub fn assert_close(actual: &[f64], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(expected) {
        assert!((actual - expected).abs() < 1e-14, "{actual} is not {expected}");
    }
}

/// Checks that an error is one that the user must correct, before anything runs.
pub fn assert_input<T: std::fmt::Debug>(result: Result<T>, needles: &[&str]) {
    match result.expect_err("it should be refused") {
        Error::Input(message) => assert_says(&message, needles),
        other => panic!("this should be wrong input: {other:?}"),
    }
}

/// Checks that an error is a failure of a started run.
pub fn assert_failed<T: std::fmt::Debug>(result: Result<T>, needles: &[&str]) {
    match result.expect_err("it should fail") {
        Error::Failed(message) => assert_says(&message, needles),
        other => panic!("this should be a failure: {other:?}"),
    }
}

fn assert_says(message: &str, needles: &[&str]) {
    for needle in needles {
        assert!(message.contains(needle), "{message:?} does not say {needle:?}");
    }
}

//! Runs whose matrix products have operands of 16 bits.

use std::sync::{Arc, LazyLock};

use flowdppo_wgpu::config::{Config, ObjectiveName, Precision, WeightType};
use flowdppo_wgpu::gpu::{Gpu, Options};
use flowdppo_wgpu::model::{Tensors, parse_tensors};
use flowdppo_wgpu::rl::Trainer;

use crate::common::tiny;
use crate::{Parts, classifier_file, config};

/// A device as `train` opens it for 16 bits: with products of matrices, if it has any.
fn gpu() -> &'static Arc<Gpu> {
    static GPU: LazyLock<Arc<Gpu>> = LazyLock::new(|| {
        Gpu::open(&Options { matrices: true, ..Options::default() }.or_environment()).expect("it was opened before")
    });
    &GPU
}

#[test]
fn the_first_update_is_on_policy_to_the_bit_in_16_bits_too() {
    // The width fits 8-bit blocks.
    let model = tiny::dit_of_width(2, 32);
    for (guidance_scale, rank, weights, half_activations) in
        [(1.0, 0, WeightType::F32, false), (2.5, 0, WeightType::F32, true), (1.0, 2, WeightType::Q8_0, false)]
    {
        let mut config = config();
        config.rollout.guidance_scale = guidance_scale;
        config.lora.rank = rank;
        config.model.weights = weights;
        config.train.precision = Precision::F16;
        config.train.half_activations = half_activations;
        config.train.updates_per_rollout = 1;
        let mut parts = Parts::new(gpu(), &config, &model);
        // Also with trained weights.
        for iteration in 0..2 {
            let rollout = parts.collect(iteration);
            let records = parts.learn(&rollout);
            for outcome in &records[0].outcomes {
                assert_eq!(outcome.ratio.to_bits(), 1.0_f32.to_bits(), "the ratio is {}", outcome.ratio);
                assert_eq!(outcome.kl.to_bits(), 0.0_f32.to_bits(), "the KL is {}", outcome.kl);
            }
            let last = records.last().expect("there are updates");
            assert!(last.outcomes.iter().all(|outcome| outcome.ratio != 1.0 && outcome.kl > 0.0), "it does not move");
            assert!(!last.norm.skipped);
        }
    }
}

/// The first update, as `--dump-update` writes it.
fn dumped(change: impl Fn(&mut Config)) -> Tensors {
    let (_folder, file) = classifier_file();
    let mut config = tiny::config(&file);
    change(&mut config);
    let mut trainer = Trainer::observed(gpu(), (&config).into(), &tiny::dit(2)).expect("it is small");
    trainer.iteration(0).expect("the device works");
    let bytes = trainer.take_dump(&config.to_toml()).expect("the first rollout is observed");
    parse_tensors("the dump", &bytes).expect("it is complete")
}

/// Operands are off by up to 2^-11, in either direction, and so are the states of a rollout, six steps of two blocks
/// later: relative errors of gradients of some tenths of a percent remain. If 16 bits did not hold the gradients, or they
/// were not divided by what the loss was multiplied by, they would be off by far more.
#[test]
fn gradients_in_16_bits_are_those_in_32_bits_but_for_rounding() {
    for (name, beta) in [(ObjectiveName::FlowDppo, 0.0), (ObjectiveName::FlowDppo, 0.1), (ObjectiveName::Nft, 0.0)] {
        let dump = |precision: Precision| {
            dumped(|config| {
                config.objective.name = name;
                config.objective.reference.beta = beta;
                if name == ObjectiveName::Nft {
                    config.rollout.sampler = flowdppo_wgpu::config::Sampler::Ode;
                }
                config.train.precision = precision;
            })
        };
        let [whole, half] = [Precision::F32, Precision::F16].map(dump);
        let norm = |dump: &Tensors| dump["update0.gradient_norm"].1[0];
        let ratio = norm(&half) / norm(&whole);
        assert!((ratio - 1.0).abs() < 0.01, "{name:?}: the norm is {ratio} times that of 32 bits");
        let (mut squares, mut error, mut rounded) = (0.0, 0.0, 0);
        for (key, (_, expected)) in whole.iter().filter(|(key, _)| key.starts_with("update0.gradients.")) {
            for (expected, actual) in expected.iter().zip(&half[key].1) {
                squares += f64::from(*expected).powi(2);
                error += f64::from(actual - expected).powi(2);
                rounded += usize::from(actual != expected);
            }
        }
        let relative = (error / squares).sqrt();
        assert!(relative < 0.01, "{name:?}: gradients differ by {relative:.1e}");
        assert!(rounded > 1000, "{name:?}: nothing was rounded");
    }
}

#[test]
fn a_run_in_16_bits_repeats_its_bytes() {
    let (_folder, file) = classifier_file();
    let mut config = tiny::config(&file);
    config.train.precision = Precision::F16;
    let saved = || {
        let mut trainer = Trainer::new(gpu(), (&config).into(), &tiny::dit(1)).expect("it is small");
        (0..2).for_each(|iteration| drop(trainer.iteration(iteration).expect("the device works")));
        crate::saved(&trainer, 2)
    };
    assert!(saved() == saved(), "the second run differs");
}

//! Relations between methods: where they agree, and what they and their options must not change.

use flowdppo_wgpu::config::{GuidanceGradient, Mask, Order, TrainedSteps};
use flowdppo_wgpu::rl::UpdateGraph;

use crate::*;

/// The weights after two iterations.
fn weights(change: &dyn Fn(&mut Config)) -> Vec<u32> {
    let (_folder, file) = classifier_file();
    let mut config = tiny::config(&file);
    change(&mut config);
    let mut trainer = Trainer::new(gpu(), (&config).into(), &tiny::dit(1)).expect("it is small");
    for iteration in 0..2 {
        trainer.iteration(iteration).expect("the device works");
    }
    words(&trainer.optimizer.read(PARAMETERS).expect("the device works"))
}

/// Nothing has moved when the mask or the clip is evaluated, so they are bit-identical.
#[test]
fn with_one_update_per_rollout_the_objectives_are_identical() {
    let with = |updates: usize, change: fn(&mut Config)| {
        weights(&move |config| {
            config.train.updates_per_rollout = updates;
            config.train.inner_epochs = updates;
            config.objective.kl_mask_threshold = 1e-9;
            (config.objective.clip_low, config.objective.clip_high) = (1e-6, 1e-6);
            change(config);
        })
    };
    let grpo: fn(&mut Config) = |config| config.objective.name = ObjectiveName::FlowGrpo;
    let no_mask: fn(&mut Config) = |config| config.objective.mask = Mask::None;
    let dppo = with(1, |_| {});
    assert!(with(1, grpo) == dppo, "Flow-GRPO differs");
    assert!(with(1, no_mask) == dppo, "no mask differs");
    assert!(with(1, |config| config.objective.mask = Mask::Symmetric) == dppo, "the symmetric mask differs");
    assert!(with(1, |config| config.objective.name = ObjectiveName::GrpoGuard) != dppo, "it changes the weights");
    // With several they do differ. (A clip as tight as the mask would drop the same terms.)
    let dppo = with(2, |_| {});
    let loose: fn(&mut Config) = |config| {
        config.objective.name = ObjectiveName::FlowGrpo;
        (config.objective.clip_low, config.objective.clip_high) = (0.1, 0.1);
    };
    assert!(with(2, loose) != dppo && with(2, no_mask) != dppo, "several updates are needed, and are enough");
    assert!(with(2, grpo) == dppo, "both drop everything that would move further");
}

#[test]
fn every_method_runs_and_does_not_change_its_anchor() {
    let cases: [fn(&mut Config); 6] = [
        |config| config.objective.name = ObjectiveName::FlowGrpo,
        |config| config.objective.name = ObjectiveName::GrpoGuard,
        |config| config.objective.reference.beta = 0.1,
        |config| {
            config.objective.name = ObjectiveName::Nft;
            config.rollout.sampler = Sampler::Ode;
            config.rollout.trained_steps = TrainedSteps::AllButLast {};
        },
        |config| {
            config.rollout.trained_steps =
                TrainedSteps::ProgressiveWindow { size: 3, overlap: 0, rollouts: 1, roll_back: true };
        },
        |config| config.train.order = Order::Contiguous,
    ];
    for (case, change) in cases.iter().enumerate() {
        let mut config = config();
        change(&mut config);
        let mut parts = Parts::new(gpu(), &config, &tiny::dit(1));
        // The second rollout's window reaches the last step.
        for index in 0..2 {
            let rollout = parts.collect(index);
            let weights = parts.optimizer.read(PARAMETERS).expect("the device works");
            let before = parts.trajectory();
            let records = parts.learn(&rollout);
            assert_ne!(parts.optimizer.read(PARAMETERS).expect("the device works"), weights, "case {case}");
            assert!(parts.trajectory() == before, "case {case}: the anchor has moved");
            assert_eq!(records.len(), 4);
            for record in &records {
                assert!(!record.norm.skipped && record.norm.norm > 0.0, "case {case}: {:?}", record.norm);
                assert_eq!(record.rows.len(), record.outcomes.len());
                let penalties = if config.objective.reference.beta > 0.0 { record.rows.len() } else { 0 };
                assert_eq!(record.penalties.len(), penalties);
            }
            // Training starts from the base, so the very first update has no penalty.
            if let Some(first) = records[0].penalties.first() {
                assert_eq!(*first == 0.0, index == 0, "case {case}");
                assert!(records[3].penalties.iter().all(|penalty| *penalty > 0.0), "{:?}", records[3].penalties);
            }
            if config.train.order == Order::Contiguous {
                assert!(records[0].rows.iter().all(|(sample, _)| *sample < 6), "the first half comes first");
            }
        }
    }
}

#[test]
fn with_shared_noise_a_group_starts_from_one_state() {
    let draw = |shared_noise: bool| {
        let mut config = config();
        config.rollout.shared_noise = shared_noise;
        config.rollout.trained_steps = TrainedSteps::List { steps: vec![0, 2] };
        let mut parts = Parts::new(gpu(), &config, &tiny::dit(1));
        let rollout = parts.collect(1);
        let [states, _] = parts.trajectory();
        (states[..12 * 64].to_vec(), rollout.images)
    };
    let (own, _) = draw(false);
    let (shared, images) = draw(true);
    let state = |states: &[u32], sample: usize| states[sample * 64..][..64].to_vec();
    for sample in 1..12 {
        let first = sample / 6 * 6;
        assert_eq!(state(&shared, sample) == state(&shared, 0), first == 0, "sample {sample}");
        assert!(state(&shared, sample) == state(&shared, first) && state(&own, sample) != state(&own, 0));
        assert!(sample == first || images[sample * 64..][..64] != images[first * 64..][..64], "steps have noise");
    }
    // The normals of host and device are equal up to rounding.
    for (own, shared) in state(&own, 0).iter().zip(state(&shared, 0)) {
        assert!((f32::from_bits(*own) - f32::from_bits(shared)).abs() < 1e-5);
    }
}

/// With a one-sided gradient the embedding of "no class" does not learn, and the backward pass is shorter.
#[test]
fn one_side_of_guidance_can_be_held_constant() {
    let gradients = |guidance_gradient: GuidanceGradient| {
        let mut config = config();
        config.rollout.guidance_scale = 2.5;
        config.rollout.guidance_gradient = guidance_gradient;
        config.train.updates_per_rollout = 1;
        config.train.inner_epochs = 1;
        config.train.max_grad_norm = f64::INFINITY;
        let model = tiny::dit(1);
        let flow_model = &flow_model_of(&model);
        let flops =
            UpdateGraph::record(&(&config).into(), &flow_model.into()).expect("it fits the model").graph.flops();
        let mut parts = Parts::new(gpu(), &config, &model);
        let rollout = parts.collect(0);
        let norm = parts.learn(&rollout)[0].norm.norm;
        let after = parts.optimizer.read(PARAMETERS).expect("the device works");
        let layout = flow_model.layout();
        let table = layout.entries().iter().find(|entry| entry.name.starts_with("y_embedder")).expect("it has one");
        let width = table.shape[1];
        let null = table.offset + flow_model.num_conditions() * width..table.offset + table.elements();
        (after[null.clone()] == model.weights[null], flops, norm)
    };
    let (both, conditional) = (gradients(GuidanceGradient::Both), gradients(GuidanceGradient::Conditional));
    assert!(!both.0 && conditional.0, "the embedding of no class");
    assert!(conditional.1 < both.1 && conditional.2 != both.2 && conditional.2 > 0.0, "{both:?} {conditional:?}");
}

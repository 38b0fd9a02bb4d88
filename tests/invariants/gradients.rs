//! Gradients of whole losses, from the rollout to the weights, each by [`Loss::check`].

use std::collections::BTreeMap;

use flowdppo_wgpu::autodiff::{Activations, backward};
use flowdppo_wgpu::config::{
    Config, Divergence, LogProb, Mask, ObjectiveName, Reference, ReferenceKind, Sampler, ThresholdUnit, WeightType,
};
use flowdppo_wgpu::flow::noise::{NoiseKey, normals};
use flowdppo_wgpu::flow::sampler::Transition;
use flowdppo_wgpu::graph::{Graph, Interpreter, Tensor};
use flowdppo_wgpu::model::{Adapter, BASE, Classifier, ConditionInput, FlowModel, Frozen, Network};
use flowdppo_wgpu::ops::{OutcomeTwin, cross_entropy, mean_squared_error};
use flowdppo_wgpu::optimizer::{AVERAGE, GRADIENTS, PARAMETERS};
use flowdppo_wgpu::pretrain::FlowMatchingGraph;
use flowdppo_wgpu::rl::{Rollout, UpdateGraph};

use crate::common::gradient_check::{Loss, Values, noise_words};
use crate::common::{Random, floats, gpu, nmse, tiny};
use crate::{Parts, advantage, classes_of, config, flow_model_of};

/// Inputs of the update for (sample, step)s of a rollout with these states and velocities, each with equal weight.
fn inputs(
    config: &Config,
    it: &UpdateGraph,
    flow_model: &FlowModel,
    (rollout, trajectory): (&Rollout, &[Vec<f32>; 2]),
    rows: &[(usize, usize)],
) -> Vec<(Tensor, Values)> {
    let is_nft = config.objective.name == ObjectiveName::Nft;
    let sigmas = |step: usize| (rollout.table.sigmas[step], rollout.table.sigmas[step + 1]);
    let f32s = |of: &dyn Fn(usize, usize) -> Vec<f32>| -> Values {
        Values::F32(rows.iter().flat_map(|(sample, step)| of(*sample, *step)).collect())
    };
    let u32s = |of: &dyn Fn(usize, usize) -> Vec<u32>| -> Values {
        Values::U32(rows.iter().flat_map(|(sample, step)| of(*sample, *step)).collect())
    };
    let stored = |values: &[f32], sample: usize, step: usize| {
        let slot = rollout.trained.iter().position(|trained| *trained == step).expect("the step is trained");
        let row = if is_nft { sample } else { slot * rollout.requests.len() + sample };
        values[row * flow_model.dim()..][..flow_model.dim()].to_vec()
    };
    let key = |sample: usize, step: usize| {
        noise_words(NoiseKey { seed: 0, rollout: rollout.index, sample: sample as u32, step: step as u32 })
    };
    let transition = |_: usize, step: usize| {
        let sigma = sigmas(step).0;
        let Transition { a, b, s } =
            if is_nft { Transition { a: 1.0 - sigma, b: 0.0, s: sigma } } else { rollout.table.rows[step] };
        [a, b, s].map(|factor| factor as f32).to_vec()
    };
    let mean = 1.0 / rows.len() as f32;
    let mut found = vec![
        (it.time, f32s(&|_, step| vec![flow_model.time_of(rollout.table.sigmas[step])])),
        (classes_of(it.condition), u32s(&|sample, _| vec![rollout.requests[sample].condition])),
        (it.keys, u32s(&key)),
        (it.rows, f32s(&transition)),
        (it.advantages, f32s(&|sample, _| vec![advantage(sample) as f32])),
        (it.weight, Values::F32(vec![mean; rows.len()])),
    ];
    for ((_, tensor), values) in it.stored.iter().zip(trajectory) {
        found.push((*tensor, f32s(&|sample, step| stored(values, sample, step))));
    }
    if let (ObjectiveName::GrpoGuard, Some(step_weight)) = (config.objective.name, it.step_weight) {
        let weight = |_: usize, step: usize| {
            let (sigma, next) = sigmas(step);
            vec![config.objective.step_weight.of(sigma, next, rollout.table.rows[step]) as f32]
        };
        found.push((step_weight, f32s(&weight)));
    }
    if let Some(penalty) = it.penalty {
        let reference = &config.objective.reference;
        let factor = |_: usize, step: usize| {
            let (sigma, next) = sigmas(step);
            vec![reference.kind.factor(sigma, next, rollout.table.rows[step]) as f32]
        };
        found.push((penalty.factor, f32s(&factor)));
        found.push((penalty.weight, Values::F32(vec![reference.beta as f32 * mean; rows.len()])));
    }
    found
}

fn outcomes_of(it: &UpdateGraph, twin: &Interpreter) -> Vec<OutcomeTwin> {
    bytemuck::cast_slice(twin.value(&it.graph, it.outcomes)).to_vec()
}

/// Every outcome of a second update against the twin, which gets states, noise, classes, times and transitions from the
/// record of the rollout.
#[test]
fn an_update_uses_the_samples_of_the_rollout() {
    let mut config = config();
    config.rollout.micro_batch = 4;
    config.train.updates_per_rollout = 1;
    config.train.micro_batch = 6;
    // Nothing is dropped: a term at the threshold could be on either side.
    config.objective.kl_mask_threshold = f64::INFINITY;
    let model = tiny::dit(1);
    let flow_model = &flow_model_of(&model);
    let mut learn = |epochs: usize| {
        config.train.inner_epochs = epochs;
        let mut parts = Parts::new(gpu(), &config, &model);
        let rollout = parts.collect(3);
        (parts.learn(&rollout), rollout, parts.trajectory(), parts.optimizer.read(PARAMETERS).expect("it works"))
    };
    let (_, _, _, parameters) = learn(1);
    let (records, rollout, trajectory, _) = learn(2);
    let trajectory = trajectory.map(|words| floats(&words));
    let [states, velocities] = &trajectory;

    // The noise that led from one trained step to the next is the one that the key says.
    let dim = flow_model.dim();
    let mut checked = 0;
    for (slot, pair) in rollout.trained.windows(2).enumerate().filter(|(_, pair)| pair[1] == pair[0] + 1) {
        let Transition { a, b, s } = rollout.table.rows[pair[0]];
        for sample in 0..12 {
            let key = NoiseKey { seed: 0, rollout: 3, sample: sample as u32, step: pair[0] as u32 };
            let at = |values: &[f32], slot: usize, i: usize| f64::from(values[(slot * 12 + sample) * dim + i]);
            for (i, noise) in normals(key, dim).iter().enumerate() {
                let expected = a * at(states, slot, i) + b * at(velocities, slot, i) + s * noise;
                let actual = at(states, slot + 1, i);
                assert!((actual - expected).abs() < 1e-5, "sample {sample}, step {}: {actual}, {expected}", pair[0]);
                checked += 1;
            }
        }
    }
    assert!(checked > 0, "two trained steps follow each other");

    let it = UpdateGraph::record(&(&config).into(), &flow_model.into()).expect("it fits the model");
    let weights: Vec<f64> = parameters.iter().map(|weight| f64::from(*weight)).collect();
    let (mut actual, mut expected) = (Vec::new(), Vec::new());
    for (rows, outcomes) in records[1].rows.chunks(6).zip(records[1].outcomes.chunks(6)) {
        let (inputs, stores) = (inputs(&config, &it, flow_model, (&rollout, &trajectory), rows), BTreeMap::new());
        let loss = Loss { graph: &it.graph, inputs, stores, layout: flow_model.layout(), scalar: &|_| 0.0, base: None };
        for (outcome, twin) in outcomes.iter().zip(outcomes_of(&it, &loss.twin(&weights))) {
            actual.extend([outcome.loss, outcome.log_ratio, outcome.kl]);
            expected.extend([twin.loss, twin.log_ratio, twin.kl]);
        }
    }
    assert_eq!(actual.len(), 3 * 36);
    for (column, name) in ["loss", "log-ratio", "KL"].iter().enumerate() {
        let of = |index: &usize| index % 3 == column;
        let actual: Vec<f32> = (0..actual.len()).filter(of).map(|index| actual[index]).collect();
        let expected: Vec<f64> = (0..expected.len()).filter(of).map(|index| expected[index]).collect();
        // Velocities with relative errors of 1e-6, their differences a hundredth as large, squared.
        let error = nmse(&actual, &expected);
        assert!(error < 1e-8, "the {name} has NMSE {error:.1e}");
    }
}

/// Changes the default configuration to that of a case.
type Change = fn(&mut Config);

/// Every kind of loss with its own kernel or graph, from the rollout to the weights.
const CASES: [(&str, Change); 12] = [
    ("Flow-DPPO", |_| {}),
    ("Flow-DPPO with guidance", |config| config.rollout.guidance_scale = 2.5),
    ("symmetric mask, CPS, its log-probability", |config| {
        config.objective.mask = Mask::Symmetric;
        config.objective.log_prob = LogProb::CpsSpecial;
        config.rollout.sampler = Sampler::Cps;
    }),
    ("no mask, Precise", |config| {
        config.objective.mask = Mask::None;
        config.rollout.sampler = Sampler::Precise;
    }),
    ("mask on the velocity", |config| config.objective.divergence = Divergence::Velocity),
    ("mask on the unnormalised KL, Dance", |config| {
        config.objective.divergence = Divergence::KlUnnormalised;
        config.rollout.sampler = Sampler::Dance;
    }),
    ("Flow-GRPO", |config| config.objective.name = ObjectiveName::FlowGrpo),
    ("GRPO-Guard", |config| config.objective.name = ObjectiveName::GrpoGuard),
    ("penalty: exact", |config| config.objective.reference.beta = 3.0),
    ("penalty: Flow-GRPO's, with guidance", |config| {
        config.objective.reference = Reference { beta: 30.0, kind: ReferenceKind::FlowGrpo, guidance_scale: 2.0 };
    }),
    ("penalty: of the means", |config| {
        config.objective.reference = Reference { beta: 3.0, kind: ReferenceKind::X, guidance_scale: 1.0 };
    }),
    ("penalty: of the velocities", |config| {
        config.objective.reference = Reference { beta: 0.5, kind: ReferenceKind::V, guidance_scale: 1.0 };
    }),
];

/// Places the threshold or the clip range between two terms, so that some are dropped and none is at the threshold.
fn put_threshold_between(config: &mut Config, outcomes: &[OutcomeTwin], row: Transition) {
    let middle = |of: fn(&OutcomeTwin) -> f64| {
        let mut values: Vec<f64> = outcomes.iter().map(|outcome| of(outcome).abs()).collect();
        values.sort_by(f64::total_cmp);
        0.5 * (values[1] + values[2])
    };
    config.objective.kl_mask_threshold =
        middle(|outcome| outcome.kl) * config.objective.divergence.factor(row) / row.kappa();
    let log_ratio = middle(|outcome| outcome.log_ratio);
    config.objective.clip_high = log_ratio.exp_m1();
    config.objective.clip_low = -(-log_ratio).exp_m1();
}

#[test]
fn the_gradient_of_every_update_is_right() {
    for (name, change) in CASES {
        let mut config = config();
        config.train.micro_batch = 6;
        config.objective.threshold_unit = ThresholdUnit::Mean;
        (config.objective.clip_low, config.objective.clip_high) = (0.5, 0.5);
        change(&mut config);
        let old = tiny::dit(1);
        let flow_model = &flow_model_of(&old);
        let mut parts = Parts::new(gpu(), &config, &old);
        let rollout = parts.collect(0);
        let trajectory = parts.trajectory().map(|words| floats(&words));
        // The policy has moved since the rollout.
        let new = tiny::disturbed(old.clone(), 0.02, 21);

        // Samples of both groups at the second of the trained steps.
        let rows = [0, 3, 5, 7, 8, 10].map(|sample| (sample, rollout.trained[1]));
        let row = rollout.table.rows[rollout.trained[1]];
        let update =
            |config: &Config| UpdateGraph::record(&config.into(), &flow_model.into()).expect("it fits the model");
        let stores =
            BTreeMap::from([(PARAMETERS, new.weights.clone()), (BASE, tiny::disturbed(old.clone(), 0.02, 22).weights)]);
        let weights: Vec<f64> = new.weights.iter().map(|weight| f64::from(*weight)).collect();
        // The samples do not depend on the threshold, so it can be placed between them.
        let it = update(&config);
        let given = inputs(&config, &it, flow_model, (&rollout, &trajectory), &rows);
        let loss =
            Loss { graph: &it.graph, inputs: given, stores, layout: flow_model.layout(), scalar: &|_| 0.0, base: None };
        put_threshold_between(&mut config, &outcomes_of(&it, &loss.twin(&weights)), row);

        let it = update(&config);
        let beta = config.objective.reference.beta;
        let scalar = |twin: &Interpreter| {
            let losses = outcomes_of(&it, twin).iter().map(|outcome| outcome.loss).sum::<f64>();
            let penalties = it.penalty.map_or(0.0, |penalty| twin.value(&it.graph, penalty.value).iter().sum());
            (losses + beta * penalties) / 6.0
        };
        let given = inputs(&config, &it, flow_model, (&rollout, &trajectory), &rows);
        let loss = Loss { graph: &it.graph, inputs: given, scalar: &scalar, ..loss };
        let outcomes = outcomes_of(&it, &loss.twin(&weights));
        let count = |of: &dyn Fn(&OutcomeTwin) -> bool| outcomes.iter().filter(|outcome| of(outcome)).count();
        let is_far = |outcome: &OutcomeTwin| outcome.beyond == 1.0;
        let masks = config.objective.name == ObjectiveName::FlowDppo && config.objective.mask == Mask::None;
        assert!(count(&|outcome| outcome.kept == 0.0) > 0 || masks, "{name}: a term is dropped: {outcomes:?}");
        let leads_back = config.objective.mask != Mask::Symmetric;
        assert!(
            count(&|outcome| outcome.kept == 1.0 && is_far(outcome)) > 0 || !leads_back,
            "{name}: one leads back: {outcomes:?}"
        );
        assert!(count(&|outcome| !is_far(outcome)) > 0, "{name}: a term is near: {outcomes:?}");
        for outcome in &outcomes {
            // A step of 1e-5 and the rounding of the device both move these by less than 1e-4.
            let far = outcome.kl * config.objective.divergence.factor(row) / row.kappa();
            let edges = match config.objective.name {
                ObjectiveName::FlowDppo => [far / config.objective.kl_mask_threshold - 1.0; 2],
                _ => [config.objective.clip_high.ln_1p(), (-config.objective.clip_low).ln_1p()]
                    .map(|edge| outcome.log_ratio / edge - 1.0),
            };
            assert!(edges.iter().all(|edge| edge.abs() > 1e-3), "{name}: a term is at the threshold: {outcomes:?}");
            assert!(outcome.log_ratio.abs() > 1e-5, "{name}: a ratio is at the threshold: {outcomes:?}");
        }
        // Velocities have a relative error of about 1e-6 after a dozen layers; their differences, a tenth as
        // large, 1e-5; and so the gradients, whose squared error is 1e-10.
        loss.check(name, 1e-9);
    }
}

/// DiffusionNFT divides errors by their size, which is held constant, so it must not change in the differences.
#[test]
fn the_gradient_of_diffusion_nft_is_right() {
    let mut config = config();
    config.train.micro_batch = 6;
    config.objective.name = ObjectiveName::Nft;
    config.objective.nft_beta = 0.7;
    config.rollout.sampler = Sampler::Ode;
    // Every advantage is beyond the clip, and so trains only one of the two implicit policies.
    config.advantage.clip = 0.01;
    let old = tiny::dit(1);
    let flow_model = &flow_model_of(&old);
    let mut parts = Parts::new(gpu(), &config, &old);
    let rollout = parts.collect(0);
    let trajectory = parts.trajectory().map(|words| floats(&words));
    assert_eq!(trajectory[0], rollout.images, "the samples are stored");
    let new = tiny::disturbed(old.clone(), 0.02, 21);
    let rows = [0, 3, 5, 7, 8, 10].map(|sample| (sample, rollout.trained[1]));
    let it = UpdateGraph::record(&(&config).into(), &flow_model.into()).expect("it fits the model");
    let stores = BTreeMap::from([(PARAMETERS, new.weights.clone()), (AVERAGE, old.weights.clone())]);
    let weights: Vec<f64> = new.weights.iter().map(|weight| f64::from(*weight)).collect();
    let given = || inputs(&config, &it, flow_model, (&rollout, &trajectory), &rows);
    let loss =
        Loss { graph: &it.graph, inputs: given(), stores, layout: flow_model.layout(), scalar: &|_| 0.0, base: None };
    // p or q, whichever is not 0, is 2c·t²/(D·w): a loss over it has no w, and times its value here the right one.
    let pull = |outcome: &OutcomeTwin| outcome.d_s1 + outcome.d_s2;
    let here = outcomes_of(&it, &loss.twin(&weights));
    let positive = here.iter().filter(|outcome| outcome.d_s2 == 0.0).count();
    assert!((1..6).contains(&positive), "both policies are trained: {here:?}");
    assert!(here.iter().all(|outcome| outcome.d_s1 * outcome.d_s2 == 0.0), "{here:?}");
    let scalar = |twin: &Interpreter| {
        let outcomes = outcomes_of(&it, twin);
        let terms = outcomes.iter().zip(&here).map(|(moved, here)| moved.loss / pull(moved) * pull(here));
        // Losses are near the clip, as large as in the other tests.
        terms.sum::<f64>() / 6.0
    };
    let loss = Loss { inputs: given(), scalar: &scalar, ..loss };
    loss.check("DiffusionNFT", 1e-9);
}

#[test]
fn the_gradient_of_flow_matching_is_right() {
    let model = tiny::dit(2);
    let flow_model = &flow_model_of(&model);
    let it = FlowMatchingGraph::record(&flow_model.into(), 4, Activations::default());
    let mut random = Random(31);
    let sigmas = [0.05_f32, 0.4, 0.7, 0.95];
    let keys = (0..4).flat_map(|sample| noise_words(NoiseKey { seed: 5, rollout: 0, sample, step: 9 }));
    let inputs = vec![
        (it.images, Values::F32((0..4 * 64).map(|_| random.normal() as f32).collect())),
        (classes_of(it.condition), Values::U32(vec![0, 1, 2, flow_model.largest_condition()])),
        (it.time, Values::F32(sigmas.map(|sigma| flow_model.time_of(f64::from(sigma))).to_vec())),
        (it.keys, Values::U32(keys.collect())),
        (it.to_noisy, Values::F32(sigmas.iter().flat_map(|sigma| [1.0 - sigma, 0.0, *sigma]).collect())),
        (it.weight, Values::F32(vec![0.25; 4])),
    ];
    let stores = BTreeMap::from([(PARAMETERS, model.weights.clone())]);
    let scalar = |twin: &Interpreter| twin.value(&it.graph, it.loss).iter().sum();
    // The angles of time features reach 1000, where f32 rounds by 3e-5: a squared error of 1e-9 in the fastest.
    Loss { graph: &it.graph, inputs, stores, layout: flow_model.layout(), scalar: &scalar, base: None }
        .check("flow matching", 1e-9);
}

/// Both matrices of every adaptable layer, including the convolution.
#[test]
fn the_gradient_of_an_adapter_is_right() {
    for weights in WeightType::ALL {
        check_adapter(weights);
    }
}

fn check_adapter(weights: WeightType) {
    // Rows of 256 and 32 weights have 8-bit blocks, those of 16 do not.
    let model = tiny::dit(2);
    let flow_model = &flow_model_of(&model);
    let mut config = config();
    (config.lora.rank, config.lora.targets) = (3, vec!["*".into()]);
    let adapter =
        Adapter::begin(&config.lora, config.run.seed, flow_model).expect("it fits the model").expect("there is one");
    let network = Network::new(flow_model, Some(&adapter), weights);
    let mut graph = Graph::new();
    let [x, target] = ["x", "target"].map(|name| graph.input(name, &flow_model.batch_shape(4)));
    let (time, labels) = (graph.input("time", &[4]), graph.input_indices("labels", &[4]));
    let factor = graph.constant("factor", &[4], vec![1.0; 4]);
    let velocity = network.declare(&mut graph, PARAMETERS, Some(GRADIENTS));
    let velocity = velocity.guided_velocity(&mut graph, x, time, ConditionInput::Classes(labels), 2.0);
    let loss = mean_squared_error(&mut graph, velocity, target, factor);
    let quarter = graph.constant("quarter", &[4], vec![0.25; 4]);
    backward(&mut graph, &[(loss, quarter)], &[]);

    let mut random = Random(51);
    let mut images = || Values::F32((0..4 * 64).map(|_| random.normal() as f32).collect());
    let inputs = vec![
        (x, images()),
        (target, images()),
        (time, Values::F32(vec![50.0, 400.0, 700.0, 950.0])),
        (labels, Values::U32(vec![0, 1, 2, 1])),
    ];
    // With B zero no gradient reaches A.
    let matrices = tiny::disturbed_adapter(&flow_model_of(&model), adapter, 0.2, 52).weights;
    let stores = BTreeMap::from([(PARAMETERS, matrices)]);
    let scalar = |twin: &Interpreter| twin.value(&graph, loss).iter().sum::<f64>() / 4.0;
    let frozen = Frozen::new(&flow_model.layout(), weights);
    let base = (frozen.pack(&model.weights).expect("it fits"), frozen.interpreted(&model.weights).expect("it fits"));
    let base = Some(base);
    let loss = Loss { graph: &graph, inputs, stores, layout: network.layout(), scalar: &scalar, base };
    // The same tolerance as for flow matching, which has the same time features.
    loss.check(&format!("LoRA on {}", weights.name()), 1e-9);
}

#[test]
fn the_gradient_of_the_classifier_is_right() {
    let model = tiny::classifier();
    let network = model.classifier("the tiny classifier").expect("it is one");
    let mut graph = Graph::new();
    let images = graph.input("images", &[5, network.dim()]);
    let labels = graph.input_indices("labels", &[5]);
    let weight = graph.constant("weight", &[5], vec![0.2; 5]);
    let parameters = network.layout().declare(&mut graph, PARAMETERS, Some(GRADIENTS));
    let logits = Classifier::new(parameters).logits(&mut graph, images);
    let [loss, _, _] = cross_entropy(&mut graph, logits, labels, weight);
    let ones = graph.constant("ones", &[5], vec![1.0; 5]);
    backward(&mut graph, &[(loss, ones)], &[]);
    let mut random = Random(41);
    let inputs = vec![
        (images, Values::F32((0..5 * 64).map(|_| random.normal() as f32).collect())),
        (labels, Values::U32(vec![0, 1, 2, 1, 0])),
    ];
    let stores = BTreeMap::from([(PARAMETERS, model.weights.clone())]);
    let scalar = |twin: &Interpreter| twin.value(&graph, loss).iter().sum();
    // Three layers of sums of up to 64 terms.
    Loss { graph: &graph, inputs, stores, layout: network.layout(), scalar: &scalar, base: None }
        .check("cross-entropy", 1e-11);
}

//! Two updates can be recomputed from the file of `train --dump-update` alone.

use std::collections::BTreeMap;

use flowdppo_wgpu::config::{Config, LogProb, Mask, ObjectiveName};
use flowdppo_wgpu::graph::{Graph, Interpreter};
use flowdppo_wgpu::model::{ConditionInput, FlowModel, Tensors, parse_tensors};
use flowdppo_wgpu::optimizer::PARAMETERS;
use flowdppo_wgpu::rl::Trainer;

use crate::common::{gpu, nmse, tiny};
use crate::{classifier_file, flow_model_of};

struct Dump(Tensors);

impl Dump {
    fn of(change: impl Fn(&mut Config)) -> (Self, Config) {
        let (_folder, file) = classifier_file();
        let mut config = tiny::config(&file);
        change(&mut config);
        let mut trainer = Trainer::observed(gpu(), (&config).into(), &tiny::dit(2)).expect("it is small");
        trainer.iteration(0).expect("the device works");
        let bytes = trainer.take_dump(&config.to_toml()).expect("the first rollout is observed");
        trainer.iteration(1).expect("the device works");
        assert!(trainer.take_dump("").is_none(), "only the first rollout is");
        (Self(parse_tensors("the dump", &bytes).expect("it is complete")), config)
    }

    fn get(&self, name: &str) -> Vec<f64> {
        let (shape, values) = self.0.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        values.iter().map(|value| f64::from(*value)).collect()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.get(name).into_iter().map(|value| value as f32).collect()
    }

    /// All weights of one kind, by name.
    fn weights(&self, prefix: &str) -> BTreeMap<String, Vec<f64>> {
        let name = |name: &String| name.strip_prefix(prefix).map(str::to_owned);
        self.0.keys().filter_map(|key| Some((name(key)?, self.get(key)))).collect()
    }
}

/// Compares f32 results with their recomputation: sums of 64 products, and a few more roundings.
fn close(name: &str, actual: &[f32], expected: &[f64]) {
    let error = nmse(actual, expected);
    assert!(error < 1e-10, "{name}: NMSE {error:.1e}");
}

/// The network's velocity in f64.
fn velocity(
    flow_model: &FlowModel,
    parameters: &BTreeMap<String, Vec<f64>>,
    x: &[f64],
    time: &[f64],
    labels: &[f64],
) -> Vec<f64> {
    let mut graph = Graph::new();
    let rows = labels.len();
    let inputs = [
        graph.input("x", &flow_model.batch_shape(rows)),
        graph.input("time", &[rows]),
        graph.input_indices("labels", &[rows]),
    ];
    let layout = flow_model.layout();
    let network = flow_model.network(layout.declare(&mut graph, PARAMETERS, None));
    let v = network.velocity(&mut graph, inputs[0], inputs[1], ConditionInput::Classes(inputs[2]));
    let mut store = vec![0.0; layout.elements()];
    for entry in layout.entries() {
        store[entry.offset..entry.offset + entry.elements()].copy_from_slice(&parameters[&entry.name]);
    }
    let mut twin = Interpreter::new([(PARAMETERS, store)].into());
    for (tensor, values) in inputs.into_iter().zip([x, time, labels]) {
        twin.write(tensor, values);
    }
    twin.run(&graph);
    twin.value(&graph, v).to_vec()
}

/// Loss, ln ratio, KL and whether a term is kept, by the definitions; `dt` is σ' − σ.
fn objective(config: &Config, [a, s1, s2]: [f64; 3], row: &[f64], dt: f64, dim: f64) -> [f64; 4] {
    let (b, s) = (row[1], row[2]);
    let kl = b * b / (2.0 * s * s * dim) * s2;
    let gaussian = b / (s * dim) * s1 - kl;
    let is_guard = config.objective.name == ObjectiveName::GrpoGuard;
    let log_ratio = match config.objective.log_prob {
        _ if is_guard => s * (gaussian + kl),
        LogProb::CpsSpecial => 2.0 * s * s * gaussian,
        LogProb::Gaussian => gaussian,
    };
    let weight = if is_guard { -1.0 / dt } else { 1.0 };
    let ratio = log_ratio.exp();
    let per_element = |sum: f64| sum / dim;
    let (loss, kept) = match config.objective.name {
        ObjectiveName::FlowDppo => {
            let outward = log_ratio * a > 0.0;
            let drop = kl >= per_element(config.objective.kl_mask_threshold)
                && (outward || config.objective.mask == Mask::Symmetric);
            (if drop { 0.0 } else { -a * ratio }, !drop)
        }
        _ => {
            let low = 1.0 - per_element(config.objective.clip_low);
            let high = 1.0 + per_element(config.objective.clip_high);
            let kept = if a >= 0.0 { ratio <= high } else { ratio >= low };
            (weight * (-a * ratio).max(-a * ratio.clamp(low, high)), kept)
        }
    };
    [loss, log_ratio, kl, f64::from(u8::from(kept))]
}

fn check(dump: &Dump, config: &Config) {
    let model = tiny::dit(2);
    let flow_model = &flow_model_of(&model);
    let dim = flow_model.dim();
    let mut moments: BTreeMap<String, Vec<[f64; 2]>> = BTreeMap::new();
    for update in 0..2 {
        let get = |part: &str| dump.get(&format!("update{update}.{part}"));
        let floats = |part: &str| dump.floats(&format!("update{update}.{part}"));
        let (rows, labels, advantages) = (get("rows"), get("labels"), get("advantages"));
        let count = labels.len();
        assert_eq!(count, 6 * 3, "six samples, three trained steps");

        // The velocity is that of the network with the weights before the update.
        let before = dump.weights(&format!("update{update}.parameters_before."));
        let v_new = velocity(flow_model, &before, &get("x"), &get("time"), &labels);
        close("v_new", &floats("v_new"), &v_new);

        // The loss follows from velocities, noise and advantages by definition.
        let (v_old, v_new, noise) = (get("v_old"), get("v_new"), get("noise"));
        let (sigma, sigma_next) = (get("sigma"), get("sigma_next"));
        let mut expected = [(); 4].map(|()| Vec::new());
        for row in 0..count {
            let part = row * dim..(row + 1) * dim;
            let delta: Vec<f64> = part.clone().map(|i| v_new[i] - v_old[i]).collect();
            let s1 = delta.iter().zip(&noise[part]).map(|(delta, noise)| delta * noise).sum();
            let s2 = delta.iter().map(|delta| delta * delta).sum();
            let dt = sigma_next[row] - sigma[row];
            let found = objective(config, [advantages[row], s1, s2], &rows[3 * row..], dt, dim as f64);
            expected.iter_mut().zip(found).for_each(|(column, value)| column.push(value));
        }
        for (name, expected) in ["row_losses", "log_ratio", "kl", "mask"].into_iter().zip(&expected) {
            if update == 0 && name != "row_losses" {
                // Nothing has moved: the values are exact, and every term is kept.
                let exact = if name == "mask" { 1.0 } else { 0.0 };
                assert!(floats(name).iter().all(|value| *value == exact), "{name} of the first update");
            } else {
                close(name, &floats(name), expected);
            }
        }
        if update == 1 {
            let dropped = get("mask").iter().filter(|kept| **kept == 0.0).count();
            assert!((1..count).contains(&dropped), "{dropped} of {count} terms are dropped: the test proves little");
        }
        let beta = config.objective.reference.beta;
        let penalty = if beta > 0.0 { get("penalties").iter().sum::<f64>() / count as f64 } else { 0.0 };
        assert!(beta == 0.0 || update == 0 || penalty > 0.0, "the policy has moved from the base");
        let loss = expected[0].iter().sum::<f64>() / count as f64 + beta * penalty;
        assert!((get("loss")[0] - loss).abs() < 1e-5, "{} instead of {loss}", get("loss")[0]);

        // The new weights follow from the gradients by AdamW.
        let gradients = dump.weights(&format!("update{update}.gradients."));
        let norm = gradients.values().flatten().map(|g| g * g).sum::<f64>().sqrt();
        assert!((get("gradient_norm")[0] / norm - 1.0).abs() < 1e-5);
        let clip = (config.train.max_grad_norm / (norm + 1e-6)).min(1.0);
        let after = dump.weights(&format!("update{update}.parameters_after."));
        assert_eq!(after.len(), before.len());
        for (name, gradients) in &gradients {
            let moments = moments.entry(name.clone()).or_insert_with(|| vec![[0.0; 2]; gradients.len()]);
            let step = update + 1;
            let mut expected = Vec::new();
            for ((gradient, [m, v]), weight) in gradients.iter().zip(moments).zip(&before[name]) {
                let g = clip * gradient;
                // Decays in f32, as on the device.
                let [beta1, beta2] = [config.train.beta1, config.train.beta2].map(|beta| f64::from(beta as f32));
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                let corrected =
                    *m / (1.0 - beta1.powi(step)) / ((*v / (1.0 - beta2.powi(step))).sqrt() + config.train.epsilon);
                expected.push(weight - config.train.learning_rate * corrected);
            }
            let actual: Vec<f32> = after[name].iter().map(|value| *value as f32).collect();
            close(name, &actual, &expected);
        }
    }
    let next = dump.weights("update1.parameters_before.");
    assert_eq!(next, dump.weights("update0.parameters_after."), "the second update starts where the first ended");

    // Samples are disjoint, and the advantages of all are in the file.
    let [first, second] = [0, 1].map(|update| dump.get(&format!("update{update}.sample")));
    assert!(first.iter().all(|sample| !second.contains(sample)));
    let all = dump.get("rollout.advantages");
    for (update, samples) in [first, second].iter().enumerate() {
        let of_rows = dump.get(&format!("update{update}.advantages"));
        assert!(samples.iter().zip(of_rows).all(|(sample, advantage)| all[*sample as usize] == advantage));
    }
    assert_eq!(dump.get("rollout.rewards.0").len(), all.len());
}

#[test]
fn an_update_can_be_recomputed_from_its_dump() {
    for (name, log_prob, mask) in [
        (ObjectiveName::FlowDppo, LogProb::Gaussian, Mask::Asymmetric),
        (ObjectiveName::FlowDppo, LogProb::CpsSpecial, Mask::Symmetric),
        (ObjectiveName::FlowGrpo, LogProb::Gaussian, Mask::Asymmetric),
        (ObjectiveName::GrpoGuard, LogProb::Gaussian, Mask::Asymmetric),
    ] {
        let (dump, config) = Dump::of(|config| {
            config.objective.name = name;
            config.objective.reference.beta = if mask == Mask::Symmetric { 0.1 } else { 0.0 };
            config.objective.log_prob = log_prob;
            config.objective.mask = mask;
            // Among the values of the second update.
            config.objective.kl_mask_threshold = 4.0;
            config.objective.clip_low = 0.01;
            config.objective.clip_high = 0.01;
            config.objective.threshold_unit = flowdppo_wgpu::config::ThresholdUnit::Sum;
        });
        check(&dump, &config);
    }
}

#[test]
fn a_single_update_is_a_single_part() {
    let (dump, _) = Dump::of(|config| {
        config.train.updates_per_rollout = 1;
        config.train.inner_epochs = 1;
    });
    assert!(dump.0.contains_key("update0.kl") && !dump.0.contains_key("update1.kl"));
}

#[test]
fn a_forward_process_update_contains_the_parts_of_its_input() {
    let (dump, _) = Dump::of(|config| {
        config.objective.name = ObjectiveName::Nft;
        config.rollout.sampler = flowdppo_wgpu::config::Sampler::Ode;
    });
    for update in ["update0", "update1"] {
        let get = |part: &str| dump.get(&format!("{update}.{part}"));
        let (samples, noise, rows) = (get("samples"), get("noise"), get("rows"));
        let dim = samples.len() / (rows.len() / 3);
        let mixed = |i: usize| rows[3 * (i / dim)] * samples[i] + rows[3 * (i / dim) + 2] * noise[i];
        close("x", &dump.floats(&format!("{update}.x")), &(0..samples.len()).map(mixed).collect::<Vec<f64>>());
        let msd = get("v_new").iter().zip(get("v_old")).map(|(new, old)| (new - old).powi(2)).collect::<Vec<f64>>();
        let msd: Vec<f64> = msd.chunks(dim).map(|row| row.iter().sum::<f64>() / dim as f64).collect();
        close("velocity_msd", &dump.floats(&format!("{update}.velocity_msd")), &msd);
        assert!(get("share").iter().all(|share| (0.0..=1.0).contains(share)));
        assert!(!dump.0.contains_key(&format!("{update}.kl")));
    }
}

use std::collections::BTreeMap;

use flowdppo_wgpu::gpu::ShaderStruct;
use flowdppo_wgpu::graph::{Graph, Interpreter, Plan, Store, Stores, Tensor};
use flowdppo_wgpu::ops::{Accumulate, AdamW, AdamWSettings, AdamWStep, Optimized, sum_squares};

use crate::common::{Random, gpu, nmse};

const STORES: [Store; 5] =
    [Store("parameters"), Store("first moment"), Store("second moment"), Store("gradients"), Store("average")];

const SETTINGS: AdamWSettings = AdamWSettings {
    learning_rate: 1e-2,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.1,
    loss_scale: 1.0,
    max_grad_norm: 0.0,
    average_decay: 0.9,
};

/// Parameters under training, on the device and in the twin.
struct Training {
    graph: Graph,
    plan: Plan,
    twin: Interpreter,
    given: Tensor,
    settings: Tensor,
    /// Parameters, first and second moment, gradients, average.
    stored: [Tensor; 5],
}

impl Training {
    fn new(parameters: &[f32]) -> Self {
        let elements = parameters.len();
        let mut graph = Graph::new();
        let given = graph.input("given", &[elements]);
        let settings = graph.input("settings", &[AdamWStep::WORDS]);
        let stored = STORES.map(|store| graph.stored(store.0, &[elements], store, 0));
        let [parameters_tensor, first_moment, second_moment, gradients, average] = stored;
        // Gradients add up, as in a backward pass: if they were not cleared, the next step would show it.
        graph.push_into(Accumulate, &[given], &[gradients]);
        let sums = sum_squares(&mut graph, gradients);
        let optimized = Optimized { parameters: parameters_tensor, first_moment, second_moment, gradients, average };
        AdamW.record(&mut graph, optimized, settings, sums);
        let mut stores = Stores::new();
        let mut contents = BTreeMap::new();
        for store in STORES {
            let values = if store == STORES[0] { parameters.to_vec() } else { vec![0.0; elements] };
            let buffer = gpu().allocate(store.0, 4 * elements as u64).expect("it is small");
            gpu().write(&buffer, 0, &values);
            stores.insert(store, buffer.into());
            contents.insert(store, values.iter().map(|value| f64::from(*value)).collect());
        }
        let plan = Plan::new(gpu(), &graph, &stores).expect("it is small");
        Self { graph, plan, twin: Interpreter::new(contents), given, settings, stored }
    }

    fn step(&mut self, gradients: &[f32], settings: AdamWStep) {
        let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
        self.plan.write(self.given, gradients);
        self.plan.write_structs(self.settings, &[settings]);
        self.twin.write(self.given, &wide(gradients));
        self.twin.write(self.settings, &wide(bytemuck::cast_slice(&[settings])));
        self.plan.run().expect("the device works");
        self.twin.run(&self.graph);
    }

    fn read(&self) -> [Vec<f32>; 5] {
        self.stored.map(|tensor| self.plan.read(&[tensor]).expect("the device works"))
    }
}

fn normals(random: &mut Random, count: usize, scale: f64) -> Vec<f32> {
    (0..count).map(|_| (random.normal() * scale) as f32).collect()
}

#[test]
fn many_steps_follow_the_twin() {
    for elements in [1, 63, 65, 4099] {
        for max_grad_norm in [0.0, 1.0, 1e3] {
            let settings = AdamWSettings { max_grad_norm, ..SETTINGS };
            let mut random = Random(7);
            let mut training = Training::new(&normals(&mut random, elements, 1.0));
            for step in 1..=20 {
                let gradients = normals(&mut random, elements, 1.0 + step as f64);
                training.step(&gradients, settings.at_step(step));
            }
            let actual = training.read();
            for (index, tensor) in training.stored.iter().enumerate().filter(|(index, _)| *index != 3) {
                // Twenty steps of a few roundings each.
                let error = nmse(&actual[index], training.twin.value(&training.graph, *tensor));
                assert!(error < 1e-11, "{elements} elements, {}: NMSE {error:.1e}", STORES[index].0);
            }
            assert!(actual[3].iter().all(|gradient| *gradient == 0.0), "gradients are cleared");
        }
    }
}

#[test]
fn past_65535_workgroups() {
    let elements = 65_536 * 256 + 3;
    let mut training = Training::new(&vec![1.0; elements]);
    training.step(&vec![0.5; elements], SETTINGS.at_step(1));
    let [parameters, ..] = training.read();
    assert_eq!(parameters[0], parameters[elements - 1]);
    assert!((parameters[0] - 0.989).abs() < 1e-6, "{}", parameters[0]);
}

#[test]
fn the_first_step_has_the_size_of_the_learning_rate() {
    // By hand: moments are corrected to g and g^2, so a step is the learning rate times the sign of g, and
    // decay subtracts a tenth of that from a parameter of 1.
    let mut training = Training::new(&[1.0, 1.0, 1.0]);
    training.step(&[5.0, -1e-3, 0.0], SETTINGS.at_step(1));
    let [parameters, first_moment, ..] = training.read();
    for (actual, expected) in parameters.iter().zip([0.989, 1.009, 0.999]) {
        assert!((actual - expected).abs() < 1e-6, "{actual} instead of {expected}");
    }
    assert!((first_moment[0] - 0.5).abs() < 1e-6);
}

#[test]
fn clipping_scales_all_gradients_together() {
    let mut training = Training::new(&[0.0, 0.0]);
    training.step(&[30.0, 40.0], AdamWSettings { max_grad_norm: 1.0, ..SETTINGS }.at_step(1));
    let [_, first_moment, ..] = training.read();
    for (actual, expected) in first_moment.iter().zip([0.06, 0.08]) {
        assert!((actual - expected).abs() < 1e-7, "{actual} instead of {expected}");
    }
}

#[test]
fn gradients_that_are_not_finite_change_nothing() {
    // The last overflows only when squared.
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
        let mut random = Random(9);
        let mut training = Training::new(&normals(&mut random, 4099, 1.0));
        let settings = AdamWSettings { max_grad_norm: 1.0, ..SETTINGS };
        let good = normals(&mut random, 4099, 1.0);
        training.step(&good, settings.at_step(1));
        let before = training.read();
        let mut bad = good.clone();
        bad[4097] = odd;
        training.step(&bad, settings.at_step(2));
        let after = training.read();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        for index in 0..3 {
            assert_eq!(bits(&after[index]), bits(&before[index]), "{} after {odd}", STORES[index].0);
        }
        assert!(bits(&after[3]).iter().all(|word| *word == 0), "{odd} stays in the gradients");
        // And training continues.
        training.step(&good, settings.at_step(2));
        assert_ne!(training.read()[0], before[0]);
    }
}

#[test]
fn the_average_is_updated_even_if_a_step_is_skipped() {
    let mut training = Training::new(&[1.0, -2.0]);
    // The average starts at zero and moves a tenth of the way, twice.
    for expected in [[0.1, -0.2], [0.19, -0.38]] {
        training.step(&[f32::NAN, 1.0], SETTINGS.at_step(1));
        let [parameters, .., average] = training.read();
        assert_eq!(parameters, [1.0, -2.0]);
        for (actual, expected) in average.iter().zip(expected) {
            assert!((actual - expected).abs() < 1e-6, "{actual} instead of {expected}");
        }
    }
}

#[test]
fn the_ends_of_the_decay_are_exact() {
    for (average_decay, copies) in [(0.0, true), (1.0, false)] {
        let mut training = Training::new(&[0.3, -0.7, 1e-3]);
        training.step(&[1.0, -1.0, 0.5], AdamWSettings { average_decay, ..SETTINGS }.at_step(1));
        let [parameters, .., average] = training.read();
        assert_eq!(average, if copies { parameters } else { vec![0.0; 3] }, "decay {average_decay}");
    }
}

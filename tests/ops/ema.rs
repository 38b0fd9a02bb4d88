use std::collections::BTreeMap;

use flowdppo_wgpu::graph::{Graph, Interpreter, Plan, Store, Stores};
use flowdppo_wgpu::ops::Ema;

use crate::common::{Random, gpu, nmse};

const AVERAGE: Store = Store("average");

/// Averages four tensors in turn; returns the device's average and the twin's.
fn averages(elements: usize, decay: f32) -> (Vec<f32>, Vec<f64>, Vec<f32>) {
    let mut graph = Graph::new();
    let x = graph.input("x", &[elements]);
    let decay_input = graph.input("decay", &[1]);
    let average = graph.stored("average", &[elements], AVERAGE, 0);
    Ema.record(&mut graph, average, x, decay_input);
    let mut stores = Stores::new();
    stores.insert(AVERAGE, gpu().allocate("average", 4 * elements as u64).expect("it is small"));
    let mut plan = Plan::new(gpu(), &graph, &stores).expect("it is small");
    let mut twin = Interpreter::new(BTreeMap::from([(AVERAGE, vec![0.0; elements])]));
    gpu().write(&stores[&AVERAGE], 0, &vec![0.0_f32; elements]);
    plan.write(decay_input, &[decay]);
    twin.write(decay_input, &[f64::from(decay)]);
    let mut random = Random(5);
    let mut last = Vec::new();
    for _ in 0..4 {
        last = (0..elements).map(|_| random.normal() as f32).collect();
        plan.write(x, &last);
        twin.write(x, &last.iter().map(|value| f64::from(*value)).collect::<Vec<_>>());
        plan.run().expect("the device works");
        twin.run(&graph);
    }
    (plan.read(&[average]).expect("the device works"), twin.value(&graph, average).to_vec(), last)
}

#[test]
fn odd_sizes() {
    for elements in [1, 63, 65, 4099, 65_536 * 64 + 3] {
        let (actual, expected, _) = averages(elements, 0.9);
        assert!(nmse(&actual, &expected) < 1e-13, "{elements}");
    }
}

#[test]
fn the_ends_of_the_range_are_exact() {
    let (actual, _, last) = averages(77, 0.0);
    assert_eq!(actual, last);
    let (actual, _, _) = averages(77, 1.0);
    assert_eq!(actual, [0.0; 77]);
}

use flowdppo_wgpu::graph::{Graph, Plan, Store, Stores};
use flowdppo_wgpu::ops::Fill;

use crate::common::{gpu, run, words};

#[test]
fn every_element_has_the_value() {
    for shape in [vec![1], vec![7], vec![64], vec![3, 5, 7], vec![65_536 * 64 + 3]] {
        let filled = run(&[(&[1], &words(&[-2.5]))], |graph, x| vec![graph.apply(Fill::new(&shape), x)]);
        assert_eq!(filled[0].len(), shape.iter().product::<usize>());
        assert!(filled[0].iter().all(|bits| f32::from_bits(*bits) == -2.5));
    }
}

#[test]
fn a_stored_tensor_is_cleared_and_its_neighbours_are_not() {
    const STORE: Store = Store("gradients");
    let mut graph = Graph::new();
    let zero = graph.input("zero", &[1]);
    let all = graph.stored("all", &[192], STORE, 0);
    let middle = graph.stored("middle", &[33], STORE, 64);
    graph.push_into(Fill::new(&[33]), &[zero], &[middle]);
    let mut stores = Stores::new();
    stores.insert(STORE, gpu().allocate("gradients", 4 * 192).expect("it is small"));
    gpu().write(&stores[&STORE], 0, &[f32::NAN; 192]);
    let mut plan = Plan::new(gpu(), &graph, &stores).expect("it is small");
    plan.write(zero, &[0.0_f32]);
    plan.run().expect("the device works");
    let values: Vec<f32> = plan.read(&[all]).expect("the device works");
    for (index, value) in values.iter().enumerate() {
        assert_eq!(value.to_bits() == 0, (64..97).contains(&index), "element {index} is {value}");
    }
}

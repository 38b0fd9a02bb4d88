use flowdppo_wgpu::ops::PolicyStats;

use crate::common::{Input, check, check_forward, check_rows_are_independent, run, words};

/// Sums in trees: a few roundings of terms that partly cancel.
const TOLERANCE: f64 = 1e-12;

fn inputs(shape: &[usize]) -> [Input; 3] {
    [Input::normal(shape), Input::normal(shape).constant(), Input::normal(shape).constant()]
}

#[test]
fn odd_shapes() {
    for shape in [vec![1, 1], vec![1, 63], vec![3, 64], vec![2, 65], vec![5, 3, 7, 11], vec![67, 5], vec![2, 4099]] {
        check("policy_stats", &inputs(&shape), TOLERANCE, |graph, x| vec![graph.apply(PolicyStats, x)]);
    }
}

#[test]
fn past_65535_workgroups() {
    check_forward("policy_stats", &inputs(&[65_539, 2]), TOLERANCE, |graph, x| vec![graph.apply(PolicyStats, x)]);
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    check_rows_are_independent("policy_stats", 131, &inputs(&[131, 97]), |graph, x| vec![graph.apply(PolicyStats, x)]);
}

#[test]
fn equal_velocities_give_exact_zeros() {
    let (velocity, epsilon) = (words(&[0.1, -2.3, 1e-30, 3e7, 0.7]), words(&[1.0, -1.0, 5.0, 0.3, -0.2]));
    let shape: &[usize] = &[1, 5];
    let stats =
        run(&[(shape, &velocity), (shape, &velocity), (shape, &epsilon)], |graph, x| vec![graph.apply(PolicyStats, x)]);
    assert!(stats[0].iter().all(|bits| f32::from_bits(*bits) == 0.0), "{stats:?}");
}

use flowdppo_wgpu::graph::{DeviceProfile, Graph, Tensor};
use flowdppo_wgpu::ops::policy_stats;

use crate::common::{
    Input, check, check_forward, check_forward_on, check_gradient_on, check_rows_are_independent, gpu, run, words,
};

/// Sums in trees: a few roundings of terms that partly cancel.
const TOLERANCE: f64 = 1e-12;

fn inputs(shape: &[usize]) -> [Input; 3] {
    [Input::normal(shape), Input::normal(shape).constant(), Input::normal(shape).constant()]
}

fn record(graph: &mut Graph, x: &[Tensor]) -> Vec<Tensor> {
    vec![policy_stats(graph, x[0], x[1], x[2])]
}

#[test]
fn odd_shapes() {
    for shape in [vec![1, 1], vec![1, 63], vec![3, 64], vec![2, 65], vec![5, 3, 7, 11], vec![67, 5], vec![2, 4099]] {
        check("policy_stats", &inputs(&shape), TOLERANCE, record);
    }
}

/// As on a GPU, with vectors if the columns are a multiple of 4.
#[test]
fn odd_shapes_in_vectors() {
    let profile = DeviceProfile { cpu: false, ..DeviceProfile::of(gpu()) };
    for shape in [vec![1, 4], vec![1, 63], vec![3, 64], vec![2, 260], vec![2, 4096], vec![2, 4100], vec![3, 8191]] {
        let inputs = inputs(&shape);
        check_forward_on(&profile, &format!("policy_stats {shape:?}"), &inputs, TOLERANCE, record);
        check_gradient_on(&profile, &format!("policy_stats {shape:?}"), &inputs, TOLERANCE, record);
    }
}

/// The latents of pictures of 512 and of 1024 pixels: long rows are cut into chunks.
#[test]
fn rows_of_large_pictures() {
    for cpu in [true, false] {
        let profile = DeviceProfile { cpu, ..DeviceProfile::of(gpu()) };
        for shape in [[3, 65_536], [1, 262_144]] {
            check_forward_on(&profile, &format!("policy_stats {shape:?}"), &inputs(&shape), TOLERANCE, record);
        }
    }
}

#[test]
fn past_65535_workgroups() {
    check_forward("policy_stats", &inputs(&[65_539, 2]), TOLERANCE, record);
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    check_rows_are_independent("policy_stats", 131, &inputs(&[131, 97]), record);
    check_rows_are_independent("policy_stats", 7, &inputs(&[7, 9000]), record);
}

#[test]
fn equal_velocities_produce_exact_zeros() {
    let (velocity, epsilon) = (words(&[0.1, -2.3, 1e-30, 3e7, 0.7]), words(&[1.0, -1.0, 5.0, 0.3, -0.2]));
    let shape: &[usize] = &[1, 5];
    let stats = run(&[(shape, &velocity), (shape, &velocity), (shape, &epsilon)], record);
    assert!(stats[0].iter().all(|bits| f32::from_bits(*bits) == 0.0), "{stats:?}");
}

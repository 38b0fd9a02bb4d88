use flowdppo_wgpu::ops::mean_squared_error;

use crate::common::{Input, check, check_forward, check_rows_are_independent};

/// A sum in a tree of squares: a few roundings.
const TOLERANCE: f64 = 1e-13;

fn inputs(shape: &[usize]) -> [Input; 3] {
    [Input::normal(shape), Input::normal(shape).constant(), Input::normal(&shape[..1]).constant()]
}

#[test]
fn odd_shapes() {
    for shape in [vec![1, 1], vec![1, 63], vec![3, 64], vec![2, 65], vec![5, 3, 7, 11], vec![67, 5], vec![2, 4099]] {
        check("mean_squared_error", &inputs(&shape), TOLERANCE, |graph, x| {
            vec![mean_squared_error(graph, x[0], x[1], x[2])]
        });
    }
}

#[test]
fn past_65535_workgroups() {
    check_forward("mean_squared_error", &inputs(&[65_539, 2]), TOLERANCE, |graph, x| {
        vec![mean_squared_error(graph, x[0], x[1], x[2])]
    });
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    check_rows_are_independent("mean_squared_error", 131, &inputs(&[131, 97]), |graph, x| {
        vec![mean_squared_error(graph, x[0], x[1], x[2])]
    });
}

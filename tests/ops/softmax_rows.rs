use flowdppo_wgpu::graph::{Graph, Tensor};
use flowdppo_wgpu::ops::SoftmaxRows;

use crate::common::{Input, Values, check_forward, check_rows_are_independent, floats, run, words};

/// Exponentials of drivers are exact to a few units in the last place; their arguments are rounded once.
const TOLERANCE: f64 = 1e-11;

fn softmax(graph: &mut Graph, x: Tensor) -> Vec<Tensor> {
    vec![graph.apply(SoftmaxRows { factor: 0.5 }, &[x])]
}

#[test]
fn odd_and_real_sizes() {
    for shape in [vec![1, 1], vec![3, 7], vec![2, 5, 65], vec![130, 64], vec![4, 1024], vec![3, 4096]] {
        check_forward("softmax", &[Input::normal(&shape)], TOLERANCE, |graph, x| softmax(graph, x[0]));
    }
}

#[test]
fn extreme_values() {
    check_forward("wide", &[Input::new(&[5, 257], Values::Between(-150.0, 150.0))], 1e-9, |graph, x| {
        softmax(graph, x[0])
    });
    check_forward("far out", &[Input::new(&[5, 66], Values::Fixed(&[-3e4, -3e4 + 1.0]))], TOLERANCE, |graph, x| {
        softmax(graph, x[0])
    });
    check_forward("zeros", &[Input::new(&[2, 33], Values::Fixed(&[0.0]))], TOLERANCE, |graph, x| softmax(graph, x[0]));
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    check_rows_are_independent("softmax", 9, &[Input::normal(&[9, 3, 301])], |graph, x| softmax(graph, x[0]));
}

#[test]
fn a_row_with_nan_or_infinity_is_not_finite() {
    for lost in [f32::NAN, f32::INFINITY] {
        // The second row is finite.
        let mut values = vec![0.5_f32; 140];
        values[67] = lost;
        let outputs = run(&[(&[2, 70], &words(&values))], |graph, x| softmax(graph, x[0]));
        let (first, second) = outputs[0].split_at(70);
        assert!(floats(first).iter().all(|value| !value.is_finite()), "the row has {lost}");
        assert!(floats(second).iter().all(|value| value.is_finite()), "a neighbour has {lost}");
    }
}

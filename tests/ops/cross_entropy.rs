use flowdppo_wgpu::graph::DType;
use flowdppo_wgpu::ops::cross_entropy;

use crate::common::{Input, Values, check_forward, check_gradient, check_rows_are_independent, floats, run_of, words};

/// Exponential and logarithm of GPUs: errors of about 1e-6.
const TOLERANCE: f64 = 1e-11;

/// A gradient is a probability less one: where that is 1e-2, an error of 1e-7 is one of 1e-5.
const GRADIENT_TOLERANCE: f64 = 1e-9;

fn inputs(rows: usize, classes: usize) -> [Input; 3] {
    let logits = Input::new(&[rows, classes], Values::Scaled(3.0));
    [logits, Input::index(&[rows], classes as u32), Input::normal(&[rows]).constant()]
}

#[test]
fn odd_shapes() {
    for (rows, classes) in [(1, 1), (1, 2), (3, 10), (64, 7), (65, 3), (7, 131), (200, 10)] {
        check_forward("cross_entropy", &inputs(rows, classes), TOLERANCE, |graph, x| {
            cross_entropy(graph, x[0], x[1], x[2]).to_vec()
        });
        check_gradient("cross_entropy", &inputs(rows, classes), GRADIENT_TOLERANCE, |graph, x| {
            vec![cross_entropy(graph, x[0], x[1], x[2])[0]]
        });
    }
}

#[test]
fn past_65535_workgroups() {
    check_forward("cross_entropy", &inputs(65_536 * 64 + 3, 2), TOLERANCE, |graph, x| {
        vec![cross_entropy(graph, x[0], x[1], x[2])[2]]
    });
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    check_rows_are_independent("cross_entropy", 131, &inputs(131, 10), |graph, x| {
        cross_entropy(graph, x[0], x[1], x[2]).to_vec()
    });
}

#[test]
fn large_logits_neither_overflow_nor_vanish() {
    let logits = words(&[1e4, 0.0, -1e4, -3e38, -3e38, -3e38, 1e4, 0.0, -1e4]);
    let outputs = run_of(
        &[(DType::F32, &[3, 3], &logits), (DType::U32, &[3], &[0, 1, 2]), (DType::F32, &[3], &words(&[1.0; 3]))],
        |graph, x| cross_entropy(graph, x[0], x[1], x[2]).to_vec(),
    );
    let [losses, probabilities, of_labels] = [0, 1, 2].map(|index| floats(&outputs[index]));
    assert!((losses[0]).abs() < 1e-6 && (losses[1] - 3_f32.ln()).abs() < 1e-5 && losses[2] == 2e4, "{losses:?}");
    assert_eq!(probabilities[..3], [1.0, 0.0, 0.0]);
    assert!(probabilities[3..6].iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-6), "{probabilities:?}");
    assert_eq!([of_labels[0], of_labels[1], of_labels[2]], [1.0, probabilities[4], 0.0]);
}

use flowdppo_wgpu::autodiff::backward;
use flowdppo_wgpu::graph::{Graph, Tensor};
use flowdppo_wgpu::ops::NftLoss;
use serde_json::Value;

use crate::common::{Input, Values, check_forward, check_rows_are_independent, floats, run, words};

/// Velocities, target, advantages, rows (1 - t, 0, t), settings (beta, clip), and weights of the losses.
fn inputs(shape: &[usize]) -> [Input; 7] {
    let rows = shape[0];
    [
        Input::normal(shape),
        Input::normal(shape),
        Input::normal(shape),
        Input::new(&[rows], Values::Between(-7.0, 7.0)),
        Input::new(&[rows, 3], Values::Fixed(&[0.4, 0.0, 0.6, 0.9, 0.0, 0.1, 0.0, 0.0, 1.0])),
        Input::new(&[2], Values::Fixed(&[0.7, 5.0])),
        Input::normal(&[rows]),
    ]
}

/// Losses, outcomes and the gradient of the weighted losses.
fn record(graph: &mut Graph, x: &[Tensor]) -> Vec<Tensor> {
    let found = graph.push(NftLoss, &x[..6]);
    let gradient = backward(graph, &[(found[0], x[6])], &[x[0]])[0];
    vec![found[0], found[1], gradient.expect("the loss depends on the velocity")]
}

#[test]
fn odd_shapes() {
    for shape in [vec![1, 1], vec![1, 7], vec![5, 64], vec![3, 65], vec![7, 3, 5, 11], vec![131, 1]] {
        // Sums of up to 165 terms, and one division.
        check_forward("nft_loss", &inputs(&shape), 1e-11, record);
    }
}

#[test]
fn past_65535_workgroups() {
    check_forward("nft_loss", &inputs(&[65_535 + 3, 3]), 1e-11, record);
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    // The settings belong to all rows.
    let [v_new, v_old, u, advantages, rows, _, weights] = inputs(&[131, 37]);
    check_rows_are_independent("nft_loss", 131, &[v_new, v_old, u, advantages, rows, weights], |graph, x| {
        let settings = graph.constant("settings", &[2], vec![0.7, 5.0]);
        record(graph, &[x[0], x[1], x[2], x[3], x[4], settings, x[5]])
    });
}

#[test]
fn golden() {
    let golden: Value = serde_json::from_str(include_str!("../golden.json")).expect("it is JSON");
    let list = |value: &Value| -> Vec<f32> {
        let of = |value: &Value| value.as_f64().expect("it is a number") as f32;
        value.as_array().expect("it is a list").iter().map(of).collect()
    };
    let matrix =
        |value: &Value| -> Vec<f32> { value.as_array().expect("it is a list").iter().flat_map(&list).collect() };
    let inputs = &golden["loss_inputs"];
    let [v_new, v_old, noise, x] = ["v_new", "v_old", "noise", "x"].map(|key| matrix(&inputs[key]));
    let u: Vec<f32> = noise.iter().zip(&x).map(|(noise, x)| noise - x).collect();
    let advantages = list(&inputs["adv"]);
    let (rows, dim) = (advantages.len(), x.len() / advantages.len());
    let outputs = run(
        &[
            (&[rows, dim], &words(&v_new)),
            (&[rows, dim], &words(&v_old)),
            (&[rows, dim], &words(&u)),
            (&[rows], &words(&advantages)),
            (&[rows, 3], &words(&[0.4, 0.0, 0.6].repeat(rows))),
            (&[2], &words(&[0.7, 5.0])),
            (&[rows], &words(&vec![1.0 / rows as f32; rows])),
        ],
        record,
    );
    let loss = f64::from(floats(&outputs[0]).iter().sum::<f32>()) / rows as f64;
    let expected = golden["nft"]["loss"].as_f64().expect("it is a number");
    assert!((loss / expected - 1.0).abs() < 1e-5, "{loss} instead of {expected}");
    let gradients = matrix(&golden["nft"]["grad_v"]);
    for (found, expected) in floats(&outputs[2]).chunks(dim).zip(gradients.chunks(dim)) {
        let largest = expected.iter().fold(0.0, |most: f32, g| most.max(g.abs()));
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= 1e-4 * largest, "{found} instead of {expected}");
        }
    }
}

/// For equal velocities the divisor is the smallest weight.
#[test]
fn a_perfect_prediction_has_no_loss_and_no_gradient() {
    let zero = words(&[0.25; 6]);
    let outputs = run(
        &[
            (&[2, 3], &zero),
            (&[2, 3], &zero),
            (&[2, 3], &zero),
            (&[2], &words(&[3.0, -9.0])),
            (&[2, 3], &words(&[0.5, 0.0, 0.5].repeat(2))),
            (&[2], &words(&[1.0, 5.0])),
            (&[2], &words(&[1.0; 2])),
        ],
        record,
    );
    assert_eq!(floats(&outputs[0]), [0.0; 2]);
    assert_eq!(floats(&outputs[2]), [0.0; 6]);
}

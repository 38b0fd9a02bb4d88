use flowdppo_wgpu::ops::sampler_step;
use serde_json::Value;

use crate::common::{Input, check_forward, check_rows_are_independent, floats, run, words};

/// Three products and two sums: a few roundings of the largest term.
const TOLERANCE: f64 = 1e-13;

fn inputs(shape: &[usize]) -> [Input; 4] {
    let latent = Input::normal(shape);
    [latent.clone(), latent.clone(), latent, Input::normal(&[shape[0], 3])]
}

#[test]
fn odd_shapes() {
    for shape in [vec![1, 1], vec![1, 7], vec![5, 64], vec![3, 65], vec![7, 3, 5, 11], vec![131, 1]] {
        check_forward("sampler_step", &inputs(&shape), TOLERANCE, |graph, x| {
            vec![sampler_step(graph, x[0], x[1], x[2], x[3])]
        });
    }
}

#[test]
fn past_65535_workgroups() {
    check_forward("sampler_step", &inputs(&[5, 13 * 65_536 + 1]), TOLERANCE, |graph, x| {
        vec![sampler_step(graph, x[0], x[1], x[2], x[3])]
    });
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    check_rows_are_independent("sampler_step", 131, &inputs(&[131, 37]), |graph, x| {
        vec![sampler_step(graph, x[0], x[1], x[2], x[3])]
    });
}

/// Every transition of an independent program: its mean (without noise) and its result.
#[test]
fn golden() {
    let golden: Value = serde_json::from_str(include_str!("../golden.json")).expect("it is JSON");
    let list = |value: &Value| -> Vec<f32> {
        let of = |value: &Value| value.as_f64().expect("it is a number") as f32;
        value.as_array().expect("it is a list").iter().map(of).collect()
    };
    let cases = golden["samplers"].as_array().expect("it is a list");
    let (rows, dim) = (cases.len(), 8);
    assert_eq!(rows, 112);
    let [x, v, noise] = ["x", "v", "noise"].map(|key| words(&list(&golden["sampler_inputs"][key]).repeat(rows)));
    let table: Vec<f32> = cases
        .iter()
        .flat_map(|case| ["a", "b", "s"].map(|key| case[key].as_f64().expect("it is a number") as f32))
        .collect();
    let no_noise = words(&vec![0.0; rows * dim]);
    for (noise, key) in [(&no_noise, "mean"), (&noise, "x_next")] {
        let shape: &[usize] = &[rows, dim];
        let outputs = run(&[(shape, &x), (shape, &v), (shape, noise), (&[rows, 3], &words(&table))], |graph, x| {
            vec![sampler_step(graph, x[0], x[1], x[2], x[3])]
        });
        for (case, found) in cases.iter().zip(floats(&outputs[0]).chunks(dim)) {
            for (found, expected) in found.iter().zip(list(&case[key])) {
                // A sum of three products of about 1.
                assert!((found - expected).abs() <= 1e-6, "{case}: {key} is {found} instead of {expected}");
            }
        }
    }
}

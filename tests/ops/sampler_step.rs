use flowdppo_wgpu::ops::sampler_step;

use crate::common::{Input, check_forward, check_rows_are_independent};

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

use flowdppo_wgpu::ops::GroupNorm;

use crate::common::{Input, Values, check_forward, check_rows_are_independent};

/// Sums in trees, and a few roundings per element.
const TOLERANCE: f64 = 1e-12;

fn check(name: &str, groups: usize, shape: &[usize], values: Values, epsilon: f32) {
    let channels = shape[1];
    let inputs = [Input::new(shape, values), Input::normal(&[channels]), Input::normal(&[channels])];
    for silu in [false, true] {
        check_forward(&format!("{name} {shape:?} in {groups}"), &inputs, TOLERANCE, |graph, x| {
            graph.push(GroupNorm { groups, epsilon, silu, flat: silu }, x)
        });
    }
}

#[test]
fn odd_sizes() {
    for (groups, shape) in [
        (1, vec![1, 2, 1, 1]),
        (3, vec![2, 9, 5, 7]),
        (5, vec![3, 5, 3, 1]),
        (4, vec![2, 8, 65, 63]),
        (2, vec![67, 6, 4]),
    ] {
        check("group norm", groups, &shape, Values::Normal, 1e-6);
    }
}

/// Groups of the published autoencoders: of one chunk, of several, and with a remainder.
#[test]
fn real_sizes() {
    for shape in [[1, 512, 8, 8], [1, 512, 32, 32], [1, 128, 96, 96]] {
        check("group norm", 32, &shape, Values::Normal, 1e-6);
    }
    check("group norm", 4, &[2, 8, 131, 127], Values::Normal, 1e-6);
}

#[test]
fn extreme_values() {
    // Far from zero, where a difference of squares would have lost all digits. x itself is rounded to 6e-8 of 100, so the
    // mean is known only to about 1e-5 in units of the deviation.
    let inputs =
        [Input::new(&[1, 4, 150, 150], Values::Between(99.0, 101.0)), Input::normal(&[4]), Input::normal(&[4])];
    check_forward("far from zero", &inputs, 1e-9, |graph, x| {
        vec![GroupNorm { groups: 2, epsilon: 1e-6, silu: false, flat: false }.of(graph, x[0], x[1], x[2])]
    });
    check("large", 2, &[2, 4, 9, 9], Values::Scaled(150.0), 1e-6);
    check("small", 2, &[2, 4, 9, 9], Values::Scaled(1e-4), 1e-6);
    // Constant input: the result is the bias.
    check("constant", 2, &[2, 4, 9, 9], Values::Fixed(&[0.75]), 1e-6);
    // SiLU far out in both tails.
    let inputs = [
        Input::normal(&[1, 4, 9, 9]),
        Input::new(&[4], Values::Fixed(&[60.0])),
        Input::new(&[4], Values::Fixed(&[0.0])),
    ];
    check_forward("tails", &inputs, TOLERANCE, |graph, x| {
        vec![GroupNorm { groups: 2, epsilon: 1e-6, silu: true, flat: false }.of(graph, x[0], x[1], x[2])]
    });
}

#[test]
fn a_picture_does_not_depend_on_the_others() {
    for shape in [[9, 8, 5, 7], [7, 4, 150, 130]] {
        check_rows_are_independent("group norm", shape[0], &[Input::normal(&shape)], |graph, x| {
            let parameter = |factor: f32| (0..shape[1]).map(|i| (i as f32 * factor).sin()).collect();
            let [scale, bias] = [0.37, 0.71].map(|factor| graph.constant("parameter", &[shape[1]], parameter(factor)));
            vec![GroupNorm { groups: 2, epsilon: 1e-6, silu: true, flat: false }.of(graph, x[0], scale, bias)]
        });
    }
}

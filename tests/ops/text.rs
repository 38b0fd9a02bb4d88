//! The ops of text and vision encoders, which have no gradient.

use flowdppo_wgpu::ops::{AffineNorm, AttentionBias};

use crate::common::{Input, Values, check_forward, check_rows_are_independent, floats, run, words};

/// Sums of a few hundred terms and a few f32 functions: 1e-6 relative, squared.
const TOLERANCE: f64 = 1e-12;

#[test]
fn affine_norm() {
    // Odd rows and columns, and the widths of CLIP-L, CLIP-G and T5-XXL.
    for (rows, columns) in [(1, 1), (3, 7), (67, 65), (5, 128), (77, 768), (2, 1280), (3, 4096)] {
        let inputs =
            [Input::new(&[rows, columns], Values::Scaled(3.0)), Input::normal(&[columns]), Input::normal(&[columns])];
        check_forward(&format!("affine_norm {rows}x{columns}"), &inputs, TOLERANCE, |graph, x| {
            vec![graph.apply(AffineNorm { epsilon: 1e-5 }, x)]
        });
    }
}

/// Residual streams grow to several thousand; the result of a row of zeros is the bias.
#[test]
fn affine_norm_of_extreme_rows() {
    for values in [Values::Scaled(1e5), Values::Scaled(1e-6), Values::Fixed(&[0.0])] {
        let inputs = [Input::new(&[3, 130], values), Input::normal(&[130]), Input::normal(&[130])];
        // Next to epsilon, small values lose some digits.
        check_forward(&format!("{values:?}"), &inputs, 1e-11, |graph, x| {
            vec![graph.apply(AffineNorm { epsilon: 1e-6 }, x)]
        });
    }
}

/// Batches, queries, keys, heads and the size of a head.
const SIZES: [[usize; 5]; 8] = [
    [1, 1, 1, 1, 1],
    [2, 3, 5, 2, 7],
    [3, 7, 7, 3, 8],
    [1, 65, 130, 1, 5],
    [2, 77, 77, 2, 64],
    [1, 17, 64, 1, 72],
    [1, 3, 257, 2, 80],
    [1, 2, 3, 1, 256],
];

#[test]
fn attention_bias() {
    for [batches, queries, keys, num_heads, head_dim] in SIZES {
        for option in 0..8 {
            let [causal, has_bias, has_mask] = [1, 2, 4].map(|bit| option & bit != 0);
            if causal && queries != keys {
                continue;
            }
            // T5 does not scale.
            let scale = if has_bias { 1.0 } else { (head_dim as f32).powf(-0.5) };
            let op = AttentionBias { batches, num_heads, scale, causal, has_bias, has_mask };
            let width = num_heads * head_dim;
            let mut inputs = vec![Input::new(&[batches * queries, width], Values::Scaled(0.5))];
            inputs.extend([(); 2].map(|()| Input::normal(&[batches * keys, width])));
            if has_bias {
                inputs.push(Input::new(&[num_heads, queries, keys], Values::Scaled(2.0)));
            }
            if has_mask {
                inputs.push(Input::index(&[batches, keys], 3));
            }
            // Logits of up to several tens, whose error the exponential passes on.
            check_forward(&format!("{op:?} {queries}x{keys}x{head_dim}"), &inputs, 1e-11, |graph, x| {
                vec![graph.apply(op, x)]
            });
        }
    }
}

#[test]
fn attention_bias_with_large_logits_does_not_overflow() {
    let inputs = [1, 2, 3].map(|_| Input::new(&[65, 16], Values::Between(-8.0, 8.0)));
    let op = AttentionBias { scale: 1.0, ..AttentionBias::plain(1, 2, 8) };
    // Logits of up to 500 carry an error of about 1e-5.
    check_forward("large logits", &inputs, 1e-8, |graph, x| vec![graph.apply(op, x)]);
}

/// A sample whose keys are all hidden is zero, and does not affect its neighbour.
#[test]
fn attention_bias_of_hidden_keys_is_zero() {
    let op = AttentionBias { has_mask: true, ..AttentionBias::plain(2, 1, 2) };
    let x = words(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let outputs = run(&[(&[4, 2], &x), (&[4, 2], &x), (&[4, 2], &x)], |graph, x| {
        let mask = graph.constant_indices("mask", &[2, 2], vec![0, 0, 0, 1]);
        vec![graph.apply(op, &[x[0], x[1], x[2], mask])]
    });
    assert_eq!(floats(&outputs[0]), [0.0, 0.0, 0.0, 0.0, 7.0, 8.0, 7.0, 8.0]);
}

#[test]
fn rows_of_text_ops_do_not_depend_on_the_others() {
    let inputs = [Input::normal(&[9, 130])];
    check_rows_are_independent("affine_norm", 9, &inputs, |graph, x| {
        let weight = graph.constant("weight", &[130], (0..130).map(|index| index as f32 * 0.01).collect());
        vec![graph.apply(AffineNorm { epsilon: 1e-5 }, &[x[0], weight, weight])]
    });
    // Samples of 70 tokens: more than a block.
    let inputs = [1, 2, 3].map(|_| Input::normal(&[9, 70, 15]));
    check_rows_are_independent("attention_bias", 9, &inputs, |graph, x| {
        let batches = graph.shape(x[0])[0];
        let bias = graph.constant("bias", &[3, 70, 70], (0..3 * 4900).map(|index| (index % 7) as f32 * 0.1).collect());
        let op = AttentionBias { causal: true, has_bias: true, ..AttentionBias::plain(batches, 3, 5) };
        vec![graph.apply(op, &[x[0], x[1], x[2], bias])]
    });
}

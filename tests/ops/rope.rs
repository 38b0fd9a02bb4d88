//! Rotary position embeddings of text and of images.

use flowdppo_wgpu::graph::{Graph, Tensor};
use flowdppo_wgpu::ops::{Rope, rope_table, rope_table_2d};

use crate::common::{Input, check, check_forward, check_rows_are_independent, floats, run, with_gradient, words};

/// Two products and a sum: 6e-8 squared is 4e-15, and terms of opposite signs cancel.
const FEW_ROUNDINGS: f64 = 1e-13;

/// Records the rotation of tokens by a table.
fn rope(inverse: bool, tokens: usize, table: Vec<f32>) -> impl Fn(&mut Graph, &[Tensor]) -> Vec<Tensor> {
    move |graph, x| {
        let table = graph.constant("table", &[tokens, table.len() / tokens], table.clone());
        vec![graph.apply(Rope { inverse }, &[x[0], table])]
    }
}

#[test]
fn tokens_in_a_line() {
    for d in [8, 52, 64] {
        for [batch, tokens, heads] in [[1, 1, 1], [2, 7, 3], [3, 65, 1], [1, 33, 12]] {
            for inverse in [false, true] {
                let name = format!("rope of {batch} x {tokens} tokens, {heads} heads of {d}, inverse = {inverse}");
                let x = Input::normal(&[batch, tokens, heads * d]);
                check(&name, &[x], FEW_ROUNDINGS, rope(inverse, tokens, rope_table(tokens, d)));
            }
        }
    }
}

#[test]
fn tokens_of_an_image() {
    for [rows, columns, heads, d] in [[1, 1, 1, 8], [3, 5, 2, 8], [5, 13, 3, 52], [7, 4, 1, 64]] {
        let name = format!("rope of {rows} x {columns} tokens, {heads} heads of {d}");
        let x = Input::normal(&[2, rows * columns, heads * d]);
        check(&name, &[x], FEW_ROUNDINGS, rope(false, rows * columns, rope_table_2d(rows, columns, d)));
    }
}

/// The tokens of text and of an image of 512 pixels in MiniT2I-B and -L.
#[test]
fn large_models() {
    for [heads, d] in [[12, 64], [24, 52]] {
        for (tokens, table) in [(256, rope_table(256, d)), (1024, rope_table_2d(32, 32, d))] {
            let inputs = vec![Input::normal(&[2, tokens, heads * d]); 2];
            let build = rope(false, tokens, table);
            check_forward(&format!("rope of {tokens} tokens"), &inputs, FEW_ROUNDINGS, with_gradient(1, build));
        }
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let inputs = vec![Input::normal(&[9, 33, 104]); 2];
    let build = rope(false, 33, rope_table(33, 52));
    check_rows_are_independent("rope", 9, &inputs, with_gradient(1, build));
}

/// A quarter turn moves elements between the halves of a head, not between neighbours.
#[test]
fn the_pairs_are_the_halves_of_a_head() {
    let x = words(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    for (inverse, expected) in
        [(false, [-3.0, -4.0, 1.0, 2.0, -7.0, -8.0, 5.0, 6.0]), (true, [3.0, 4.0, -1.0, -2.0, 7.0, 8.0, -5.0, -6.0])]
    {
        let y = run(&[(&[1, 1, 8], &x)], rope(inverse, 1, vec![0.0, 0.0, 1.0, 1.0]));
        assert_eq!(floats(&y[0]), expected);
    }
}

#[test]
fn tables_have_the_angles_of_the_positions() {
    let near = |table: &[f32], expected: &[f64]| {
        assert_eq!(table.len(), expected.len());
        // Each value is rounded once.
        assert!(table.iter().zip(expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-7), "{table:?} {expected:?}");
    };
    // Heads of 4: the frequencies are 1 and 1/100.
    let row = |angles: [f64; 2]| [angles.map(f64::cos), angles.map(f64::sin)].concat();
    near(&rope_table(3, 4), &[row([0.0, 0.0]), row([1.0, 0.01]), row([2.0, 0.02])].concat());
    // Heads of 8, with two pairs for the row and two for the column.
    let row = |[y, x]: [f64; 2]| {
        let angles = [y, y / 100.0, x, x / 100.0];
        [angles.map(f64::cos), angles.map(f64::sin)].concat()
    };
    let positions = [[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0]];
    near(&rope_table_2d(2, 3, 8), &positions.map(row).concat());
}

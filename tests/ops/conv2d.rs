use flowdppo_wgpu::ops::Conv2d;

use crate::common::{Input, check_forward, check_rows_are_independent};

/// Sums of up to 4608 products in sequence: their roundings, 6e-8 each, grow with the root of their number to about 4e-6,
/// relative to the root of the sum of squares.
const TOLERANCE: f64 = 2e-11;

/// Sizes of a case: pictures, input channels, output channels, rows and columns.
type Sizes = [usize; 5];

/// The inputs of a case; the last one is a residual of this shape.
fn inputs(op: Conv2d, [batch, channels, outputs, height, width]: Sizes, has_residual: bool) -> Vec<Input> {
    let weight = [op.kernel * op.kernel * channels, outputs.next_multiple_of(4)];
    let mut inputs =
        vec![Input::normal(&[batch, channels, height, width]), Input::normal(&weight), Input::normal(&[outputs])];
    let size = [height, width].map(|extent| op.output_extent(extent));
    if has_residual {
        inputs.push(Input::normal(&[batch, outputs, size[0], size[1]]));
    }
    inputs
}

fn check(op: Conv2d, sizes: Sizes, has_residual: bool) {
    let name = format!("{op:?} of {sizes:?}, residual {has_residual}");
    check_forward(&name, &inputs(op, sizes, has_residual), TOLERANCE, |graph, x| vec![graph.apply(op, x)]);
}

/// The convolutions of an autoencoder: 3x3, 1x1, halving with padding on two sides only, halving with padding on all,
/// doubling.
fn kinds() -> [Conv2d; 5] {
    let same = Conv2d::same(3);
    [
        same,
        Conv2d::same(1),
        Conv2d { stride: 2, before: 0, after: 1, ..same },
        Conv2d { stride: 2, ..same },
        Conv2d { upsample: true, ..same },
    ]
}

#[test]
fn odd_sizes() {
    for op in kinds() {
        for sizes in [[1, 1, 1, 2, 2], [2, 3, 5, 7, 5], [3, 17, 8, 9, 13], [1, 33, 20, 5, 66]] {
            check(op, sizes, false);
        }
        check(op, [2, 5, 7, 9, 11], true);
        check(Conv2d { relu: true, ..op }, [2, 5, 7, 9, 11], true);
        check(Conv2d { relu: true, ..op }, [1, 16, 16, 6, 7], false);
    }
    // One pixel, and kernels of other sizes.
    check(Conv2d::same(3), [1, 4, 3, 1, 1], false);
    check(Conv2d::same(5), [2, 3, 4, 6, 7], true);
    check(Conv2d { kernel: 2, stride: 2, before: 0, after: 0, ..Conv2d::same(1) }, [2, 3, 4, 6, 8], false);
}

/// Every tile, on GPUs and on software drivers: 4, 8 and 16 channels by 1, 2 and 4 pixels, with remainders.
#[test]
fn every_tile() {
    for outputs in [3, 8, 32] {
        for (height, width) in [(5, 13), (10, 15), (31, 37), (43, 49)] {
            check(Conv2d::same(3), [2, 5, outputs, height, width], true);
        }
    }
}

/// Those of the published autoencoders, at sizes that are feasible for the twin: the channels are what matters.
#[test]
fn real_sizes() {
    check(Conv2d::same(3), [1, 512, 512, 4, 6], true);
    check(Conv2d::same(3), [1, 16, 512, 8, 8], false);
    check(Conv2d::same(3), [1, 128, 3, 32, 32], false);
    check(Conv2d::same(1), [1, 512, 256, 8, 8], false);
    check(Conv2d { upsample: true, ..Conv2d::same(3) }, [1, 256, 256, 4, 4], false);
    check(Conv2d { relu: true, ..Conv2d::same(3) }, [1, 64, 64, 24, 24], true);
}

/// Pixels in one row, and a residual that restores their shape.
#[test]
fn attention_over_pixels() {
    let op = Conv2d::same(1);
    let x = [2, 8, 35];
    let inputs = [Input::normal(&x), Input::normal(&[8, 12]), Input::normal(&[12]), Input::normal(&[2, 12, 5, 7])];
    check_forward("flat", &inputs[..3], TOLERANCE, |graph, x| {
        let y = graph.apply(op, x);
        assert_eq!(graph.shape(y), [2, 12, 35]);
        vec![y]
    });
    check_forward("with its shape again", &inputs, TOLERANCE, |graph, x| {
        let y = graph.apply(op, x);
        assert_eq!(graph.shape(y), [2, 12, 5, 7]);
        vec![y]
    });
}

#[test]
fn a_picture_does_not_depend_on_the_others() {
    for op in kinds() {
        for sizes in [[9, 5, 7, 6, 7], [9, 8, 16, 40, 30]] {
            let name = format!("{op:?} of {sizes:?}");
            let weight = inputs(op, sizes, false).split_off(1);
            let x = [Input::normal(&[sizes[0], sizes[1], sizes[3], sizes[4]])];
            check_rows_are_independent(&name, sizes[0], &x, |graph, x| {
                let [weight, bias] = [0, 1].map(|index| {
                    let shape = &weight[index].shape;
                    let values = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.37).sin()).collect();
                    graph.constant("parameter", shape, values)
                });
                vec![graph.apply(op, &[x[0], weight, bias])]
            });
        }
    }
}

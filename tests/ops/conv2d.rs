use std::collections::BTreeSet;

use flowdppo_wgpu::bench::shapes::{CONV2D, tested};
use flowdppo_wgpu::gpu::DeviceKind;
use flowdppo_wgpu::graph::{DeviceProfile, Graph, Op, Plan, Shapes, Stores, Tensor};
use flowdppo_wgpu::ops::Conv2d;

use crate::common::{Input, Random, check_forward_on, forcing, gpu, skip};

/// Sums of up to 4608 products in sequence: their roundings, 6e-8 each, grow with the root of their number to about 4e-6,
/// relative to the root of the sum of squares.
const TOLERANCE: f64 = 2e-11;

/// One interface, one oracle.
const VARIANTS: [&str; 2] = ["conv2d_register", "conv2d_tiled"];

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
    check_with(&VARIANTS, op, sizes, has_residual);
}

fn check_with(variants: &[&str], op: Conv2d, sizes: Sizes, has_residual: bool) {
    for variant in variants {
        let name = format!("{variant}: {op:?} of {sizes:?}, residual {has_residual}");
        check_forward_on(&forcing(variant), &name, &inputs(op, sizes, has_residual), TOLERANCE, |graph, x| {
            vec![graph.apply(op, x)]
        });
    }
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

/// Every tile in registers, on GPUs and on software drivers: 4, 8 and 16 channels by 1, 2 and 4 pixels, with remainders.
#[test]
fn every_tile() {
    for outputs in [3, 8, 32] {
        for (height, width) in [(5, 13), (10, 15), (31, 37), (43, 49)] {
            check_with(&VARIANTS[..1], Conv2d::same(3), [2, 5, outputs, height, width], true);
        }
    }
}

/// Tiles in workgroup memory: exactly one, and one channel, pixel or input channel more.
#[test]
fn edges_of_tiles() {
    for sizes in [[1, 16, 64, 8, 16], [2, 17, 65, 3, 43], [3, 31, 68, 1, 257], [1, 32, 128, 16, 16]] {
        check_with(&VARIANTS[1..], Conv2d::same(3), sizes, true);
        check_with(&VARIANTS[1..], Conv2d { relu: true, ..Conv2d::same(1) }, sizes, false);
    }
}

/// Those of the published autoencoders, at sizes that are feasible for the twin: the channels are what matters.
#[test]
fn real_sizes() {
    for [channels, outputs, side] in tested(CONV2D, skip::long_tests(), |[channels, outputs, _]| [channels, outputs, 6])
    {
        check(Conv2d::same(3), [1, channels, outputs, side, side], outputs % 256 == 0);
    }
    check(Conv2d::same(1), [1, 512, 256, 8, 8], false);
    check(Conv2d { upsample: true, ..Conv2d::same(3) }, [1, 256, 256, 4, 4], false);
    check(Conv2d { relu: true, ..Conv2d::same(3) }, [1, 64, 64, 24, 24], true);
    check(Conv2d { stride: 2, before: 0, after: 1, ..Conv2d::same(3) }, [3, 128, 128, 16, 16], false);
}

/// Pixels in one row, and a residual that restores their shape.
#[test]
fn attention_over_pixels() {
    let op = Conv2d::same(1);
    let x = [2, 8, 35];
    let inputs = [Input::normal(&x), Input::normal(&[8, 12]), Input::normal(&[12]), Input::normal(&[2, 12, 5, 7])];
    for variant in VARIANTS {
        check_forward_on(&forcing(variant), &format!("{variant}: flat"), &inputs[..3], TOLERANCE, |graph, x| {
            let y = graph.apply(op, x);
            assert_eq!(graph.shape(y), [2, 12, 35]);
            vec![y]
        });
        let name = format!("{variant}: with its shape again");
        check_forward_on(&forcing(variant), &name, &inputs, TOLERANCE, |graph, x| {
            let y = graph.apply(op, x);
            assert_eq!(graph.shape(y), [2, 12, 5, 7]);
            vec![y]
        });
    }
}

/// The bits of the first `batch` of 9 pictures after a convolution.
fn bits(variant: &str, op: Conv2d, [_, channels, outputs, height, width]: Sizes, batch: usize) -> Vec<u32> {
    let mut graph = Graph::new();
    let operands = inputs(op, [batch, channels, outputs, height, width], false);
    let tensors: Vec<Tensor> = operands.iter().map(|input| graph.input("operand", &input.shape)).collect();
    let y = graph.apply(op, &tensors);
    graph.keep(y);
    let mut plan =
        Plan::with_profile(gpu(), &graph, &Stores::new(), &forcing(variant)).expect("the case fits the device");
    for (seed, (tensor, input)) in tensors.iter().zip(&operands).enumerate() {
        // The same words for every batch: those of fewer pictures are the first ones.
        plan.write_words(*tensor, &Random(seed as u64).words(input));
    }
    plan.run().expect("the device works");
    plan.read(&[y]).expect("the device works")
}

/// Parts of tiles, and several of them.
const SIZES: [Sizes; 3] = [[9, 5, 7, 6, 7], [9, 8, 16, 40, 30], [3, 40, 68, 11, 13]];

#[test]
fn a_picture_does_not_depend_on_the_others() {
    for (op, sizes) in kinds().into_iter().flat_map(|op| SIZES.map(|sizes| (op, sizes))) {
        for variant in VARIANTS {
            let all = bits(variant, op, sizes, sizes[0]);
            for batch in [1, 2, 5].into_iter().filter(|batch| *batch < sizes[0]) {
                let few = bits(variant, op, sizes, batch);
                assert!(few[..] == all[..few.len()], "{variant}: {batch} of {op:?} of {sizes:?} differ");
            }
        }
    }
}

#[test]
fn kernels_agree_bit_for_bit_on_a_cpu() {
    // Both add in the same order with one rounding per step. GPU drivers may reorder, software drivers do not.
    if gpu().description().kind != DeviceKind::Cpu {
        return skip::not_checked("variants of conv2d bit for bit: the device is no software driver");
    }
    for (op, sizes) in kinds().into_iter().flat_map(|op| SIZES.map(|sizes| (op, sizes))) {
        let [register, tiled] = VARIANTS.map(|variant| bits(variant, op, sizes, 1));
        assert!(register == tiled, "{op:?} of {sizes:?}");
    }
}

/// On a GPU and on a software driver: tiles where at least half of them exist, whatever the batch and the picture.
#[test]
fn the_usual_kernel_depends_on_channels_only() {
    let usual = |cpu: bool, [channels, outputs]: [usize; 2]| {
        let profile = DeviceProfile { cpu, ..DeviceProfile::default() };
        let op = Conv2d::same(3);
        let chosen = [[1, 8, 8], [1, 64, 64], [7, 8, 8]].map(|[batch, height, width]| {
            let inputs = inputs(op, [batch, channels, outputs, height, width], false);
            let inputs = inputs.iter().map(|input| input.shape.as_slice()).collect();
            let outputs = [batch, outputs, height, width];
            let shapes = Shapes { inputs, outputs: vec![&outputs] };
            op.dispatches(&shapes, &profile)[0].kernel.shader
        });
        let chosen = BTreeSet::from(chosen);
        assert_eq!(chosen.len(), 1, "{chosen:?}");
        chosen.into_iter().next().expect("there is one")
    };
    assert_eq!(usual(false, [128, 128]), "conv2d_tiled");
    assert_eq!(usual(false, [8, 32]), "conv2d_tiled");
    assert_eq!(usual(false, [3, 128]), "conv2d");
    assert_eq!(usual(false, [128, 3]), "conv2d");
    assert_eq!(usual(true, [128, 128]), "conv2d");
}

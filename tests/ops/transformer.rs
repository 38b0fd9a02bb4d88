//! The ops of a diffusion transformer.

use flowdppo_wgpu::graph::DType;
use flowdppo_wgpu::ops::{
    Activation, AddBroadcast, Embedding, Guidance, Join, Patches, Patchify, Scale, Split, TimeFeatures, Unpatchify,
};

use crate::common::{Input, Values, check, check_forward, floats, run_of, words};

/// Copies and single roundings: 6e-8 squared is 4e-15.
const ONE_ROUNDING: f64 = 1e-14;
/// Short sums, and functions that drivers compute to a few units in the last place.
const FEW_ROUNDINGS: f64 = 1e-12;

#[test]
fn activations() {
    for op in [Activation::Gelu, Activation::GeluErf, Activation::QuickGelu, Activation::Silu] {
        for shape in [vec![1], vec![63], vec![3, 67]] {
            check(&format!("{op:?}"), &[Input::new(&shape, Values::Scaled(2.0))], FEW_ROUNDINGS, |graph, x| {
                vec![graph.apply(op, &[x[0]])]
            });
        }
        // Far out in both tails, tanh and exp saturate and nothing overflows.
        check(&format!("{op:?}"), &[Input::new(&[257], Values::Between(-150.0, 150.0))], FEW_ROUNDINGS, |graph, x| {
            vec![graph.apply(op, &[x[0]])]
        });
    }
}

#[test]
fn scale() {
    check("scale", &[Input::normal(&[5, 13])], ONE_ROUNDING, |graph, x| vec![graph.apply(Scale(-0.3), &[x[0]])]);
}

#[test]
fn guidance() {
    for guidance_scale in [0.0, 1.0, 4.5] {
        let inputs = [Input::normal(&[3, 7]), Input::normal(&[3, 7])];
        check_forward("guidance", &inputs, FEW_ROUNDINGS, |graph, v| {
            vec![graph.apply(Guidance { guidance_scale }, &[v[0], v[1]])]
        });
    }
    let inputs = [Input::normal(&[3, 7]), Input::normal(&[3, 7])];
    check("guidance", &inputs, FEW_ROUNDINGS, |graph, v| {
        vec![graph.apply(Guidance { guidance_scale: 4.5 }, &[v[0], v[1]])]
    });
}

#[test]
fn add_broadcast() {
    for (batch, rest) in [(1, vec![1]), (5, vec![7]), (67, vec![3, 5])] {
        let shape: Vec<usize> = [batch].into_iter().chain(rest.iter().copied()).collect();
        check("add_broadcast", &[Input::normal(&shape), Input::normal(&rest)], FEW_ROUNDINGS, |graph, x| {
            vec![graph.apply(AddBroadcast, &[x[0], x[1]])]
        });
    }
}

#[test]
fn copy_columns_by_split_and_join() {
    for (rows, columns, parts) in [(1, 1, 1), (3, 7, 2), (13, 5, 6), (70, 33, 6)] {
        check("split", &[Input::normal(&[rows, columns * parts])], ONE_ROUNDING, |graph, x| {
            graph.push(Split { parts }, &[x[0]])
        });
        let inputs: Vec<Input> = (0..parts).map(|_| Input::normal(&[rows, columns])).collect();
        check("join", &inputs, ONE_ROUNDING, |graph, x| vec![graph.apply(Join, x)]);
    }
}

#[test]
fn embedding() {
    for (entries, columns, rows) in [(1, 1, 1), (11, 5, 3), (4, 67, 129)] {
        let inputs = [Input::normal(&[entries, columns]), Input::index(&[rows], entries as u32)];
        check("embedding", &inputs, FEW_ROUNDINGS, |graph, x| vec![graph.apply(Embedding, &[x[0], x[1]])]);
    }
    let inputs = [Input::normal(&[7, 2, 3, 5]), Input::index(&[4], 7)];
    check("embedding of images", &inputs, FEW_ROUNDINGS, |graph, x| vec![graph.apply(Embedding, &[x[0], x[1]])]);
}

#[test]
fn embedding_never_reads_beyond_its_table() {
    let outputs =
        run_of(&[(DType::F32, &[3], &words(&[1.0, 2.0, 4.0])), (DType::U32, &[4], &[0, 2, 3, 70])], |graph, x| {
            vec![graph.apply(Embedding, &[x[0], x[1]])]
        });
    assert_eq!(floats(&outputs[0]), [1.0, 4.0, 4.0, 4.0]);
}

#[test]
fn time_features() {
    // About nine roundings, on every driver. The argument is one product in f32: at 1000 its rounding is 3e-5,
    // as in every framework that computes in f32.
    for (rows, half, longest, tolerance) in [(1, 1, 1.0, 1e-13), (5, 128, 1.0, 1e-13), (67, 128, 1000.0, 1e-9)] {
        let inputs = [
            Input::new(&[rows], Values::Between(0.0, longest)).constant(),
            Input::new(&[half], Values::Between(1e-4, 1.0)).constant(),
        ];
        check_forward("time_features", &inputs, tolerance, |graph, x| vec![graph.apply(TimeFeatures, &[x[0], x[1]])]);
    }
}

#[test]
fn patchify_both_ways() {
    for (images, channels, vector_channels, [height, width], patch_size) in
        [(1, 1, 1, [1, 1], 1), (3, 1, 1, [8, 8], 2), (2, 3, 3, [12, 8], 4), (5, 4, 8, [6, 15], 3), (1, 2, 2, [2, 6], 2)]
    {
        for channel_first in [false, true] {
            let patches = Patches { channels, vector_channels, height, width, patch_size, channel_first, factor: -1.0 };
            let name = format!("{patches:?}");
            let image = Input::normal(&[images, channels, height, width]);
            check(&name, &[image], ONE_ROUNDING, |graph, x| vec![graph.apply(Patchify(patches), &[x[0]])]);
            let vectors = Input::normal(&[images, patches.tokens(), patches.vector()]);
            check(&name, &[vectors], ONE_ROUNDING, |graph, x| vec![graph.apply(Unpatchify(patches), &[x[0]])]);
        }
    }
}

//! The ops of a diffusion transformer.

use flowdppo_wgpu::graph::{DType, Graph, Tensor};
use flowdppo_wgpu::ops::{
    Activation, AddBroadcast, Embedding, GatedActivation, Guidance, Join, Patches, Patchify, Scale, Split,
    TimeFeatures, Unpatchify, VelocityOfData,
};

use crate::common::{
    Input, Values, check, check_forward, check_rows_are_independent, floats, run_of, with_gradient, words,
};

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

const GATES: [GatedActivation; 2] = [GatedActivation::Gelu, GatedActivation::Silu];

#[test]
fn gated_activation() {
    for op in GATES {
        let name = format!("gated {op:?}");
        let build = |graph: &mut Graph, x: &[Tensor]| vec![graph.apply(op, x)];
        for shape in [vec![1], vec![63], vec![3, 67], vec![5, 640]] {
            let inputs = [Input::new(&shape, Values::Scaled(2.0)), Input::normal(&shape)];
            check(&name, &inputs, FEW_ROUNDINGS, build);
        }
        // Far out in both tails.
        let inputs = [Input::new(&[257], Values::Between(-150.0, 150.0)), Input::normal(&[257])];
        check(&name, &inputs, FEW_ROUNDINGS, build);
        // MiniT2I's feed-forward layers for an image, and those of T5-large and T5-XXL.
        for shape in [[1024, 2048], [256, 2816], [77, 10_240]] {
            let inputs = vec![Input::normal(&shape); 3];
            check_forward(&name, &inputs, FEW_ROUNDINGS, with_gradient(2, build));
        }
        check_rows_are_independent(&name, 9, &vec![Input::normal(&[9, 130]); 3], with_gradient(2, build));
    }
}

#[test]
fn velocity_of_data() {
    let build = |graph: &mut Graph, x: &[Tensor]| vec![graph.apply(VelocityOfData { floor: 0.05 }, x)];
    // Sigmas below and above the floor.
    let inputs = |shape: &[usize]| {
        let sigma = Values::Fixed(&[0.3, 0.0, 1.0, 0.05, 0.01, 0.049, 0.7]);
        [Input::normal(shape), Input::normal(shape), Input::new(&shape[..1], sigma).constant()]
    };
    for shape in [vec![1, 1], vec![7, 63], vec![2, 3, 5, 7], vec![67, 65]] {
        check("velocity_of_data", &inputs(&shape), FEW_ROUNDINGS, build);
    }
    // Images of 512 pixels.
    let with_seed = |shape: &[usize]| [&inputs(shape)[..], &[Input::normal(shape)]].concat();
    check_forward("velocity_of_data", &with_seed(&[2, 3, 512, 512]), FEW_ROUNDINGS, with_gradient(2, build));
    check_rows_are_independent("velocity_of_data", 9, &with_seed(&[9, 130]), with_gradient(2, build));
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

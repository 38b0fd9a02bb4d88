//! RMS norm: of heads, whose rows are short and many, and of tokens.

use flowdppo_wgpu::autodiff::backward;
use flowdppo_wgpu::graph::{DeviceProfile, Graph, Op, Shapes, Tensor};
use flowdppo_wgpu::ops::RmsNorm;

use crate::common::{
    Input, Values, check_forward, check_forward_on, check_gradient_on, check_rows_are_independent, forcing, gpu,
};

/// Short sums, and functions that drivers compute to a few units in the last place.
const FEW_ROUNDINGS: f64 = 1e-12;

const VARIANTS: [&str; 2] = ["rms_norm_serial", "rms_norm_workgroup"];

const NORM: RmsNorm = RmsNorm { epsilon: 1e-6 };

/// Kernels as on this device, and as on a GPU, with vectors if the columns are a multiple of 4.
fn profiles() -> [DeviceProfile; 2] {
    let here = DeviceProfile::of(gpu());
    [DeviceProfile { cpu: true, ..here.clone() }, DeviceProfile { cpu: false, ..here }]
}

fn rms_norm(graph: &mut Graph, x: &[Tensor]) -> Vec<Tensor> {
    vec![graph.push(NORM, &[x[0], x[1]])[0]]
}

/// The norm and the gradients of its input and weight, for a gradient of its result.
fn with_gradient(graph: &mut Graph, x: &[Tensor]) -> Vec<Tensor> {
    let y = rms_norm(graph, x)[0];
    let gradients = backward(graph, &[(y, x[2])], &x[..2]);
    [y].into_iter().chain(gradients.into_iter().map(|gradient| gradient.expect("y depends on it"))).collect()
}

/// `[batch, tokens, heads · columns]`, `[columns]`.
fn inputs([batch, tokens, heads, columns]: [usize; 4]) -> [Input; 2] {
    [Input::normal(&[batch, tokens, heads * columns]), Input::normal(&[columns])]
}

#[test]
fn rms_norm_and_its_gradient() {
    let sizes =
        [[1, 1, 1, 3], [2, 3, 1, 7], [3, 5, 4, 8], [2, 16, 3, 64], [1, 5, 2, 72], [2, 67, 1, 33], [1, 3, 1, 130]];
    for sizes in sizes {
        for variant in VARIANTS {
            for profile in profiles() {
                let profile = DeviceProfile { forced: Some(variant.into()), ..profile };
                let name = format!("{variant} {sizes:?} cpu={}", profile.cpu);
                check_forward_on(&profile, &name, &inputs(sizes), FEW_ROUNDINGS, rms_norm);
                check_gradient_on(&profile, &name, &inputs(sizes), FEW_ROUNDINGS, rms_norm);
            }
        }
    }
    // The norm of a single column is its sign. Its gradient is the rest that epsilon leaves of two equal terms, so only the
    // value can be compared.
    for variant in VARIANTS {
        check_forward_on(&forcing(variant), variant, &inputs([1, 1, 1, 1]), FEW_ROUNDINGS, rms_norm);
    }
}

/// Heads of SD3.5 and of SiT-XL, and tokens of SD3.5 and T5-XXL. The twins are the oracle here; the test above compares
/// them with differences.
#[test]
fn rms_norm_of_large_models() {
    for sizes in [[2, 333, 24, 64], [1, 77, 16, 72], [2, 333, 1, 1536], [1, 130, 1, 4096]] {
        let inputs = [&inputs(sizes)[..], &[inputs(sizes)[0].clone()]].concat();
        for profile in profiles() {
            let name = format!("{sizes:?} cpu={}", profile.cpu);
            check_forward_on(&profile, &name, &inputs, FEW_ROUNDINGS, with_gradient);
        }
    }
}

#[test]
fn rms_norm_of_zeros_and_of_extreme_rows() {
    // The norm of zeros is zero, as epsilon limits 1/rms to 1000. The others are far above and below it.
    for (low, high) in [(0.0, 0.0), (-1e15, 1e15), (-1e-12, 1e-12)] {
        let inputs = [Input::new(&[2, 3, 10], Values::Between(low, high)), Input::normal(&[5])];
        check_forward("rms_norm", &inputs, FEW_ROUNDINGS, rms_norm);
        for variant in VARIANTS {
            check_forward_on(&forcing(variant), variant, &inputs, FEW_ROUNDINGS, rms_norm);
        }
    }
}

#[test]
fn rms_norm_has_its_epsilon() {
    let inputs = [Input::new(&[3, 4], Values::Scaled(0.1)), Input::normal(&[4])];
    let norm = RmsNorm { epsilon: 0.5 };
    check_forward("rms_norm", &inputs, FEW_ROUNDINGS, |graph, x| vec![graph.push(norm, &[x[0], x[1]])[0]]);
}

#[test]
fn rms_norm_of_a_sample_does_not_depend_on_its_batch() {
    for columns in [64, 67, 256] {
        let inputs = [Input::normal(&[11, 13, 2 * columns]), Input::normal(&[11, 13, 2 * columns])];
        check_rows_are_independent("rms_norm", 11, &inputs, |graph, x| {
            let weight = graph.constant("weight", &[columns], (0..columns).map(|i| 1.0 + i as f32 / 100.0).collect());
            let y = rms_norm(graph, &[x[0], weight])[0];
            let gradient = backward(graph, &[(y, x[1])], &[x[0]])[0].expect("y depends on x");
            vec![y, gradient]
        });
    }
}

#[test]
fn rms_norm_kernel_depends_only_on_width_and_device() {
    let name = |profile: &DeviceProfile, [rows, heads, columns]: [usize; 3]| {
        let (x, weight, inverse_rms) = ([rows, 3, heads * columns], [columns], [rows * 3 * heads]);
        let shapes = Shapes { inputs: vec![&x, &weight], outputs: vec![&x, &inverse_rms] };
        NORM.dispatches(&shapes, profile)[0].kernel.shader
    };
    let [cpu, processor] = profiles();
    for rows in [1, 64, 4712] {
        assert_eq!(name(&cpu, [rows, 1, 1536]), "rms_norm");
        assert_eq!(name(&processor, [rows, 1, 1536]), "rms_norm_workgroup_vec4");
        assert_eq!(name(&processor, [rows, 1, 1531]), "rms_norm_workgroup");
        for columns in [64, 72] {
            assert_eq!(name(&processor, [rows, 24, columns]), "rms_norm");
        }
    }
}

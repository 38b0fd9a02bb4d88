//! Layer norm and gates with adaLN modulation, at the small sizes of this program's models and at those of large ones.

use flowdppo_wgpu::bench::shapes::{LAYER_NORM, tested};
use flowdppo_wgpu::graph::{DeviceProfile, Graph, Op, Plan, Shapes, Stores, Tensor};
use flowdppo_wgpu::ops::{GatedResidual, LayerNorm};

use crate::common::{
    Input, Random, Values, check, check_forward, check_forward_on, check_gradient_on, forcing, gpu, skip, with_gradient,
};

/// Short sums, and functions that drivers compute to a few units in the last place.
const FEW_ROUNDINGS: f64 = 1e-12;

/// One interface, one oracle.
const VARIANTS: [&str; 2] = ["layer_norm_serial", "layer_norm_workgroup"];

/// Kernels as on this device, and as on a GPU, with vectors if the columns are a multiple of 4.
fn profiles() -> [DeviceProfile; 2] {
    let here = DeviceProfile::of(gpu());
    [DeviceProfile { cpu: true, ..here.clone() }, DeviceProfile { cpu: false, ..here }]
}

fn layer_norm(graph: &mut Graph, x: &[Tensor]) -> Vec<Tensor> {
    vec![graph.push(LayerNorm, &[x[0], x[1], x[2]])[0]]
}

fn gated_residual(graph: &mut Graph, x: &[Tensor]) -> Vec<Tensor> {
    vec![graph.apply(GatedResidual, &[x[0], x[1], x[2]])]
}

fn of_layer_norm([batch, tokens, columns]: [usize; 3]) -> [Input; 3] {
    let modulation = Input::normal(&[batch, columns]);
    [Input::normal(&[batch, tokens, columns]), modulation.clone(), modulation]
}

fn of_gated_residual([batch, tokens, columns]: [usize; 3]) -> [Input; 3] {
    let x = Input::normal(&[batch, tokens, columns]);
    [x.clone(), x, Input::normal(&[batch, columns])]
}

#[test]
fn layer_norm_with_modulation() {
    for sizes in tested(LAYER_NORM, skip::long_tests(), |[_, _, columns]| [1, 9, columns]) {
        for variant in VARIANTS {
            for profile in profiles() {
                let profile = DeviceProfile { forced: Some(variant.into()), ..profile };
                let name = format!("{variant} {sizes:?} cpu={}", profile.cpu);
                check_forward_on(&profile, &name, &of_layer_norm(sizes), FEW_ROUNDINGS, layer_norm);
                check_gradient_on(&profile, &name, &of_layer_norm(sizes), FEW_ROUNDINGS, layer_norm);
            }
        }
    }
}

#[test]
fn layer_norm_of_constant_rows_is_finite() {
    let inputs = [Input::new(&[2, 3, 5], Values::Between(7.0, 7.0)), Input::normal(&[2, 5]), Input::normal(&[2, 5])];
    check_forward("layer_norm", &inputs, FEW_ROUNDINGS, layer_norm);
    for variant in VARIANTS {
        check_forward_on(&forcing(variant), variant, &inputs, FEW_ROUNDINGS, layer_norm);
    }
}

#[test]
fn gated_residual_and_its_gradient() {
    for sizes in [[1, 1, 1], [2, 3, 7], [5, 16, 64], [3, 65, 33], [2, 130, 68]] {
        check("gated_residual", &of_gated_residual(sizes), FEW_ROUNDINGS, gated_residual);
        for profile in profiles() {
            check_gradient_on(&profile, "gated_residual", &of_gated_residual(sizes), FEW_ROUNDINGS, gated_residual);
        }
    }
}

/// The width and the tokens of SD3.5-medium, and a width that is not a multiple of 4. The twins are the oracle here;
/// the tests above compare them with differences.
#[test]
fn large_models() {
    for sizes in [[2, 1178, 1536], [1, 333, 1531]] {
        let seed = Input::normal(&sizes);
        for profile in profiles() {
            let name = format!("{sizes:?} cpu={}", profile.cpu);
            let inputs = [&of_layer_norm(sizes)[..], std::slice::from_ref(&seed)].concat();
            check_forward_on(&profile, &name, &inputs, FEW_ROUNDINGS, with_gradient(3, layer_norm));
            let inputs = [&of_gated_residual(sizes)[..], std::slice::from_ref(&seed)].concat();
            check_forward_on(&profile, &name, &inputs, FEW_ROUNDINGS, with_gradient(3, gated_residual));
        }
    }
}

/// Runs what `build` records with kernels chosen by a profile; returns the words of every output.
fn run_on(
    profile: &DeviceProfile,
    inputs: &[(Vec<usize>, &[u32])],
    build: impl Fn(&mut Graph, &[Tensor]) -> Vec<Tensor>,
) -> Vec<Vec<u32>> {
    let mut graph = Graph::new();
    let tensors: Vec<Tensor> = inputs.iter().map(|(shape, _)| graph.input("input", shape)).collect();
    let outputs = build(&mut graph, &tensors);
    for tensor in &outputs {
        graph.keep(*tensor);
    }
    let mut plan = Plan::with_profile(gpu(), &graph, &Stores::new(), profile).expect("the case fits the device");
    for ((_, words), tensor) in inputs.iter().zip(&tensors) {
        plan.write_words(*tensor, words);
    }
    plan.run().expect("the device works");
    outputs.iter().map(|tensor| plan.read(&[*tensor]).expect("the device works")).collect()
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    // Several chunks of tokens; widths that are and are not multiples of 4.
    for columns in [67, 68] {
        let sizes = [11, 130, columns];
        let both: [[Input; 3]; 2] = [of_layer_norm(sizes), of_gated_residual(sizes)];
        for (of_op, build) in both.iter().zip([layer_norm as fn(&mut Graph, &[Tensor]) -> Vec<Tensor>, gated_residual])
        {
            let inputs = [&of_op[..], &[Input::normal(&sizes)]].concat();
            let mut random = Random(3);
            let data: Vec<Vec<u32>> = inputs.iter().map(|input| random.words(input)).collect();
            for profile in profiles() {
                let outputs_of = |samples: usize| {
                    let cases = inputs.iter().zip(&data).map(|(input, words)| {
                        let shape = [&[samples], &input.shape[1..]].concat();
                        let elements = shape.iter().product();
                        (shape, &words[..elements])
                    });
                    run_on(&profile, &cases.collect::<Vec<_>>(), with_gradient(3, build))
                };
                let all = outputs_of(11);
                for samples in [1, 2, 5] {
                    for (few, all) in outputs_of(samples).iter().zip(&all) {
                        assert_eq!(few[..], all[..few.len()], "{columns} columns, {samples} samples");
                    }
                }
            }
        }
    }
}

#[test]
fn sums_over_tokens_have_the_same_bits_in_vectors() {
    let sizes = [2, 150, 72];
    let inputs = [&of_layer_norm(sizes)[..], &[Input::normal(&sizes)]].concat();
    let mut random = Random(4);
    let data: Vec<Vec<u32>> = inputs.iter().map(|input| random.words(input)).collect();
    let cases: Vec<(Vec<usize>, &[u32])> =
        inputs.iter().zip(&data).map(|(input, words)| (input.shape.clone(), &words[..])).collect();
    let [plain, vectors] = profiles().map(|profile| {
        // One kernel for the row statistics, so that only the sums over tokens may differ.
        let profile = DeviceProfile { forced: Some("layer_norm_serial".into()), ..profile };
        run_on(&profile, &cases, with_gradient(3, layer_norm))
    });
    assert_eq!(plain, vectors);
}

#[test]
fn one_workgroup_per_row_depends_only_on_width_and_device() {
    let name = |profile: &DeviceProfile, sizes: [usize; 3]| {
        let [batch, tokens, columns] = sizes;
        let (x, modulation, stats) = ([batch, tokens, columns], [batch, columns], [batch, tokens, 2]);
        let shapes = Shapes { inputs: vec![&x, &modulation, &modulation], outputs: vec![&x, &stats] };
        LayerNorm.dispatches(&shapes, profile)[0].kernel.shader
    };
    let [cpu, processor] = profiles();
    for rows in [1, 64, 4712] {
        for columns in [5, 1536] {
            assert_eq!(name(&cpu, [rows, 3, columns]), "layer_norm");
        }
        assert_eq!(name(&processor, [rows, 3, 1536]), "layer_norm_workgroup_vec4");
        assert_eq!(name(&processor, [rows, 3, 1531]), "layer_norm_workgroup");
        assert_eq!(name(&processor, [rows, 3, 32]), "layer_norm");
    }
}

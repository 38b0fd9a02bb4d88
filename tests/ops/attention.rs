use flowdppo_wgpu::bench::shapes::{ATTENTION, tested};
use flowdppo_wgpu::graph::{DeviceProfile, Graph, Op, Plan, Shapes, Stores};
use flowdppo_wgpu::ops::Attention;

use crate::common::{Input, Random, Values, check_forward_on, check_gradient_on, floats, forcing, gpu, skip};

/// Logits of a few units with about sqrt(d) roundings of 6e-8 each, which the exponential turns into
/// relative errors of the probabilities: below 3e-6, squared.
const TOLERANCE: f64 = 1e-11;

/// Logits of up to 30 carry an error of 30 times a few roundings, about 1e-5 of a probability; squared.
const TOLERANCE_LARGE: f64 = 1e-9;

/// What chooses a kernel, and its name.
type Chosen = (&'static str, DeviceProfile);

fn in_subgroups() -> Chosen {
    ("attention_subgroup", forcing("attention_subgroup"))
}

/// One row per invocation, as on software drivers and, if it differs, as on GPUs.
fn in_registers(head_dim: usize) -> Vec<Chosen> {
    let with = |cpu| DeviceProfile { cpu, ..forcing("attention_register") };
    let in_two_passes = head_dim > 32 && head_dim.is_multiple_of(4);
    let on_gpus = in_two_passes.then(|| ("attention_register in two passes", with(false)));
    [("attention_register", with(true))].into_iter().chain(on_gpus).collect()
}

/// With tiles in workgroup memory, for heads that have such kernels.
fn in_tiles(head_dim: usize) -> Option<Chosen> {
    head_dim.is_multiple_of(4).then(|| ("attention_tiled", forcing("attention_tiled")))
}

/// With tiles only for small heads: software drivers take seconds to compile each of the others.
fn all_kernels(head_dim: usize) -> Vec<Chosen> {
    let tiles = if head_dim <= 8 || skip::long_tests() { in_tiles(head_dim) } else { None };
    [in_subgroups()].into_iter().chain(in_registers(head_dim)).chain(tiles).collect()
}

fn check_both(
    (variant, profile): &Chosen,
    [batches, tokens, heads, head_dim]: [usize; 4],
    values: Values,
    tolerance: f64,
) {
    let name = format!("{variant} B={batches} T={tokens} H={heads} d={head_dim} {values:?}");
    let inputs = [Input::new(&[batches, tokens, 3 * heads * head_dim], values)];
    let op = Attention { num_heads: heads };
    check_forward_on(profile, &name, &inputs, tolerance, |graph, x| graph.push(op, &[x[0]]));
    // The second output has no gradient.
    check_gradient_on(profile, &name, &inputs, tolerance, |graph, x| vec![graph.push(op, &[x[0]])[0]]);
}

/// `[B, T, H, d]`: the heads of real models with `few` tokens.
fn cases(few: usize) -> Vec<[usize; 4]> {
    tested(ATTENTION, skip::long_tests(), |[_, tokens, _, head_dim]| [1, tokens.min(few), 1, head_dim])
}

#[test]
fn attention_subgroup() {
    for case in cases(64) {
        check_both(&in_subgroups(), case, Values::Normal, TOLERANCE);
    }
}

#[test]
fn attention_register() {
    // A software driver takes half a minute to compile each of the largest heads.
    for case in cases(9).into_iter().filter(|[.., head_dim]| skip::long_tests() || *head_dim < 64) {
        for kernel in in_registers(case[3]) {
            check_both(&kernel, case, Values::Normal, TOLERANCE);
        }
    }
}

/// Tokens around the tiles of 32 and 64 rows; heads of less than the 8 vectors that lanes share, and around slices of 8.
#[test]
fn attention_tiled() {
    let tokens = [1, 31, 32, 33, 63, 64, 65, 77, 129].map(|tokens| [2, tokens, 3, 8]);
    let heads = [[2, 7, 2, 4]];
    // A software driver takes half a minute to compile each of these heads.
    let slow = [32, 36, 40, 64, 68, 72, 100, 128].map(|head_dim| [1, 77, 2, head_dim]);
    let slow = skip::long_tests().then_some(slow).into_iter().flatten();
    for case @ [.., head_dim] in tokens.into_iter().chain(heads).chain(slow) {
        let kernel = in_tiles(head_dim).expect("heads of whole vectors");
        check_both(&kernel, case, Values::Normal, TOLERANCE);
    }
}

/// A head of Stable Diffusion 3.5 medium for a picture of 512x512: 1024 patches and 154 tokens of text. Other kernels add
/// in another order, so they agree as well as each agrees with its twin.
#[test]
fn attention_tiled_of_a_real_size() {
    if !skip::long_tests() {
        return;
    }
    let sizes @ [tokens, head_dim] = [1178, 64];
    let kernel = in_tiles(head_dim).expect("heads of whole vectors");
    check_both(&kernel, [1, tokens, 1, head_dim], Values::Normal, TOLERANCE);
    let others = [in_subgroups()].into_iter().chain(in_registers(head_dim));
    let [qkv, d_o] = words([1, tokens, head_dim]);
    let found =
        |profile: &DeviceProfile| bits(profile, [1, tokens, head_dim], [&qkv, &d_o]).map(|words| floats(&words));
    let tiled = found(&kernel.1);
    for (variant, profile) in others {
        for (name, (tiled, other)) in ["o", "logsumexp", "d_qkv"].iter().zip(tiled.iter().zip(found(&profile))) {
            let square = |x: f32| f64::from(x) * f64::from(x);
            let apart: f64 = tiled.iter().zip(&other).map(|(a, b)| square(a - b)).sum();
            let scale: f64 = other.iter().map(|value| square(*value)).sum();
            assert!(apart <= TOLERANCE * scale, "{name} of {variant} {sizes:?}: {apart} of {scale}");
        }
    }
}

/// More keys than any loop over them would unroll, and a last block of a single row.
#[test]
fn attention_over_many_tokens() {
    let tokens = if skip::long_tests() { &[129, 257][..] } else { &[129] };
    for kernel in all_kernels(8) {
        for tokens in tokens {
            check_both(&kernel, [1, *tokens, 1, 8], Values::Normal, TOLERANCE);
        }
    }
}

/// NaN reaches the output and the gradients of query and key, as NaN or infinity, and nothing of the other head. The
/// gradient of the values is not checked: it depends only on `exp(NaN)`, which WGSL does not define and which is infinite
/// or tiny on SwiftShader.
#[test]
fn nan_in_q_or_k_reaches_the_output() {
    const TOKENS: usize = 5;
    let mut random = Random(4);
    let of = |kernels: Vec<Chosen>, head_dim| kernels.into_iter().map(move |kernel| (kernel, head_dim));
    let kernels = of(all_kernels(5), 5)
        .chain(of(in_registers(8), 8))
        .chain(of(in_registers(36), 36))
        .chain(of(in_tiles(8).into_iter().collect(), 8));
    for ((variant, profile), head_dim) in kernels {
        // Query, key.
        for part in 0..2 {
            let mut values = floats(&random.words(&Input::normal(&[1, TOKENS, 6 * head_dim])));
            values[2 * 6 * head_dim + part * 2 * head_dim + 1] = f32::NAN;
            let mut graph = Graph::new();
            let qkv = graph.input("qkv", &[1, TOKENS, 6 * head_dim]);
            let d_o = graph.input("d_o", &[1, TOKENS, 2 * head_dim]);
            let outputs = graph.push(Attention { num_heads: 2 }, &[qkv]);
            let gradient = flowdppo_wgpu::autodiff::backward(&mut graph, &[(outputs[0], d_o)], &[qkv])[0];
            let gradient = gradient.expect("o depends on qkv");
            for tensor in [outputs[0], outputs[1], gradient] {
                graph.keep(tensor);
            }
            let mut plan = Plan::with_profile(gpu(), &graph, &Stores::new(), &profile).expect("it is small");
            plan.write(qkv, &values);
            plan.write(d_o, &[1.0_f32; TOKENS * 2].repeat(head_dim));
            plan.run().expect("the device works");
            let name = format!("{variant} d={head_dim} part={part}");
            let [o, logsumexp, gradient]: [Vec<f32>; 3] =
                [outputs[0], outputs[1], gradient].map(|tensor| plan.read(&[tensor]).expect("the device works"));
            // A query belongs to its own row; a key to every row.
            let is_lost = |row: usize, head: usize| head == 0 && (part == 1 || row == 2);
            for row in 0..TOKENS {
                for head in 0..2 {
                    let values = &o[(row * 2 + head) * head_dim..][..head_dim];
                    assert!(
                        values.iter().all(|value| value.is_finite() != is_lost(row, head)),
                        "{name} o {row} {head} {values:?}"
                    );
                    assert_ne!(logsumexp[head * TOKENS + row].is_finite(), is_lost(row, head), "{name} {row} {head}");
                    for (part, which) in ["d_q", "d_k", "d_v"].iter().enumerate() {
                        let values = &gradient[((row * 3 + part) * 2 + head) * head_dim..][..head_dim];
                        let lost = head == 0 && (part > 0 || is_lost(row, head));
                        if lost && *which == "d_v" {
                            continue;
                        }
                        assert!(
                            values.iter().all(|value| value.is_finite() != lost),
                            "{name} {which} {row} {head} {values:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn attention_with_large_logits_does_not_overflow() {
    // With d = 1 the logits are products of two numbers of up to 5.5; with larger d sums of such.
    for ([tokens, heads, head_dim], bound) in [([17, 3, 1], 5.5), ([65, 1, 16], 5.0), ([7, 4, 8], 8.0)] {
        for kernel in all_kernels(head_dim) {
            let case = [2, tokens, heads, head_dim];
            check_both(&kernel, case, Values::Between(-bound, bound), TOLERANCE_LARGE);
        }
    }
}

/// `o`, `logsumexp` and the gradient of `qkv` as bits, for three heads.
fn bits(profile: &DeviceProfile, [batches, tokens, head_dim]: [usize; 3], words: [&[u32]; 2]) -> [Vec<u32>; 3] {
    let mut graph = Graph::new();
    let qkv = graph.input("qkv", &[batches, tokens, 3 * 3 * head_dim]);
    let d_o = graph.input("d_o", &[batches, tokens, 3 * head_dim]);
    let outputs = graph.push(Attention { num_heads: 3 }, &[qkv]);
    let gradient = flowdppo_wgpu::autodiff::backward(&mut graph, &[(outputs[0], d_o)], &[qkv])[0];
    let found = [outputs[0], outputs[1], gradient.expect("o depends on qkv")];
    for tensor in found {
        graph.keep(tensor);
    }
    let mut plan = Plan::with_profile(gpu(), &graph, &Stores::new(), profile).expect("it is small");
    for (tensor, words) in [qkv, d_o].into_iter().zip(words) {
        plan.write_words(tensor, &words[..graph.elements(tensor)]);
    }
    plan.run().expect("the device works");
    found.map(|tensor| plan.read(&[tensor]).expect("the device works"))
}

/// Random words for the inputs of [`bits`].
fn words([batches, tokens, head_dim]: [usize; 3]) -> [Vec<u32>; 2] {
    let mut random = Random(3);
    [9, 3].map(|heads| random.words(&Input::normal(&[batches, tokens, heads * head_dim])))
}

#[test]
fn attention_of_a_sample_does_not_depend_on_the_batch_size() {
    for head_dim in [5, 8, 36] {
        let [qkv, d_o] = words([5, 17, head_dim]);
        for (variant, profile) in all_kernels(head_dim) {
            let [alone, together] = [1, 5].map(|batches| bits(&profile, [batches, 17, head_dim], [&qkv, &d_o]));
            for (name, (alone, together)) in ["o", "logsumexp", "d_qkv"].iter().zip(alone.iter().zip(&together)) {
                assert_eq!(alone[..], together[..alone.len()], "{name} of {variant} d={head_dim}");
                assert!(alone.iter().any(|word| *word != 0), "{name} of {variant} is not all zero");
            }
        }
    }
}

/// The sums of both have the same order. Drivers of GPUs may contract them in different ways.
#[test]
fn attention_in_two_passes_has_the_same_bits_on_software_drivers() {
    if !DeviceProfile::of(gpu()).cpu {
        return;
    }
    for sizes @ [_, _, head_dim] in [[2, 17, 36], [1, 66, 36]] {
        let [qkv, d_o] = words(sizes);
        let found = in_registers(head_dim).into_iter().map(|(_, profile)| bits(&profile, sizes, [&qkv, &d_o]));
        let found: Vec<_> = found.collect();
        assert!(found[0] == found[1], "{sizes:?}");
    }
}

/// Of heads of whole vectors that are not small, whatever the subgroups. Requests count everywhere.
#[test]
fn attention_uses_tiles_only_on_gpus() {
    let chosen = |cpu, forced: Option<&str>, head_dim: usize| {
        let shapes: [&[usize]; 3] = [&[2, 16, 3 * head_dim], &[2, 16, head_dim], &[2, 1, 16]];
        let shapes = Shapes { inputs: shapes[..1].to_vec(), outputs: shapes[1..].to_vec() };
        let profile = DeviceProfile {
            cpu,
            subgroup_size: Some(32),
            forced: forced.map(str::to_owned),
            ..DeviceProfile::default()
        };
        let op = Attention { num_heads: 1 };
        let shader = op.dispatches(&shapes, &profile)[0].kernel.shader;
        let choice = op.choice(&shapes, &profile).expect("attention has several kernels");
        assert!(choice.kernels.contains(&choice.usual), "{choice:?}");
        shader
    };
    for head_dim in [32, 64, 72, 128] {
        assert_eq!(chosen(false, None, head_dim), "attention_tiled");
        assert_eq!(chosen(false, Some("attention_register"), head_dim), "attention_vec4");
        assert_eq!(chosen(true, None, head_dim), "attention_subgroup");
        assert_eq!(chosen(true, Some("attention_tiled"), head_dim), "attention_tiled");
    }
    assert_eq!(chosen(false, None, 16), "attention_vec4");
    assert_eq!(chosen(false, Some("attention_tiled"), 16), "attention_tiled");
    for forced in [None, Some("attention_tiled")] {
        assert_eq!(chosen(false, forced, 33), "attention", "not whole vectors");
        assert_eq!(chosen(false, forced, 132), "attention_vec4", "too large");
    }
}

#[test]
fn attention_shares_rows_in_subgroups_only_on_software_drivers() {
    let shapes: [&[usize]; 3] = [&[2, 16, 192], &[2, 16, 64], &[2, 4, 16]];
    let shapes = Shapes { inputs: shapes[..1].to_vec(), outputs: shapes[1..].to_vec() };
    let chosen = |cpu, subgroup_size| {
        let profile = DeviceProfile { cpu, subgroup_size, ..DeviceProfile::default() };
        Attention { num_heads: 4 }.dispatches(&shapes, &profile)[0].kernel.clone()
    };
    for subgroup_size in [None, Some(32), Some(64)] {
        assert_eq!(chosen(false, subgroup_size).shader, "attention_vec4");
    }
    assert_eq!(chosen(true, None).shader, "attention_vec4");
    for lanes in [4, 8, 16] {
        let kernel = chosen(true, Some(lanes));
        assert_eq!(kernel.shader, "attention_subgroup");
        assert!(kernel.constants.contains(&("SUBGROUP", lanes)), "{kernel:?}");
    }
}

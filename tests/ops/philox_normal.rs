use flowdppo_wgpu::flow::noise::{INITIAL_NOISE, NoiseKey, normals};
use flowdppo_wgpu::gpu::ShaderStruct;
use flowdppo_wgpu::graph::DType;
use flowdppo_wgpu::ops::{NoiseWords, PhiloxNormal};

use crate::common::{Input, check_forward, check_rows_are_independent, floats, run_of};

/// Polynomials in f32, the same on every device: a few roundings.
const TOLERANCE: f64 = 1e-13;

fn keys(count: u32) -> Vec<NoiseKey> {
    (0..count)
        .map(|sample| NoiseKey {
            seed: 0x0123_4567_89ab_cdef_u64.wrapping_mul(u64::from(sample) + 1),
            rollout: sample % 3,
            sample: u32::MAX - sample,
            step: if sample % 2 == 0 { INITIAL_NOISE } else { sample },
        })
        .collect()
}

fn draw(keys: &[NoiseKey], op: &PhiloxNormal) -> Vec<u32> {
    let words: Vec<NoiseWords> = keys.iter().map(|key| (*key).into()).collect();
    let words = bytemuck::cast_slice(&words);
    run_of(&[(DType::U32, &[keys.len(), NoiseWords::WORDS], words)], |graph, x| vec![graph.apply(op.clone(), x)])
        .remove(0)
}

#[test]
fn words_match_the_host() {
    for (rows, columns) in [(1, 1), (1, 4), (3, 7), (2, 64), (65, 5), (7, 1031)] {
        let keys = keys(rows);
        let actual = draw(&keys, &PhiloxNormal { row_shape: vec![columns], raw: true });
        let blocks = columns.div_ceil(4) as u32;
        let row = |key: &NoiseKey| (0..blocks).flat_map(|block| key.block(block)).take(columns).collect::<Vec<_>>();
        assert_eq!(actual, keys.iter().flat_map(row).collect::<Vec<_>>(), "{rows} x {columns}");
    }
}

#[test]
fn normals_match_the_host() {
    let keys = keys(9);
    let actual = floats(&draw(&keys, &PhiloxNormal::new(&[3, 37, 31])));
    let expected: Vec<f64> = keys.iter().flat_map(|key| normals(*key, 3 * 37 * 31)).collect();
    let largest = actual.iter().zip(&expected).map(|(a, e)| (f64::from(*a) - e).abs()).fold(0.0, f64::max);
    assert!(largest < 3e-6, "a normal is off by {largest:.1e}");
    let odd = [(1, 1), (3, 5), (67, 130)];
    for (rows, columns) in odd {
        check_forward("philox_normal", &[Input::index(&[rows, 5], u32::MAX)], TOLERANCE, |graph, x| {
            vec![graph.apply(PhiloxNormal::new(&[columns]), x)]
        });
    }
}

#[test]
fn past_65535_workgroups() {
    check_forward("philox_normal", &[Input::index(&[65_536 * 64 + 3, 5], u32::MAX)], TOLERANCE, |graph, x| {
        vec![graph.apply(PhiloxNormal::new(&[1]), x)]
    });
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    check_rows_are_independent("philox_normal", 131, &[Input::index(&[131, 5], u32::MAX)], |graph, x| {
        vec![graph.apply(PhiloxNormal::new(&[3, 7]), x)]
    });
}

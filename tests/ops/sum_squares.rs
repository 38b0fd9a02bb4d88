use flowdppo_wgpu::ops::sum_squares;

use crate::common::{Input, check_forward, floats, run, words};

/// Sums in trees over squares: a few roundings.
const TOLERANCE: f64 = 1e-12;

fn sums(values: &[f32]) -> Vec<f32> {
    let outputs = run(&[(&[values.len()], &words(values))], |graph, x| vec![sum_squares(graph, x[0])]);
    floats(&outputs[0])
}

#[test]
fn odd_sizes() {
    // One lane, one chunk, several chunks, more chunks than lanes.
    for elements in [1, 63, 65, 4095, 4096, 4097, 12_289, 300_007, 5_000_011] {
        check_forward("sum_squares", &[Input::normal(&[elements])], TOLERANCE, |graph, x| {
            vec![sum_squares(graph, x[0])]
        });
    }
}

#[test]
fn non_finite_values_are_counted_at_any_position() {
    for elements in [1, 64, 4097, 300_007] {
        for place in [0, elements / 2, elements - 1] {
            for odd in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::from_bits(0xffc0_1234)] {
                let mut values = vec![0.5_f32; elements];
                values[place] = odd;
                let expected = 0.25 * (elements - 1) as f32;
                let sums = sums(&values);
                assert_eq!(sums[1], 1.0, "{odd} at {place} of {elements}");
                assert!((sums[0] - expected).abs() <= 1e-6 * expected, "{} instead of {expected}", sums[0]);
            }
        }
    }
    assert_eq!(sums(&[f32::NAN; 5000]), [0.0, 5000.0]);
    assert_eq!(sums(&[f32::MAX, 1.0])[1], 0.0, "the largest number is finite");
}

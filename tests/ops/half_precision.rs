use flowdppo_wgpu::graph::{DType, Graph, Interpreter, Plan, Stores};
use flowdppo_wgpu::ops::{FromHalf, HalfRange, ToHalf};

use crate::common::{Random, gpu, words};

/// Packed words followed by the ranges, and the unpacked values, on the device and by the twins.
fn both(x: &[f32]) -> ([Vec<u32>; 2], Vec<f32>, Vec<f64>) {
    let mut graph = Graph::new();
    let input = graph.input("x", &[x.len()]);
    let ranges = graph.constant_indices("ranges", &[3, 2], vec![0; 6]);
    let packed = graph.scratch_of(DType::F16, &[x.len()]);
    graph.push_into(ToHalf { slot: 1 }, &[input, ranges], &[packed, ranges]);
    let back = graph.apply(FromHalf, &[packed]);
    graph.keep(packed);
    graph.keep(back);
    let mut plan = Plan::new(gpu(), &graph, &Stores::new()).expect("it is small");
    plan.write(input, x);
    plan.run().expect("the device works");
    let mut twin = Interpreter::default();
    twin.write(input, &x.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>());
    twin.run(&graph);
    let of_twin: Vec<f32> = twin.value(&graph, packed).iter().map(|value| *value as f32).collect();
    let mut of_twin = DType::F16.encode(&of_twin);
    of_twin.extend(twin.value(&graph, ranges).iter().map(|word| *word as u32));
    let on_device = plan.read(&[packed, ranges]).expect("the device works");
    let unpacked = plan.read(&[back]).expect("the device works");
    ([on_device, of_twin], unpacked, twin.value(&graph, back).to_vec())
}

/// Both kernels use integer arithmetic, so the results are exact.
fn check(x: &[f32]) -> Vec<f32> {
    let ([device, twin], back, back_twin) = both(x);
    assert_eq!(device.len(), x.len().div_ceil(2) + 6);
    assert_eq!(device, twin, "of {x:?}");
    assert!(back.iter().zip(&back_twin).all(|(a, b)| f64::from(*a) == *b || a.is_nan() && b.is_nan()), "{back:?}");
    back
}

#[test]
fn packed_numbers_are_the_nearest_of_16_bits() {
    for count in [1, 2, 7, 64, 65, 128, 129, 4099] {
        let mut random = Random(count as u64);
        // From 2^-15 to 2^15: none overflows, and few are below the range with 11 bits.
        let x: Vec<f32> = (0..count).map(|index: i32| random.normal() as f32 * 2.0_f32.powi(index % 27 - 13)).collect();
        for (x, back) in x.iter().zip(check(&x)) {
            assert!((x - back).abs() <= (x.abs() / 2048.0).max(2.0_f32.powi(-25)), "{x} comes back as {back}");
        }
    }
}

#[test]
fn edges_of_16_bits() {
    let (step, least) = (2.0_f32.powi(-10), 2.0_f32.powi(-24));
    let tie = |steps: f32| 1.0 + steps * step;
    let x = [0.0, -0.0, 1.0, -1.0, tie(0.5), tie(1.5), -tie(2.5), tie(0.499), tie(0.501), 65504.0, 65519.0, 65520.0];
    let expected = [0.0, -0.0, 1.0, -1.0, 1.0, tie(2.0), -tie(2.0), 1.0, tie(1.0), 65504.0, 65504.0];
    let back = check(&x);
    assert_eq!(words(&back[..11]), words(&expected));
    assert!(back[11].is_nan(), "65520 would round to infinity");
    let x = [2047.5 * least, 1023.5 * least, 1024.0 * least, least, 0.5 * least, 1.5 * least, -1e-30];
    let expected = [2048.0 * least, 1024.0 * least, 1024.0 * least, least, 0.0, 2.0 * least, -0.0];
    assert_eq!(words(&check(&x)), words(&expected));
}

/// The range found in a tensor of these values, which is read twice.
fn range(x: &[f32]) -> HalfRange {
    let ([device, _], ..) = both(x);
    let ranges = &device[device.len() - 6..];
    assert!([0, 1, 4, 5].map(|other| ranges[other]) == [0; 4], "the ranges of other tensors are unchanged");
    HalfRange::from_words([ranges[2], ranges[3]])
}

#[test]
fn values_that_do_not_fit_are_counted() {
    let mut x: Vec<f32> = (0..4099).map(|index| if index % 7 == 3 { -70_000.0 } else { 65_519.0 }).collect();
    let found = range(&x);
    assert_eq!(found, HalfRange { beyond: 586, largest: 70_000.0 });
    assert!(found.overflows() && !found.underflows());
    check(&x);
    // Non-finite values have no magnitude: their gradients are non-finite anyway.
    (x[5], x[4097]) = (f32::INFINITY, f32::NAN);
    x[6] = -f32::MAX;
    assert_eq!(range(&x), HalfRange { beyond: 587, largest: f32::MAX });
    let fits = range(&[65_519.0, -3.0, 0.0]);
    assert!(fits == HalfRange { beyond: 0, largest: 65_519.0 } && !fits.overflows() && !fits.underflows());
    let small = range(&[1e-7, -3e-6, 0.0]);
    assert!(small == HalfRange { beyond: 0, largest: 3e-6 } && small.underflows());
    assert!(!range(&[0.0; 9]).underflows(), "zeros are exact");
}

#[test]
fn non_finite_values_stay_non_finite() {
    let back = check(&[f32::NAN, 1.0, f32::INFINITY, f32::NEG_INFINITY, -2.0]);
    assert_eq!(back.iter().map(|value| value.is_finite()).collect::<Vec<_>>(), [false, true, false, false, true]);
}

#[test]
fn every_16_bit_number_comes_back() {
    let x: Vec<f32> =
        (0..=u16::MAX).map(|bits| half::f16::from_bits(bits).to_f32()).filter(|x| x.is_finite()).collect();
    assert_eq!(x.len(), 2 * 31 * 1024);
    assert_eq!(words(&check(&x)), words(&x));
}

//! Numbers in 16 bits (IEEE 754 binary16), two per word, for values that are only stored, not computed with.
//!
//! The kernels convert in integer arithmetic: no optional device feature is needed, and all devices give the same
//! bits.

use half::f16;

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, DeviceProfile, Op, Shapes};

/// What rounds to the largest number of 16 bits, 65504, lies below this.
pub const HALF_BOUND: f32 = 65520.0;

/// A tensor whose largest magnitude lies below this keeps less than seven of its significant bits: 16 bits have
/// multiples of 2⁻²⁴ there.
const TINY: f32 = 1.0 / (1 << 18) as f32;

/// `x [..]` to words `[elements / 2, rounded up]`: each element rounded to the nearest of 11 significant bits
/// (below 2⁻¹⁴ to a multiple of 2⁻²⁴), ties to even. What does not fit, from [`HALF_BOUND`] on, becomes NaN, as does
/// what is not finite: a gradient that is computed from it is then not finite either, and never just wrong.
///
/// The second input is also the second output: a [`HalfRange`] of each packed tensor, `[tensors, 2]` whole numbers
/// (how many finite elements did not fit, and the bits of the largest finite magnitude), of which this op updates that
/// of its `slot`. They go on from replay to replay until the host writes zeros.
#[derive(Clone, Copy, Debug)]
pub struct ToHalf {
    /// Index of the tensor among the ranges.
    pub slot: usize,
}

/// What [`ToHalf`] found in a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HalfRange {
    /// Finite elements that 16 bits cannot hold; modulo 2³².
    pub beyond: u32,
    /// The largest finite magnitude.
    pub largest: f32,
}

impl HalfRange {
    /// From the two words of a tensor.
    pub fn from_words([beyond, largest]: [u32; 2]) -> Self {
        Self { beyond, largest: f32::from_bits(largest) }
    }

    /// Whether elements did not fit.
    pub fn overflows(&self) -> bool {
        self.largest >= HALF_BOUND
    }

    /// Whether all elements are so small that next to nothing is left of them.
    pub fn underflows(&self) -> bool {
        self.largest > 0.0 && self.largest < TINY
    }
}

/// Words of [`ToHalf`] to a tensor of `shape`.
#[derive(Clone, Debug)]
pub struct FromHalf {
    /// Shape of the packed tensor.
    pub shape: Vec<usize>,
}

/// [`ToHalf`] on the host.
pub fn pack_half(values: &[f32]) -> impl Iterator<Item = u32> {
    values.chunks(2).map(|pair| packed(pair[0].into(), pair.get(1).copied().unwrap_or(0.0).into()))
}

/// Packs two numbers into a word.
fn packed(low: f64, high: f64) -> u32 {
    let bits = |value: f64| {
        let half = f16::from_f64(value);
        u32::from(if half.is_finite() { half } else { f16::NAN }.to_bits())
    };
    bits(low) | bits(high) << 16
}

impl Op for ToHalf {
    fn name(&self) -> &'static str {
        "to_half"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert!(self.slot < inputs[1][0] && inputs[1][1..] == [2], "ranges of all packed tensors");
        vec![vec![inputs[0].iter().product::<usize>().div_ceil(2)], inputs[1].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let params = [shapes.input_elements(0), self.slot].map(word).to_vec();
        let (reads, writes) = ([Binding::Input(0)], [Binding::Output(0), Binding::Output(1)]);
        vec![independent(Kernel::new("to_half"), &reads, &writes, params, shapes.output_elements(0))]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let words = inputs[0].chunks(2).map(|pair| packed(pair[0], pair.get(1).copied().unwrap_or(0.0)));
        let mut ranges = inputs[1].to_vec();
        for magnitude in inputs[0].iter().filter(|value| value.is_finite()).map(|value| value.abs()) {
            let [beyond, largest] = [2 * self.slot, 2 * self.slot + 1];
            ranges[beyond] += if magnitude >= f64::from(HALF_BOUND) { 1.0 } else { 0.0 };
            ranges[largest] = ranges[largest].max(f64::from((magnitude as f32).to_bits()));
        }
        vec![words.map(f64::from).collect(), ranges]
    }
}

impl Op for FromHalf {
    fn name(&self) -> &'static str {
        "from_half"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(
            inputs[0],
            [self.shape.iter().product::<usize>().div_ceil(2)],
            "the number of words must fit the shape"
        );
        vec![self.shape.clone()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let params = vec![word(shapes.output_elements(0))];
        let (reads, writes) = ([Binding::Input(0)], [Binding::Output(0)]);
        vec![independent(Kernel::new("from_half"), &reads, &writes, params, shapes.input_elements(0))]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let halves = inputs[0].iter().flat_map(|words| [*words as u32 as u16, (*words as u32 >> 16) as u16]);
        vec![halves.map(|bits| f16::from_bits(bits).to_f64()).take(shapes.output_elements(0)).collect()]
    }
}

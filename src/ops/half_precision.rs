//! Numbers in 16 bits (IEEE 754 binary16), two per word ([`DType::F16`]), for values that are only stored, not computed
//! with.
//!
//! The kernels convert in integer arithmetic: no optional device feature is needed, and all devices compute the same
//! bits.

use half::f16;

use super::{ElementsParams, independent, word};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DType, DeviceProfile, HALF_BOUND, Op, Shapes, half_bits};

/// A tensor whose largest magnitude is below this keeps fewer than seven significant bits: numbers of 16 bits are
/// multiples of 2⁻²⁴ there.
const TINY: f32 = 1.0 / (1 << 18) as f32;

/// `x [..]` to the same in 16 bits: each element rounded to the nearest of 11 significant bits (below 2⁻¹⁴ to a multiple
/// of 2⁻²⁴), ties to even. Values that do not fit, from [`HALF_BOUND`] on, and values that are not finite become NaN:
/// a gradient computed from them is then not finite either, instead of silently wrong.
///
/// The second input is also the second output: a [`HalfRange`] of each packed tensor, `[tensors, 2]` whole numbers
/// (how many finite elements did not fit, and the bits of the largest finite magnitude), of which this op updates the
/// one at `slot`. They accumulate over replays until the host writes zeros.
#[derive(Clone, Copy, Debug)]
pub struct ToHalf {
    /// Index of the tensor among the ranges.
    pub slot: usize,
}

shader_struct! {
    pub(super) struct ToHalfParams {
        elements: u32,
        slot: u32,
    }
}

/// What [`ToHalf`] found in a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HalfRange {
    /// Number of finite elements that do not fit in 16 bits, modulo 2³².
    pub beyond: u32,
    /// The largest finite magnitude.
    pub largest: f32,
}

impl HalfRange {
    /// From the two words of a tensor.
    pub fn from_words([beyond, largest]: [u32; 2]) -> Self {
        Self { beyond, largest: f32::from_bits(largest) }
    }

    /// That of two parts of a tensor's values.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self { beyond: self.beyond.wrapping_add(other.beyond), largest: self.largest.max(other.largest) }
    }

    /// Whether elements did not fit.
    pub fn overflows(&self) -> bool {
        self.largest >= HALF_BOUND
    }

    /// Whether all elements are so small that almost nothing is left of them.
    pub fn underflows(&self) -> bool {
        self.largest > 0.0 && self.largest < TINY
    }
}

/// Expands the result of [`ToHalf`] to 32 bits.
#[derive(Clone, Copy, Debug)]
pub struct FromHalf;

impl Op for ToHalf {
    fn name(&self) -> &'static str {
        "to_half"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert!(self.slot < inputs[1][0] && inputs[1][1..] == [2], "ranges of all packed tensors");
        vec![inputs[0].to_vec(), inputs[1].to_vec()]
    }

    fn input_type(&self, index: usize) -> DType {
        if index == 1 { DType::U32 } else { DType::F32 }
    }

    fn output_type(&self, index: usize) -> DType {
        if index == 1 { DType::U32 } else { DType::F16 }
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let params = ToHalfParams { elements: word(shapes.input_elements(0)), slot: word(self.slot) };
        let (reads, writes) = ([Binding::Input(0)], [Binding::Output(0), Binding::Output(1)]);
        let words = DType::F16.words(shapes.outputs[0]);
        vec![independent(Kernel::new("to_half"), &reads, &writes, &params, words)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let halves = inputs[0].iter().map(|value| f16::from_bits(half_bits(*value)).to_f64());
        let mut ranges = inputs[1].to_vec();
        for magnitude in inputs[0].iter().filter(|value| value.is_finite()).map(|value| value.abs()) {
            let [beyond, largest] = [2 * self.slot, 2 * self.slot + 1];
            ranges[beyond] += if magnitude >= f64::from(HALF_BOUND) { 1.0 } else { 0.0 };
            ranges[largest] = ranges[largest].max(f64::from((magnitude as f32).to_bits()));
        }
        vec![halves.collect(), ranges]
    }
}

impl Op for FromHalf {
    fn name(&self) -> &'static str {
        "from_half"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[0].to_vec()]
    }

    fn input_type(&self, _: usize) -> DType {
        DType::F16
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let params = ElementsParams::of(shapes.output_elements(0));
        let (reads, writes) = ([Binding::Input(0)], [Binding::Output(0)]);
        let words = DType::F16.words(shapes.inputs[0]);
        vec![independent(Kernel::new("from_half"), &reads, &writes, &params, words)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        vec![inputs[0].to_vec()]
    }
}

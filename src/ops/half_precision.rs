//! Numbers in 16 bits (IEEE 754 binary16), two per word, for values that are only stored, not computed with.
//!
//! The kernels convert in integer arithmetic: no optional device feature is needed, and all devices give the same
//! bits.

use half::f16;

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, Op, Profile, Shapes};

/// `x [..]` to words `[elements / 2, rounded up]`: each element is rounded to nearest with 11 significant bits
/// (below 2⁻¹⁴ to a multiple of 2⁻²⁴), ties to even, and clamped to ±65504; non-finite values become NaN.
#[derive(Clone, Copy, Debug)]
pub struct ToHalf;

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
        let finite = if value.is_finite() { value.clamp(-65504.0, 65504.0) } else { f64::NAN };
        u32::from(f16::from_f64(finite).to_bits())
    };
    bits(low) | bits(high) << 16
}

impl Op for ToHalf {
    fn name(&self) -> &'static str {
        "to_half"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![vec![inputs[0].iter().product::<usize>().div_ceil(2)]]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let params = vec![word(shapes.input_elements(0))];
        let (reads, writes) = ([Binding::Input(0)], [Binding::Output(0)]);
        vec![independent(Kernel::new("to_half"), &reads, &writes, params, shapes.output_elements(0))]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let words = inputs[0].chunks(2).map(|pair| packed(pair[0], pair.get(1).copied().unwrap_or(0.0)));
        vec![words.map(f64::from).collect()]
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

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let params = vec![word(shapes.output_elements(0))];
        let (reads, writes) = ([Binding::Input(0)], [Binding::Output(0)]);
        vec![independent(Kernel::new("from_half"), &reads, &writes, params, shapes.input_elements(0))]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let halves = inputs[0].iter().flat_map(|words| [*words as u32 as u16, (*words as u32 >> 16) as u16]);
        vec![halves.map(|bits| f16::from_bits(bits).to_f64()).take(shapes.output_elements(0)).collect()]
    }
}

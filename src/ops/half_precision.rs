//! Numbers in 16 bits (IEEE 754 binary16), two a word ([`DType::F16`]), for what is only kept and not computed with.
//!
//! The kernels convert by whole numbers: no optional feature of a device is needed, and all give the same bits.

use half::f16;

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, DType, Op, Profile, Shapes, half_bits};

/// `x [..]` to the same in 16 bits: each element rounded to the nearest of 11 significant bits
/// (below 2⁻¹⁴ to a multiple of 2⁻²⁴), ties to even, and cut to ±65504; what is not finite becomes NaN.
#[derive(Clone, Copy, Debug)]
pub struct ToHalf;

/// The result of [`ToHalf`] in 32 bits.
#[derive(Clone, Copy, Debug)]
pub struct FromHalf;

impl Op for ToHalf {
    fn name(&self) -> &'static str {
        "to_half"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[0].to_vec()]
    }

    fn output_type(&self, _: usize) -> DType {
        DType::F16
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let params = vec![word(shapes.input_elements(0))];
        let (reads, writes) = ([Binding::Input(0)], [Binding::Output(0)]);
        let words = DType::F16.words(shapes.outputs[0]);
        vec![independent(Kernel::new("to_half"), &reads, &writes, params, words)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        vec![inputs[0].iter().map(|value| f16::from_bits(half_bits(*value)).to_f64()).collect()]
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

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let params = vec![word(shapes.output_elements(0))];
        let (reads, writes) = ([Binding::Input(0)], [Binding::Output(0)]);
        let words = DType::F16.words(shapes.inputs[0]);
        vec![independent(Kernel::new("from_half"), &reads, &writes, params, words)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        vec![inputs[0].to_vec()]
    }
}

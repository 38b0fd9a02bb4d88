//! Rotary position embeddings.

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// Rotates pairs of elements of each head by angles that depend on the token (RoFormer, arXiv 2104.09864). The pairs are
/// (k, k + d/2), not neighbours:
///
/// `y_k = x_k cos_k − x_{k+d/2} sin_k` and `y_{k+d/2} = x_{k+d/2} cos_k + x_k sin_k` for k < d/2.
///
/// Inputs: `x [B, T, heads · d]`; `table [T, d]`, in each row the cosines of the d/2 angles and then their sines, from
/// [`rope_table`] or [`rope_table_2d`]. The table has no gradient.
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    /// Rotates by the opposite angles, which is the gradient.
    pub inverse: bool,
}

/// The frequency 10000^(−2k/d) of pair k.
fn frequency(k: usize, d: usize) -> f64 {
    10_000_f64.powf(-2.0 * k as f64 / d as f64)
}

/// A table of `tokens` rows for heads of `d` elements, from the angle of a token's pair.
fn table(tokens: usize, d: usize, angle: impl Fn(usize, usize) -> f64) -> Vec<f32> {
    let row = |token: usize| {
        let angles: Vec<f64> = (0..d / 2).map(|pair| angle(token, pair)).collect();
        let cosines = angles.clone().into_iter().map(f64::cos);
        cosines.chain(angles.into_iter().map(f64::sin)).map(|value| value as f32).collect::<Vec<f32>>()
    };
    (0..tokens).flat_map(row).collect()
}

/// The table `[tokens, d]` of tokens in a line: token p turns pair k by p · 10000^(−2k/d).
///
/// # Panics
/// If `d` is odd.
pub fn rope_table(tokens: usize, d: usize) -> Vec<f32> {
    assert!(d.is_multiple_of(2), "a head of {d} elements does not consist of pairs");
    table(tokens, d, |token, pair| token as f64 * frequency(pair, d))
}

/// The table `[rows · columns, d]` of the tokens of an image, row by row: the first half of the pairs turns with the row,
/// the second with the column, each as in a line with heads of d/2 elements.
///
/// # Panics
/// If `d` is not a multiple of 4.
pub fn rope_table_2d(rows: usize, columns: usize, d: usize) -> Vec<f32> {
    assert!(d.is_multiple_of(4), "a head of {d} elements does not consist of pairs for rows and as many for columns");
    table(rows * columns, d, |token, pair| {
        let position = if pair < d / 4 { token / columns } else { token % columns };
        position as f64 * frequency(pair % (d / 4), d / 2)
    })
}

shader_struct! {
    pub(super) struct RopeParams {
        pairs: u32,
        tokens: u32,
        width: u32,
        half: u32,
        sign: f32,
    }
}

impl Rope {
    /// The sign of the angles.
    fn sign(&self) -> f32 {
        if self.inverse { -1.0 } else { 1.0 }
    }
}

impl Op for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let [_, tokens, width] = *inputs[0] else { panic!("x is [B, T, heads · d], not {:?}", inputs[0]) };
        let [rows, d] = *inputs[1] else { panic!("the table is [T, d], not {:?}", inputs[1]) };
        assert_eq!(tokens, rows, "the table has a row for each token");
        assert!(d.is_multiple_of(2) && width.is_multiple_of(d), "{width} columns must be heads of {d}, an even number");
        vec![inputs[0].to_vec()]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        inputs: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        wanted: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        let dy = gradients[0].filter(|_| wanted[0] != Wanted::No);
        vec![dy.map(|dy| graph.apply(Self { inverse: !self.inverse }, &[dy, inputs[1]])), None]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let ([tokens, d], width) = ([shapes.inputs[1][0], shapes.inputs[1][1]], shapes.inputs[0][2]);
        let pairs = shapes.output_elements(0) / 2;
        let params = RopeParams {
            pairs: word(pairs),
            tokens: word(tokens),
            width: word(width),
            half: word(d / 2),
            sign: self.sign(),
        };
        let reads = [Binding::Input(0), Binding::Input(1)];
        vec![independent(Kernel::new("rope"), &reads, &[Binding::Output(0)], &params, pairs)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let ([tokens, d], width) = ([shapes.inputs[1][0], shapes.inputs[1][1]], shapes.inputs[0][2]);
        let mut y = Vec::with_capacity(inputs[0].len());
        for (index, head) in inputs[0].chunks(d).enumerate() {
            let token = index / (width / d) % tokens;
            let (cosines, sines) = inputs[1][token * d..][..d].split_at(d / 2);
            let (first, second) = head.split_at(d / 2);
            let turned = |sign: f64, a: &[f64], b: &[f64]| -> Vec<f64> {
                (0..d / 2).map(|k| a[k] * cosines[k] + sign * b[k] * sines[k]).collect()
            };
            let sign = f64::from(self.sign());
            y.extend(turned(-sign, first, second));
            y.extend(turned(sign, second, first));
        }
        vec![y]
    }
}

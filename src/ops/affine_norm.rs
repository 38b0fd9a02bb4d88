//! Layer norm with a learned weight and bias, as in text and vision encoders: forward only.

use super::{word, workgroup_a_row};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Op, Shapes};

/// `y = (x - mean) / sqrt(variance + epsilon) · weight + bias`, row by row (Ba et al., arXiv 1607.06450):
/// `x [.., columns]`, `weight [columns]`, `bias [columns]`.
#[derive(Clone, Copy, Debug)]
pub struct AffineNorm {
    /// Added to the variance.
    pub epsilon: f32,
}

shader_struct! {
    pub(super) struct AffineNormParams {
        rows: u32,
        columns: u32,
        epsilon: f32,
    }
}

impl Op for AffineNorm {
    fn name(&self) -> &'static str {
        "affine_norm"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let columns = inputs[0][inputs[0].len() - 1];
        assert!(inputs[1..].iter().all(|shape| **shape == [columns]), "weight and bias have one value per column");
        vec![inputs[0].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let columns = shapes.input_elements(1);
        let rows = shapes.input_elements(0) / columns;
        let params = AffineNormParams { rows: word(rows), columns: word(columns), epsilon: self.epsilon };
        let reads = [0, 1, 2].map(Binding::Input);
        vec![workgroup_a_row(Kernel::new("affine_norm"), &reads, &[Binding::Output(0)], &params, rows)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let columns = shapes.input_elements(1);
        let mut y = Vec::with_capacity(inputs[0].len());
        for row in inputs[0].chunks(columns) {
            let mean = row.iter().sum::<f64>() / columns as f64;
            let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / columns as f64;
            let factor = 1.0 / (variance + f64::from(self.epsilon)).sqrt();
            for (column, value) in row.iter().enumerate() {
                y.push((value - mean) * factor * inputs[1][column] + inputs[2][column]);
            }
        }
        vec![y]
    }
}

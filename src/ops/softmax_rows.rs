//! Softmax over the last dimension.

use super::{word, workgroup_a_row};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Op, Shapes};

/// `softmax(factor · x)` over the last dimension of `x`, which has the shape of the output: the probabilities of an
/// attention whose heads are too wide for [`super::Attention`], between two matrix products. Forward only: it has no
/// gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftmaxRows {
    /// Factor of the products of queries and keys.
    pub factor: f32,
}

/// Rows, and their length.
fn sizes(x: &[usize]) -> [usize; 2] {
    let columns = x[x.len() - 1];
    [x.iter().product::<usize>() / columns, columns]
}

shader_struct! {
    pub(super) struct SoftmaxRowsParams {
        rows: u32,
        columns: u32,
        factor: f32,
    }
}

impl Op for SoftmaxRows {
    fn name(&self) -> &'static str {
        "softmax_rows"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[0].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let [rows, columns] = sizes(shapes.inputs[0]);
        let params = SoftmaxRowsParams { rows: word(rows), columns: word(columns), factor: self.factor };
        vec![workgroup_a_row(Kernel::new("softmax_rows"), &[Binding::Input(0)], &[Binding::Output(0)], &params, rows)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [_, columns] = sizes(shapes.inputs[0]);
        let row = |x: &[f64]| {
            let x: Vec<f64> = x.iter().map(|value| f64::from(self.factor) * value).collect();
            let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = x.iter().map(|value| (value - largest).exp()).sum();
            x.into_iter().map(|value| (value - largest).exp() / total).collect::<Vec<_>>()
        };
        vec![inputs[0].chunks(columns).flat_map(row).collect()]
    }
}

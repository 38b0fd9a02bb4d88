//! Weighted squared distance of each row: the loss of flow matching, and penalties.

use super::{ElementsColumnsParams, RowsColumnsParams, independent, rows_and_columns, workgroup_a_row};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// Prediction and target `[R, ..]` and weight `[R]` to weight · mean (prediction − target)², `[R]`.
///
/// Only the prediction has a gradient.
#[derive(Clone, Copy, Debug)]
pub struct MeanSquaredError;

/// Records the weighted error of each row, `[R]`.
pub fn mean_squared_error(graph: &mut Graph, prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor {
    graph.apply(MeanSquaredError, &[prediction, target, weight])
}

fn assert_shapes(inputs: &[&[usize]]) {
    assert_eq!(inputs[0], inputs[1], "prediction and target must have the same shape");
    assert_eq!(*inputs[2], [inputs[0][0]], "each row needs a weight");
}

impl Op for MeanSquaredError {
    fn name(&self) -> &'static str {
        "mean_squared_error"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_shapes(inputs);
        vec![vec![inputs[0][0]]]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        inputs: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        wanted: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        let d_loss = gradients[0].filter(|_| wanted[0] != Wanted::No);
        let d_prediction =
            d_loss.map(|d_loss| graph.apply(MeanSquaredErrorBackward, &[inputs[0], inputs[1], inputs[2], d_loss]));
        vec![d_prediction, None, None]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (rows, columns) = rows_and_columns(shapes.inputs[0]);
        let params = RowsColumnsParams::of(rows, columns);
        let reads = [0, 1, 2].map(Binding::Input);
        vec![workgroup_a_row(Kernel::new("mean_squared_error"), &reads, &[Binding::Output(0)], &params, rows)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (rows, columns) = rows_and_columns(shapes.inputs[0]);
        let loss = |row: usize| {
            let range = row * columns..(row + 1) * columns;
            let sum: f64 = range.map(|index| (inputs[0][index] - inputs[1][index]).powi(2)).sum();
            inputs[2][row] * sum / columns as f64
        };
        vec![(0..rows).map(loss).collect()]
    }
}

/// Prediction, target, weight and the gradient `[R]` of the losses to the gradient of the prediction.
#[derive(Clone, Copy, Debug)]
struct MeanSquaredErrorBackward;

impl Op for MeanSquaredErrorBackward {
    fn name(&self) -> &'static str {
        "mean_squared_error_backward"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_shapes(inputs);
        vec![inputs[0].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (rows, columns) = rows_and_columns(shapes.inputs[0]);
        let elements = rows * columns;
        let params = ElementsColumnsParams::of(elements, columns);
        let reads = [0, 1, 2, 3].map(Binding::Input);
        let kernel = Kernel::new("mean_squared_error_backward");
        vec![independent(kernel, &reads, &[Binding::Output(0)], &params, elements)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (_, columns) = rows_and_columns(shapes.inputs[0]);
        let gradient = |index: usize| {
            let row = index / columns;
            inputs[3][row] * inputs[2][row] * 2.0 / columns as f64 * (inputs[0][index] - inputs[1][index])
        };
        vec![(0..inputs[0].len()).map(gradient).collect()]
    }
}

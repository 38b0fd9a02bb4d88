//! The velocity of networks that predict the data.

use super::{independent, rows_and_columns, word};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// `v = (y − data) / max(σ, floor)`: the velocity at `y = (1 − σ) data + σ ε`, from a prediction of the data. Inputs: `y`
/// and `data`, both `[B, ..]`; `sigma [B]`, which has no gradient.
#[derive(Clone, Copy, Debug)]
pub struct VelocityOfData {
    /// The smallest divisor, above 0: near σ = 0 it limits errors of the prediction.
    pub floor: f32,
}

/// `sigma`, `dv` to `sign · dv / max(σ, floor)`, the gradient of `y` with the sign +1 and of `data` with −1.
#[derive(Clone, Copy, Debug)]
struct VelocityOfDataBackward {
    floor: f32,
    sign: f32,
}

shader_struct! {
    pub(super) struct VelocityOfDataParams {
        elements: u32,
        columns: u32,
        floor: f32,
    }
}

shader_struct! {
    pub(super) struct VelocityOfDataBackwardParams {
        elements: u32,
        columns: u32,
        floor: f32,
        sign: f32,
    }
}

impl Op for VelocityOfData {
    fn name(&self) -> &'static str {
        "velocity_of_data"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(inputs[0], inputs[1], "y and data must have the same shape");
        assert_eq!(inputs[2], [inputs[0][0]], "there is one sigma per sample");
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
        let Some(dv) = gradients[0] else { return vec![None; 3] };
        let mut gradient = |index: usize, sign: f32| {
            let op = VelocityOfDataBackward { floor: self.floor, sign };
            (wanted[index] != Wanted::No).then(|| graph.apply(op, &[inputs[2], dv]))
        };
        vec![gradient(0, 1.0), gradient(1, -1.0), None]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (rows, columns) = rows_and_columns(shapes.inputs[0]);
        let elements = rows * columns;
        let params = VelocityOfDataParams { elements: word(elements), columns: word(columns), floor: self.floor };
        let reads = [0, 1, 2].map(Binding::Input);
        vec![independent(Kernel::new("velocity_of_data"), &reads, &[Binding::Output(0)], &params, elements)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (_, columns) = rows_and_columns(shapes.inputs[0]);
        let velocity = |(index, (y, data)): (usize, (&f64, &f64))| {
            (y - data) / inputs[2][index / columns].max(f64::from(self.floor))
        };
        vec![inputs[0].iter().zip(inputs[1]).enumerate().map(velocity).collect()]
    }
}

impl Op for VelocityOfDataBackward {
    fn name(&self) -> &'static str {
        "velocity_of_data_backward"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[1].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (rows, columns) = rows_and_columns(shapes.inputs[1]);
        let elements = rows * columns;
        let params = VelocityOfDataBackwardParams {
            elements: word(elements),
            columns: word(columns),
            floor: self.floor,
            sign: self.sign,
        };
        let reads = [Binding::Input(0), Binding::Input(1)];
        vec![independent(Kernel::new("velocity_of_data_backward"), &reads, &[Binding::Output(0)], &params, elements)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (_, columns) = rows_and_columns(shapes.inputs[1]);
        let sigma = |index: usize| inputs[0][index / columns].max(f64::from(self.floor));
        vec![inputs[1].iter().enumerate().map(|(index, dv)| f64::from(self.sign) * dv / sigma(index)).collect()]
    }
}

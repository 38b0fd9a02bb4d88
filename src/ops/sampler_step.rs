//! One step of any sampler.

use super::{independent, rows_and_columns, word};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor};

/// `x' = a·x + b·v + s·ε`: `x`, `v` and `ε` `[R, ..]`, rows `[R, 3]` of (a, b, s) as in
/// [`crate::flow::sampler`]. It has no gradient: rollouts are not differentiated.
#[derive(Clone, Copy, Debug)]
pub struct SamplerStep;

/// Records the step from `x`.
pub fn sampler_step(graph: &mut Graph, x: Tensor, velocity: Tensor, epsilon: Tensor, rows: Tensor) -> Tensor {
    graph.apply(SamplerStep, &[x, velocity, epsilon, rows])
}

impl Op for SamplerStep {
    fn name(&self) -> &'static str {
        "sampler_step"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert!(
            inputs[1] == inputs[0] && inputs[2] == inputs[0],
            "latent, velocity and noise must have the same shape"
        );
        assert_eq!(*inputs[3], [inputs[0][0], 3], "each row of the sampler's table must have three numbers");
        vec![inputs[0].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (rows, columns) = rows_and_columns(shapes.inputs[0]);
        let elements = rows * columns;
        let params = [elements, columns].map(word).to_vec();
        let reads = [0, 1, 2, 3].map(Binding::Input);
        vec![independent(Kernel::new("sampler_step"), &reads, &[Binding::Output(0)], params, elements)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (_, columns) = rows_and_columns(shapes.inputs[0]);
        let next = |index: usize| {
            let row = &inputs[3][index / columns * 3..];
            row[0] * inputs[0][index] + row[1] * inputs[1][index] + row[2] * inputs[2][index]
        };
        vec![(0..inputs[0].len()).map(next).collect()]
    }
}

//! One step of any sampler.

use super::{ElementsColumnsParams, independent, rows_and_columns};
use crate::flow::sampler::Transition;
use crate::gpu::{Dispatch, Kernel, ShaderStruct, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor};

/// `x' = a·x + b·v + s·ε`: `x`, `v` and `ε` `[R, ..]`, and a [`SamplerRow`] for each, `[R, 3]`. It has no gradient:
/// rollouts are not differentiated.
#[derive(Clone, Copy, Debug)]
pub struct SamplerStep;

shader_struct! {
    /// A [`Transition`] as shaders take it.
    #[derive(PartialEq)]
    pub struct SamplerRow {
        /// The weight of the latent.
        pub a: f32,
        /// The weight of the velocity.
        pub b: f32,
        /// The weight of the noise.
        pub s: f32,
    }
}

impl From<Transition> for SamplerRow {
    fn from(row: Transition) -> Self {
        Self { a: row.a as f32, b: row.b as f32, s: row.s as f32 }
    }
}

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
        assert_eq!(*inputs[3], [inputs[0][0], SamplerRow::WORDS], "each row needs a transition");
        vec![inputs[0].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (rows, columns) = rows_and_columns(shapes.inputs[0]);
        let elements = rows * columns;
        let params = ElementsColumnsParams::of(elements, columns);
        let reads = [0, 1, 2, 3].map(Binding::Input);
        vec![independent(Kernel::new("sampler_step"), &reads, &[Binding::Output(0)], &params, elements)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (_, columns) = rows_and_columns(shapes.inputs[0]);
        let rows: &[Transition] = bytemuck::cast_slice(inputs[3]);
        let next = |index: usize| {
            let Transition { a, b, s } = rows[index / columns];
            a * inputs[0][index] + b * inputs[1][index] + s * inputs[2][index]
        };
        vec![(0..inputs[0].len()).map(next).collect()]
    }
}

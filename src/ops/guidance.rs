//! Classifier-free guidance.

use super::{Scale, independent, word};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// `v = v_u + guidance_scale (v_c − v_u)` (Ho & Salimans 2022). Inputs: `v_c` (with the class) and `v_u` (with
/// the null class), of the same shape. Gradients flow to both.
#[derive(Clone, Copy, Debug)]
pub struct Guidance {
    /// 1 disables guidance.
    pub guidance_scale: f32,
}

shader_struct! {
    pub(super) struct GuidanceParams {
        elements: u32,
        guidance_scale: f32,
    }
}

impl Op for Guidance {
    fn name(&self) -> &'static str {
        "guidance"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(inputs[0], inputs[1], "both velocities must have the same shape");
        vec![inputs[0].to_vec()]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        _: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        wanted: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        let Some(dv) = gradients[0] else { return vec![None; 2] };
        let factors = [self.guidance_scale, 1.0 - self.guidance_scale];
        let scaled = |(factor, want): (f32, &Wanted)| (*want != Wanted::No).then(|| graph.apply(Scale(factor), &[dv]));
        factors.into_iter().zip(wanted).map(scaled).collect()
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let elements = shapes.output_elements(0);
        let params = GuidanceParams { elements: word(elements), guidance_scale: self.guidance_scale };
        let reads = [Binding::Input(0), Binding::Input(1)];
        vec![independent(Kernel::new("guidance"), &reads, &[Binding::Output(0)], &params, elements)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let scale = f64::from(self.guidance_scale);
        vec![inputs[0].iter().zip(inputs[1]).map(|(c, u)| u + scale * (c - u)).collect()]
    }
}

//! Sinusoidal features of a time (Vaswani et al. 2017), in the order used by DiT and SiT.

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// `time [rows]`, `frequencies [half]` to `[rows, 2 half]`: `[cos(time w) | sin(time w)]`.
#[derive(Clone, Copy, Debug)]
pub struct TimeFeatures;

/// `w_j = 10000^(-j / half)`, `j < half`.
pub fn time_frequencies(half: usize) -> Vec<f32> {
    (0..half).map(|j| 10_000_f64.powf(-(j as f64) / half as f64) as f32).collect()
}

shader_struct! {
    pub(super) struct TimeFeaturesParams {
        rows: u32,
        half: u32,
    }
}

impl Op for TimeFeatures {
    fn name(&self) -> &'static str {
        "time_features"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![vec![inputs[0][0], 2 * inputs[1][0]]]
    }

    fn vjp(
        &self,
        _: &mut Graph,
        _: &[Tensor],
        _: &[Tensor],
        _: &[Option<Tensor>],
        _: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        // Times are data and have no gradient.
        vec![None; 2]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let [rows, half] = [shapes.inputs[0][0], shapes.inputs[1][0]];
        let reads = [Binding::Input(0), Binding::Input(1)];
        let kernel = Kernel::new("time_features");
        let params = TimeFeaturesParams { rows: word(rows), half: word(half) };
        vec![independent(kernel, &reads, &[Binding::Output(0)], &params, rows * half)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let row = |time: &f64| {
            let angles = inputs[1].iter().map(|w| time * w).collect::<Vec<_>>();
            angles.iter().map(|a| a.cos()).chain(angles.iter().map(|a| a.sin())).collect::<Vec<_>>()
        };
        vec![inputs[0].iter().flat_map(row).collect()]
    }
}

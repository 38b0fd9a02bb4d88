//! Exponential moving averages of parameters.

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, Graph, Op, Profile, Shapes, Tensor};

/// `average = decay·average + (1 − decay)·x` in place; decay 0 copies, decay 1 keeps.
#[derive(Clone, Copy, Debug)]
pub struct Ema;

impl Ema {
    /// Records the update of `average`, a stored tensor, from `x` of its shape with `decay` `[1]`.
    pub fn record(self, graph: &mut Graph, average: Tensor, x: Tensor, decay: Tensor) {
        graph.push_into(self, &[x, decay, average], &[average]);
    }
}

impl Op for Ema {
    fn name(&self) -> &'static str {
        "ema"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[2].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let elements = shapes.output_elements(0);
        assert_eq!(shapes.input_elements(0), elements, "an average has the size of what it averages");
        // The average is bound once, as what is written.
        let reads = [0, 1].map(Binding::Input);
        vec![independent(Kernel::new("ema"), &reads, &[Binding::Output(0)], vec![word(elements)], elements)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let decay = inputs[1][0];
        vec![inputs[2].iter().zip(inputs[0]).map(|(average, x)| decay * average + (1.0 - decay) * x).collect()]
    }
}

//! One value everywhere.

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, Op, Profile, Shapes};

/// A value `[1]` in every element: of a new tensor, or pushed into a stored one, for example to clear it.
#[derive(Clone, Debug)]
pub struct Fill {
    /// Shape of the result.
    pub shape: Vec<usize>,
}

impl Fill {
    /// A fill of this shape.
    pub fn new(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec() }
    }
}

impl Op for Fill {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(*inputs[0], [1], "the value is one number");
        vec![self.shape.clone()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let elements = shapes.output_elements(0);
        let reads = [Binding::Input(0)];
        vec![independent(Kernel::new("fill"), &reads, &[Binding::Output(0)], vec![word(elements)], elements)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        vec![vec![inputs[0][0]; shapes.output_elements(0)]]
    }
}

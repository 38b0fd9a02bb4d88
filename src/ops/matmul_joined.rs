//! Matrix products with the next op as their epilogue, which runs while the elements are still in registers.

use super::matmul::Epilogue;
use super::{Activation, GatedResidual, MatMul};
use crate::gpu::Dispatch;
use crate::graph::{Binding, Choice, DeviceProfile, Op, Shapes};

/// A product fused with the op that reads it. [`crate::graph::Graph::executed`] creates these; models never record
/// them.
///
/// The inputs are those of the product (`A`, `B` and, optionally, a bias) followed by the other inputs of the second
/// op. The outputs are that of the second op and, if another node reads it, the product.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatMulJoined {
    product: MatMul,
    next: Next,
    keep: bool,
}

/// The second op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// `gelu` of the product.
    Gelu,
    /// `gelu_backward` at another tensor, with the product as the incoming gradient.
    GeluBackward,
    /// `gated_residual` with the product as the gated tensor.
    GatedResidual,
}

impl MatMulJoined {
    /// The fused op; `None` if there is no kernel for this pair.
    pub(super) fn new(product: MatMul, next: &str, place: usize, keep: bool) -> Option<Self> {
        let next = match (next, place, keep) {
            ("gelu", 0, _) => Next::Gelu,
            ("gelu_backward", 1, false) => Next::GeluBackward,
            ("gated_residual", 1, _) => Next::GatedResidual,
            _ => return None,
        };
        Some(Self { product, next, keep })
    }

    /// Number of inputs that belong only to the second op.
    fn others(&self) -> usize {
        match self.next {
            Next::Gelu => 0,
            Next::GeluBackward => 1,
            Next::GatedResidual => 2,
        }
    }
}

impl Op for MatMulJoined {
    fn name(&self) -> &'static str {
        match self.next {
            Next::Gelu => "matmul+gelu",
            Next::GeluBackward => "matmul+gelu_backward",
            Next::GatedResidual => "matmul+gated_residual",
        }
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let shape = self.product.output_shapes(&inputs[..inputs.len() - self.others()]);
        [shape.clone(), if self.keep { shape } else { Vec::new() }].concat()
    }

    fn dispatches(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let geometry = self.product.geometry(shapes.inputs[0], shapes.inputs[1]);
        let operands = shapes.inputs.len() - self.others();
        let has_bias = operands > 2;
        let reads: Vec<Binding> = (operands..shapes.inputs.len()).map(Binding::Input).collect();
        let product = if self.keep { Binding::Output(1) } else { Binding::Unused };
        let writes = [Binding::Output(0), product];
        let epilogue = Epilogue {
            name: match self.next {
                Next::Gelu => "gelu",
                Next::GeluBackward => "gelu_backward",
                Next::GatedResidual => "gated_residual",
            },
            reads: &reads,
            writes: if self.next == Next::GeluBackward { &writes[..1] } else { &writes },
            keep: self.keep,
            accumulate: false,
            tokens: match self.next {
                Next::GatedResidual => shapes.outputs[0][1],
                Next::Gelu | Next::GeluBackward => 1,
            },
        };
        let product = [0, 1, if has_bias { 2 } else { 0 }].map(Binding::Input);
        vec![geometry.dispatch((self.product.variant(&geometry, profile), profile), product, has_bias, &epilogue, None)]
    }

    fn choice(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Option<Choice> {
        self.product.choice(shapes, profile)
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let operands = inputs.len() - self.others();
        let of_product = Shapes { inputs: shapes.inputs[..operands].to_vec(), outputs: vec![shapes.outputs[0]] };
        let product = self.product.reference(&of_product, &inputs[..operands]).remove(0);
        let others = &inputs[operands..];
        let result = match self.next {
            Next::Gelu => Activation::Gelu.reference(shapes, &[&product]),
            Next::GeluBackward => Activation::Gelu.backward().reference(shapes, &[others[0], &product]),
            Next::GatedResidual => {
                let [x, gate] = [shapes.inputs[operands], shapes.inputs[operands + 1]];
                let of_next = Shapes { inputs: vec![x, x, gate], outputs: vec![x] };
                GatedResidual.reference(&of_next, &[others[0], &product, others[1]])
            }
        };
        [result, if self.keep { vec![product] } else { Vec::new() }].concat()
    }

    fn flops(&self, shapes: &Shapes<'_>) -> u64 {
        self.product.flops(shapes)
    }
}

//! Softmax and the cross-entropy loss of classification.

use super::{independent, rows_and_columns, word};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DType, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// Logits `[R, C]`, labels `[R]` (u32, below C) and weights `[R]` to
/// 0. losses `[R]`, −weight · ln of the label's probability: the only output with a gradient (to the logits),
/// 1. probabilities `[R, C]`,
/// 2. the probability of the label, `[R]`.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy;

/// Records the op; returns losses, probabilities and the probabilities of the labels.
pub fn cross_entropy(graph: &mut Graph, logits: Tensor, labels: Tensor, weight: Tensor) -> [Tensor; 3] {
    let outputs = graph.push(CrossEntropy, &[logits, labels, weight]);
    [outputs[0], outputs[1], outputs[2]]
}

shader_struct! {
    pub(super) struct CrossEntropyParams {
        rows: u32,
        classes: u32,
    }
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn input_type(&self, index: usize) -> DType {
        if index == 1 { DType::U32 } else { DType::F32 }
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(inputs[0].len(), 2, "logits must have rows and classes");
        let rows = inputs[0][0];
        assert!(*inputs[1] == [rows] && *inputs[2] == [rows], "each row needs a label and a weight");
        vec![vec![rows], inputs[0].to_vec(), vec![rows]]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        inputs: &[Tensor],
        outputs: &[Tensor],
        gradients: &[Option<Tensor>],
        wanted: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        assert!(gradients[1].is_none() && gradients[2].is_none(), "only the losses have a gradient");
        let d_loss = gradients[0].filter(|_| wanted[0] != Wanted::No);
        let d_logits =
            d_loss.map(|d_loss| graph.apply(CrossEntropyBackward, &[outputs[1], inputs[1], inputs[2], d_loss]));
        vec![d_logits, None, None]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (rows, classes) = rows_and_columns(shapes.inputs[0]);
        let params = CrossEntropyParams { rows: word(rows), classes: word(classes) };
        let reads = [0, 1, 2].map(Binding::Input);
        let writes = [0, 1, 2].map(Binding::Output);
        vec![independent(Kernel::new("cross_entropy"), &reads, &writes, &params, rows)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (rows, classes) = rows_and_columns(shapes.inputs[0]);
        let [mut losses, mut probabilities, mut of_labels] = [const { Vec::new() }; 3];
        for row in 0..rows {
            let logits = &inputs[0][row * classes..(row + 1) * classes];
            let largest = logits.iter().fold(f64::NEG_INFINITY, |largest, logit| largest.max(*logit));
            let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
            let label = logits[inputs[1][row] as usize] - largest;
            losses.push(inputs[2][row] * (sum.ln() - label));
            probabilities.extend(logits.iter().map(|logit| (logit - largest).exp() / sum));
            of_labels.push(label.exp() / sum);
        }
        vec![losses, probabilities, of_labels]
    }
}

/// Probabilities, labels, weights and the gradient `[R]` of the losses to the gradient of the logits.
#[derive(Clone, Copy, Debug)]
struct CrossEntropyBackward;

shader_struct! {
    pub(super) struct CrossEntropyBackwardParams {
        elements: u32,
        classes: u32,
    }
}

impl Op for CrossEntropyBackward {
    fn name(&self) -> &'static str {
        "cross_entropy_backward"
    }

    fn input_type(&self, index: usize) -> DType {
        if index == 1 { DType::U32 } else { DType::F32 }
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[0].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (rows, classes) = rows_and_columns(shapes.inputs[0]);
        let elements = rows * classes;
        let params = CrossEntropyBackwardParams { elements: word(elements), classes: word(classes) };
        let reads = [0, 1, 2, 3].map(Binding::Input);
        vec![independent(Kernel::new("cross_entropy_backward"), &reads, &[Binding::Output(0)], &params, elements)]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let (_, classes) = rows_and_columns(shapes.inputs[0]);
        let gradient = |index: usize| {
            let row = index / classes;
            let hit = if index % classes == inputs[1][row] as usize { 1.0 } else { 0.0 };
            inputs[3][row] * inputs[2][row] * (inputs[0][index] - hit)
        };
        vec![(0..inputs[0].len()).map(gradient).collect()]
    }
}

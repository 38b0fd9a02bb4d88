//! The optimizer.

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor};

/// AdamW (Loshchilov and Hutter, arXiv 1711.05101) with decoupled weight decay, after clipping by the global
/// norm; works in place, clears the gradients, and updates the averaged weights.
///
/// If any gradient, or the sum of their squares, is not finite, the gradients are cleared and neither parameters
/// nor moments change. The caller, who counts steps for the bias corrections, detects this from the sums.
#[derive(Clone, Copy, Debug)]
pub struct AdamW;

/// The stored tensors that [`AdamW`] changes, all of the same shape.
#[derive(Clone, Copy, Debug)]
pub struct Optimized {
    /// Trainable parameters.
    pub parameters: Tensor,
    /// Running mean of the gradients.
    pub first_moment: Tensor,
    /// Running mean of the squared gradients.
    pub second_moment: Tensor,
    /// Accumulated gradients; zero afterwards.
    pub gradients: Tensor,
    /// The averaged weights.
    pub average: Tensor,
}

impl AdamW {
    /// Records one step. `settings` `[9]` come from [`AdamWSettings::at_step`]; `sum_squares` `[2]` are the
    /// sums of [`super::SumSquares`] over all gradients that are clipped together.
    pub fn record(self, graph: &mut Graph, optimized: Optimized, settings: Tensor, sum_squares: Tensor) {
        let Optimized { parameters, first_moment, second_moment, gradients, average } = optimized;
        let changed = [parameters, first_moment, second_moment, gradients, average];
        graph.push_into(self, &[&[settings, sum_squares][..], &changed].concat(), &changed);
    }
}

/// Hyper-parameters of [`AdamW`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// The learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment, below 1.
    pub beta1: f64,
    /// Decay of the second moment, below 1.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Fraction of a parameter that decays at learning rate 1.
    pub weight_decay: f64,
    /// Largest global norm of the gradients; 0 or infinity for no limit.
    pub max_grad_norm: f64,
    /// `average = decay · average + (1 − decay) · parameters`: 0 copies the new parameters, 1 leaves the average
    /// unchanged.
    pub average_decay: f64,
}

impl AdamWSettings {
    /// The settings input for a step; steps count from 1, without skipped ones.
    pub fn at_step(&self, step: u64) -> [f32; 9] {
        // From the decays rounded to f32, as the device sees them: otherwise 1 - 0.999 would be off by 1e-5.
        // Shaders may assume that there are no infinities.
        let max_grad_norm = if self.max_grad_norm.is_finite() { self.max_grad_norm } else { 0.0 };
        let correction = |beta: f64| 1.0 - f64::from(beta as f32).powf(step as f64);
        [
            self.learning_rate,
            self.beta1,
            self.beta2,
            self.epsilon,
            self.weight_decay,
            correction(self.beta1),
            correction(self.beta2),
            max_grad_norm,
            self.average_decay,
        ]
        .map(|value| value as f32)
    }
}

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[2].to_vec(); 5]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let elements = shapes.output_elements(0);
        assert!((2..7).all(|index| shapes.input_elements(index) == elements), "all tensors must have the same size");
        // The other inputs are also the outputs: bound once, as written tensors.
        let reads = [0, 1].map(Binding::Input);
        let writes = [0, 1, 2, 3, 4].map(Binding::Output);
        vec![independent(Kernel::new("adamw"), &reads, &writes, vec![word(elements)], elements)]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [mut parameters, mut first_moment, mut second_moment] = [2, 3, 4].map(|index| inputs[index].to_vec());
        let (settings, gradients) = (inputs[0], inputs[5]);
        let [learning_rate, beta1, beta2, epsilon] = [0, 1, 2, 3].map(|index| settings[index]);
        let [weight_decay, bias_correction1, bias_correction2, max_grad_norm] =
            [4, 5, 6, 7].map(|index| settings[index]);
        let [sum_squares, non_finite] = [inputs[1][0], inputs[1][1]];
        if sum_squares.is_finite() && non_finite == 0.0 {
            let norm = sum_squares.sqrt();
            let clip = if max_grad_norm > 0.0 { (max_grad_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
            for index in 0..parameters.len() {
                let g = clip * gradients[index];
                let m = beta1 * first_moment[index] + (1.0 - beta1) * g;
                let v = beta2 * second_moment[index] + (1.0 - beta2) * g * g;
                first_moment[index] = m;
                second_moment[index] = v;
                let direction = m / bias_correction1 / ((v / bias_correction2).sqrt() + epsilon);
                parameters[index] -= learning_rate * (weight_decay * parameters[index] + direction);
            }
        }
        let decay = settings[8];
        let averaged = |(average, parameter): (&f64, &f64)| decay * average + (1.0 - decay) * parameter;
        let average = inputs[6].iter().zip(&parameters).map(averaged).collect();
        vec![parameters, first_moment, second_moment, vec![0.0; gradients.len()], average]
    }
}

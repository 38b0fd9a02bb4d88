//! The optimizer.

use super::{ElementsParams, by_element};
use crate::gpu::{Dispatch, Kernel, ShaderStruct, shader_struct_with_twin};
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
    /// Records one step. `settings` is an [`AdamWStep`]; `sum_squares` `[2]` are the sums of
    /// [`super::SumSquares`] over all gradients that are clipped together.
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
    /// What the gradients are to be divided by first; a power of two leaves their bits alone.
    pub loss_scale: f64,
    /// Largest global norm of the gradients; 0 or infinity for no limit.
    pub max_grad_norm: f64,
    /// `average = decay · average + (1 − decay) · parameters`: 0 copies the new parameters, 1 leaves the average
    /// unchanged.
    pub average_decay: f64,
}

shader_struct_with_twin! {
    /// [`AdamWSettings`] at one step, as the shader takes them.
    pub struct AdamWStep, AdamWStepTwin {
        /// The learning rate.
        learning_rate,
        /// Decay of the first moment.
        beta1,
        /// Decay of the second moment.
        beta2,
        /// Added to the root of the second moment.
        epsilon,
        /// Fraction of a parameter that decays at learning rate 1.
        weight_decay,
        /// 1 − beta1^step.
        bias_correction1,
        /// 1 − beta2^step.
        bias_correction2,
        /// Factor of the gradients.
        gradient_factor,
        /// Largest global norm of the gradients; 0 for no limit.
        max_grad_norm,
        /// 1 leaves the average unchanged.
        average_decay,
    }
}

impl AdamWSettings {
    /// The settings input for a step; steps count from 1, without skipped ones.
    pub fn at_step(&self, step: u64) -> AdamWStep {
        // From the decays rounded to f32, as the device sees them: otherwise 1 - 0.999 would be off by 1e-5.
        // Shaders may assume that there are no infinities.
        let max_grad_norm = if self.max_grad_norm.is_finite() { self.max_grad_norm } else { 0.0 };
        let correction = |beta: f64| 1.0 - f64::from(beta as f32).powf(step as f64);
        AdamWStepTwin {
            learning_rate: self.learning_rate,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            bias_correction1: correction(self.beta1),
            bias_correction2: correction(self.beta2),
            gradient_factor: 1.0 / self.loss_scale,
            max_grad_norm,
            average_decay: self.average_decay,
        }
        .into()
    }
}

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(*inputs[0], [AdamWStep::WORDS], "the settings of a step");
        vec![inputs[2].to_vec(); 5]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let elements = shapes.output_elements(0);
        assert!((2..7).all(|index| shapes.input_elements(index) == elements), "all tensors must have the same size");
        // The other inputs are also the outputs: bound once, as written tensors.
        let reads = [0, 1].map(Binding::Input);
        let writes = [0, 1, 2, 3, 4].map(Binding::Output);
        let params = ElementsParams::of(elements);
        // Parameters have no rows here.
        vec![by_element(Kernel::new("adamw"), [&reads, &writes], &params, [elements; 2])]
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [mut parameters, mut first_moment, mut second_moment] = [2, 3, 4].map(|index| inputs[index].to_vec());
        let (settings, gradients) = (bytemuck::cast_slice::<f64, AdamWStepTwin>(inputs[0])[0], inputs[5]);
        let AdamWStepTwin { beta1, beta2, max_grad_norm, average_decay, .. } = settings;
        let [sum_squares, non_finite] = [inputs[1][0], inputs[1][1]];
        if sum_squares.is_finite() && non_finite == 0.0 {
            let norm = sum_squares.sqrt() * settings.gradient_factor;
            let clip = if max_grad_norm > 0.0 { (max_grad_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
            for index in 0..parameters.len() {
                let g = clip * (settings.gradient_factor * gradients[index]);
                let m = beta1 * first_moment[index] + (1.0 - beta1) * g;
                let v = beta2 * second_moment[index] + (1.0 - beta2) * g * g;
                first_moment[index] = m;
                second_moment[index] = v;
                let root = (v / settings.bias_correction2).sqrt() + settings.epsilon;
                let direction = m / settings.bias_correction1 / root;
                parameters[index] -= settings.learning_rate * (settings.weight_decay * parameters[index] + direction);
            }
        }
        let averaged = |(average, parameter): (&f64, &f64)| average_decay * average + (1.0 - average_decay) * parameter;
        let average = inputs[6].iter().zip(&parameters).map(averaged).collect();
        vec![parameters, first_moment, second_moment, vec![0.0; gradients.len()], average]
    }
}

//! Layer norm without affine parameters, with adaLN modulation in the same kernel.

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel};
use crate::graph::{Binding, Graph, Op, Profile, Shapes, Tensor, Wanted};

/// Added to the variance, as DiT and SiT do.
const EPSILON: f64 = 1e-6;

/// `y = norm(x) · (1 + scale) + shift`: `x [batch, tokens, columns]`, `shift` and `scale [batch, columns]`
/// (Peebles & Xie 2022). Outputs `y` and, for the backward pass, mean and 1/std `[batch, tokens, 2]`.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm;

/// `x`, `scale`, stats, `dy` to `dx`, `d_shift`, `d_scale`.
#[derive(Clone, Copy, Debug)]
struct LayerNormBackward;

/// Sizes: rows, tokens per sample, columns.
fn sizes(x: &[usize]) -> [usize; 3] {
    let [batch, tokens, columns] = x else { panic!("layer norm takes [batch, tokens, columns], not {x:?}") };
    [batch * tokens, *tokens, *columns]
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let [batch, tokens, columns] = inputs[0] else { panic!("layer norm takes [batch, tokens, columns]") };
        assert_eq!(inputs[1], [*batch, *columns], "the shift needs one value per sample and column");
        assert_eq!(inputs[2], [*batch, *columns], "the scale needs one value per sample and column");
        vec![inputs[0].to_vec(), vec![*batch, *tokens, 2]]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        inputs: &[Tensor],
        outputs: &[Tensor],
        gradients: &[Option<Tensor>],
        _: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        let Some(dy) = gradients[0] else { return vec![None; 3] };
        let found = graph.push(LayerNormBackward, &[inputs[0], inputs[2], outputs[1], dy]);
        found.into_iter().map(Some).collect()
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let sizes = sizes(shapes.inputs[0]);
        let reads = [Binding::Input(0), Binding::Input(1), Binding::Input(2)];
        let writes = [Binding::Output(0), Binding::Output(1)];
        vec![independent(Kernel::new("layer_norm"), &reads, &writes, sizes.map(word).to_vec(), sizes[0])]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [rows, tokens, columns] = sizes(shapes.inputs[0]);
        let [x, shift, scale] = [inputs[0], inputs[1], inputs[2]];
        let (mut y, mut stats) = (Vec::with_capacity(x.len()), Vec::with_capacity(2 * rows));
        for (row, values) in x.chunks(columns).enumerate() {
            let mean = values.iter().sum::<f64>() / columns as f64;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / columns as f64;
            let inverse_std = 1.0 / (variance + EPSILON).sqrt();
            let modulation = row / tokens * columns;
            for (column, value) in values.iter().enumerate() {
                let normal = (value - mean) * inverse_std;
                y.push(normal * (1.0 + scale[modulation + column]) + shift[modulation + column]);
            }
            stats.extend([mean, inverse_std]);
        }
        vec![y, stats]
    }
}

impl Op for LayerNormBackward {
    fn name(&self) -> &'static str {
        "layer_norm_backward"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[0].to_vec(), inputs[1].to_vec(), inputs[1].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &Profile) -> Vec<Dispatch<Binding>> {
        let sizes = sizes(shapes.inputs[0]);
        let params = sizes.map(word).to_vec();
        let [x, scale, stats, dy] = [0, 1, 2, 3].map(Binding::Input);
        let [dx, d_shift, d_scale] = [0, 1, 2].map(Binding::Output);
        let kernel = Kernel::new("layer_norm_backward_modulation");
        vec![
            independent(Kernel::new("layer_norm_backward"), &[x, scale, stats, dy], &[dx], params.clone(), sizes[0]),
            independent(kernel, &[x, stats, dy], &[d_shift, d_scale], params, shapes.input_elements(1)),
        ]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [_, tokens, columns] = sizes(shapes.inputs[0]);
        let [x, scale, stats, dy] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        let mut dx = Vec::with_capacity(x.len());
        let (mut d_shift, mut d_scale) = (vec![0.0; scale.len()], vec![0.0; scale.len()]);
        for (row, (values, dy)) in x.chunks(columns).zip(dy.chunks(columns)).enumerate() {
            let [mean, inverse_std] = [stats[2 * row], stats[2 * row + 1]];
            let modulation = row / tokens * columns;
            let normal: Vec<f64> = values.iter().map(|value| (value - mean) * inverse_std).collect();
            let g: Vec<f64> = (0..columns).map(|column| dy[column] * (1.0 + scale[modulation + column])).collect();
            let mean_g = g.iter().sum::<f64>() / columns as f64;
            let mean_gn = g.iter().zip(&normal).map(|(g, n)| g * n).sum::<f64>() / columns as f64;
            for column in 0..columns {
                dx.push(inverse_std * (g[column] - mean_g - normal[column] * mean_gn));
                d_shift[modulation + column] += dy[column];
                d_scale[modulation + column] += dy[column] * normal[column];
            }
        }
        vec![dx, d_shift, d_scale]
    }
}

//! Layer norm without affine parameters, with adaLN modulation in the same kernel.

use super::sum_rows::{RowSums, RowSumsParams};
use super::{independent, takes_vectors, word, workgroup_a_row};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, Choice, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// Added to the variance, as DiT and SiT do.
const EPSILON: f64 = 1e-6;

/// `y = norm(x) · (1 + scale) + shift`: `x [batch, tokens, columns]`, `shift` and `scale [batch, columns]`
/// (Peebles & Xie 2022). Outputs `y` and, for the backward pass, mean and 1/std `[batch, tokens, 2]`.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm;

/// `x`, `scale`, stats, `dy` to `dx`.
#[derive(Clone, Copy, Debug)]
struct LayerNormBackward;

/// `x`, stats, `dy` to those of `d_shift` and `d_scale` that are needed and, as scratch, to a tensor of partial sums
/// over tokens for each.
#[derive(Clone, Copy, Debug)]
struct LayerNormBackwardModulation {
    shift: bool,
    scale: bool,
}

shader_struct! {
    /// Of [`LayerNorm`] and [`LayerNormBackward`].
    pub(super) struct LayerNormParams {
        rows: u32,
        tokens: u32,
        columns: u32,
    }
}

shader_struct! {
    pub(super) struct LayerNormBackwardModulationParams {
        outer: u32,
        rows: u32,
        columns: u32,
        chunk: u32,
        chunks: u32,
        wants_shift: u32,
        wants_scale: u32,
    }
}

/// The kernels of [`LayerNorm`] and [`LayerNormBackward`], by the names that request them: one invocation per row, or
/// one workgroup per row, which reads neighbouring elements together and sums in a tree.
pub(super) const KERNELS: [&str; 2] = ["layer_norm_serial", "layer_norm_workgroup"];

/// Rows with fewer columns leave most of a workgroup idle.
const WORTH_A_WORKGROUP: usize = 64;

fn choice(op: &dyn Op, columns: usize, profile: &DeviceProfile) -> Choice {
    // On a CPU, barriers cost more than the workgroup gains.
    let in_workgroups = !profile.cpu && columns >= WORTH_A_WORKGROUP;
    Choice {
        workload: format!("{} columns={columns}", op.name()),
        kernels: KERNELS.to_vec(),
        usual: KERNELS[usize::from(in_workgroups)],
    }
}

/// One pass over all rows. The kernels: one invocation per row, one workgroup per row, and that with vectors of four.
fn pass(
    op: &dyn Op,
    [serial, workgroup, vec4]: [&'static str; 3],
    sizes: [usize; 3],
    profile: &DeviceProfile,
    [reads, writes]: [&[Binding]; 2],
) -> Dispatch<Binding> {
    let [rows, tokens, columns] = sizes;
    let choice = choice(op, columns, profile);
    let chosen = profile.wanted(&choice.workload).find(|name| KERNELS.contains(name)).unwrap_or(choice.usual);
    let params = LayerNormParams { rows: word(rows), tokens: word(tokens), columns: word(columns) };
    if chosen == KERNELS[0] {
        return independent(Kernel::new(serial), reads, writes, &params, rows);
    }
    let name = if takes_vectors(columns, profile) { vec4 } else { workgroup };
    workgroup_a_row(Kernel::new(name), reads, writes, &params, rows)
}

/// Sizes: rows, tokens of a sample, columns.
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
        wanted: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        assert!(gradients[1].is_none(), "gradients flow only through the first output of a layer norm");
        let Some(dy) = gradients[0] else { return vec![None; 3] };
        let (x, scale, stats) = (inputs[0], inputs[2], outputs[1]);
        let [of_x, of_shift, of_scale] = [0, 1, 2].map(|index| wanted[index] != Wanted::No);
        let dx = of_x.then(|| graph.apply(LayerNormBackward, &[x, scale, stats, dy]));
        if !of_shift && !of_scale {
            return vec![dx, None, None];
        }
        let op = LayerNormBackwardModulation { shift: of_shift, scale: of_scale };
        let mut found = graph.push(op, &[x, stats, dy]).into_iter();
        let [d_shift, d_scale] = [of_shift, of_scale].map(|is_wanted| is_wanted.then(|| found.next()).flatten());
        vec![dx, d_shift, d_scale]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let reads = [0, 1, 2].map(Binding::Input);
        let writes = [0, 1].map(Binding::Output);
        let names = ["layer_norm", "layer_norm_workgroup", "layer_norm_workgroup_vec4"];
        vec![pass(self, names, sizes(shapes.inputs[0]), profile, [&reads, &writes])]
    }

    fn choice(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Option<Choice> {
        Some(choice(self, sizes(shapes.inputs[0])[2], profile))
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
        vec![inputs[0].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let reads = [0, 1, 2, 3].map(Binding::Input);
        let names = ["layer_norm_backward", "layer_norm_backward_workgroup", "layer_norm_backward_workgroup_vec4"];
        vec![pass(self, names, sizes(shapes.inputs[0]), profile, [&reads, &[Binding::Output(0)]])]
    }

    fn choice(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Option<Choice> {
        Some(choice(self, sizes(shapes.inputs[0])[2], profile))
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [_, tokens, columns] = sizes(shapes.inputs[0]);
        let [x, scale, stats, dy] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        let mut dx = Vec::with_capacity(x.len());
        for (row, (values, dy)) in x.chunks(columns).zip(dy.chunks(columns)).enumerate() {
            let [mean, inverse_std] = [stats[2 * row], stats[2 * row + 1]];
            let modulation = row / tokens * columns;
            let normal: Vec<f64> = values.iter().map(|value| (value - mean) * inverse_std).collect();
            let g: Vec<f64> = (0..columns).map(|column| dy[column] * (1.0 + scale[modulation + column])).collect();
            let mean_g = g.iter().sum::<f64>() / columns as f64;
            let mean_gn = g.iter().zip(&normal).map(|(g, n)| g * n).sum::<f64>() / columns as f64;
            dx.extend((0..columns).map(|column| inverse_std * (g[column] - mean_g - normal[column] * mean_gn)));
        }
        vec![dx]
    }
}

impl LayerNormBackwardModulation {
    fn sums(x: &[usize]) -> RowSums {
        let [rows, tokens, columns] = sizes(x);
        RowSums { outer: rows / tokens, rows: tokens, columns }
    }

    /// Whether `d_shift` and `d_scale` are needed.
    fn wanted(&self) -> [bool; 2] {
        [self.shift, self.scale]
    }
}

impl Op for LayerNormBackwardModulation {
    fn name(&self) -> &'static str {
        "layer_norm_backward_modulation"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let [sums, partial] = Self::sums(inputs[0]).shapes();
        let count = self.wanted().into_iter().filter(|is_wanted| *is_wanted).count();
        [vec![sums; count], vec![partial; count]].concat()
    }

    fn dispatches(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let row_sums = Self::sums(shapes.inputs[0]);
        let count = shapes.outputs.len() / 2;
        let targets = |index: usize| [Binding::Output(index), Binding::Output(count + index)];
        let mut wanted = (0..count).map(|index| {
            let [sums, partial] = targets(index);
            row_sums.first_target(sums, partial)
        });
        let writes = self.wanted().map(|is_wanted| is_wanted.then(|| wanted.next()).flatten());
        let writes = writes.map(|target| target.unwrap_or(Binding::Unused));
        let names = ["layer_norm_backward_modulation", "layer_norm_backward_modulation_vec4"];
        let reads = [0, 1, 2].map(Binding::Input);
        let RowSumsParams { outer, rows, columns, chunk, chunks } = row_sums.params();
        let [wants_shift, wants_scale] = self.wanted().map(u32::from);
        let params =
            LayerNormBackwardModulationParams { outer, rows, columns, chunk, chunks, wants_shift, wants_scale };
        let first = row_sums.first_pass(names, profile, &reads, &writes, &params);
        let second = (0..count).filter_map(|index| {
            let [sums, partial] = targets(index);
            row_sums.second_pass(partial, sums, false)
        });
        [first].into_iter().chain(second).collect()
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let row_sums = Self::sums(shapes.inputs[0]);
        let [x, stats, dy] = [inputs[0], inputs[1], inputs[2]];
        let normal =
            |index: usize| (x[index] - stats[index / row_sums.columns * 2]) * stats[index / row_sums.columns * 2 + 1];
        let [d_shift, d_scale] =
            [row_sums.reference(|index| dy[index]), row_sums.reference(|index| dy[index] * normal(index))];
        let wanted = [(self.shift, d_shift), (self.scale, d_scale)].into_iter().filter(|(is_wanted, _)| *is_wanted);
        let (sums, partial): (Vec<_>, Vec<_>) = wanted.map(|(_, [sums, partial])| (sums, partial)).unzip();
        [sums, partial].concat()
    }
}

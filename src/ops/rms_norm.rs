//! RMS norm with a weight: of complete tokens, as in T5, and of the queries and keys of each attention head.

use super::sum_rows::RowSums;
use super::{RowsColumnsParams, independent, takes_vectors, word, workgroup_a_row};
use crate::gpu::{Dispatch, Kernel, ShaderStruct, shader_struct};
use crate::graph::{Binding, Choice, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// `y = x / sqrt(mean(x²) + epsilon) · weight` (Zhang & Sennrich 2019): `x` of any shape, `weight [columns]`.
///
/// A row is `columns` neighbouring elements of `x`: a token if that is its width, and a head of a token if `x` is
/// `[batch, tokens, heads · columns]`. Outputs `y` in the shape of `x` and, for the backward pass, 1/rms `[rows]`.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub epsilon: f32,
}

/// `x`, `weight`, 1/rms, `dy` to `dx`.
#[derive(Clone, Copy, Debug)]
struct RmsNormBackward;

/// `x`, 1/rms, `dy` to `d_weight` and, as scratch, partial sums over rows.
#[derive(Clone, Copy, Debug)]
struct RmsNormBackwardWeight {
    columns: usize,
}

shader_struct! {
    pub(super) struct RmsNormParams {
        rows: u32,
        columns: u32,
        epsilon: f32,
    }
}

/// The kernels of [`RmsNorm`] and [`RmsNormBackward`], by the names that request them: one invocation per row, or one
/// workgroup per row, which reads neighbouring elements together and sums in a tree.
pub(super) const KERNELS: [&str; 2] = ["rms_norm_serial", "rms_norm_workgroup"];

/// Rows with fewer columns, such as heads of 64 or 72, leave most of a workgroup idle, and there are many of them.
const WORTH_A_WORKGROUP: usize = 128;

fn choice(op: &dyn Op, columns: usize, profile: &DeviceProfile) -> Choice {
    // On a CPU, barriers cost more than the workgroup gains.
    let in_workgroups = !profile.cpu && columns >= WORTH_A_WORKGROUP;
    Choice {
        workload: format!("{} columns={columns}", op.name()),
        kernels: KERNELS.to_vec(),
        usual: KERNELS[usize::from(in_workgroups)],
    }
}

/// Sizes of a norm: the rows that the elements make up, and their columns, one for each weight.
fn sizes(shapes: &Shapes<'_>) -> [usize; 2] {
    let [elements, columns] = [0, 1].map(|index| shapes.input_elements(index));
    [elements / columns, columns]
}

/// One pass over all rows. The kernels: one invocation per row, one workgroup per row, and that with vectors of four.
fn pass(
    op: &dyn Op,
    [serial, workgroup, vec4]: [&'static str; 3],
    [rows, columns]: [usize; 2],
    profile: &DeviceProfile,
    [reads, writes]: [&[Binding]; 2],
    params: &impl ShaderStruct,
) -> Dispatch<Binding> {
    let choice = choice(op, columns, profile);
    let chosen = profile.wanted(&choice.workload).find(|name| KERNELS.contains(name)).unwrap_or(choice.usual);
    if chosen == KERNELS[0] {
        return independent(Kernel::new(serial), reads, writes, params, rows);
    }
    let name = if takes_vectors(columns, profile) { vec4 } else { workgroup };
    workgroup_a_row(Kernel::new(name), reads, writes, params, rows)
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let [columns] = *inputs[1] else { panic!("the weight of an RMS norm is [columns], not {:?}", inputs[1]) };
        let width = inputs[0][inputs[0].len() - 1];
        assert_eq!(width % columns, 0, "{:?} must consist of rows of {columns}", inputs[0]);
        vec![inputs[0].to_vec(), vec![inputs[0].iter().product::<usize>() / columns]]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        inputs: &[Tensor],
        outputs: &[Tensor],
        gradients: &[Option<Tensor>],
        wanted: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        assert!(gradients[1].is_none(), "gradients flow only through the first output of an RMS norm");
        let Some(dy) = gradients[0] else { return vec![None; 2] };
        let (x, weight, inverse_rms) = (inputs[0], inputs[1], outputs[1]);
        let columns = graph.elements(weight);
        let [of_x, of_weight] = [0, 1].map(|index| wanted[index] != Wanted::No);
        let dx = of_x.then(|| graph.apply(RmsNormBackward, &[x, weight, inverse_rms, dy]));
        let d_weight = of_weight.then(|| graph.push(RmsNormBackwardWeight { columns }, &[x, inverse_rms, dy])[0]);
        vec![dx, d_weight]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let (reads, writes) = ([0, 1].map(Binding::Input), [0, 1].map(Binding::Output));
        let names = ["rms_norm", "rms_norm_workgroup", "rms_norm_workgroup_vec4"];
        let [rows, columns] = sizes(shapes);
        let params = RmsNormParams { rows: word(rows), columns: word(columns), epsilon: self.epsilon };
        vec![pass(self, names, [rows, columns], profile, [&reads, &writes], &params)]
    }

    fn choice(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Option<Choice> {
        Some(choice(self, sizes(shapes)[1], profile))
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [rows, columns] = sizes(shapes);
        let [x, weight] = [inputs[0], inputs[1]];
        let (mut y, mut inverse_rms) = (Vec::with_capacity(x.len()), Vec::with_capacity(rows));
        for values in x.chunks(columns) {
            let mean_square = values.iter().map(|value| value * value).sum::<f64>() / columns as f64;
            let inverse = 1.0 / (mean_square + f64::from(self.epsilon)).sqrt();
            y.extend(values.iter().zip(weight).map(|(value, weight)| value * inverse * weight));
            inverse_rms.push(inverse);
        }
        vec![y, inverse_rms]
    }
}

impl Op for RmsNormBackward {
    fn name(&self) -> &'static str {
        "rms_norm_backward"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        vec![inputs[0].to_vec()]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let reads = [0, 1, 2, 3].map(Binding::Input);
        let names = ["rms_norm_backward", "rms_norm_backward_workgroup", "rms_norm_backward_workgroup_vec4"];
        let [rows, columns] = sizes(shapes);
        let params = RowsColumnsParams::of(rows, columns);
        vec![pass(self, names, [rows, columns], profile, [&reads, &[Binding::Output(0)]], &params)]
    }

    fn choice(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Option<Choice> {
        Some(choice(self, sizes(shapes)[1], profile))
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [_, columns] = sizes(shapes);
        let [x, weight, inverse_rms, dy] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        let mut dx = Vec::with_capacity(x.len());
        for ((values, dy), inverse) in x.chunks(columns).zip(dy.chunks(columns)).zip(inverse_rms) {
            let g: Vec<f64> = dy.iter().zip(weight).map(|(dy, weight)| dy * weight).collect();
            let mean = g.iter().zip(values).map(|(g, x)| g * x * inverse).sum::<f64>() / columns as f64;
            dx.extend(g.iter().zip(values).map(|(g, x)| inverse * (g - x * inverse * mean)));
        }
        vec![dx]
    }
}

impl RmsNormBackwardWeight {
    fn sums(&self, elements: usize) -> RowSums {
        RowSums { outer: 1, rows: elements / self.columns, columns: self.columns }
    }
}

impl Op for RmsNormBackwardWeight {
    fn name(&self) -> &'static str {
        "rms_norm_backward_weight"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let [_, partial] = self.sums(inputs[0].iter().product()).shapes();
        vec![vec![self.columns], partial]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let sums = self.sums(shapes.input_elements(0));
        let [d_weight, partial] = [0, 1].map(Binding::Output);
        let names = ["rms_norm_backward_weight", "rms_norm_backward_weight_vec4"];
        let reads = [0, 1, 2].map(Binding::Input);
        let first = sums.first_pass(names, profile, &reads, &[sums.first_target(d_weight, partial)], &sums.params());
        [first].into_iter().chain(sums.second_pass(partial, d_weight, false)).collect()
    }

    fn reference(&self, _: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let [x, inverse_rms, dy] = [inputs[0], inputs[1], inputs[2]];
        let value = |index: usize| dy[index] * x[index] * inverse_rms[index / self.columns];
        self.sums(x.len()).reference(value).to_vec()
    }
}

//! Group norm (Wu & He 2018) of channel-first images.

use super::{by_element, word, workgroup_a_row};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor};

/// `y = (x − mean) / sqrt(variance + epsilon) · scale + bias`, with mean and variance over the channels of a group and
/// all pixels, and then SiLU if requested.
///
/// Inputs `x [B, C, ..]`, `scale [C]` and `bias [C]`. Outputs `y` in the shape of `x`, or flat, and, as scratch, mean and sum of
/// squared distances from it of each chunk of a group, `[B · groups, chunks, 2]`, and mean and inverse standard deviation
/// of each group, `[B · groups, 2]`. Forward only: it has no gradient.
///
/// A group is split into chunks, each summed by a workgroup in a fixed order, because there are too few groups to fill a
/// device. The chunks depend on the size of a picture and not on the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Groups that the channels are divided into.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Apply SiLU to the result.
    pub silu: bool,
    /// Return the result in the shape `[B, C, pixels]`, for attention over pixels.
    pub flat: bool,
}

/// Elements that one workgroup of the first pass sums.
const CHUNK: usize = 16_384;

/// Sizes of the groups of a tensor.
struct Geometry {
    /// Number of groups in all pictures.
    rows: usize,
    /// Elements of a group.
    size: usize,
    channels: usize,
    /// Elements of a channel.
    plane: usize,
}

impl Geometry {
    fn new(groups: usize, x: &[usize]) -> Self {
        let (batches, channels, plane) = (x[0], x[1], x[2..].iter().product::<usize>());
        assert!(channels.is_multiple_of(groups), "{channels} channels must split into {groups} groups");
        Self { rows: batches * groups, size: channels / groups * plane, channels, plane }
    }

    fn chunks(&self) -> usize {
        self.size.div_ceil(CHUNK)
    }
}

/// Mean, and the sum of squared distances from it.
fn moments(x: &[f64]) -> [f64; 2] {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    [mean, x.iter().map(|value| (value - mean).powi(2)).sum()]
}

shader_struct! {
    /// Of the first pass, over chunks of groups.
    pub(super) struct GroupNormPartialParams {
        rows: u32,
        size: u32,
        chunk: u32,
        chunks: u32,
    }
}

shader_struct! {
    /// Of the second pass, over groups.
    pub(super) struct GroupNormStatsParams {
        rows: u32,
        size: u32,
        chunk: u32,
        chunks: u32,
        epsilon: f32,
    }
}

shader_struct! {
    /// Of the last pass, over elements.
    pub(super) struct GroupNormParams {
        elements: u32,
        size: u32,
        plane: u32,
        channels: u32,
        silu: u32,
    }
}

impl GroupNorm {
    /// Records the op; returns only the result.
    pub fn of(self, graph: &mut Graph, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor {
        graph.push(self, &[x, scale, bias])[0]
    }
}

impl Op for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let geometry = Geometry::new(self.groups, inputs[0]);
        assert_eq!([inputs[1], inputs[2]], [[geometry.channels]; 2], "scale and bias need one element per channel");
        let y = if self.flat { vec![inputs[0][0], geometry.channels, geometry.plane] } else { inputs[0].to_vec() };
        vec![y, vec![geometry.rows, geometry.chunks(), 2], vec![geometry.rows, 2]]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let geometry = Geometry::new(self.groups, shapes.inputs[0]);
        let [x, scale, bias] = [0, 1, 2].map(Binding::Input);
        let [y, partial, stats] = [0, 1, 2].map(Binding::Output);
        let [rows, size, chunk, chunks] = [geometry.rows, geometry.size, CHUNK, geometry.chunks()].map(word);
        let elements = geometry.rows * geometry.size;
        let [first, second, last] = ["group_norm_partial", "group_norm_stats", "group_norm"].map(Kernel::new);
        let first_params = GroupNormPartialParams { rows, size, chunk, chunks };
        let second_params = GroupNormStatsParams { rows, size, chunk, chunks, epsilon: self.epsilon };
        let last_params = GroupNormParams {
            elements: word(elements),
            size,
            plane: word(geometry.plane),
            channels: word(geometry.channels),
            silu: self.silu.into(),
        };
        vec![
            workgroup_a_row(first, &[x], &[partial], &first_params, geometry.rows * geometry.chunks()),
            workgroup_a_row(second, &[partial], &[stats], &second_params, geometry.rows),
            by_element(last, [&[x, scale, bias, stats], &[y]], &last_params, [elements, geometry.plane]),
        ]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let geometry = Geometry::new(self.groups, shapes.inputs[0]);
        let [x, scale, bias] = [inputs[0], inputs[1], inputs[2]];
        let partial = x.chunks(geometry.size).flat_map(|group| group.chunks(CHUNK)).flat_map(moments).collect();
        let stats: Vec<f64> = x
            .chunks(geometry.size)
            .flat_map(|group| {
                let [mean, squares] = moments(group);
                [mean, 1.0 / (squares / geometry.size as f64 + f64::from(self.epsilon)).sqrt()]
            })
            .collect();
        let y = x.iter().enumerate().map(|(index, value)| {
            let (row, channel) = (index / geometry.size, index / geometry.plane % geometry.channels);
            let value = (value - stats[2 * row]) * stats[2 * row + 1] * scale[channel] + bias[channel];
            if self.silu { value / (1.0 + (-value).exp()) } else { value }
        });
        vec![y.collect(), partial, stats]
    }
}

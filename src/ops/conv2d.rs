//! Convolutions of channel-first images.

use super::word;
use crate::gpu::{Dispatch, Kernel, Params, grid_1d, shader_struct};
use crate::graph::{Binding, Choice, DeviceProfile, Op, Shapes};

/// `y = conv(x) + bias`, plus a residual if there is one, and then ReLU if requested.
///
/// Inputs `x [B, C, H, W]` or `[B, C, W]` (one row), `weight [kernel² · C, C' in complete vectors]` from
/// [`conv2d_weight`], `bias [C']` and, optionally, a residual with the same number of pixels. The output has the shape of
/// the residual, or else that of x with C' channels and the extents of [`Conv2d::output_extent`]. Forward only: it has
/// no gradient.
///
/// Each element is summed in one invocation, in an order that depends only on the channels and the kernel and is the same
/// in every kernel of the op: a picture's bits do not depend on its batch, nor on the kernel if the device rounds
/// correctly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Side length of the kernel.
    pub kernel: usize,
    /// Distance between two positions of the kernel, in both directions.
    pub stride: usize,
    /// Rows of zeros above the picture and columns of zeros to its left.
    pub before: usize,
    /// Rows of zeros below it and columns of zeros to its right.
    pub after: usize,
    /// First repeat each pixel of x twice in both directions (nearest neighbour).
    pub upsample: bool,
    /// Negative results become zero.
    pub relu: bool,
}

/// Output channels whose weights are loaded at once.
const VECTOR: usize = 4;

/// Lanes of a workgroup of `conv2d.wgsl`.
const LANES: usize = 64;

/// The kernels, by the names that request them: the sums of an invocation in registers only, and operands in workgroup
/// memory, too.
pub(super) const KERNELS: [&str; 2] = ["conv2d_register", "conv2d_tiled"];

/// Channels and pixels of a workgroup of `conv2d_tiled.wgsl`, and the input channels of a step of its sums.
const TILE: [usize; 2] = [64, 128];
const DEPTH: usize = 16;

impl Conv2d {
    /// A kernel of odd size that keeps the size of the picture.
    pub fn same(kernel: usize) -> Self {
        let padding = kernel / 2;
        Self { kernel, stride: 1, before: padding, after: padding, upsample: false, relu: false }
    }

    /// Rows (or columns) of the output for `extent` rows (or columns) of the input.
    pub fn output_extent(&self, extent: usize) -> usize {
        let padded = self.seen(extent) + self.before + self.after;
        assert!(padded >= self.kernel, "a kernel of {} is larger than {extent} padded to {padded}", self.kernel);
        (padded - self.kernel) / self.stride + 1
    }

    /// Rows that the kernel slides over.
    fn seen(&self, extent: usize) -> usize {
        extent << usize::from(self.upsample)
    }

    /// The name under which measurements are stored.
    fn workload(&self, geometry: &Geometry) -> String {
        format!("conv2d kernel={} channels={} outputs={}", self.kernel, geometry.channels, geometry.out_channels)
    }
}

/// A kernel `[C', C, kernel, kernel]` in the order that [`Conv2d`] reads, and its shape `[kernel² · C, C']` with C' padded
/// with zeros to complete vectors: row by row of the kernel, its columns, input channels, output channels.
pub fn conv2d_weight(weight: &[f32], [outputs, inputs, kernel]: [usize; 3]) -> ([usize; 2], Vec<f32>) {
    assert_eq!(weight.len(), outputs * inputs * kernel * kernel, "the weight has one value per element");
    let (places, padded) = (kernel * kernel, outputs.next_multiple_of(VECTOR));
    let mut arranged = vec![0.0; places * inputs * padded];
    for (index, value) in weight.iter().enumerate() {
        let (output, input, place) = (index / places / inputs, index / places % inputs, index % places);
        arranged[(place * inputs + input) * padded + output] = *value;
    }
    ([places * inputs, padded], arranged)
}

/// Sizes of a convolution, by its inputs.
struct Geometry {
    batches: usize,
    channels: usize,
    size: [usize; 2],
    out_channels: usize,
    padded_channels: usize,
    out_size: [usize; 2],
}

impl Geometry {
    fn new(op: &Conv2d, inputs: &[&[usize]]) -> Self {
        let (batches, channels, height, width) = match *inputs[0] {
            [batches, channels, height, width] => (batches, channels, height, width),
            [batches, channels, width] => (batches, channels, 1, width),
            _ => panic!("x is [B, C, H, W] or [B, C, W], not {:?}", inputs[0]),
        };
        let [out_channels] = *inputs[2] else { panic!("the bias is [C'], not {:?}", inputs[2]) };
        let padded_channels = out_channels.next_multiple_of(VECTOR);
        let expected = [op.kernel * op.kernel * channels, padded_channels];
        assert_eq!(*inputs[1], expected, "the weight must fit {channels} to {out_channels} channels");
        let out_size = [height, width].map(|extent| op.output_extent(extent));
        let this = Self { batches, channels, size: [height, width], out_channels, padded_channels, out_size };
        if let Some(residual) = inputs.get(3) {
            let pixels = residual[2..].iter().product::<usize>();
            let has_shape = [residual[0], residual[1], pixels] == [batches, out_channels, this.out_plane()];
            assert!(has_shape, "a residual {residual:?} does not fit the output {:?}", this.output());
        }
        this
    }

    fn output(&self) -> [usize; 4] {
        [self.batches, self.out_channels, self.out_size[0], self.out_size[1]]
    }

    fn out_plane(&self) -> usize {
        self.out_size[0] * self.out_size[1]
    }

    /// The requested kernel, or else the usual one, and how many channels and pixels a workgroup of it has.
    fn kernel(&self, workload: &str, profile: &DeviceProfile) -> (Kernel, [usize; 2]) {
        let asked = profile.wanted(workload).find(|name| KERNELS.contains(name));
        if asked.unwrap_or_else(|| self.usual(profile)) == "conv2d_tiled" {
            return (Kernel::new("conv2d_tiled"), TILE);
        }
        let [outputs, pixels] = self.in_registers(profile);
        let kernel = Kernel::new("conv2d").with("OUTPUTS", word(outputs)).with("PIXELS", word(pixels));
        (kernel, [outputs, LANES * pixels])
    }

    /// GPUs gain from workgroup memory if at least half of the channels of a tile and of a step exist. Software drivers
    /// lose: barriers are expensive there. Never a function of the batch.
    fn usual(&self, profile: &DeviceProfile) -> &'static str {
        let fills_half = 2 * self.out_channels >= TILE[0] && 2 * self.channels >= DEPTH;
        KERNELS[usize::from(!profile.cpu && fills_half)]
    }

    /// Channels and pixels of an invocation of `conv2d.wgsl`. A GPU needs many invocations, a software driver few loads.
    /// Never a function of the batch.
    fn in_registers(&self, profile: &DeviceProfile) -> [usize; 2] {
        let enough = if profile.cpu { LANES } else { 512 };
        let outputs = [16, 8, 4].into_iter().find(|outputs| self.padded_channels.is_multiple_of(*outputs));
        let pixels = [4, 2].into_iter().find(|pixels| self.out_plane() >= enough * pixels);
        [outputs.unwrap_or(VECTOR), pixels.unwrap_or(1)]
    }
}

shader_struct! {
    pub(super) struct Conv2dParams {
        batches: u32,
        in_channels: u32,
        width: u32,
        plane: u32,
        seen_height: u32,
        seen_width: u32,
        upsample: u32,
        out_channels: u32,
        out_width: u32,
        out_plane: u32,
        kernel: u32,
        stride: u32,
        padding: u32,
        relu: u32,
        has_residual: u32,
        channel_tiles: u32,
        pixel_tiles: u32,
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        let geometry = Geometry::new(self, inputs);
        vec![match (inputs.get(3), inputs[0].len()) {
            (Some(residual), _) => residual.to_vec(),
            (None, 3) => vec![geometry.batches, geometry.out_channels, geometry.out_plane()],
            (None, _) => geometry.output().to_vec(),
        }]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let geometry = Geometry::new(self, &shapes.inputs);
        let (kernel, [channels, pixels]) = geometry.kernel(&self.workload(&geometry), profile);
        let (channel_tiles, pixel_tiles) =
            (geometry.padded_channels.div_ceil(channels), geometry.out_plane().div_ceil(pixels));
        let [height, width] = geometry.size;
        let has_residual = shapes.inputs.len() > 3;
        let params = Conv2dParams {
            batches: word(geometry.batches),
            in_channels: word(geometry.channels),
            width: word(width),
            plane: word(height * width),
            seen_height: word(self.seen(height)),
            seen_width: word(self.seen(width)),
            upsample: self.upsample.into(),
            out_channels: word(geometry.out_channels),
            out_width: word(geometry.out_size[1]),
            out_plane: word(geometry.out_plane()),
            kernel: word(self.kernel),
            stride: word(self.stride),
            padding: word(self.before),
            relu: self.relu.into(),
            has_residual: has_residual.into(),
            channel_tiles: word(channel_tiles),
            pixel_tiles: word(pixel_tiles),
        };
        let residual = if has_residual { Binding::Input(3) } else { Binding::Unused };
        vec![Dispatch {
            kernel,
            reads: vec![Binding::Input(0), Binding::Input(1), Binding::Input(2), residual],
            writes: vec![Binding::Output(0)],
            params: Params::of(&params),
            grid: grid_1d((geometry.batches * channel_tiles * pixel_tiles) as u64),
        }]
    }

    fn choice(&self, shapes: &Shapes<'_>, profile: &DeviceProfile) -> Option<Choice> {
        let geometry = Geometry::new(self, &shapes.inputs);
        let usual = geometry.usual(profile);
        Some(Choice { workload: self.workload(&geometry), kernels: KERNELS.to_vec(), usual })
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let geometry = Geometry::new(self, &shapes.inputs);
        let [x, weight, bias] = [inputs[0], inputs[1], inputs[2]];
        let [_, _, rows, columns] = geometry.output();
        let [height, width] = geometry.size;
        // The position in x of an offset from the first row of zeros, unless it is in the padding.
        let source = |padded: usize, extent: usize| {
            let seen = padded.checked_sub(self.before).filter(|seen| *seen < self.seen(extent))?;
            Some(seen >> usize::from(self.upsample))
        };
        let mut y = Vec::with_capacity(shapes.output_elements(0));
        for index in 0..geometry.batches * geometry.out_channels * rows * columns {
            let (column, row) = (index % columns, index / columns % rows);
            let (output, batch) =
                (index / columns / rows % geometry.out_channels, index / columns / rows / geometry.out_channels);
            let mut sum = bias[output];
            for place in 0..self.kernel * self.kernel {
                let down = source(row * self.stride + place / self.kernel, height);
                let right = source(column * self.stride + place % self.kernel, width);
                let (Some(down), Some(right)) = (down, right) else { continue };
                for channel in 0..geometry.channels {
                    let pixel = ((batch * geometry.channels + channel) * height + down) * width + right;
                    sum += x[pixel] * weight[(place * geometry.channels + channel) * geometry.padded_channels + output];
                }
            }
            sum += inputs.get(3).map_or(0.0, |residual| residual[index]);
            y.push(if self.relu { sum.max(0.0) } else { sum });
        }
        vec![y]
    }

    fn flops(&self, shapes: &Shapes<'_>) -> u64 {
        let geometry = Geometry::new(self, &shapes.inputs);
        2 * (shapes.output_elements(0) * self.kernel * self.kernel * geometry.channels) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::conv2d_weight;

    #[test]
    fn a_weight_is_arranged_by_position_and_padded_to_complete_vectors() {
        // Two outputs, one input, a kernel of two by two.
        let (shape, arranged) = conv2d_weight(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [2, 1, 2]);
        assert_eq!(shape, [4, 4]);
        let expected = [[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]].map(|[a, b]| [a, b, 0.0, 0.0]);
        assert_eq!(arranged, expected.concat());
    }
}

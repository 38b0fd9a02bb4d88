//! Images to patch vectors and back.

use super::{independent, word};
use crate::gpu::{Dispatch, Kernel, shader_struct};
use crate::graph::{Binding, DeviceProfile, Graph, Op, Shapes, Tensor, Wanted};

/// How an image is split into patches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patches {
    /// Channels of the image.
    pub channels: usize,
    /// Channels of a patch vector: those of the image, or more (if the model also predicts a variance).
    pub vector_channels: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Side length of a patch.
    pub patch_size: usize,
    /// Whether patch vectors are ordered (channel, row, column), as in a convolution; otherwise (row, column, channel).
    pub channel_first: bool,
    /// Every element is multiplied by this: −1 reverses a velocity.
    pub factor: f32,
}

/// `[images, channels, height, width]` to `[images, tokens, patch² · vector_channels]`; channels that the image
/// lacks are zero.
#[derive(Clone, Copy, Debug)]
pub struct Patchify(pub Patches);

/// The inverse; extra channels are dropped.
#[derive(Clone, Copy, Debug)]
pub struct Unpatchify(pub Patches);

shader_struct! {
    /// Of both directions.
    pub(super) struct PatchifyParams {
        images: u32,
        channels: u32,
        vector_channels: u32,
        height: u32,
        width: u32,
        patch_size: u32,
        channel_first: u32,
        factor: f32,
    }
}

impl Patches {
    /// Number of patches of an image.
    pub fn tokens(&self) -> usize {
        (self.height / self.patch_size) * (self.width / self.patch_size)
    }

    /// Number of elements of a patch vector.
    pub fn vector(&self) -> usize {
        self.patch_size * self.patch_size * self.vector_channels
    }

    fn image_shape(&self, images: usize) -> Vec<usize> {
        vec![images, self.channels, self.height, self.width]
    }

    fn patch_shape(&self, images: usize) -> Vec<usize> {
        vec![images, self.tokens(), self.vector()]
    }

    fn params(&self, images: usize) -> PatchifyParams {
        PatchifyParams {
            images: word(images),
            channels: word(self.channels),
            vector_channels: word(self.vector_channels),
            height: word(self.height),
            width: word(self.width),
            patch_size: word(self.patch_size),
            channel_first: self.channel_first.into(),
            factor: self.factor,
        }
    }

    /// The index in the image tensor of each element of the patch vectors, if the image has it.
    fn sources(&self, images: usize) -> impl Iterator<Item = Option<usize>> {
        let Self { channels, vector_channels, height, width, patch_size, channel_first, .. } = *self;
        let (tokens, across) = (self.tokens(), width / patch_size);
        let vector = self.vector();
        (0..images * self.tokens() * vector).map(move |index| {
            let (image, token, within) = (index / vector / tokens, index / vector % tokens, index % vector);
            let (channel, p, q) = if channel_first {
                (within / patch_size / patch_size, within / patch_size % patch_size, within % patch_size)
            } else {
                let pixel = within / vector_channels;
                (within % vector_channels, pixel / patch_size, pixel % patch_size)
            };
            let (row, column) = (token / across * patch_size + p, token % across * patch_size + q);
            (channel < channels).then_some(((image * channels + channel) * height + row) * width + column)
        })
    }
}

impl Op for Patchify {
    fn name(&self) -> &'static str {
        "patchify"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(inputs[0], self.0.image_shape(inputs[0][0]), "the image must fit the patches");
        vec![self.0.patch_shape(inputs[0][0])]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        _: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        _: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        vec![gradients[0].map(|dy| graph.apply(Unpatchify(self.0), &[dy]))]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let params = self.0.params(shapes.inputs[0][0]);
        let kernel = Kernel::new("patchify");
        vec![independent(kernel, &[Binding::Input(0)], &[Binding::Output(0)], &params, shapes.output_elements(0))]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let value = |source: Option<usize>| source.map_or(0.0, |at| f64::from(self.0.factor) * inputs[0][at]);
        vec![self.0.sources(shapes.inputs[0][0]).map(value).collect()]
    }
}

impl Op for Unpatchify {
    fn name(&self) -> &'static str {
        "unpatchify"
    }

    fn output_shapes(&self, inputs: &[&[usize]]) -> Vec<Vec<usize>> {
        assert_eq!(inputs[0], self.0.patch_shape(inputs[0][0]), "the patch vectors must fit the image");
        vec![self.0.image_shape(inputs[0][0])]
    }

    fn vjp(
        &self,
        graph: &mut Graph,
        _: &[Tensor],
        _: &[Tensor],
        gradients: &[Option<Tensor>],
        _: &[Wanted],
    ) -> Vec<Option<Tensor>> {
        vec![gradients[0].map(|dy| graph.apply(Patchify(self.0), &[dy]))]
    }

    fn dispatches(&self, shapes: &Shapes<'_>, _: &DeviceProfile) -> Vec<Dispatch<Binding>> {
        let params = self.0.params(shapes.inputs[0][0]);
        let kernel = Kernel::new("unpatchify");
        vec![independent(kernel, &[Binding::Input(0)], &[Binding::Output(0)], &params, shapes.output_elements(0))]
    }

    fn reference(&self, shapes: &Shapes<'_>, inputs: &[&[f64]]) -> Vec<Vec<f64>> {
        let mut images = vec![0.0; shapes.output_elements(0)];
        for (source, value) in self.0.sources(shapes.inputs[0][0]).zip(inputs[0]) {
            if let Some(at) = source {
                images[at] = f64::from(self.0.factor) * value;
            }
        }
        vec![images]
    }
}

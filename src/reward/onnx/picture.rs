//! Prepares pictures for a model.

use image::imageops::{self, FilterType};
use image::{ImageBuffer, Luma};

use crate::config::{ColourOrder, TensorLayout};
use crate::shape::ImageShape;

/// The Rec. 709 luma, which the program uses for all grey pictures.
pub(super) const LUMA: [f32; 3] = [0.2126, 0.7152, 0.0722];

/// The conversion of a picture `[C, H, W]` to the input of a model.
#[derive(Debug)]
pub(super) struct Preparation {
    /// The shape of a picture.
    pub shape: ImageShape,
    /// Channels of the model's input: 1 or 3.
    pub channels: usize,
    /// Height and width of the model's input.
    pub size: [usize; 2],
    /// Order of the input's dimensions.
    pub layout: TensorLayout,
    /// Order of the input's channels.
    pub colour_order: ColourOrder,
    /// The values of black and white.
    pub range: [f32; 2],
    /// Subtracted after that, for each of red, green and blue.
    pub mean: [f32; 3],
    /// The divisor after that, for each of red, green and blue.
    pub std: [f32; 3],
}

impl Preparation {
    /// The input for one picture, whose values are clamped to [-1, 1] like those of a file.
    ///
    /// A different size is reached with a triangle filter, whose support grows when downscaling: PIL and torchvision
    /// call it bilinear with antialiasing.
    pub fn apply(&self, picture: &[f32]) -> Vec<f32> {
        let planes: Vec<Vec<f32>> = self.planes(picture).iter().map(|plane| self.resize(plane)).collect();
        let order: &[usize] = match (self.channels, self.colour_order) {
            (1, _) => &[0],
            (_, ColourOrder::Rgb) => &[0, 1, 2],
            (_, ColourOrder::Bgr) => &[2, 1, 0],
        };
        let [black, white] = self.range;
        let value = |channel: usize, at: usize| {
            // A grey picture has one plane, which is used for all three colours.
            let unit = planes[channel % planes.len()][at];
            (black + unit * (white - black) - self.mean[channel]) / self.std[channel]
        };
        let (pixels, value) = (self.size[0] * self.size[1], &value);
        match self.layout {
            TensorLayout::Nchw => {
                order.iter().flat_map(|channel| (0..pixels).map(move |at| value(*channel, at))).collect()
            }
            TensorLayout::Nhwc => {
                (0..pixels).flat_map(|at| order.iter().map(move |channel| value(*channel, at))).collect()
            }
        }
    }

    /// The planes of a picture from 0 to 1: one if the picture or the input is grey, else three.
    fn planes(&self, picture: &[f32]) -> Vec<Vec<f32>> {
        let unit = |value: &f32| ((value + 1.0) / 2.0).clamp(0.0, 1.0);
        let planes: Vec<Vec<f32>> =
            picture.chunks(self.shape.pixels()).map(|plane| plane.iter().map(unit).collect()).collect();
        match (&planes[..], self.channels) {
            ([red, green, blue], 1) => {
                let luma = |at: usize| LUMA[0] * red[at] + LUMA[1] * green[at] + LUMA[2] * blue[at];
                vec![(0..red.len()).map(luma).collect()]
            }
            _ => planes,
        }
    }

    fn resize(&self, plane: &[f32]) -> Vec<f32> {
        let [height, width] = self.size.map(|size| size as u32);
        let plane: ImageBuffer<Luma<f32>, &[f32]> =
            ImageBuffer::from_raw(self.shape.width as u32, self.shape.height as u32, plane)
                .expect("a plane has as many values as pixels");
        imageops::resize(&plane, width, height, FilterType::Triangle).into_raw()
    }
}

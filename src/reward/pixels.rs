//! Rewards that are a formula of a picture's pixels. They need no model and do not depend on the class.

#[cfg(feature = "cli")]
use image::ExtendedColorType;
#[cfg(feature = "cli")]
use image::codecs::jpeg::JpegEncoder;
use maybe_async::maybe_async;

#[cfg(feature = "cli")]
use super::template::Template;
use super::{Batch, Reward};
use crate::config::Axis;
use crate::error::{Error, Result};
use crate::shape::ImageShape;
#[cfg(feature = "cli")]
use crate::shape::to_byte;

/// A formula. In it, p is a pixel: (x + 1) / 2, clamped to 0 (black) and 1 (white).
#[derive(Clone, Debug)]
pub enum Formula {
    /// The mean of (x + 1) / 2 over all elements. Samples that exceed the range of pixels are not clamped.
    Ink,
    /// Size of the picture as a JPEG file of this quality, 1 to 100, in KiB. It includes the part that every file has,
    /// which cancels in the differences that a policy learns from.
    #[cfg(feature = "cli")]
    JpegSize(u8),
    /// The mean luma: p of grey, 0.2126 R + 0.7152 G + 0.0722 B of colour (Rec. 709). 0 to 1.
    Brightness,
    /// 1 − mean over the pixels of ‖p − c‖ / √3 for this colour c (red, green, blue); grey has three equal channels.
    /// 1 if every pixel has the colour, 0 if all are at the opposite corner of the cube.
    Colour([f64; 3]),
    /// 1 − mean of |p − mirrored p|. 1 is symmetrical.
    Symmetry(Axis),
    /// Mean of |p − p'| over all pairs of neighbours p, p' in a row or a column. 0 is a plain colour or a single
    /// pixel; large is noise.
    TotalVariation,
    /// Similarity to a picture.
    #[cfg(feature = "cli")]
    Template(Template),
}

impl Formula {
    /// Checks that it is defined for pictures of that many channels; `key` names the reward in messages.
    ///
    /// # Errors
    /// If it is not: some are defined only for grey (1) and colour (3).
    pub fn check(&self, channels: usize, key: &str) -> Result<()> {
        let any_channels = matches!(self, Self::Ink | Self::Symmetry(_) | Self::TotalVariation);
        if !any_channels && !matches!(channels, 1 | 3) {
            return Err(Error::input(format!(
                "`{key}` needs images of 1 (grey) or 3 (RGB) channels, but the model makes {channels}; choose another \
                 kind, or name an autoencoder (`model.vae`, --vae) if these are latents"
            )));
        }
        Ok(())
    }

    /// The score of a picture `[C, H, W]`.
    fn score(&self, image: &[f32], shape: ImageShape) -> Result<f64> {
        let ImageShape { channels, height, width } = shape;
        let plane = shape.pixels();
        // Channel c of pixel i; grey is used for all three.
        let colour = |c: usize, i: usize| share(image[c % channels * plane + i]);
        let mean = |sum: f64, count: usize| sum / count.max(1) as f64;
        Ok(match self {
            Self::Ink => mean(image.iter().map(|x| (f64::from(*x) + 1.0) / 2.0).sum(), image.len()),
            #[cfg(feature = "cli")]
            Self::JpegSize(quality) => {
                let pixels = (0..plane).flat_map(|i| (0..channels).map(move |c| to_byte(image[c * plane + i])));
                let kind = if channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
                let (pixels, mut file) = (pixels.collect::<Vec<u8>>(), Vec::new());
                JpegEncoder::new_with_quality(&mut file, *quality)
                    .encode(&pixels, width as u32, height as u32, kind)
                    .map_err(|cause| Error::failed(format!("a sample cannot be compressed as JPEG: {cause}")))?;
                file.len() as f64 / 1024.0
            }
            Self::Brightness => {
                let luma = |i| 0.2126 * colour(0, i) + 0.7152 * colour(1, i) + 0.0722 * colour(2, i);
                mean((0..plane).map(luma).sum(), plane)
            }
            Self::Colour(wanted) => {
                let square = |i| (0..3).map(|c| (colour(c, i) - wanted[c]).powi(2)).sum::<f64>();
                1.0 - mean((0..plane).map(|i| (square(i) / 3.0).sqrt()).sum(), plane)
            }
            Self::Symmetry(axis) => {
                let mirrored = |i: usize| match axis {
                    Axis::LeftRight => i / width * width + width - 1 - i % width,
                    Axis::TopBottom => (height - 1 - i / width) * width + i % width,
                };
                let pairs = (0..channels * plane).map(|i| (i, i / plane * plane + mirrored(i % plane)));
                1.0 - mean(pairs.map(|(i, j)| (share(image[i]) - share(image[j])).abs()).sum(), image.len())
            }
            Self::TotalVariation => {
                let difference = |i: usize, j: usize| (share(image[i]) - share(image[j])).abs();
                let right = |i: &usize| i % width + 1 < width;
                let below = |i: &usize| i % plane + width < plane;
                let rows = (0..image.len()).filter(right).map(|i| difference(i, i + 1)).sum::<f64>();
                let columns = (0..image.len()).filter(below).map(|i| difference(i, i + width)).sum::<f64>();
                mean(rows + columns, channels * (height * (width - 1) + (height - 1) * width))
            }
            #[cfg(feature = "cli")]
            Self::Template(template) => template.likeness(image),
        })
    }
}

/// From black, 0, to white, 1.
pub(super) fn share(x: f32) -> f64 {
    ((f64::from(x) + 1.0) / 2.0).clamp(0.0, 1.0)
}

/// A formula as a reward.
#[derive(Clone, Debug)]
pub struct PixelReward {
    name: [String; 1],
    formula: Formula,
}

impl PixelReward {
    /// The reward; `name` is that of its only component.
    pub fn new(name: &str, formula: Formula) -> Self {
        Self { name: [name.into()], formula }
    }
}

#[maybe_async(?Send)]
impl Reward for PixelReward {
    fn components(&self) -> &[String] {
        &self.name
    }

    async fn score(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f64>>> {
        let score = |image| self.formula.score(image, batch.shape);
        Ok(vec![batch.each().map(score).collect::<Result<_>>()?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(formula: &Formula, channels: usize, size: usize, image: &[f32]) -> f64 {
        assert_eq!(image.len(), channels * size * size);
        formula.score(image, ImageShape::square(channels, size)).unwrap()
    }

    fn close(actual: f64, expected: f64) {
        // A handful of operations in f64 on numbers up to 1.
        assert!((actual - expected).abs() < 1e-14, "{actual} is not {expected}");
    }

    /// Red, green, blue and white, as planes: the first pixel is red, the last white.
    const COLOURS: [f32; 12] = [1., -1., -1., 1., -1., 1., -1., 1., -1., -1., 1., 1.];

    #[test]
    fn ink_is_the_mean_from_black_to_white() {
        for (image, expected) in [([-1.0; 4], 0.0), ([1.0; 4], 1.0), ([-1.0, 0.0, 0.5, 1.5], 0.625)] {
            assert_eq!(score(&Formula::Ink, 1, 2, &image), expected);
        }
    }

    #[test]
    fn brightness_is_the_luma_of_what_can_be_seen() {
        close(score(&Formula::Brightness, 3, 2, &COLOURS), (0.2126 + 0.7152 + 0.0722 + 1.0) / 4.0);
        // What is whiter than white counts as white, blacker than black as black.
        close(score(&Formula::Brightness, 1, 2, &[3.0, -7.0, 0.0, 0.5]), (1.0 + 0.0 + 0.5 + 0.75) / 4.0);
        close(score(&Formula::Brightness, 1, 1, &[-0.5]), 0.25);
    }

    #[test]
    fn colour_is_one_where_it_is_met_and_zero_at_the_opposite_corner() {
        let red = Formula::Colour([1.0, 0.0, 0.0]);
        // Distances from red: 0, √2, √2 and √2 (white lacks nothing of red, but has the others).
        close(score(&red, 3, 2, &COLOURS), 1.0 - 3.0 * (2.0_f64 / 3.0).sqrt() / 4.0);
        close(score(&red, 3, 1, &[9.0, -9.0, -1.0]), 1.0);
        close(score(&red, 3, 1, &[-1.0, 1.0, 1.0]), 0.0);
        // A grey pixel of 1/4: its distance from red is √(9/16 + 1/16 + 1/16).
        close(score(&red, 1, 1, &[-0.5]), 1.0 - (11.0_f64 / 48.0).sqrt());
    }

    #[test]
    fn symmetry_compares_the_halves() {
        let [across, down] = [Axis::LeftRight, Axis::TopBottom].map(Formula::Symmetry);
        // Rows 0 1 and 1/2 1/2: |0 - 1| twice, of four; columns: 1/2 four times.
        let image = [-1.0, 1.0, 0.0, 0.0];
        close(score(&across, 1, 2, &image), 0.5);
        close(score(&down, 1, 2, &image), 0.5);
        // The middle column of three is its own mirror image; 5 is as white as 1.
        let image = [1.0, -1.0, 5.0, 0.0, 0.3, 0.0, -1.0, 0.25, 0.0];
        close(score(&across, 1, 3, &image), 1.0 - 2.0 * 0.5 / 9.0);
        // Columns: |1 - 0| twice, |0 - 5/8| twice, |1 - 1/2| twice.
        close(score(&down, 1, 3, &image), 1.0 - 2.0 * (1.0 + 0.625 + 0.5) / 9.0);
        // Channels are compared by themselves: red and blue swap sides in the first row.
        close(score(&across, 3, 2, &COLOURS), 1.0 - (2.0 + 2.0 + 2.0 + 2.0) / 12.0);
        for formula in [&across, &down] {
            assert_eq!(score(formula, 1, 1, &[0.3]), 1.0);
            assert_eq!(score(formula, 3, 1, &[0.3, -2.0, 7.0]), 1.0);
        }
    }

    #[test]
    fn total_variation_is_the_mean_step_between_neighbours() {
        // Rows: |0 - 1|, |1/2 - 1/2|; columns: 1/2 twice.
        close(score(&Formula::TotalVariation, 1, 2, &[-1.0, 1.0, 0.0, 0.0]), 0.5);
        // Of colours, each of three channels has two ones in four places: R 1 0 / 0 1, G 0 1 / 0 1, B 0 0 / 1 1.
        close(score(&Formula::TotalVariation, 3, 2, &COLOURS), (4.0 + 2.0 + 2.0) / 12.0);
        close(score(&Formula::TotalVariation, 1, 3, &[4.0; 9]), 0.0);
        assert_eq!(score(&Formula::TotalVariation, 3, 1, &[0.3, -2.0, 7.0]), 0.0);
    }

    #[test]
    fn the_jpeg_size_is_that_of_a_file_which_shows_the_picture() {
        let checks: Vec<f32> = (0..256).map(|i| if (i / 16 + i) % 2 == 0 { 0.9 } else { -3.0 }).collect();
        let [plain, busy] = [&[0.0; 256][..], &checks].map(|image| score(&Formula::JpegSize(75), 1, 16, image));
        assert!(busy > plain, "{busy} KiB of checks, {plain} KiB of grey");
        assert!(score(&Formula::JpegSize(10), 1, 16, &checks) < busy);
        // The same file by way of the library's own picture.
        let rgb = image::RgbImage::from_raw(2, 2, vec![255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255]).unwrap();
        let mut file = Vec::new();
        JpegEncoder::new_with_quality(&mut file, 50).encode_image(&rgb).unwrap();
        assert_eq!(score(&Formula::JpegSize(50), 3, 2, &COLOURS), file.len() as f64 / 1024.0);
        assert!(score(&Formula::JpegSize(1), 1, 1, &[7.0]) > 0.0);
    }

    #[test]
    fn only_grey_and_colour_have_a_brightness() {
        Formula::Symmetry(Axis::LeftRight).check(2, "reward.0.kind").unwrap();
        for (channels, is_known) in [(1, true), (2, false), (3, true), (4, false)] {
            assert_eq!(Formula::Brightness.check(channels, "reward.0.kind").is_ok(), is_known);
        }
        let message = Formula::JpegSize(75).check(2, "reward.0.kind").unwrap_err().to_string();
        assert!(message.contains("`reward.0.kind`") && message.contains("makes 2"), "{message}");
    }
}

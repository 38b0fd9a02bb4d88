//! Similarity to a picture.

use std::path::Path;

use super::pixels::share;
use crate::data;
use crate::error::{Error, Result};
use crate::shape::ImageShape;

/// A standard deviation of pixels (0 to 1) up to which a picture counts as plain, because the differences are rounding.
const PLAIN: f64 = 1e-6;

/// A picture that others are compared with, as its elements minus their mean.
#[derive(Clone, Debug)]
pub struct Template {
    centred: Vec<f64>,
}

impl Template {
    /// Reads a picture in any format, crops it to the aspect ratio of `shape` around its middle, and resizes that.
    ///
    /// # Errors
    /// If it cannot be read, or is of one plain colour.
    pub fn load(file: &str, shape: ImageShape) -> Result<Self> {
        let path = Path::new(file);
        Self::new(&data::load_picture(path, shape)?).ok_or_else(|| {
            Error::unreadable(path, "all its pixels are the same, so it cannot be a template; choose another image")
        })
    }

    /// The template `[C, H, W]`, -1 to 1; `None` if it is plain.
    fn new(image: &[f32]) -> Option<Self> {
        centred(image).map(|centred| Self { centred })
    }

    /// The zero-mean normalised cross-correlation
    ///
    /// ```text
    /// Σ (p − mean p)·(t − mean t) / √(Σ (p − mean p)² · Σ (t − mean t)²)
    /// ```
    ///
    /// over all elements, where p and t are clamped to black, 0, and white, 1: 1 for the template, even if it is
    /// lighter or has less contrast, -1 for its negative, and 0 for a plain picture.
    pub(super) fn likeness(&self, image: &[f32]) -> f64 {
        let Some(centred) = centred(image) else { return 0.0 };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let scale = (dot(&centred, &centred) * dot(&self.centred, &self.centred)).sqrt();
        (dot(&centred, &self.centred) / scale).clamp(-1.0, 1.0)
    }
}

/// Pixels minus their mean; `None` if they are all the same.
fn centred(image: &[f32]) -> Option<Vec<f64>> {
    let pixels = || image.iter().map(|x| share(*x));
    let mean = pixels().sum::<f64>() / image.len() as f64;
    let centred: Vec<f64> = pixels().map(|p| p - mean).collect();
    let square = centred.iter().map(|p| p * p).sum::<f64>();
    (square > PLAIN * PLAIN * image.len() as f64).then_some(centred)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 1e-14, "{actual} is not {expected}");
    }

    #[test]
    fn likeness_is_the_correlation_with_the_template() {
        let template = Template::new(&[-1.0, 0.0, 0.0, 1.0]).unwrap();
        close(template.likeness(&[-1.0, 0.0, 0.0, 1.0]), 1.0);
        close(template.likeness(&[0.25, 0.5, 0.5, 0.75]), 1.0);
        close(template.likeness(&[1.0, 0.0, 0.0, -1.0]), -1.0);
        close(template.likeness(&[0.0, 1.0, -1.0, 0.0]), 0.0);
        // p = 0 0 0 1 with mean 1/4, t - mean = -1/2 0 0 1/2: (1/8 + 3/8) / √(3/4 · 1/2).
        close(template.likeness(&[-1.0, -1.0, -4.0, 9.0]), 0.5 / 0.375_f64.sqrt());
        // One pixel of three channels.
        close(Template::new(&[-1.0, 0.0, 1.0]).unwrap().likeness(&[0.0, 0.0, 1.0]), 0.75_f64.sqrt());
    }

    #[test]
    fn a_plain_picture_resembles_nothing() {
        let template = Template::new(&[-1.0, 0.0, 0.0, 1.0]).unwrap();
        for plain in [[0.1; 4], [2.0, 3.0, 4.0, 5.0]] {
            assert_eq!(template.likeness(&plain), 0.0);
            assert!(Template::new(&plain).is_none());
        }
    }

    #[test]
    fn a_file_is_resized_to_the_size_of_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("half.bmp");
        // 12x8 in a format that no data set has: the square in the middle is black on its left, white on its right.
        let half = image::RgbImage::from_fn(12, 8, |x, _| image::Rgb([if x < 6 { 0 } else { 255 }; 3]));
        half.save(&file).unwrap();
        let name = file.display().to_string();
        for channels in [1, 3] {
            let template = Template::load(&name, ImageShape::square(channels, 2)).unwrap();
            let image = [-1.0, 1.0, -1.0, 1.0].repeat(channels);
            close(template.likeness(&image), 1.0);
        }
        image::RgbImage::from_pixel(4, 4, image::Rgb([7; 3])).save(&file).unwrap();
        let message = Template::load(&name, ImageShape::square(1, 2)).unwrap_err().to_string();
        assert!(message.contains("half.bmp") && message.contains("all its pixels are the same"), "{message}");
        let message = Template::load("nowhere.png", ImageShape::square(1, 2)).unwrap_err().to_string();
        assert!(message.contains("cannot read nowhere.png"), "{message}");
    }
}

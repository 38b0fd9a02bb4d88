//! How bright an image is.

use super::Reward;
use crate::error::{Error, Result};

/// The share of ink: the mean of (x + 1) / 2 over the elements of an image, so 0 for black and 1 for white. Samples may
/// leave the range of pixels a little, and then count as they are. It needs no model, and knows no classes.
#[derive(Clone, Copy, Debug)]
pub struct Ink;

impl Reward for Ink {
    fn name(&self) -> &str {
        "ink"
    }

    fn score(&mut self, images: &[f32], labels: &[u32]) -> Result<Vec<f64>> {
        if labels.is_empty() || !images.len().is_multiple_of(labels.len()) {
            let (elements, images) = (images.len(), labels.len());
            return Err(Error::failed(format!("{elements} elements are no {images} images of one size")));
        }
        let dim = images.len() / labels.len();
        let ink = |image: &[f32]| image.iter().map(|x| (f64::from(*x) + 1.0) / 2.0).sum::<f64>() / dim as f64;
        Ok(images.chunks(dim).map(ink).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ink_is_the_mean_brightness_from_black_to_white() {
        let images = [-1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 0.0, 0.5, 1.5];
        assert_eq!(Ink.score(&images, &[0, 1, 2]).unwrap(), [0.0, 1.0, 0.625]);
        assert!(Ink.score(&images, &[0; 5]).is_err() && Ink.score(&[], &[]).is_err());
    }
}

//! How bright an image is.

use super::{Batch, Reward};
use crate::error::Result;

/// The share of ink: the mean of (x + 1) / 2 over the elements of an image, so 0 for black and 1 for white. Samples may
/// leave the range of pixels a little, and then count as they are. It needs no model, and knows no classes.
#[derive(Clone, Debug)]
pub struct Ink([String; 1]);

impl Ink {
    /// The reward.
    #[expect(clippy::new_without_default, reason = "like every other reward, it is made by `new`")]
    pub fn new() -> Self {
        Self(["ink".into()])
    }
}

impl Reward for Ink {
    fn components(&self) -> &[String] {
        &self.0
    }

    fn score(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f64>>> {
        let ink = |image: &[f32]| image.iter().map(|x| (f64::from(*x) + 1.0) / 2.0).sum::<f64>() / image.len() as f64;
        Ok(vec![batch.each().map(ink).collect()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::{Moment, Purpose};

    #[test]
    fn ink_is_the_mean_brightness_from_black_to_white() {
        let images = [-1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 0.0, 0.5, 1.5];
        let moment = Moment { purpose: Purpose::Training, iteration: 0 };
        let batch = Batch { images: &images, labels: &[0, 1, 2], class_names: &[], channels: 1, image_size: 2, moment };
        assert_eq!(Ink::new().score(&batch).unwrap(), [[0.0, 1.0, 0.625]]);
    }
}

//! The shape of an image.

use std::fmt;

/// The shape of an image or of latents, `[C, H, W]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// C.
    pub channels: usize,
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
}

impl ImageShape {
    /// The shape of a square image.
    pub const fn square(channels: usize, size: usize) -> Self {
        Self { channels, height: size, width: size }
    }

    /// Pixels of one channel.
    pub const fn pixels(self) -> usize {
        self.height * self.width
    }

    /// Elements of an image.
    pub const fn elements(self) -> usize {
        self.channels * self.pixels()
    }

    /// The shape of a batch of images, `[rows, C, H, W]`.
    pub const fn batch(self, rows: usize) -> [usize; 4] {
        [rows, self.channels, self.height, self.width]
    }
}

/// In words, with the width first: `32x16 images of 3 channels`.
impl fmt::Display for ImageShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} images of {} channels", self.width, self.height, self.channels)
    }
}

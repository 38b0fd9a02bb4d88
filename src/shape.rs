//! The shape of an image, and the bytes of its pixels.

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

/// The value of a byte: 0 is -1, 255 is 1.
pub fn from_byte(byte: u8) -> f32 {
    f32::from(byte) / 127.5 - 1.0
}

/// The nearest byte of a value; values outside [-1, 1] are clamped, and NaN is 0.
pub fn to_byte(value: f32) -> u8 {
    ((value + 1.0) * 127.5).round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_round_trip() {
        for byte in 0..=255 {
            let value = from_byte(byte);
            assert!((-1.0..=1.0).contains(&value));
            assert_eq!(to_byte(value), byte);
        }
        assert_eq!((from_byte(0), from_byte(255)), (-1.0, 1.0));
        let outside = [-7.0, 7.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
        assert_eq!(outside.map(to_byte), [0, 255, 0, 255, 0]);
    }
}

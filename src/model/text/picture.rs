//! Pictures for CLIP's vision tower: resized, cropped and normalised.

use std::path::Path;

use image::RgbImage;
use serde::Deserialize;
use serde_json::Value;

use super::config::{ClipVisionConfig, read_config};
use crate::error::{Error, Result};

/// Mean and standard deviation of the colours that CLIP was trained with.
const CLIP_COLOURS: [[f64; 3]; 2] =
    [[0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]];

/// How pictures become the tower's input, as `preprocessor_config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct PicturePreparation {
    /// Length of the shorter side after resizing.
    pub shortest_edge: usize,
    /// Side of the square that is then cropped from the middle.
    pub crop: usize,
    /// Mean of each colour, from 0 to 1.
    pub mean: [f64; 3],
    /// Standard deviation of each colour.
    pub std: [f64; 3],
}

/// The keys of `preprocessor_config.json` that are read.
#[derive(Deserialize)]
struct File {
    size: Value,
    #[serde(default)]
    crop_size: Value,
    #[serde(default = "bicubic")]
    resample: u32,
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
}

/// Pillow's number of the filter.
fn bicubic() -> u32 {
    3
}

impl PicturePreparation {
    /// The preparation of the published CLIP models, for a tower of this size.
    pub fn of_clip(config: &ClipVisionConfig) -> Self {
        let [mean, std] = CLIP_COLOURS;
        Self { shortest_edge: config.image_size, crop: config.image_size, mean, std }
    }

    /// Reads `preprocessor_config.json` of a folder; without one, [`PicturePreparation::of_clip`].
    ///
    /// # Errors
    /// [`Error::Input`] if it is damaged, resizes with another filter than bicubic, or does not produce pictures of the
    /// tower's size.
    pub fn read(folder: &Path, config: &ClipVisionConfig) -> Result<Self> {
        let path = folder.join("preprocessor_config.json");
        if !path.is_file() {
            return Ok(Self::of_clip(config));
        }
        let file: File = read_config(&path)?;
        let name = path.display();
        let side = |value: &Value, key: &str| {
            let number = if value.is_number() { value } else { value.get(key).unwrap_or(&Value::Null) };
            number.as_u64().and_then(|side| usize::try_from(side).ok()).filter(|side| (1..=4096).contains(side))
        };
        let Some(shortest_edge) = side(&file.size, "shortest_edge") else {
            return Err(Error::input(format!(
                "{name}: `size` is {}, but it must be a number of pixels from 1 to 4096, or have one as `shortest_edge`",
                file.size
            )));
        };
        let crop = side(&file.crop_size, "height").unwrap_or(shortest_edge);
        if file.resample != bicubic() {
            return Err(Error::input(format!(
                "{name}: `resample` is {}, but only 3 (bicubic) is supported",
                file.resample
            )));
        }
        if crop != config.image_size || crop > shortest_edge {
            return Err(Error::input(format!(
                "{name}: images of {crop} pixels are cropped from {shortest_edge}, but the model takes {}",
                config.image_size
            )));
        }
        let [mean, std] = CLIP_COLOURS;
        let std = file.image_std.unwrap_or(std);
        if std.iter().any(|std| *std <= 0.0) {
            return Err(Error::input(format!("{name}: `image_std` is {std:?}, but it must be positive")));
        }
        Ok(Self { shortest_edge, crop, mean: file.image_mean.unwrap_or(mean), std })
    }

    /// A picture as `[3, crop, crop]`.
    pub fn prepare(&self, picture: &RgbImage) -> Vec<f32> {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let (short, long) = (width.min(height).max(1), width.max(height));
        let longer = (self.shortest_edge * long / short).max(self.shortest_edge);
        let (new_width, new_height) =
            if width <= height { (self.shortest_edge, longer) } else { (longer, self.shortest_edge) };
        let resized = resize_bicubic(picture, new_width as u32, new_height as u32);
        let (left, top) = ((new_width - self.crop) / 2, (new_height - self.crop) / 2);
        let mut values = Vec::with_capacity(3 * self.crop * self.crop);
        for channel in 0..3 {
            for (row, column) in (0..self.crop).flat_map(|row| (0..self.crop).map(move |column| (row, column))) {
                let byte = resized.get_pixel((left + column) as u32, (top + row) as u32).0[channel];
                values.push(((f64::from(byte) / 255.0 - self.mean[channel]) / self.std[channel]) as f32);
            }
        }
        values
    }
}

/// The source of one pixel of a resized line: the first pixel, and the weights in fixed point.
struct Source {
    first: usize,
    weights: Vec<i32>,
}

/// Fractional bits of Pillow's weights.
const PRECISION: u32 = 22;

/// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`: a cubic (a = -0.5), as wide as a pixel of the result.
fn sources(from: usize, to: usize) -> Vec<Source> {
    let cubic = |x: f64| {
        let x = x.abs();
        match x {
            x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            x if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            _ => 0.0,
        }
    };
    let scale = from as f64 / to as f64;
    let widened = scale.max(1.0);
    let support = 2.0 * widened;
    let source = |at: usize| {
        let centre = (at as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let weights: Vec<f64> =
            (first..end).map(|pixel| cubic((pixel as f64 - centre + 0.5) * (1.0 / widened))).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / total * f64::from(1 << PRECISION)).round() as i32;
        Source { first, weights: weights.iter().map(fixed).collect() }
    };
    (0..to).map(source).collect()
}

/// The rounded sum of weighted bytes.
fn weighted(source: &Source, byte: impl Fn(usize) -> u8) -> u8 {
    let terms = source.weights.iter().enumerate();
    let sum: i64 = terms.map(|(index, weight)| i64::from(*weight) * i64::from(byte(source.first + index))).sum();
    ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
}

/// Resizes as Pillow's `Image.resize` with `BICUBIC` does: horizontally, then vertically, each rounded to bytes.
///
/// # Panics
/// If the picture or the result has no pixels.
pub fn resize_bicubic(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    assert!([picture.width(), picture.height(), width, height].iter().all(|side| *side > 0), "an image needs pixels");
    let mut resized = picture.clone();
    if width != picture.width() {
        let sources = sources(picture.width() as usize, width as usize);
        resized = RgbImage::from_fn(width, picture.height(), |x, y| {
            let byte = |channel: usize| weighted(&sources[x as usize], |x| picture.get_pixel(x as u32, y).0[channel]);
            image::Rgb([0, 1, 2].map(byte))
        });
    }
    if height != resized.height() {
        let sources = sources(resized.height() as usize, height as usize);
        resized = RgbImage::from_fn(width, height, |x, y| {
            let byte = |channel: usize| weighted(&sources[y as usize], |y| resized.get_pixel(x, y as u32).0[channel]);
            image::Rgb([0, 1, 2].map(byte))
        });
    }
    resized
}

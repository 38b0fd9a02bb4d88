//! A dark canvas on which images and text are drawn, and how it is written as a PNG.

use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use crate::files::write_atomically;
use crate::{Error, Result};

/// Margin around everything, and on either side of the line between two panels.
pub(super) const MARGIN: usize = 24;
/// Gap between a label and the tile that it names.
pub(super) const PAD: usize = 10;

pub(super) const BACKGROUND: Rgb<u8> = Rgb([30, 33, 40]);
pub(super) const RULE: Rgb<u8> = Rgb([66, 71, 83]);

/// A text style: the weight and size of the font, and the colour of the ink.
pub(super) struct Style {
    weight: FontWeight,
    pub size: RasterHeight,
    ink: Rgb<u8>,
}

pub(super) const HEADING: Style =
    Style { weight: FontWeight::Bold, size: RasterHeight::Size20, ink: Rgb([236, 239, 244]) };
pub(super) const TITLE: Style =
    Style { weight: FontWeight::Regular, size: RasterHeight::Size16, ink: Rgb([196, 202, 213]) };
pub(super) const CAPTION: Style =
    Style { weight: FontWeight::Regular, size: RasterHeight::Size16, ink: Rgb([136, 144, 160]) };

pub(super) fn canvas(width: usize, height: usize) -> RgbImage {
    RgbImage::from_pixel(width as u32, height as u32, BACKGROUND)
}

pub(super) fn write_png(path: &Path, canvas: &RgbImage) -> Result<()> {
    let mut bytes = Cursor::new(Vec::new());
    canvas.write_to(&mut bytes, ImageFormat::Png).map_err(|cause| Error::unwritable(path, cause))?;
    write_atomically(path, bytes.get_ref())
}

pub(super) fn text_width(text: &str, style: &Style) -> usize {
    text.chars().count() * get_raster_width(style.weight, style.size)
}

/// The beginning of a caption or title, as much as fits above or below a tile.
pub(super) fn cut(text: &str, width: usize) -> &str {
    let fitting = width / get_raster_width(CAPTION.weight, CAPTION.size);
    match text.char_indices().nth(fitting) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// Blends the ink of each letter over the background.
pub(super) fn write_text(canvas: &mut RgbImage, style: &Style, text: &str, left: usize, top: usize) {
    let advance = get_raster_width(style.weight, style.size);
    for (position, letter) in text.chars().enumerate() {
        let raster = |letter| get_raster(letter, style.weight, style.size);
        let Some(glyph) = raster(letter).or_else(|| raster('?')) else {
            continue;
        };
        for (y, line) in glyph.rows().enumerate() {
            for (x, &coverage) in line.iter().enumerate() {
                let (x, y) = ((left + position * advance + x) as u32, (top + y) as u32);
                if let Some(pixel) = canvas.get_pixel_mut_checked(x, y) {
                    blend(pixel, style.ink, coverage);
                }
            }
        }
    }
}

/// Covers a pixel with `ink`; at 255 completely.
pub(super) fn blend(pixel: &mut Rgb<u8>, ink: Rgb<u8>, coverage: u8) {
    for (below, ink) in pixel.0.iter_mut().zip(ink.0) {
        let (under, over) = (u32::from(*below), u32::from(ink));
        let coverage = u32::from(coverage);
        let mixed = over * coverage + under * (255 - coverage);
        *below = ((mixed + 127) / 255) as u8;
    }
}

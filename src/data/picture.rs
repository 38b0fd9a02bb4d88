//! Decodes a picture the way a person sees it.

use std::error::Error;
use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

/// Turned as its EXIF tag says, and on white where it is transparent; of an animation the first frame. The ending of
/// `name` tells the format where the content does not.
///
/// # Errors
/// What is wrong with it: the caller says where it is.
pub(super) fn decode(name: &Path, bytes: &[u8]) -> Result<RgbImage, Box<dyn Error>> {
    let mut reader = ImageReader::new(Cursor::new(bytes));
    if let Ok(format) = ImageFormat::from_path(name) {
        reader.set_format(format);
    }
    let reader = reader.with_guessed_format()?;
    // The decoder would make up the missing part of a JPEG in flat grey.
    if reader.format() == Some(ImageFormat::Jpeg) && !has_end_of_jpeg(bytes) {
        return Err("the end of the JPEG is missing, so it was not copied or downloaded to its end".into());
    }
    let mut decoder = reader.into_decoder()?;
    // What a header claims is checked before any memory is taken for it.
    let (width, height) = decoder.dimensions();
    let mut limits = Limits::default();
    limits
        .reserve(decoder.total_bytes())
        .and_then(|()| decoder.set_limits(limits))
        .map_err(|cause| format!("it claims to have {width}x{height} pixels, which is too much to decode ({cause})"))?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    if !picture.color().has_alpha() {
        return Ok(picture.into_rgb8());
    }
    let picture = picture.into_rgba8();
    let on_white = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    Ok(RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [red, green, blue, alpha] = picture.get_pixel(x, y).0;
        image::Rgb([red, green, blue].map(|value| on_white(value, alpha)))
    }))
}

/// Whether the marker for the end stands behind the picture: not within a segment such as EXIF, which has a length and
/// may hold a small picture with an end of its own, and whatever a camera has put behind it.
fn has_end_of_jpeg(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(2..).unwrap_or_default();
    // Within compressed data FF is followed by 00, by D0 to D7, or by FF as filling.
    while let Some(at) = rest.windows(2).position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xD0..=0xD7 | 0xFF))
    {
        if rest[at + 1] == 0xD9 {
            return true;
        }
        let length = rest[at..].get(2..4).map_or(0, |length| usize::from(u16::from_be_bytes([length[0], length[1]])));
        rest = rest.get(at + 2 + length..).unwrap_or_default();
    }
    false
}

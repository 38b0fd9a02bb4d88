//! Decodes a picture the way a viewer shows it.

mod colour;
mod rare;

use std::fmt;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use crate::sniff;
use colour::Profiles;

/// Why a picture cannot be read, and how to fix it.
#[derive(Debug)]
pub(super) struct Unreadable {
    cause: String,
    advice: &'static str,
}

const REPLACE: &str = "replace it with a complete image, or remove it";
const CONVERT: &str = "convert it to PNG, or remove it";
const EITHER: &str =
    "if other programs show it, convert it to PNG, else replace it with a complete image, or remove it";

impl Unreadable {
    /// The file is not a picture, or only a part of one.
    fn broken(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), advice: REPLACE }
    }

    /// The file may be complete, but its format is not supported.
    fn unsupported(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), advice: CONVERT }
    }

    /// Either the format is unsupported or the file is damaged.
    fn unknown(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), advice: EITHER }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.cause, self.advice)
    }
}

impl From<ImageError> for Unreadable {
    fn from(cause: ImageError) -> Self {
        match cause {
            ImageError::Unsupported(cause) => Self::unsupported(cause.to_string()),
            ImageError::Limits(cause) => Self::unsupported(cause.to_string()),
            ImageError::IoError(cause) => Self::broken(cause.to_string()),
            cause => Self::unknown(cause.to_string()),
        }
    }
}

impl From<std::io::Error> for Unreadable {
    fn from(cause: std::io::Error) -> Self {
        Self::broken(cause.to_string())
    }
}

/// Pixels as a file has them, and what they mean.
struct Pixels {
    picture: DynamicImage,
    is_grey: bool,
    /// The numbers are linear in light, unless a profile says otherwise.
    is_linear: bool,
    /// The colours are already multiplied by alpha.
    is_premultiplied: bool,
    /// An ICC profile.
    profile: Option<Vec<u8>>,
}

/// Decodes pictures, and remembers those whose colours may be wrong.
#[derive(Default)]
pub(super) struct Reader {
    profiles: Profiles,
    /// Pictures whose profile could not be used, and why.
    ignored: Vec<(PathBuf, String)>,
}

impl Reader {
    /// Returns sRGB, rotated as the EXIF tag says, on white where transparent; of an animation the first frame. The
    /// contents tell the format. The ending of `name` counts only for TGA, which has no signature.
    ///
    /// # Errors
    /// What is wrong and how to fix it; the caller adds the name of the file.
    pub fn decode(&mut self, name: &Path, bytes: &[u8]) -> Result<RgbImage, Unreadable> {
        let format = format_of(name, bytes)?;
        if format == ImageFormat::Ico
            && let Some(png) = rare::png_of_icon(bytes)
        {
            return self.decode(name, png);
        }
        // The decoder would fill the missing part of a JPEG with grey.
        if format == ImageFormat::Jpeg && !has_end_of_jpeg(bytes) {
            let cause = "the end of the JPEG is missing, so it was not copied or downloaded to its end";
            return Err(Unreadable::broken(cause));
        }
        let pixels = match read(format, bytes)? {
            Err(ImageError::Unsupported(_)) if format == ImageFormat::Tiff => rare::read_tiff(bytes)?,
            pixels => pixels?,
        };
        self.show(name, pixels)
    }

    /// The bytes that a viewer would show.
    fn show(&mut self, name: &Path, pixels: Pixels) -> Result<RgbImage, Unreadable> {
        let Pixels { picture, is_grey, is_linear, is_premultiplied, profile } = pixels;
        let mut conversion = None;
        if let Some(profile) = profile {
            match self.profiles.conversion(profile, is_grey) {
                Ok(found) => conversion = Some(found),
                Err(cause) => self.ignored.push((name.to_owned(), cause)),
            }
        }
        let is_linear = is_linear && conversion.is_none();
        let conversion = conversion.flatten();
        let is_float = matches!(picture, DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_));
        if conversion.is_none() && !is_linear && !is_premultiplied && !is_float {
            return Ok(on_white(picture));
        }
        let mut picture = picture.into_rgba32f();
        if is_float {
            check_range(&picture)?;
        }
        if is_premultiplied {
            for pixel in picture.pixels_mut() {
                let [colours @ .., alpha] = &mut pixel.0;
                colours.iter_mut().for_each(|colour| *colour = if *alpha > 0.0 { *colour / *alpha } else { 0.0 });
            }
        }
        match conversion {
            Some(conversion) => conversion.apply(&mut picture).map_err(Unreadable::unknown)?,
            None if is_linear => colour::encode(&mut picture),
            None => {}
        }
        Ok(RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
            let [colours @ .., alpha] = picture.get_pixel(x, y).0;
            let alpha = alpha.clamp(0.0, 1.0);
            image::Rgb(colours.map(|colour| ((colour.clamp(0.0, 1.0) * alpha + 1.0 - alpha) * 255.0).round() as u8))
        }))
    }

    /// Warns of pictures whose colours may differ from what a viewer shows.
    pub fn warn(&self) {
        if let Some(((first, cause), others)) = self.ignored.split_first() {
            let others = match others.len() {
                0 => String::new(),
                count => format!(" ({count} more images are like it)"),
            };
            log::warn!(
                "the colour profile of {} cannot be used, so its colours may look different{others}: {cause}; convert \
                 it to sRGB if that matters",
                first.display()
            );
        }
    }
}

/// [`Reader::decode`] of a single picture.
pub(super) fn decode(name: &Path, bytes: &[u8]) -> Result<RgbImage, Unreadable> {
    let mut reader = Reader::default();
    let picture = reader.decode(name, bytes)?;
    reader.warn();
    Ok(picture)
}

/// Whether a file that begins like this is a picture, whatever its name: by signatures with which no text begins.
pub(super) fn is_certain(bytes: &[u8]) -> bool {
    use ImageFormat::{Farbfeld, Gif, Hdr, Jpeg, Png, Qoi, Tiff, WebP};
    format_by_contents(bytes)
        .is_some_and(|format| matches!(format, Farbfeld | Gif | Hdr | Jpeg | Png | Qoi | Tiff | WebP))
}

fn format_by_contents(bytes: &[u8]) -> Option<ImageFormat> {
    match bytes {
        // TIFF with addresses of 64 bits.
        [b'I', b'I', 43, 0, ..] | [b'M', b'M', 0, 43, ..] => Some(ImageFormat::Tiff),
        _ => image::guess_format(bytes).ok(),
    }
}

fn format_of(name: &Path, bytes: &[u8]) -> Result<ImageFormat, Unreadable> {
    if bytes.is_empty() {
        return Err(Unreadable::broken("it is empty"));
    }
    let known = format_by_contents(bytes);
    if let Some(format) = known.filter(|format| format.reading_enabled()) {
        return Ok(format);
    }
    let named = ImageFormat::from_path(name).ok();
    match sniff::what_is(bytes) {
        Some(what) if what.ends_with(" image") || what == "an SVG drawing" => {
            Err(Unreadable::unsupported(format!("it is {what}, which is not supported")))
        }
        _ if known.is_some() => Err(Unreadable::unsupported("images in this format are not supported")),
        Some(what) => Err(Unreadable::broken(format!("it is {what}"))),
        None if named == Some(ImageFormat::Tga) => Ok(ImageFormat::Tga),
        None if named.is_some_and(|format| format.reading_enabled()) => {
            Err(Unreadable::broken("it does not begin like any known kind of image"))
        }
        None => Err(Unreadable::unsupported("this format is not supported")),
    }
}

/// Decodes with the crate `image`.
fn read(format: ImageFormat, bytes: &[u8]) -> Result<Result<Pixels, ImageError>, Unreadable> {
    let mut reader = ImageReader::new(Cursor::new(bytes));
    reader.set_format(format);
    let mut decoder = match reader.into_decoder() {
        Ok(decoder) => decoder,
        Err(cause) => return Ok(Err(cause)),
    };
    // The size in the header is checked before any memory is allocated.
    let (dimensions, total) = (decoder.dimensions(), decoder.total_bytes());
    let limits = claim(dimensions, total)?;
    let decoded = || -> Result<Pixels, ImageError> {
        let profile = match format {
            ImageFormat::Tiff => rare::profile_of_tiff(bytes),
            _ => decoder.icc_profile().unwrap_or_default(),
        };
        decoder.set_limits(limits)?;
        let color = decoder.color_type();
        Ok(Pixels {
            is_grey: !color.has_color(),
            is_linear: is_linear(format, bytes, color),
            is_premultiplied: color.has_alpha() && rare::is_premultiplied(format, bytes),
            profile,
            picture: {
                let orientation = decoder.orientation()?;
                let mut picture = DynamicImage::from_decoder(decoder)?;
                picture.apply_orientation(orientation);
                picture
            },
        })
    };
    Ok(decoded())
}

/// Rejects sizes that need more memory than any real picture.
fn claim((width, height): (u32, u32), bytes: u64) -> Result<Limits, Unreadable> {
    let mut limits = Limits::default();
    limits.reserve(bytes).map_err(|cause| {
        Unreadable::broken(format!("its header says {width}x{height} pixels, which is too much to decode ({cause})"))
    })?;
    Ok(limits)
}

/// Whether the numbers are linear in light: in Radiance files, floating-point TIFF, and QOI files that say so.
fn is_linear(format: ImageFormat, bytes: &[u8], color: image::ColorType) -> bool {
    let is_float = matches!(color, image::ColorType::Rgb32F | image::ColorType::Rgba32F);
    is_float || (format == ImageFormat::Qoi && bytes.get(13) == Some(&1))
}

/// Rejects floating-point pictures in which the value of white is not known.
fn check_range(picture: &image::Rgba32FImage) -> Result<(), Unreadable> {
    if picture.pixels().flat_map(|pixel| pixel.0).any(|value| !value.is_finite()) {
        return Err(Unreadable::unsupported("it has numbers that are not finite"));
    }
    let bright = picture.pixels().filter(|pixel| pixel.0[..3].iter().any(|value| *value > 1.0)).count();
    if 2 * bright > (picture.width() * picture.height()) as usize {
        return Err(Unreadable::unsupported(
            "most of its numbers are above 1, which is white, so its scale is not known",
        ));
    }
    Ok(())
}

/// Composites sRGB bytes onto white.
fn on_white(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    let on_white = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [red, green, blue, alpha] = picture.get_pixel(x, y).0;
        image::Rgb([red, green, blue].map(|value| on_white(value, alpha)))
    })
}

/// Whether the end marker follows the picture. Markers within a segment such as EXIF, which has a length and may contain
/// a thumbnail with its own end, do not count. Whatever a camera has put after the picture is ignored.
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

#[cfg(test)]
mod tests;

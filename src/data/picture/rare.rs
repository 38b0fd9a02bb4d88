//! Valid pictures that the decoders of the crate `image` reject or misread.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageFormat, Rgba, Rgba32FImage};
use tiff::decoder::{Decoder, DecodingResult};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use super::{Pixels, Unreadable, claim};

const ASSOCIATED_ALPHA: u16 = 1;
const UNASSOCIATED_ALPHA: u16 = 2;

/// Whether the colours are already multiplied by alpha: TIFF and TGA can say so.
pub(super) fn is_premultiplied(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Tiff => {
            Decoder::new(Cursor::new(bytes)).is_ok_and(|mut tiff| extra_sample(&mut tiff) == Some(ASSOCIATED_ALPHA))
        }
        ImageFormat::Tga => attributes_of_tga(bytes) == Some(4),
        _ => false,
    }
}

/// The profile of a TIFF: the decoder of `image` does not find one that is larger than the pixels.
pub(super) fn profile_of_tiff(bytes: &[u8]) -> Option<Vec<u8>> {
    profile(&mut Decoder::new(Cursor::new(bytes)).ok()?)
}

fn profile(tiff: &mut Decoder<Cursor<&[u8]>>) -> Option<Vec<u8>> {
    tiff.find_tag(Tag::IccProfile).ok()??.into_u8_vec().ok()
}

fn extra_sample(tiff: &mut Decoder<Cursor<&[u8]>>) -> Option<u16> {
    tiff.find_tag_unsigned_vec(Tag::ExtraSamples).ok()??.first().copied()
}

/// The type of a TGA's attributes (TGA 2.0, field 24): 4 is premultiplied alpha.
fn attributes_of_tga(bytes: &[u8]) -> Option<u8> {
    let footer = &bytes[bytes.len().checked_sub(26)?..];
    let offset = u32::from_le_bytes(footer[..4].try_into().ok()?) as usize;
    if &footer[8..24] != b"TRUEVISION-XFILE" || offset == 0 {
        return None;
    }
    bytes.get(offset.checked_add(494)?).copied()
}

/// The picture of an icon with the most colours, and among those the largest, if it is a PNG. Only PNGs with alpha are
/// allowed, but others are common.
pub(super) fn png_of_icon(bytes: &[u8]) -> Option<&[u8]> {
    let short = |at: usize| Some(usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    let long = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let side = |at: usize| bytes.get(at).map(|side| if *side == 0 { 256 } else { usize::from(*side) });
    let entries = (0..short(4)?).map(|index| 6 + 16 * index);
    let score = |at: usize| Some((short(at + 6)?, side(at)? * side(at + 1)?));
    let best = entries.max_by_key(|at| score(*at))?;
    let data = bytes.get(long(best + 12)?..)?;
    let png = data.get(..long(best + 8)?).unwrap_or(data);
    png.starts_with(b"\x89PNG\r\n\x1a\n").then_some(png)
}

/// The samples of a TIFF, from 0 to 1; palette indices are unchanged.
struct Samples {
    values: Vec<f32>,
    is_float: bool,
}

/// Reads a TIFF with a palette, with grey and alpha, or with few or many bits per sample.
///
/// # Errors
/// If it is damaged or of an unsupported kind.
pub(super) fn read_tiff(bytes: &[u8]) -> Result<Pixels, Unreadable> {
    // The decoder rejects palettes, but reads their indices as shades of grey.
    let indices = indices_of_palette(bytes);
    let bytes = indices.as_deref().unwrap_or(bytes);
    let mut tiff = Decoder::new(Cursor::new(bytes))?;
    let (width, height) = tiff.dimensions()?;
    let color = tiff.colortype()?;
    let kind = || Unreadable::unsupported(format!("a TIFF of the kind {color:?} is not supported"));
    let (channels, bits) = match color {
        ColorType::Gray(bits) => (1, bits),
        ColorType::GrayA(bits) | ColorType::Multiband { bit_depth: bits, num_samples: 2 } => (2, bits),
        ColorType::RGB(bits) => (3, bits),
        ColorType::RGBA(bits) => (4, bits),
        _ => return Err(kind()),
    };
    let pixels = u64::from(width) * u64::from(height);
    // The samples as they are in the file, and four numbers per pixel.
    claim((width, height), pixels.saturating_mul(u64::from(bits).div_ceil(8) * channels as u64 + 16))?;
    let extra = extra_sample(&mut tiff);
    let profile = profile(&mut tiff);
    let orientation = tiff.find_tag_unsigned::<u16>(Tag::Orientation).ok().flatten();
    let palette = match (&indices, color) {
        (None, _) => None,
        (Some(_), ColorType::Gray(bits @ 1..=8)) => Some(palette(&mut tiff, bits)?),
        (Some(_), _) => return Err(Unreadable::unsupported("a TIFF with such a palette is not supported")),
    };
    let mut buffer = DecodingResult::U8(Vec::new());
    let layout = tiff.read_image_to_buffer(&mut buffer)?;
    if layout.planes > 1 {
        return Err(Unreadable::unsupported("a TIFF with a plane for each channel is not supported"));
    }
    let samples = samples(buffer, bits, width as usize * channels, palette.is_none()).ok_or_else(kind)?;
    let is_associated = extra == Some(ASSOCIATED_ALPHA);
    let has_alpha = is_associated || extra == Some(UNASSOCIATED_ALPHA);
    let colour = |pixel: &[f32]| match (pixel, &palette) {
        (&[index], Some(palette)) => {
            let [red, green, blue] = palette[index as usize];
            [red, green, blue, 1.0]
        }
        (&[grey], None) => [grey, grey, grey, 1.0],
        (&[grey, alpha], _) => [grey, grey, grey, if has_alpha { alpha } else { 1.0 }],
        (&[red, green, blue], _) => [red, green, blue, 1.0],
        (pixel, _) => [pixel[0], pixel[1], pixel[2], pixel[3]],
    };
    let values = samples.values.chunks_exact(channels).flat_map(colour).collect();
    let picture: Rgba32FImage = image::ImageBuffer::<Rgba<f32>, _>::from_raw(width, height, values)
        .ok_or_else(|| Unreadable::broken("its pixels end early"))?;
    let mut picture = DynamicImage::ImageRgba32F(picture);
    if let Some(orientation) = orientation.and_then(|tag| Orientation::from_exif(u8::try_from(tag).ok()?)) {
        picture.apply_orientation(orientation);
    }
    let is_grey = channels < 3 && palette.is_none();
    Ok(Pixels { picture, is_grey, is_linear: samples.is_float, is_premultiplied: is_associated, profile })
}

/// Rewrites a TIFF with a palette so that its indices are grey; `None` for any other. A file of more than 4 GiB, which
/// has 64-bit addresses, is left unchanged.
fn indices_of_palette(bytes: &[u8]) -> Option<Vec<u8>> {
    const PHOTOMETRIC: usize = 262;
    const BLACK_IS_ZERO: u8 = 1;
    const PALETTE: usize = 3;
    let is_little = match bytes.get(..4)? {
        b"II\x2a\0" => true,
        b"MM\0\x2a" => false,
        _ => return None,
    };
    let number = |at: usize, size: usize| -> Option<usize> {
        let digits = bytes.get(at..at.checked_add(size)?)?.iter().map(|digit| usize::from(*digit));
        let append = |number: usize, digit: usize| (number << 8) | digit;
        Some(if is_little { digits.rev().fold(0, append) } else { digits.fold(0, append) })
    };
    let directory = number(4, 4)?;
    let mut entries = (0..number(directory, 2)?).map(|index| directory + 2 + 12 * index);
    // Tag, type, count, and a value of 16 bits at the beginning of its field.
    let value = entries.find(|at| number(*at, 2) == Some(PHOTOMETRIC))? + 8;
    if number(value, 2)? != PALETTE {
        return None;
    }
    let mut grey = bytes.to_vec();
    grey[value + usize::from(!is_little)] = BLACK_IS_ZERO;
    Some(grey)
}

/// The colours of a palette, from 0 to 1.
fn palette(tiff: &mut Decoder<Cursor<&[u8]>>, bits: u8) -> Result<Vec<[f32; 3]>, Unreadable> {
    let map = tiff.get_tag_u16_vec(Tag::ColorMap)?;
    let count = 1_usize << bits;
    if map.len() != 3 * count {
        return Err(Unreadable::broken(format!("its palette has {} numbers, not {}", map.len(), 3 * count)));
    }
    let value = |at: usize| f32::from(map[at]) / 65535.0;
    Ok((0..count).map(|index| [value(index), value(count + index), value(2 * count + index)]).collect())
}

/// `None` if the meaning of such numbers is not known. `in_row` samples make a row, which is padded to full bytes.
fn samples(buffer: DecodingResult, bits: u8, in_row: usize, is_scaled: bool) -> Option<Samples> {
    let of = |values: Vec<f32>| Some(Samples { values, is_float: false });
    let float = |values: Vec<f32>| Some(Samples { values, is_float: true });
    match buffer {
        DecodingResult::U8(bytes) => {
            // A field never crosses a byte.
            if ![1, 2, 4, 8].contains(&bits) {
                return None;
            }
            let largest = f32::from(u8::MAX >> (8 - bits));
            let packed = (in_row * usize::from(bits)).div_ceil(8).max(1);
            let unpacked = bytes.chunks_exact(packed).flat_map(|row| {
                (0..in_row).map(move |index| {
                    let at = index * usize::from(bits);
                    let shifted = row[at / 8] >> (8 - usize::from(bits) - at % 8);
                    f32::from(shifted & (u8::MAX >> (8 - bits)))
                })
            });
            of(unpacked.map(|value| if is_scaled { value / largest } else { value }).collect())
        }
        DecodingResult::U16(values) if bits == 16 => {
            of(values.into_iter().map(|value| f32::from(value) / 65535.0).collect())
        }
        DecodingResult::U32(values) if bits == 32 => {
            of(values.into_iter().map(|value| (f64::from(value) / f64::from(u32::MAX)) as f32).collect())
        }
        DecodingResult::U64(values) if bits == 64 => {
            of(values.into_iter().map(|value| (value as f64 / u64::MAX as f64) as f32).collect())
        }
        DecodingResult::F16(values) => float(values.into_iter().map(|value| value.to_f32()).collect()),
        DecodingResult::F32(values) => float(values),
        DecodingResult::F64(values) => float(values.into_iter().map(|value| value as f32).collect()),
        _ => None,
    }
}

impl From<TiffError> for Unreadable {
    fn from(cause: TiffError) -> Self {
        match cause {
            TiffError::UnsupportedError(cause) => Self::unsupported(cause.to_string()),
            TiffError::IoError(cause) => Self::broken(cause.to_string()),
            cause => Self::unknown(cause.to_string()),
        }
    }
}

use image::{Rgb, RgbImage};

use super::*;

/// The only colour of an image.
fn colour(name: &str, bytes: &[u8]) -> [u8; 3] {
    let image = decode(Path::new(name), bytes).unwrap_or_else(|cause| panic!("{name}: {cause}"));
    let first = *image.get_pixel(0, 0);
    assert!(image.pixels().all(|pixel| *pixel == first), "{name} has one colour");
    first.0
}

fn refused(name: &str, bytes: &[u8]) -> String {
    decode(Path::new(name), bytes).map(drop).expect_err(name).to_string()
}

fn close(found: [u8; 3], expected: [u8; 3], most: u8) {
    assert!(found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= most), "{found:?} instead of {expected:?}");
}

macro_rules! file {
    ($name:literal) => {
        colour($name, include_bytes!(concat!("../../../tests/pictures/", $name)))
    };
}

/// Colours as little CMS, which viewers use, shows them: (220, 170, 140) in a profile like Adobe RGB.
#[test]
fn a_colour_profile_is_heeded() {
    close(file!("wide-gamut.png"), [237, 172, 140], 1);
    // JPEG loses a little before.
    close(file!("wide-gamut.jpg"), [237, 172, 140], 2);
    // A profile of sRGB changes no byte.
    assert_eq!(file!("srgb.png"), [200, 100, 50]);
}

#[test]
fn rare_kinds_are_read() {
    assert_eq!(file!("grey-alpha.tif"), [100; 3]);
    assert_eq!(file!("palette.ico"), [10, 20, 30]);
    // Half the light of white: the curve of sRGB makes 188 of it.
    assert_eq!(file!("float-grey.tif"), [188; 3]);
}

#[test]
fn linear_light_goes_through_the_curve_of_srgb() {
    let mut bytes = Vec::new();
    let image = image::Rgb32FImage::from_pixel(4, 4, Rgb([0.5, 1.0, 0.0]));
    image::codecs::hdr::HdrEncoder::new(&mut bytes).encode(&image.pixels().copied().collect::<Vec<_>>(), 4, 4).unwrap();
    close(colour("a.hdr", &bytes), [188, 255, 0], 1);
}

/// Eight by eight pixels of one colour with alpha 128, as a TIFF whose field `ExtraSamples` is `kind`.
fn tiff_with_alpha(pixel: [u8; 4], kind: u16) -> Vec<u8> {
    let pixels = pixel.repeat(64);
    let tags: [(u16, u16, u32); 10] = [
        (256, 3, 8),
        (257, 3, 8),
        (258, 3, 0),
        (259, 3, 1),
        (262, 3, 2),
        (273, 4, 0),
        (277, 3, 4),
        (278, 3, 8),
        (279, 4, pixels.len() as u32),
        (338, 3, u32::from(kind)),
    ];
    let behind = 8 + 2 + 12 * tags.len() as u32 + 4;
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend((tags.len() as u16).to_le_bytes());
    for (tag, field, value) in tags {
        let (count, value) = match tag {
            258 => (4_u32, behind),
            273 => (1, behind + 8),
            _ => (1, value),
        };
        bytes.extend([tag.to_le_bytes(), field.to_le_bytes()].concat());
        bytes.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
    }
    bytes.extend([0; 4]);
    bytes.extend([8_u16; 4].iter().flat_map(|bits| bits.to_le_bytes()));
    bytes.extend(pixels);
    bytes
}

#[test]
fn colours_are_multiplied_by_alpha_once() {
    let straight = colour("a.tif", &tiff_with_alpha([220, 40, 30, 128], 2));
    assert_eq!(straight, [237, 147, 142]);
    // The same, multiplied already.
    close(colour("a.tif", &tiff_with_alpha([110, 20, 15, 128], 1)), straight, 1);
}

#[test]
fn contents_decide_and_not_endings() {
    let mut png = Cursor::new(Vec::new());
    RgbImage::from_pixel(4, 4, Rgb([1, 2, 3])).write_to(&mut png, ImageFormat::Png).unwrap();
    for name in ["a.heic", "a.jpg", "a.tga", "a"] {
        assert_eq!(colour(name, png.get_ref()), [1, 2, 3]);
    }
    let cases: [(&[u8], &str, &str); 5] = [
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "it is a HEIC picture, which is not supported", "convert it to PNG"),
        (b"<!DOCTYPE html><html>", "it is a web page (HTML)", "replace it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer", "git lfs pull"),
        (b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "an SVG drawing", "convert it to PNG"),
        (b"", "it is empty", "replace it"),
    ];
    for (bytes, what, advice) in cases {
        let message = refused("a.jpg", bytes);
        assert!(message.contains(what) && message.contains(advice), "{message}");
    }
}

/// Whole images are never called damaged.
#[test]
fn what_is_whole_is_to_be_converted_and_not_replaced() {
    let planes = tiff_with_alpha([1, 2, 3, 4], 2);
    // Four samples of 8 bits that are called CMYK.
    let mut cmyk = planes.clone();
    let at = cmyk.windows(4).position(|tag| tag == [6, 1, 3, 0]).unwrap();
    cmyk[at + 8] = 5;
    if let Err(message) = decode(Path::new("a.tif"), &cmyk) {
        assert!(message.to_string().contains("convert it to PNG"), "{message}");
    }
    let palette = include_bytes!("../../../tests/pictures/palette.tif").as_slice();
    // Whole numbers with a sign: nothing says which one is white.
    let signed = include_bytes!("../../../tests/pictures/signed-grey.tif").as_slice();
    for bytes in [palette, signed] {
        let message = refused("a.tif", bytes);
        assert!(message.contains("convert it to PNG"), "{message}");
    }
    let message = refused("a.avif", b"\0\0\0\x1cftypavif\0\0\0\0mif1");
    assert!(message.contains("convert it to PNG"), "{message}");
    // Half of a PNG is not whole.
    let message = refused("a.png", &include_bytes!("../../../tests/pictures/srgb.png")[..300]);
    assert!(message.contains("replace it by a whole picture"), "{message}");
}

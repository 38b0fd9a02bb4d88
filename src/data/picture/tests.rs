//! Against PIL and the definitions of the formats (`tests/pictures/make.py`).

use std::path::Path;

use super::*;

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures").join(name)).unwrap()
}

/// The colour of a plain picture, and whether its profile was ignored.
fn shown(name: &str) -> Result<([u8; 3], bool), Unreadable> {
    let mut reader = Reader::default();
    let picture = reader.decode(Path::new(name), &bytes(name))?;
    let first = picture.get_pixel(0, 0).0;
    // Apart from JPEG's rounding, all pixels are the same.
    assert!(picture.pixels().all(|pixel| pixel.0.iter().zip(first).all(|(a, b)| a.abs_diff(b) <= 1)), "{name}");
    Ok((first, !reader.ignored.is_empty()))
}

#[test]
fn colours_match_those_of_a_viewer() {
    let cases: [(&str, [u8; 3], u8); 22] = [
        ("wide.png", [237, 172, 140], 1),
        ("wide.jpg", [237, 172, 140], 3),
        ("wide.webp", [237, 172, 140], 1),
        ("wide.tif", [237, 172, 140], 1),
        ("grey_linear.png", [133; 3], 0),
        // An sRGB profile changes no bit.
        ("srgb.png", [220, 170, 140], 0),
        ("associated.tif", [237, 147, 142], 0),
        ("associated.tga", [237, 147, 142], 0),
        ("straight.tif", [237, 147, 142], 0),
        // (40 · 128 + 255 · 127) / 255
        ("grey_alpha.tif", [147; 3], 0),
        ("palette.ico", [200, 100, 50], 0),
        ("palette4.tif", [200, 100, 50], 0),
        ("palette8.tif", [200, 100, 50], 0),
        ("grey4.tif", [51; 3], 0),
        ("grey32.tif", [128; 3], 0),
        ("float_grey.tif", [188; 3], 0),
        ("float16_grey.tif", [188; 3], 0),
        ("float_colour.tif", [188, 137, 0], 0),
        ("linear.hdr", [188, 137, 0], 0),
        ("linear.qoi", [188; 3], 0),
        ("broken_profile.png", [220, 170, 140], 0),
        // Without its profile: (255 − ink) · (255 − black) / 255.
        ("cmyk.jpg", [235, 143, 51], 3),
    ];
    let mut wrong = Vec::new();
    for (name, expected, tolerance) in cases {
        let is_ignored = ["broken_profile.png", "cmyk.jpg"].contains(&name);
        match shown(name) {
            Ok((found, ignored))
                if ignored == is_ignored && found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= tolerance) => {}
            Ok(found) => wrong.push(format!("{name}: {found:?} is not {expected:?}, {is_ignored}")),
            Err(cause) => wrong.push(format!("{name}: {cause}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_user_is_told_to_convert_valid_but_unsupported_pictures() {
    for (name, expected) in [
        ("signed.tif", "a TIFF of the kind Gray(32) is not supported"),
        ("lab.tif", "CIELab"),
        ("float_bytes.tif", "most of its numbers are above 1"),
    ] {
        let message = decode(Path::new(name), &bytes(name)).expect_err(name).to_string();
        assert!(message.contains(expected), "{name}: {message}");
        assert!(message.contains("convert it to PNG") && !message.contains("complete"), "{name}: {message}");
    }
}

#[test]
fn the_format_follows_the_content_not_the_extension() {
    let jpeg = bytes("wide.jpg");
    for name in ["a.heic", "a.png", "a", "a.tga"] {
        let found = decode(Path::new(name), &jpeg).unwrap_or_else(|cause| panic!("{name}: {cause}"));
        assert_eq!(found.dimensions(), (8, 8), "{name}");
    }
    let page = b"<!DOCTYPE html><html><body>404";
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n";
    let cases: [(&[u8], &str, &str); 9] = [
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "it is a HEIC image, which is not supported", CONVERT),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "AVIF", CONVERT),
        (b"8BPS\0\x01\0\0\0\0\0\0", "it is a Photoshop image, which is not supported", CONVERT),
        (b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "it is an SVG drawing", CONVERT),
        (page, "it is a web page (HTML)", REPLACE),
        (pointer, "it is a Git LFS pointer", REPLACE),
        (b"%PDF-1.7\n", "it is a PDF document", REPLACE),
        (b"", "it is empty", REPLACE),
        (b"\xfe\0\0\0\0\0\0", "it does not begin like any known kind of image", REPLACE),
    ];
    for (bytes, expected, advice) in cases {
        let message = decode(Path::new("a.jpg"), bytes).unwrap_err().to_string();
        assert!(message.contains(expected) && message.ends_with(advice), "{message}");
    }
}

#[test]
fn every_truncation_is_an_error_not_a_panic() {
    for name in ["palette4.tif", "grey_alpha.tif", "float_grey.tif", "associated.tga", "palette.ico", "wide.png"] {
        let complete = bytes(name);
        for length in (0..complete.len()).step_by(7) {
            let cut = decode(Path::new(name), &complete[..length]);
            // After the pixels of a TGA come its notes, which may be missing.
            // After those of a PNG comes its end marker.
            let after_pixels = match name {
                "associated.tga" => 18 + 256,
                "wide.png" | "palette.ico" => complete.len() - 12,
                _ => complete.len(),
            };
            assert!(cut.is_err() || length >= after_pixels, "{name} {length}");
        }
    }
}

//! Pictures as PNG files that say how they were made.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{ImageFormat, Rgb, RgbImage};

use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::shape::to_byte;

/// Where the first chunk of a PNG file ends, which is of a fixed size: texts may follow.
const AFTER_HEADER: usize = 33;

/// The files of so many pictures: `out` for one, else with a number before its ending, `out-1.png`.
pub fn picture_files(out: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 {
        return vec![out.to_owned()];
    }
    let digits = count.to_string().len();
    let stem = out.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let ending = out.extension().unwrap_or_default().to_string_lossy().into_owned();
    (1..=count).map(|number| out.with_file_name(format!("{stem}-{number:0digits$}.{ending}"))).collect()
}

/// Writes a picture `[3, height, width]` with values from −1 to 1 as PNG, with texts by keyword.
///
/// # Errors
/// If the file cannot be written.
///
/// # Panics
/// If there are fewer values.
pub fn write_picture(path: &Path, values: &[f32], [height, width]: [usize; 2], texts: &[(&str, String)]) -> Result<()> {
    let plane = height * width;
    let picture = RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = y as usize * width + x as usize;
        Rgb([0, 1, 2].map(|channel| to_byte(values[channel * plane + at])))
    });
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).map_err(|cause| Error::unwritable(path, cause))?;
    let mut bytes = bytes.into_inner();
    let chunks: Vec<u8> = texts.iter().flat_map(|(keyword, text)| text_chunk(keyword, text)).collect();
    bytes.splice(AFTER_HEADER..AFTER_HEADER, chunks);
    write_atomically(path, &bytes)
}

/// A chunk `iTXt`: text in UTF-8 that is not compressed, in no language.
fn text_chunk(keyword: &str, text: &str) -> Vec<u8> {
    let typed = [b"iTXt", keyword.as_bytes(), b"\0\0\0\0\0", text.as_bytes()].concat();
    let length = (typed.len() - 4) as u32;
    [&length.to_be_bytes()[..], &typed, &crc32fast::hash(&typed).to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_numbered_if_there_are_several() {
        assert_eq!(picture_files(Path::new("a/fox.png"), 1), [Path::new("a/fox.png")]);
        let files = picture_files(Path::new("a/fox.v2.PNG"), 12);
        assert_eq!((files.len(), files[0].as_path()), (12, Path::new("a/fox.v2-01.PNG")));
        assert_eq!(files[11], Path::new("a/fox.v2-12.PNG"));
    }

    #[test]
    fn a_picture_keeps_its_texts_and_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        let values: Vec<f32> = [-1.5, -1.0, 0.0, 1.0, 2.0, 0.5].repeat(3);
        write_picture(&path, &values, [2, 3], &[("Description", "a größer fox".into()), ("Comment", "{}".into())])
            .unwrap();
        let picture = image::open(&path).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (3, 2));
        let reds: Vec<u8> = picture.pixels().map(|pixel| pixel.0[0]).collect();
        assert_eq!(reds, [0, 0, 128, 255, 255, 191]);
        let bytes = std::fs::read(&path).unwrap();
        let text = "iTXtDescription\0\0\0\0\0a größer fox".as_bytes();
        assert!(bytes.windows(text.len()).any(|window| window == text));
    }
}

//! A sprite sheet: one picture of square tiles in row order, and a file with their labels.
//!
//! The label file has one label per image; the tiles left over in the last row are ignored. Two
//! formats are read:
//!
//! - `*.txt`: whole numbers separated by white space; the number is the class and its name.
//! - `*.json`: a list of `[name, category]`. The categories, sorted by name, are the classes (as the
//!   sub-folders of [`folder`](super::folder) are), so that adding images never renumbers them.

use std::collections::BTreeSet;
use std::path::Path;

use image::GenericImageView;

use super::{Dataset, check_shape, picture, push_planes};
use crate::classes::normal_name;
use crate::shape::ImageShape;
use crate::{Error, Result, files};

/// The bytes of a file, and its name for error messages.
pub(super) struct Source<'a> {
    pub name: &'a Path,
    pub bytes: &'a [u8],
}

/// Reads the sheet `picture` of tiles of `image_size` pixels, and its `labels`, as a data set of 1 or 3 `channels`.
///
/// # Errors
/// [`Error::Input`] if a file cannot be read or understood, or the two do not fit together.
pub fn load(picture: &Path, labels: &Path, image_size: usize, channels: usize) -> Result<Dataset> {
    let (picture_bytes, labels_bytes) = (files::read_file(picture)?, files::read_file(labels)?);
    decode(
        Source { name: picture, bytes: &picture_bytes },
        Source { name: labels, bytes: &labels_bytes },
        image_size,
        channels,
    )
}

/// [`load`] from memory.
pub(super) fn decode(picture: Source, labels: Source, image_size: usize, channels: usize) -> Result<Dataset> {
    check_shape(ImageShape::square(channels, image_size))?;
    let tile = image_size as u32;
    let pixels =
        picture::decode(picture.name, picture.bytes).map_err(|cause| Error::unreadable(picture.name, cause))?;
    let (width, height) = pixels.dimensions();
    if width % tile != 0 || height % tile != 0 {
        return Err(Error::unreadable(
            picture.name,
            format!(
                "{width}x{height} pixels are not whole tiles of {tile}x{tile}: \
                 set image_size to the size of a tile"
            ),
        ));
    }
    let (columns, rows) = ((width / tile) as usize, (height / tile) as usize);

    let (class_of, class_names) = parse_labels(&labels)?;
    let count = class_of.len();
    // All tiles, except the empty ones at the end of the last row.
    if count > columns * rows || count <= columns * (rows - 1) {
        return Err(Error::unreadable(
            labels.name,
            format!("it has {count} labels, but {} has {rows} rows of {columns} tiles", picture.name.display()),
        ));
    }

    let mut images = Vec::with_capacity(count * channels * image_size * image_size);
    for index in 0..count {
        let (x, y) = ((index % columns) as u32 * tile, (index / columns) as u32 * tile);
        push_planes(&mut images, &*pixels.view(x, y, tile, tile), channels);
    }
    Ok(Dataset { images, labels: class_of, class_names, image_size, channels, originals: None })
}

/// The class of every image, and the names of the classes.
fn parse_labels(labels: &Source) -> Result<(Vec<u32>, Vec<String>)> {
    let text = files::text(labels.bytes).map_err(|cause| Error::unreadable(labels.name, cause))?;
    match labels.name.extension().and_then(|ending| ending.to_str()) {
        Some("txt") => parse_numbers(text),
        Some("json") => parse_categories(text),
        _ => Err("labels are *.txt (numbers) or *.json (a list of [name, category])".to_owned()),
    }
    .map_err(|cause| Error::unreadable(labels.name, cause))
}

fn parse_numbers(text: &str) -> std::result::Result<(Vec<u32>, Vec<String>), String> {
    let labels = text
        .split_whitespace()
        .map(|word| {
            // The bound keeps a wrong file from creating millions of classes.
            word.parse().ok().filter(|&label| label < 100_000).ok_or_else(|| {
                let shown: String = word.chars().take(20).collect();
                format!(
                    "{shown:?} is not a label: whole numbers from 0, \
                     separated by white space, are expected"
                )
            })
        })
        .collect::<std::result::Result<Vec<u32>, _>>()?;
    let classes = labels.iter().max().map_or(0, |&largest| largest + 1);
    Ok((labels, (0..classes).map(|class| class.to_string()).collect()))
}

fn parse_categories(text: &str) -> std::result::Result<(Vec<u32>, Vec<String>), String> {
    let mut pairs: Vec<(String, String)> =
        serde_json::from_str(text).map_err(|cause| format!("a list of [name, category] is expected: {cause}"))?;
    for (_, category) in &mut pairs {
        *category = normal_name(category);
    }
    let categories: BTreeSet<&str> = pairs.iter().map(|(_, category)| category.as_str()).collect();
    let class_names: Vec<String> = categories.into_iter().map(str::to_owned).collect();
    let labels = pairs.iter().map(|(_, category)| class_names.partition_point(|name| name < category) as u32).collect();
    Ok((labels, class_names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::from_byte;
    use image::{Rgb, RgbImage};

    /// A sheet of 3x2 tiles of 2x2 pixels; the red of every pixel is its index in the sheet.
    fn sheet_file(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("sheet.png");
        RgbImage::from_fn(6, 4, |x, y| Rgb([(y * 6 + x) as u8, 100, 200])).save(&path).unwrap();
        path
    }

    fn load_with(name: &str, labels: &str, image_size: usize) -> Result<Dataset> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, labels).unwrap();
        load(&sheet_file(folder.path()), &path, image_size, 3)
    }

    #[test]
    fn tiles_are_cut_in_row_order_into_planes() {
        let data = load_with("labels.txt", "0 1 2\n2 1", 2).unwrap();
        assert_eq!(data.labels, [0, 1, 2, 2, 1]);
        assert_eq!(data.class_names, ["0", "1", "2"]);
        assert_eq!((data.len(), data.images.len()), (5, 5 * 3 * 4));
        let bytes = [14, 15, 20, 21, 100, 100, 100, 100, 200, 200, 200, 200];
        assert_eq!(data.image(4), bytes.map(from_byte));
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_other_encodings_are_named() {
        assert_eq!(load_with("labels.txt", "\u{feff}0 1 2 2 1", 2).unwrap().labels, [0, 1, 2, 2, 1]);
        let pairs = "\u{feff}[[\"a\", \"x\"], [\"b\", \"y\"], [\"c\", \"x\"], [\"d\", \"y\"]]";
        assert_eq!(load_with("labels.json", pairs, 2).unwrap().labels, [0, 1, 0, 1]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.txt");
        std::fs::write(&path, b"\xff\xfe0\0").unwrap();
        let message = load(&sheet_file(folder.path()), &path, 2, 3).unwrap_err().to_string();
        assert!(message.contains("labels.txt: it is text in UTF-16: save it as UTF-8"), "{message}");
    }

    #[test]
    fn categories_become_classes_in_order_of_name() {
        let labels = r#"[["hash", "Symbols"], ["cat", "Animals"], ["one", "Symbols"], ["pie", "Food"]]"#;
        let data = load_with("labels.json", labels, 2).unwrap();
        assert_eq!(data.class_names, ["Animals", "Food", "Symbols"]);
        assert_eq!(data.labels, [2, 0, 2, 1]);
    }

    #[test]
    fn mismatches_are_reported() {
        let cases = [
            ("labels.txt", "0 1 2", 2, "3 labels"),
            ("labels.txt", "0 1 2 3 4 5 6", 2, "7 labels"),
            ("labels.txt", "0 1 two 3", 2, "\"two\""),
            ("labels.txt", "0 1 -2 3", 2, "\"-2\""),
            ("labels.txt", "0012341234123412341234", 2, "\"00123412341234123412\""),
            ("labels.json", r#"[["hash"]]"#, 2, "[name, category]"),
            ("labels.csv", "0,1,2,3", 2, "*.txt"),
            ("labels.txt", "0 1 2 3", 5, "image_size"),
            ("labels.txt", "0 1 2 3", 0, "image_size"),
        ];
        for (name, labels, image_size, expected) in cases {
            let error = load_with(name, labels, image_size).unwrap_err();
            assert!(error.to_string().contains(expected), "{labels}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn a_sheet_that_is_not_a_picture_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.png");
        std::fs::write(&path, b"\x89PNG\r\n\x1a\n and then nothing").unwrap();
        let labels = folder.path().join("labels.txt");
        std::fs::write(&labels, "0").unwrap();
        for picture in [path, folder.path().join("missing.png")] {
            let message = load(&picture, &labels, 2, 1).unwrap_err().to_string();
            assert!(message.contains(&*picture.to_string_lossy()), "{message}");
        }
    }

    #[test]
    fn the_shipped_sheets_load() {
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
        let file = |name: &str| assets.join(name);
        let mnist = load(&file("mnist10k/mnist10k.png"), &file("mnist10k/mnist10k-labels.txt"), 28, 1).unwrap();
        assert_eq!((mnist.len(), mnist.class_names.len()), (10_000, 10));
        let emoji = load(&file("emoji32/emoji32.png"), &file("emoji32/emoji32-labels.json"), 32, 3).unwrap();
        assert_eq!((emoji.len(), emoji.class_names.len()), (1906, 9));
    }
}

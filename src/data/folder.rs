//! A folder of pictures, with one sub-folder per class.

use std::io::Read;
use std::path::{Path, PathBuf};

use image::imageops::{self, FilterType};
use image::{ImageFormat, RgbImage};

use super::picture::{self, Reader, Unreadable};
use super::{Dataset, Originals, check_shape, push_planes};
use crate::classes::normal_name;
use crate::shape::ImageShape;
use crate::{Error, Result, files};

/// Extensions of picture formats that cannot be read. Silently skipping such a file would be a surprise. Any other file
/// that does not begin like a picture is skipped.
const UNREADABLE: [&str; 13] =
    ["avif", "cr2", "dds", "dng", "exr", "heic", "heif", "jp2", "jxl", "nef", "psd", "svg", "xcf"];
/// Bytes that identify the kind of a file.
const HEAD: u64 = 64;
/// The most broken pictures that are named.
const MOST_NAMED: usize = 5;

/// Reads the pictures in the sub-folders of `folder` as a data set. The classes are the sub-folders in
/// order of name, the images of a class its files in order of name; hidden files are ignored.
///
/// Each picture is cropped to its central square and resized (Lanczos) to `image_size` pixels, then
/// kept in colour (`channels` = 3) or converted to grey (1). A picture that already has the size is
/// not resampled. Of an animation, the first frame is used.
///
/// # Errors
/// [`Error::Input`] if there is no sub-folder, a sub-folder without pictures, a picture in an unsupported format, or
/// broken pictures, all of which are counted.
pub fn load(folder: &Path, image_size: usize, channels: usize) -> Result<Dataset> {
    let shape = ImageShape::square(channels, image_size);
    check_shape(shape)?;
    let (classes, beside): (Vec<_>, Vec<_>) = list(folder)?.into_iter().partition(|path| path.is_dir());
    if classes.is_empty() {
        return Err(Error::unreadable(
            folder,
            "it has no sub-directories: put the images of each class into a sub-directory of its own",
        ));
    }
    let mut data = Dataset {
        images: Vec::new(),
        labels: Vec::new(),
        class_names: Vec::new(),
        image_size,
        channels,
        originals: None,
    };
    let mut originals = Originals { skipped: beside, ..Originals::default() };
    let mut broken = Vec::new();
    let mut reader = Reader::default();
    for (class, path) in classes.iter().enumerate() {
        let before = data.len() + broken.len();
        for file in list(path)? {
            if !is_picture(&file) {
                originals.skipped.push(file);
                continue;
            }
            match open(&mut reader, &file) {
                Ok(picture) => {
                    originals.add(picture.dimensions(), shape);
                    push_planes(&mut data.images, &fit(&picture, shape), channels);
                    data.labels.push(class as u32);
                }
                Err(cause) => broken.push((file, cause)),
            }
        }
        if data.len() + broken.len() == before {
            return Err(Error::unreadable(path, "it contains no images: add some, or remove the directory"));
        }
        let name = normal_name(&path.file_name().unwrap_or_default().to_string_lossy());
        if data.class_names.contains(&name) {
            let cause = format!(
                "another sub-directory has the same name, {name:?}, with its accents stored in another way: rename one"
            );
            return Err(Error::unreadable(path, cause));
        }
        data.class_names.push(name);
    }
    reject_broken(&broken)?;
    reader.warn();
    data.originals = Some(originals);
    Ok(data)
}

/// Names the broken pictures together, so that a user can fix them all at once.
pub(super) fn reject_broken(broken: &[(PathBuf, Unreadable)]) -> Result<()> {
    let Some(((first, cause), others)) = broken.split_first() else { return Ok(()) };
    let mut message = format!("cannot read {}: {cause}", first.display());
    if !others.is_empty() {
        let names: Vec<String> =
            others.iter().take(MOST_NAMED - 1).map(|(file, _)| file.display().to_string()).collect();
        let more = if others.len() >= MOST_NAMED { ", …" } else { "" };
        message += &format!("; {} more cannot be read: {}{more}", others.len(), names.join(", "));
    }
    Err(Error::input(message))
}

/// The entries of a folder in order of name, without hidden ones.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with('.') {
                paths.push(entry.path());
            }
        }
        paths.sort();
        Ok(paths)
    };
    read().map_err(|cause| Error::unreadable(folder, cause))
}

/// Whether the extension or the first bytes of a file are those of a picture.
pub(super) fn is_picture(file: &Path) -> bool {
    let ending = file.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    // Reading from a pipe or a device could take forever. A dangling link counts as broken.
    if file.metadata().is_ok_and(|found| !found.is_file()) {
        return false;
    }
    let is_named = ImageFormat::from_extension(&ending).is_some_and(|format| format.reading_enabled());
    is_named || UNREADABLE.contains(&&*ending) || begins_like_a_picture(file)
}

/// A file that cannot be read does not, as its extension is not that of a picture either.
fn begins_like_a_picture(file: &Path) -> bool {
    let mut head = Vec::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    read.is_ok() && picture::is_certain(&head)
}

/// One picture, resized as in [`load`].
pub(super) fn read(file: &Path, shape: ImageShape) -> Result<RgbImage> {
    let mut reader = Reader::default();
    let picture = open(&mut reader, file).map_err(|cause| Error::unreadable(file, cause))?;
    reader.warn();
    Ok(fit(&picture, shape))
}

/// A picture in its own size.
pub(super) fn open(reader: &mut Reader, file: &Path) -> Result<RgbImage, Unreadable> {
    reader.decode(file, &files::read_ordinary(file)?)
}

/// The largest part in the middle of a picture that has the wanted aspect ratio, at the requested size.
pub(super) fn fit(picture: &RgbImage, shape: ImageShape) -> RgbImage {
    let wanted = [shape.width, shape.height].map(|size| size as u64);
    let given = [picture.width(), picture.height()].map(u64::from);
    let [width, height] = match given[0] * wanted[1] < given[1] * wanted[0] {
        true => [given[0], (given[0] * wanted[1] / wanted[0]).max(1)],
        false => [(given[1] * wanted[0] / wanted[1]).max(1), given[1]],
    };
    let [x, y] = [(given[0] - width) / 2, (given[1] - height) / 2];
    let [x, y, width, height] = [x, y, width, height].map(|size| size as u32);
    let part = imageops::crop_imm(picture, x, y, width, height).to_image();
    if [width, height].map(u64::from) == wanted {
        return part;
    }
    imageops::resize(&part, wanted[0] as u32, wanted[1] as u32, FilterType::Lanczos3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{from_byte, to_byte};
    use image::{Rgb, Rgba, RgbaImage};

    /// A folder with `cat/a.png` (red) and `dog/b.jpg` (grey).
    fn two_classes() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for class in ["dog", "cat"] {
            std::fs::create_dir(root.path().join(class)).unwrap();
        }
        RgbImage::from_pixel(12, 8, Rgb([250, 10, 20])).save(root.path().join("cat/a.png")).unwrap();
        RgbImage::from_pixel(9, 16, Rgb([128; 3])).save(root.path().join("dog/b.jpg")).unwrap();
        root
    }

    #[test]
    fn sub_folders_are_classes_in_order_of_name() {
        let root = two_classes();
        std::fs::write(root.path().join("cat/notes.md"), "not an image").unwrap();
        std::fs::write(root.path().join("cat/.hidden.png"), "not an image").unwrap();
        std::fs::write(root.path().join("README.md"), "not a class").unwrap();
        let data = load(root.path(), 4, 3).unwrap();
        assert_eq!(data.class_names, ["cat", "dog"]);
        assert_eq!(data.labels, [0, 1]);
        for (channel, byte) in [250, 10, 20].into_iter().enumerate() {
            assert_eq!(data.image(0)[channel * 16..][..16], [from_byte(byte); 16]);
        }
        assert!(data.image(1).iter().all(|&value| to_byte(value).abs_diff(128) <= 2));
        let grey = load(root.path(), 4, 1).unwrap();
        // 0.2126 * 250 + 0.7152 * 10 + 0.0722 * 20
        assert!(grey.image(0).iter().all(|&value| to_byte(value).abs_diff(62) <= 1));
    }

    #[test]
    fn the_original_sizes_of_the_pictures_are_kept() {
        let root = two_classes();
        RgbImage::new(40, 40).save(root.path().join("cat/large.png")).unwrap();
        for skipped in ["beside.png", "cat/notes.md"] {
            std::fs::write(root.path().join(skipped), "not an image").unwrap();
        }
        std::fs::create_dir(root.path().join("dog/puppies.png")).unwrap();
        let mut skipped = vec!["beside.png", "cat/notes.md", "dog/puppies.png"];
        #[cfg(unix)]
        {
            // A pipe without a writer, and a link to it.
            let made = std::process::Command::new("mkfifo").arg(root.path().join("dog/queue.png")).status().unwrap();
            assert!(made.success());
            std::os::unix::fs::symlink("queue.png", root.path().join("dog/to-queue.png")).unwrap();
            skipped.extend(["dog/queue.png", "dog/to-queue.png"]);
        }
        let originals = load(root.path(), 10, 1).unwrap().originals.unwrap();
        assert_eq!(originals.sizes, Some([(12, 8), (40, 40)]));
        assert_eq!((originals.cut, originals.enlarged), (2, 2));
        let skipped: Vec<PathBuf> = skipped.iter().map(|name| root.path().join(name)).collect();
        assert_eq!(originals.skipped, skipped);
    }

    const PROMISED: [&str; 12] =
        ["bmp", "gif", "ico", "jpeg", "JPG", "png", "ppm", "qoi", "tga", "tif", "tiff", "webp"];

    /// Saves in the format of the extension; Windows icons contain only pictures with transparency.
    fn save(picture: &RgbImage, path: &Path) {
        let picture = image::DynamicImage::from(picture.clone());
        let is_icon = path.extension().unwrap() == "ico";
        if is_icon { picture.into_rgba8().save(path) } else { picture.into_rgb8().save(path) }.unwrap();
    }

    #[test]
    fn every_format_that_the_program_promises_is_read() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("only")).unwrap();
        let picture = RgbImage::from_pixel(4, 4, Rgb([200, 100, 50]));
        for ending in PROMISED {
            save(&picture, &root.path().join(format!("only/a.{ending}")));
        }
        let data = load(root.path(), 4, 3).unwrap();
        assert_eq!(data.len(), PROMISED.len());
        for (index, ending) in PROMISED.iter().enumerate() {
            let found: Vec<u8> = data.image(index).iter().step_by(16).map(|value| to_byte(*value)).collect();
            let near = found.iter().zip([200, 100, 50]).all(|(found, wanted)| found.abs_diff(wanted) <= 4);
            assert!(near, "{ending}: {found:?}");
        }
    }

    #[test]
    fn broken_pictures_are_counted_and_the_first_are_named() {
        let root = two_classes();
        for index in 1..=7 {
            std::fs::write(root.path().join(format!("cat/broken{index}.png")), b"\x89PNG\r\n").unwrap();
        }
        let message = load(root.path(), 4, 3).unwrap_err().to_string();
        for part in ["broken1.png", "replace it", "6 more cannot be read", "broken5.png, …"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(!message.contains("broken6"), "{message}");
    }

    #[test]
    fn a_truncated_picture_is_broken_in_every_format() {
        let root = two_classes();
        let mut random = 1_u32;
        let noise = RgbImage::from_fn(32, 32, |_, _| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Rgb([(random >> 24) as u8, (random >> 16) as u8, (random >> 8) as u8])
        });
        let path = root.path().join("cat/cut");
        for ending in PROMISED {
            let path = path.with_extension(ending);
            save(&noise, &path);
            let complete = std::fs::read(&path).unwrap();
            load(root.path(), 4, 3).unwrap_or_else(|cause| panic!("the complete image: {cause}"));
            for length in [complete.len() / 2, complete.len() * 9 / 10] {
                std::fs::write(&path, &complete[..length]).unwrap();
                let message = load(root.path(), 4, 3).expect_err(ending).to_string();
                assert!(message.contains(&format!("cut.{ending}")) && message.contains("replace it"), "{message}");
            }
            std::fs::remove_file(path).unwrap();
        }
    }

    /// A phone embeds a thumbnail, which has an end marker of its own, before the picture, and a video after it.
    #[test]
    fn the_end_of_a_jpeg_is_that_of_the_main_picture() {
        let root = two_classes();
        let file = root.path().join("dog/b.jpg");
        let complete = std::fs::read(&file).unwrap();
        let length = u16::try_from(complete.len() + 2).unwrap().to_be_bytes();
        let segment = [&[0xFF, 0xE2][..], &length, &complete].concat();
        let with_both = [&complete[..2], &segment, &complete[2..], &[0xFF, 0xDA, 0, 1]].concat();
        std::fs::write(&file, &with_both).unwrap();
        load(root.path(), 4, 3).unwrap();
        std::fs::write(&file, &with_both[..with_both.len() - 8]).unwrap();
        let message = load(root.path(), 4, 3).unwrap_err().to_string();
        assert!(message.contains("b.jpg: the end of the JPEG is missing"), "{message}");
    }

    #[test]
    fn a_picture_that_claims_an_enormous_size_is_rejected() {
        let root = two_classes();
        // 12 TB.
        let file = root.path().join("cat/vast.ppm");
        std::fs::write(&file, "P6 2000000 2000000 255\n").unwrap();
        let labels = root.path().join("labels.txt");
        std::fs::write(&labels, "0").unwrap();
        for error in [
            load(root.path(), 4, 3).unwrap_err(),
            crate::data::sheet::load(&file, &labels, 4, 3).unwrap_err(),
            crate::data::load_picture(&file, ImageShape::square(3, 4)).unwrap_err(),
        ] {
            let message = error.to_string();
            assert!(message.contains("vast.ppm: its header says 2000000x2000000 pixels"), "{message}");
        }
    }

    #[test]
    fn the_centre_is_kept_and_a_picture_of_the_right_size_is_not_resampled() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("only")).unwrap();
        RgbImage::from_fn(7, 4, |x, y| Rgb([(16 * y + x) as u8; 3])).save(root.path().join("only/wide.png")).unwrap();
        let data = load(root.path(), 4, 1).unwrap();
        let expected: Vec<f32> = (0..4).flat_map(|y| (1..5).map(move |x| from_byte(16 * y + x))).collect();
        assert_eq!(data.image(0), expected);
    }

    #[test]
    fn transparent_pixels_are_white() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("only")).unwrap();
        RgbaImage::from_fn(2, 1, |x, _| Rgba([0, 0, 0, if x == 0 { 0 } else { 153 }]))
            .save(root.path().join("only/a.png"))
            .unwrap();
        RgbaImage::from_pixel(1, 1, Rgba([0, 0, 0, 153])).save(root.path().join("only/b.png")).unwrap();
        let data = load(root.path(), 1, 1).unwrap();
        assert_eq!([to_byte(data.image(0)[0]), to_byte(data.image(1)[0])], [255, 102]);
    }

    #[test]
    fn bad_folders_are_rejected_and_the_fault_is_named() {
        type Spoil = fn(&Path);
        let cases: [(Spoil, &str, &str); 7] = [
            (|root| std::fs::remove_dir_all(root).unwrap(), "", "cannot read"),
            (
                |root| {
                    for class in ["cat", "dog"] {
                        std::fs::remove_dir_all(root.join(class)).unwrap();
                    }
                },
                "",
                "no sub-directories",
            ),
            (|root| std::fs::create_dir(root.join("empty")).unwrap(), "empty", "no images"),
            (|root| std::fs::write(root.join("dog/c.png"), b"\x89PNG").unwrap(), "c.png", "cannot read"),
            (
                |root| {
                    let complete = std::fs::read(root.join("cat/a.png")).unwrap();
                    std::fs::write(root.join("cat/half.PNG"), &complete[..complete.len() / 2]).unwrap();
                },
                "half.PNG",
                "cannot read",
            ),
            (
                |root| std::fs::write(root.join("cat/d.heic"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").unwrap(),
                "d.heic",
                "it is a HEIC image, which is not supported; convert it to PNG",
            ),
            (|root| std::fs::write(root.join("cat/d.dds"), b"DDS ").unwrap(), "d.dds", "not supported"),
        ];
        for (spoil, name, expected) in cases {
            let root = two_classes();
            spoil(root.path());
            let error = load(root.path(), 4, 3).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(name) && message.contains(expected), "{message}");
            assert_eq!(error.exit_code(), 2);
        }
        let message = load(two_classes().path(), 4, 2).unwrap_err().to_string();
        assert!(message.contains("channels = 2"), "{message}");
    }
}

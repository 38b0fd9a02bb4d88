//! A folder of images with captions, as trainers of text-to-image models use them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use image::RgbImage;
use serde_json::{Map, Value};

use super::folder::{fit, is_picture, list, open, reject_broken};
use super::picture::Reader;
use super::{Originals, check_shape, push_planes};
use crate::files::read_text;
use crate::shape::ImageShape;
use crate::{Error, Result};

/// The file with the captions of all images, as the `imagefolder` of Hugging Face's datasets has it.
const METADATA: &str = "metadata.jsonl";

/// Images with captions. Only the captions are in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Captions {
    /// The images, in order of name, or of the lines of `metadata.jsonl`.
    pub files: Vec<PathBuf>,
    /// The caption of each, on one line.
    pub texts: Vec<String>,
    /// What else is in the folder.
    pub skipped: Vec<PathBuf>,
    /// The shape that the images get: a crop around the middle, resized (Lanczos).
    pub shape: ImageShape,
}

impl Captions {
    /// Finds images and captions: `metadata.jsonl` with lines that have `file_name` and `text`, or for each image a text
    /// file of the same name. Images are not read yet. Warns of empty captions.
    ///
    /// # Errors
    /// [`Error::Input`] if an image has no caption, a caption no image, a caption is not text in UTF-8, or there are none.
    pub fn find(folder: &Path, shape: ImageShape) -> Result<Self> {
        check_shape(shape)?;
        let entries = list(folder)?;
        let (images, others): (Vec<PathBuf>, Vec<PathBuf>) = entries.into_iter().partition(|path| is_picture(path));
        let (texts, mut skipped): (Vec<PathBuf>, Vec<PathBuf>) =
            others.into_iter().partition(|path| path.is_file() && ending(path) == "txt");
        let metadata = folder.join(METADATA);
        let pairs = match skipped.iter().position(|path| *path == metadata) {
            Some(at) => {
                skipped.remove(at);
                of_metadata(folder, &metadata, &images, &texts)?
            }
            None => of_text_files(&images, &texts)?,
        };
        if pairs.is_empty() {
            return Err(Error::unreadable(
                folder,
                format!(
                    "it has no images: put images there, each with a text file of the same name, or with a line in {METADATA}"
                ),
            ));
        }
        let (files, texts): (Vec<PathBuf>, Vec<String>) = pairs.into_iter().unzip();
        // A folder whose images are used is not skipped.
        let used: BTreeSet<&Path> = files.iter().flat_map(|file| file.ancestors()).collect();
        skipped.retain(|path| !used.contains(path.as_path()));
        let mut empty = files.iter().zip(&texts).filter(|(_, text)| text.is_empty());
        if let Some((first, _)) = empty.next() {
            let others = match empty.count() {
                0 => String::new(),
                more => format!(" (and those of {more} more)"),
            };
            log::warn!(
                "the caption of {}{others} is empty: it teaches what is drawn without a prompt",
                first.display()
            );
        }
        Ok(Self { files, texts, skipped, shape })
    }

    /// The captions without repetitions, in the order in which they first occur, and for each image its place among them.
    pub fn distinct(&self) -> (Vec<String>, Vec<u32>) {
        let mut places = BTreeMap::new();
        let mut distinct: Vec<String> = Vec::new();
        let place = |text: &String| {
            *places.entry(text.clone()).or_insert_with(|| {
                distinct.push(text.clone());
                distinct.len() as u32 - 1
            })
        };
        let labels = self.texts.iter().map(place).collect();
        (distinct, labels)
    }

    /// Reads the images in order, and gives the place of each and its values `[3, H, W]` from −1 to 1. After a broken one
    /// the others are read, too, so that all are named at once.
    ///
    /// # Errors
    /// [`Error::Input`] if images are broken or in a format that is not supported; whatever `take` returns.
    pub fn read(&self, take: &mut dyn FnMut(usize, &[f32]) -> Result<()>) -> Result<Originals> {
        self.visit(&mut |index, image| {
            let mut values = Vec::new();
            push_planes(&mut values, &fit(image, self.shape), self.shape.channels);
            take(index, &values)
        })
    }

    /// Checks that all images can be read.
    ///
    /// # Errors
    /// [`Error::Input`] naming those that cannot.
    pub fn check(&self) -> Result<Originals> {
        self.visit(&mut |_, _| Ok(()))
    }

    fn visit(&self, take: &mut dyn FnMut(usize, &RgbImage) -> Result<()>) -> Result<Originals> {
        let mut originals = Originals { skipped: self.skipped.clone(), ..Originals::default() };
        let (mut broken, mut reader) = (Vec::new(), Reader::default());
        for (index, file) in self.files.iter().enumerate() {
            match open(&mut reader, file) {
                Err(cause) => broken.push((file.clone(), cause)),
                Ok(image) => {
                    originals.add(image.dimensions(), self.shape);
                    if broken.is_empty() {
                        take(index, &image)?;
                    }
                }
            }
        }
        reject_broken(&broken)?;
        reader.warn();
        Ok(originals)
    }
}

fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

/// A text on one line, as prompts are.
fn on_one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

fn of_text_files(images: &[PathBuf], texts: &[PathBuf]) -> Result<Vec<(PathBuf, String)>> {
    let by_name: BTreeMap<_, &PathBuf> = texts.iter().map(|text| (text.file_stem(), text)).collect();
    let named: BTreeSet<_> = images.iter().map(|image| image.file_stem()).collect();
    let mut without = images.iter().filter(|image| !by_name.contains_key(&image.file_stem()));
    if let Some(first) = without.next() {
        let others = match without.count() {
            0 => String::new(),
            more => format!(", and {more} more images have none"),
        };
        return Err(Error::input(format!(
            "{} has no caption: write it into {}{others}; or write all captions into {METADATA}",
            first.display(),
            first.with_extension("txt").display()
        )));
    }
    if let Some(text) = texts.iter().find(|text| !named.contains(&text.file_stem())) {
        return Err(Error::input(format!(
            "{} is the caption of no image: add its image, {} for instance, or remove it",
            text.display(),
            text.with_extension("png").display()
        )));
    }
    images.iter().map(|image| Ok((image.clone(), on_one_line(&read_text(by_name[&image.file_stem()])?)))).collect()
}

fn of_metadata(
    folder: &Path,
    metadata: &Path,
    images: &[PathBuf],
    texts: &[PathBuf],
) -> Result<Vec<(PathBuf, String)>> {
    let name = metadata.display();
    let named: BTreeSet<_> = images.iter().map(|image| image.file_stem()).collect();
    if let Some(text) = texts.iter().find(|text| named.contains(&text.file_stem())) {
        return Err(Error::input(format!(
            "{} has captions in {METADATA} and in text files, such as {}: remove the file or the text files",
            folder.display(),
            text.display()
        )));
    }
    let text = read_text(metadata)?;
    let (mut pairs, mut seen) = (Vec::new(), BTreeSet::new());
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()) {
        let (file, text) =
            of_line(folder, line).map_err(|cause| Error::input(format!("{name}: line {number} {cause}")))?;
        if !seen.insert(file.clone()) {
            return Err(Error::input(format!(
                "{name}: line {number} names {} again: give each image one line",
                file.display()
            )));
        }
        pairs.push((file, text));
    }
    if let Some(image) = images.iter().find(|image| !seen.contains(*image)) {
        return Err(Error::input(format!(
            "{} has no caption: {name} has no line with its `file_name`; add one, or remove the image",
            image.display()
        )));
    }
    Ok(pairs)
}

/// The image and the caption of a line.
fn of_line(folder: &Path, line: &str) -> Result<(PathBuf, String), String> {
    let fields: Map<String, Value> = serde_json::from_str(line).map_err(|cause| {
        format!("is not an object in JSON ({cause}): every line must be an object with `file_name` and `text`")
    })?;
    let text = |key: &str| match fields.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("has `{key}` = {other}, which is not text")),
        None => Err(format!("has no `{key}`: every line must have `file_name`, an image, and `text`, its caption")),
    };
    let (file, caption) = (text("file_name")?, text("text")?);
    let is_inside = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
    if file.is_empty() || !is_inside {
        return Err(format!("has `file_name` = {file:?}, which must be the path of a file within the directory"));
    }
    let path = folder.join(file);
    match path.is_file() {
        true => Ok((path, on_one_line(caption))),
        false => {
            Err(format!("names {}, which does not exist: correct `file_name`, or remove the line", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::Rgb;

    use super::*;
    use crate::shape::to_byte;

    const SHAPE: ImageShape = ImageShape { channels: 3, height: 4, width: 6 };

    /// `a.png` (red, 12x8), `b.jpg` (grey, 9x16) and their captions.
    fn two_images() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        RgbImage::from_pixel(12, 8, Rgb([250, 10, 20])).save(root.path().join("a.png")).unwrap();
        RgbImage::from_pixel(9, 16, Rgb([128; 3])).save(root.path().join("b.jpg")).unwrap();
        fs::write(root.path().join("a.txt"), "\u{feff}a red\r\n  fläche \n").unwrap();
        fs::write(root.path().join("b.txt"), "grey").unwrap();
        root
    }

    #[test]
    fn captions_are_found_beside_images() {
        let root = two_images();
        fs::write(root.path().join("notes.md"), "no caption").unwrap();
        fs::create_dir(root.path().join("more.txt")).unwrap();
        let found = Captions::find(root.path(), SHAPE).unwrap();
        assert_eq!(found.files, ["a.png", "b.jpg"].map(|name| root.path().join(name)));
        assert_eq!(found.texts, ["a red fläche", "grey"]);
        assert_eq!(found.skipped, ["more.txt", "notes.md"].map(|name| root.path().join(name)));
        let mut images = Vec::new();
        let originals = found.read(&mut |index, image| {
            images.push((index, image.to_vec()));
            Ok(())
        });
        // The second is cropped to 9x6; none is enlarged.
        let originals = originals.unwrap();
        assert_eq!((originals.cut, originals.enlarged), (1, 0));
        assert_eq!(images.iter().map(|(index, image)| (*index, image.len())).collect::<Vec<_>>(), [(0, 72), (1, 72)]);
        for (channel, byte) in [250, 10, 20].into_iter().enumerate() {
            assert!(images[0].1[channel * 24..][..24].iter().all(|value| to_byte(*value) == byte));
        }
        assert_eq!(found.check().unwrap(), originals);
    }

    #[test]
    fn captions_are_read_from_metadata() {
        let root = two_images();
        for folder in ["sub", "other"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        for (from, to) in [("a.png", "sub/a.png"), ("b.jpg", "b.jpg")] {
            fs::rename(root.path().join(from), root.path().join(to)).unwrap();
        }
        for text in ["a.txt", "b.txt"] {
            fs::remove_file(root.path().join(text)).unwrap();
        }
        let lines = "{\"file_name\": \"b.jpg\", \"text\": \"same\", \"more\": [1]}\n\n{\"text\": \" same\", \"file_name\": \"sub/a.png\"}\n";
        fs::write(root.path().join(METADATA), lines).unwrap();
        let found = Captions::find(root.path(), SHAPE).unwrap();
        assert_eq!(found.files, ["b.jpg", "sub/a.png"].map(|name| root.path().join(name)));
        assert_eq!(found.skipped, [root.path().join("other")]);
        assert_eq!(found.distinct(), (vec!["same".to_owned()], vec![0, 0]));
    }

    #[test]
    fn mistakes_are_named() {
        type Spoil = fn(&Path);
        let cases: [(Spoil, &[&str]); 14] = [
            (|root| fs::remove_file(root.join("b.txt")).unwrap(), &["b.jpg has no caption", "b.txt"]),
            (|root| fs::write(root.join("c.txt"), "").unwrap(), &["c.txt is the caption of no image"]),
            (|root| fs::write(root.join("b.txt"), b"f\xf6x").unwrap(), &["b.txt", "line 1 is not UTF-8"]),
            (|root| fs::write(root.join("b.txt"), b"\xff\xfea\0").unwrap(), &["b.txt", "it is text in UTF-16"]),
            (|root| fs::write(root.join(METADATA), "").unwrap(), &["captions in metadata.jsonl and in text files"]),
            (|root| metadata(root, "{\"file_name\": \"a.png\"}"), &["metadata.jsonl: line 1 has no `text`"]),
            (|root| metadata(root, "{\"text\": \"a\"}"), &["metadata.jsonl: line 1 has no `file_name`"]),
            (|root| metadata(root, "a.png"), &["metadata.jsonl: line 1 is not an object in JSON"]),
            (
                |root| metadata(root, "{\"file_name\": \"c.png\", \"text\": \"\"}"),
                &["metadata.jsonl: line 1 names ", "c.png, which does not exist"],
            ),
            (
                |root| metadata(root, "{\"file_name\": \"../a.png\", \"text\": \"\"}"),
                &["line 1 has `file_name` = \"../a.png\", which must be the path of a file within"],
            ),
            (
                |root| metadata(root, "{\"file_name\": \"a.png\", \"text\": 3}"),
                &["line 1 has `text` = 3, which is not text"],
            ),
            (
                |root| metadata(root, &"{\"file_name\": \"a.png\", \"text\": \"\"}\n".repeat(2)),
                &["line 2 names ", "a.png again"],
            ),
            (
                |root| metadata(root, "{\"file_name\": \"a.png\", \"text\": \"\"}"),
                &["b.jpg has no caption", "metadata.jsonl has no line"],
            ),
            (
                |root| {
                    ["a.png", "b.jpg", "a.txt", "b.txt"].iter().for_each(|it| fs::remove_file(root.join(it)).unwrap())
                },
                &["it has no images"],
            ),
        ];
        for (spoil, says) in cases {
            let root = two_images();
            spoil(root.path());
            let error = Captions::find(root.path(), SHAPE).unwrap_err();
            let message = error.to_string();
            assert!(says.iter().all(|words| message.contains(words)), "{message}\nlacks: {says:?}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    /// Writes the metadata in place of the text files.
    fn metadata(root: &Path, lines: &str) {
        ["a.txt", "b.txt"].iter().for_each(|text| fs::remove_file(root.join(text)).unwrap());
        fs::write(root.join(METADATA), lines).unwrap();
    }

    #[test]
    fn broken_images_are_named_together_and_none_is_taken_after_the_first() {
        let root = two_images();
        fs::write(root.path().join("a.png"), b"\x89PNG\r\n").unwrap();
        fs::write(root.path().join("c.png"), b"\x89PNG\r\n").unwrap();
        fs::write(root.path().join("c.txt"), "").unwrap();
        let found = Captions::find(root.path(), SHAPE).unwrap();
        let refused = found.read(&mut |index, _| panic!("image {index} was taken"));
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("a.png") && message.contains("1 more cannot be read"), "{message}");
    }
}

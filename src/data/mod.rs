//! Labelled images: the built-in sets, sprite sheets and folders of pictures, and how they are displayed. Images with
//! captions.

mod canvas;
mod captions;
pub mod contact;
pub mod folder;
pub mod grid;
pub mod panel;
mod picture;
mod rings;
pub mod scatter;
mod scenes;
pub mod sheet;
pub mod summary;
mod views;

use std::path::{Path, PathBuf};

pub use captions::Captions;
pub use scenes::Scenes;

use crate::classes::Classes;
use crate::config::{self, DataKind};
use crate::shape::{ImageShape, from_byte};
use crate::{Error, Result};

/// Names that [`builtin`] knows.
pub const BUILTIN: [&str; 2] = ["digits8", rings::NAME];

/// Square images of one size, each with a class.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// `[N, C, H, W]` with `H = W = image_size`; of pictures values in [-1, 1] (byte / 127.5 - 1).
    pub images: Vec<f32>,
    /// `[N]`, indices into `class_names`.
    pub labels: Vec<u32>,
    /// The name of every class.
    pub class_names: Vec<String>,
    /// Height and width in pixels.
    pub image_size: usize,
    /// 1 (grey), 3 (red, green, blue), or 2 (the coordinates of a point).
    pub channels: usize,
    /// The original pictures of a folder; `None` for other sets, whose pictures are used unchanged.
    pub originals: Option<Originals>,
}

/// The pictures of a folder before they were resized.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Originals {
    /// Width and height of the smallest and the largest, by number of pixels.
    pub sizes: Option<[(u32, u32); 2]>,
    /// How many had other proportions and were cropped.
    pub cut: usize,
    /// How many were smaller than needed and are therefore blurred.
    pub enlarged: usize,
    /// Files that are not images of a class.
    pub skipped: Vec<PathBuf>,
}

impl Originals {
    /// Counts a picture of this width and height.
    fn add(&mut self, size: (u32, u32), wanted: ImageShape) {
        let pixels = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
        let [smallest, largest] = self.sizes.unwrap_or([size; 2]);
        self.sizes = Some([
            if pixels(size) < pixels(smallest) { size } else { smallest },
            if pixels(size) > pixels(largest) { size } else { largest },
        ]);
        let ([given_width, given_height], [width, height]) =
            ([size.0, size.1].map(u64::from), [wanted.width, wanted.height].map(|extent| extent as u64));
        self.cut += usize::from(given_width * height != given_height * width);
        self.enlarged += usize::from(given_width < width || given_height < height);
    }
}

impl Dataset {
    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// How many images each class has.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.class_names.len()];
        for label in &self.labels {
            counts[*label as usize] += 1;
        }
        counts
    }

    /// Adopts the classes of the model that will learn these images, so that each image has the label of its class in
    /// that model. A model without names gets those of the data.
    ///
    /// # Errors
    /// [`Error::Input`] if the model lacks a class.
    pub fn take_classes_of(&mut self, model: Classes<'_>) -> Result<()> {
        let ours = Classes { of: "`data`", count: self.class_names.len(), names: &self.class_names };
        let indices = model.indices_of(ours)?;
        for label in &mut self.labels {
            *label = indices[*label as usize] as u32;
        }
        if !model.names.is_empty() {
            self.class_names = model.names.to_vec();
        }
        Ok(())
    }

    /// The shape of an image.
    pub fn shape(&self) -> ImageShape {
        ImageShape::square(self.channels, self.image_size)
    }

    /// The pixels `[C, H, W]` of one image.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn image(&self, index: usize) -> &[f32] {
        let size = self.shape().elements();
        &self.images[index * size..][..size]
    }

    /// Appends an image to others, mirrored left to right if asked.
    pub(crate) fn push_image(&self, images: &mut Vec<f32>, index: usize, flip: bool) {
        for row in self.image(index).chunks(self.image_size) {
            match flip {
                true => images.extend(row.iter().rev()),
                false => images.extend(row),
            }
        }
    }
}

/// A data set that is compiled into the program: `digits8`, 1797 handwritten digits of 8x8 grey pixels, or `rings`,
/// 4000 points of the plane on four noisy rings, each one pixel with two channels.
///
/// # Errors
/// [`Error::Input`] if there is none with that name.
pub fn builtin(name: &str) -> Result<Dataset> {
    match name {
        "digits8" => sheet::decode(
            sheet::Source { name: Path::new("digits8.png"), bytes: include_bytes!("../../assets/digits8/digits8.png") },
            sheet::Source {
                name: Path::new("digits8-labels.txt"),
                bytes: include_bytes!("../../assets/digits8/digits8-labels.txt"),
            },
            8,
            1,
        ),
        rings::NAME => Ok(rings::generate()),
        _ => Err(Error::input(format!(
            "there is no built-in data set {name:?}: use {}, or the path of a sheet or folder",
            BUILTIN.join(", ")
        ))),
    }
}

/// The data set that a configuration names: images, each with a class.
///
/// # Errors
/// [`Error::Input`] naming the file or folder that is missing or unreadable.
pub fn load(config: &config::Data) -> Result<Dataset> {
    let path = config.path.as_deref().unwrap_or(Path::new(""));
    match config.kind {
        DataKind::Builtin => builtin(&config.name),
        DataKind::Sheet => {
            let labels = config.labels.as_deref().unwrap_or(Path::new(""));
            sheet::load(path, labels, config.image_size, config.channels)
        }
        DataKind::Folder => folder::load(path, config.image_size, config.channels),
        DataKind::Shapes => Ok(views::generate()),
        DataKind::Captions => unreachable!("configurations without a text-to-image model are checked"),
    }
}

/// Images that a command shows to the user before it learns from them.
pub trait Shown {
    /// How many there are, of what, and what needs attention, in lines.
    fn summary(&self) -> String;

    /// How many there are, of what, in a few words.
    fn counted(&self) -> String;

    /// Draws a contact sheet.
    ///
    /// # Errors
    /// If an image cannot be read, or the file cannot be written.
    fn write_sheet(&self, path: &Path) -> Result<()>;
}

impl Shown for Dataset {
    fn summary(&self) -> String {
        summary::summary(self)
    }

    fn counted(&self) -> String {
        format!("{} images of {} classes", self.len(), self.class_names.len())
    }

    fn write_sheet(&self, path: &Path) -> Result<()> {
        contact::write(path, self)
    }
}

impl Shown for Captions {
    fn summary(&self) -> String {
        summary::of_captions(self, None)
    }

    fn counted(&self) -> String {
        format!("{} images with captions", self.files.len())
    }

    fn write_sheet(&self, path: &Path) -> Result<()> {
        contact::write_captions(path, self)
    }
}

/// One picture, `[C, H, W]`, in any format: cropped to that aspect ratio around its middle and resized.
///
/// # Errors
/// [`Error::Input`] if it cannot be read, or `channels` is not 1 or 3.
pub fn load_picture(file: &Path, shape: ImageShape) -> Result<Vec<f32>> {
    check_shape(shape)?;
    let mut image = Vec::new();
    push_planes(&mut image, &folder::read(file, shape)?, shape.channels);
    Ok(image)
}

/// Appends a picture (or a part of one) as `[C, H, W]`; grey is the Rec. 709 luma, which leaves grey
/// pixels exactly as they are.
fn push_planes(images: &mut Vec<f32>, picture: &impl image::GenericImageView<Pixel = image::Rgb<u8>>, channels: usize) {
    use image::Pixel;
    let pixels = || picture.pixels().map(|(_, _, pixel)| pixel);
    if channels == 1 {
        images.extend(pixels().map(|pixel| from_byte(pixel.to_luma().0[0])));
    } else {
        for channel in 0..channels {
            images.extend(pixels().map(|pixel| from_byte(pixel.0[channel])));
        }
    }
}

/// Checks that pictures have 1 or 3 channels and at least one pixel.
fn check_shape(ImageShape { channels, height, width }: ImageShape) -> Result<()> {
    if !matches!(channels, 1 | 3) {
        return Err(Error::input(format!(
            "channels = {channels} is not supported: use 1 for grey or 3 for colour images"
        )));
    }
    if let Some(size) = [height, width].into_iter().find(|size| !(1..=4096).contains(size)) {
        return Err(Error::input(format!("image_size = {size} is out of range: use 1 to 4096 pixels")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_digits_are_the_published_ones() {
        let digits = builtin("digits8").unwrap();
        assert_eq!((digits.len(), digits.image_size, digits.channels), (1797, 8, 1));
        assert_eq!(digits.images.len(), 1797 * 64);
        assert_eq!(digits.class_names, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        // How often each digit occurs in the UCI test set.
        assert_eq!(digits.class_counts(), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        // The first row of the first image in the published file is 0 0 5 13 9 1 0 0, of 16.
        let first = [0, 0, 5, 13, 9, 1, 0, 0].map(|p| from_byte((p as f32 * 255.0 / 16.0).round() as u8));
        assert_eq!(&digits.image(0)[..8], &first);
        // Its values are exactly the 17 levels of the original.
        let levels: Vec<f32> = (0..=16).map(|p| from_byte((p as f32 * 255.0 / 16.0).round() as u8)).collect();
        assert!(digits.images.iter().all(|value| levels.contains(value)));
    }

    #[test]
    fn an_unknown_built_in_set_is_rejected_and_the_known_ones_are_listed() {
        let message = builtin("digits9").unwrap_err().to_string();
        assert!(message.contains("\"digits9\"") && message.contains("digits8, rings"), "{message}");
    }
}

//! A contact sheet: some pictures of every class of a data set, or some images with their captions.

use std::path::Path;

use super::grid::Grid;
use super::panel::Panel;
use super::scatter::{Scatter, is_point};
use super::{Captions, Dataset, load_picture};
use crate::Result;
use crate::shape::ImageShape;

/// Images per class.
const COLUMNS: usize = 10;
/// The most classes that are shown; of more, only the first.
const MOST_ROWS: usize = 64;

/// The most images that are shown with their captions.
const MOST_CAPTIONS: usize = 12;
/// The longer side of these images.
const SIDE: usize = 128;

/// Draws some images with their captions, spread over the folder, as the model will see them but smaller.
///
/// # Errors
/// If an image cannot be read, or the file cannot be written.
pub fn write_captions(path: &Path, data: &Captions) -> Result<()> {
    let ImageShape { channels, height, width } = data.shape;
    let [height, width] = [height, width].map(|extent| (extent * SIDE / height.max(width)).max(1));
    let shape = ImageShape { channels, height, width };
    let (count, shown) = (data.files.len(), data.files.len().min(MOST_CAPTIONS));
    let places: Vec<usize> = (0..shown).map(|row| row * count / shown).collect();
    let mut images = Vec::new();
    for place in &places {
        images.extend(load_picture(&data.files[*place], shape)?);
    }
    let titles: Vec<String> = places.iter().map(|place| data.texts[*place].clone()).collect();
    let heading = format!("{shown} of {count} images");
    Panel::Grid(Grid { heading: &heading, row_titles: &titles, ..Grid::new(&images, shape, 1) }).write(path)
}

/// Draws a row of pictures for each class, with its name and count, and writes them as a PNG. These are the pictures
/// that the model will see: cropped, resized, and in its colours. Points are all shown in one plane.
///
/// # Errors
/// [`crate::Error::Failed`] if the file cannot be written.
pub fn write(path: &Path, data: &Dataset) -> Result<()> {
    let counts = data.class_counts();
    let named = data.class_names.iter().zip(&counts);
    let titles: Vec<String> = named.take(MOST_ROWS).map(|(name, count)| format!("{name} ({count})")).collect();
    let hidden = data.class_names.len() - titles.len();
    let mut heading = format!("{} of {} classes", data.len(), data.class_names.len());
    if hidden > 0 {
        heading += &format!(", {hidden} not shown");
    }
    if is_point(data.shape()) {
        let Dataset { images, labels, .. } = data;
        let (class_names, heading) = (&titles[..], &heading[..]);
        return Panel::Scatter(Scatter { points: images, labels, class_names, captions: &[], heading, data: None })
            .write(path);
    }
    let mut images = Vec::new();
    for class in 0..titles.len() {
        let of_class: Vec<usize> = (0..data.len()).filter(|index| data.labels[*index] as usize == class).collect();
        // Spread over the class, because neighbouring files are often similar.
        let shown = of_class.len().min(COLUMNS);
        for column in 0..shown {
            images.extend_from_slice(data.image(of_class[column * of_class.len() / shown]));
        }
        // Empty where a class has no more pictures.
        let missing = (COLUMNS - shown) * data.shape().elements();
        images.extend(std::iter::repeat_n(f32::NAN, missing));
    }
    let grid = Grid::new(&images, data.shape(), COLUMNS);
    Panel::Grid(Grid { heading: &heading, row_titles: &titles, ..grid }).write(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::builtin;
    use crate::data::canvas::{BACKGROUND, MARGIN};
    use crate::shape::{from_byte, to_byte};

    #[test]
    fn every_class_has_a_row_and_a_short_row_ends_in_empty_tiles() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.png");
        // 25 pictures of one class and 3 of another, each in a uniform grey.
        let data = Dataset {
            images: (0..28).flat_map(|index| [from_byte(9 * index); 4]).collect(),
            labels: [vec![0; 25], vec![1; 3]].concat(),
            class_names: vec!["many".into(), "few".into()],
            image_size: 2,
            channels: 1,
            originals: None,
        };
        write(&path, &data).unwrap();
        let sheet = image::open(&path).unwrap().into_rgb8();
        // Rows and columns of 64 pixels with 4 between them, counted from the lower right.
        let (right, bottom) = (sheet.width() - MARGIN as u32, sheet.height() - MARGIN as u32);
        let at = |row: u32, column: u32| {
            let (x, y) = (right - 68 * (10 - column) + 4 + 32, bottom - 68 * (2 - row) + 4 + 32);
            sheet.get_pixel(x, y).0
        };
        // Every second or third of the 25.
        for (column, index) in [0, 2, 5, 7, 10, 12, 15, 17, 20, 22].into_iter().enumerate() {
            assert_eq!(at(0, column as u32), [to_byte(data.image(index)[0]); 3]);
        }
        for (column, index) in [25, 26, 27].into_iter().enumerate() {
            assert_eq!(at(1, column as u32), [to_byte(data.image(index)[0]); 3]);
        }
        assert!((3..10).all(|column| at(1, column) == BACKGROUND.0));
    }

    #[test]
    fn points_are_shown_in_the_plane_and_hundreds_of_classes_in_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.png");
        write(&path, &builtin("rings").unwrap()).unwrap();
        assert!(image::open(&path).unwrap().width() < 800);
        let data = Dataset {
            images: vec![0.0; 300],
            labels: (0..300).collect(),
            class_names: (0..300).map(|class| class.to_string()).collect(),
            image_size: 1,
            channels: 1,
            originals: None,
        };
        write(&path, &data).unwrap();
        assert!(image::open(&path).unwrap().height() < 68 * 70);
    }
}

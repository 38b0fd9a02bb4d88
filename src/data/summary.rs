//! A summary of a data set in words, to read before spending hours on it.

use std::fmt::Write;

use super::{Captions, Dataset, Originals};

/// Rows of the table of classes; of more classes only the first are shown.
const MOST_ROWS: usize = 40;
/// The most files that are named.
const MOST_NAMED: usize = 5;
/// From this ratio on, the difference between the largest and the smallest class is reported.
const UNEVEN: usize = 4;

/// Lines that say how many pictures there are, of which classes and sizes, what was skipped, and what needs attention.
pub fn summary(data: &Dataset) -> String {
    let (count, size, classes) = (data.len(), data.image_size, data.class_names.len());
    let what = match data.channels {
        1 => format!("images of {size}x{size} pixels in grey"),
        3 => format!("images of {size}x{size} pixels in colour"),
        _ => "points of the plane".to_owned(),
    };
    let mut text = format!("{count} {what}, {}\n", number(classes, "class", "classes"));
    let counts = data.class_counts();
    let rows = || data.class_names.iter().map(|name| shown(name)).zip(&counts).take(MOST_ROWS);
    let width = rows().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, of_class) in rows() {
        let share = 100.0 * *of_class as f64 / count.max(1) as f64;
        let _ = writeln!(text, "  {name:width$}  {of_class:>6}  {share:>5.1} %");
    }
    if classes > MOST_ROWS {
        let _ = writeln!(text, "  … and {}", number(classes - MOST_ROWS, "more class", "more classes"));
    }
    let of_files = data.originals.as_ref().map(|found| {
        let wanted = [size, size];
        originals(found, wanted, "not square", "data.image_size", "images in the sub-directory of a class")
    });
    for line in of_files.into_iter().flatten().chain(notes(data, &counts)) {
        text += &line;
        text.push('\n');
    }
    text
}

/// Lines that say how many images with captions there are and, if they have been read, what they were before.
pub fn of_captions(data: &Captions, found: Option<&Originals>) -> String {
    let (count, [width, height]) = (data.files.len(), [data.shape.width, data.shape.height]);
    let mut text = format!(
        "{} of {width}x{height} pixels, {}\n",
        number(count, "image", "images"),
        number(data.distinct().0.len(), "caption", "captions")
    );
    let found = found
        .map(|found| originals(found, [width, height], "of other proportions", "model.size", "images with a caption"));
    for line in found.into_iter().flatten() {
        text += &line;
        text.push('\n');
    }
    text
}

/// A name without characters that would control a terminal or break the line.
fn shown(name: &str) -> String {
    let letter = |letter: char| match letter.is_control() {
        true => letter.escape_debug().to_string(),
        false => letter.to_string(),
    };
    name.chars().map(letter).collect()
}

fn number(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Describes the files of a folder, whose images became `wanted` pixels wide and high as `key` says; `expected` is what
/// those are not that were skipped.
fn originals(
    originals: &Originals,
    [wanted_width, wanted_height]: [usize; 2],
    cut: &str,
    key: &str,
    expected: &str,
) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some([(width, height), largest]) = originals.sizes {
        let mut line = format!("sizes found: {width}x{height}");
        if (width, height) != largest {
            let _ = write!(line, " to {}x{}", largest.0, largest.1);
        }
        if originals.cut > 0 {
            let _ = write!(line, "; {} {cut}, cut to the middle", originals.cut);
        }
        lines.push(line);
    }
    if originals.enlarged > 0 {
        lines.push(format!(
            "note: {} smaller than {wanted_width}x{wanted_height} and enlarged, so blurred: take larger ones, or lower `{key}`",
            number(originals.enlarged, "image is", "images are")
        ));
    }
    if !originals.skipped.is_empty() {
        let names: Vec<String> =
            originals.skipped.iter().take(MOST_NAMED).map(|path| shown(&path.display().to_string())).collect();
        lines.push(format!(
            "skipped, as they are not {expected}: {}{}",
            names.join(", "),
            match originals.skipped.len() - names.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            }
        ));
    }
    lines
}

/// What the user may want to change.
fn notes(data: &Dataset, counts: &[usize]) -> Vec<String> {
    let mut notes = Vec::new();
    for (few, text) in [
        (0, "has no image: the model would never learn it"),
        (1, "has one image: the model would memorise it; add more"),
    ] {
        let mut names = data.class_names.iter().zip(counts).filter(|(_, count)| **count == few).map(|(name, _)| name);
        if let Some(first) = names.next() {
            let others = match names.count() {
                0 => String::new(),
                more => format!(" (like {})", number(more, "other class", "other classes")),
            };
            notes.push(format!("note: the class {first:?}{others} {text}"));
        }
    }
    let named = || data.class_names.iter().zip(counts).filter(|(_, count)| **count > 0);
    if let (Some((largest, most)), Some((smallest, least))) =
        (named().max_by_key(|(_, count)| **count), named().min_by_key(|(_, count)| **count))
        && *most >= UNEVEN * least
    {
        notes.push(format!(
            "note: {largest:?} has {} times the images of {smallest:?}: rare classes are drawn less often and \
             learned less well; add images to them",
            most / least
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::builtin;
    use crate::shape::ImageShape;

    fn of(counts: &[usize], originals: Option<Originals>) -> String {
        let labels: Vec<u32> =
            counts.iter().enumerate().flat_map(|(class, count)| vec![class as u32; *count]).collect();
        summary(&Dataset {
            images: vec![0.0; labels.len() * 48],
            labels,
            class_names: (0..counts.len()).map(|class| format!("class {class}")).collect(),
            image_size: 4,
            channels: 3,
            originals,
        })
    }

    #[test]
    fn classes_are_counted_and_a_balanced_set_has_no_notes() {
        let text = of(&[4, 12], None);
        assert_eq!(
            text,
            "16 images of 4x4 pixels in colour, 2 classes\n  class 0       4   25.0 %\n  class 1      12   75.0 %\n"
        );
        assert!(summary(&builtin("digits8").unwrap()).starts_with("1797 images of 8x8 pixels in grey, 10 classes\n"));
        assert!(summary(&builtin("rings").unwrap()).starts_with("4000 points of the plane, 4 classes\n"));
    }

    #[test]
    fn problems_are_noted() {
        let cases: [(&[usize], &str); 4] = [
            (&[5, 1], "note: the class \"class 1\" has one image"),
            (&[1, 2, 1, 1], "note: the class \"class 0\" (like 2 other classes) has one image"),
            (&[3, 0], "note: the class \"class 1\" has no image"),
            (&[2, 9, 5], "note: \"class 1\" has 4 times the images of \"class 0\""),
        ];
        for (counts, expected) in cases {
            let text = of(counts, None);
            assert!(text.contains(expected), "{text}");
        }
        assert!(!of(&[2, 7], None).contains("note"), "that is balanced enough");
        let many = of(&[2; 50], None);
        assert!(many.contains("50 classes") && many.contains("… and 10 more classes"), "{many}");
    }

    #[test]
    fn names_cannot_control_the_terminal() {
        let mut data = builtin("rings").unwrap();
        data.class_names[0] = "it's\n\u{1b}[31mé".into();
        let skipped = vec!["a\u{1b}b".into()];
        data.originals = Some(Originals { skipped, ..Originals::default() });
        let text = summary(&data);
        assert!(text.contains("\n  it's\\n\\u{1b}[31mé  ") && text.contains(": a\\u{1b}b\n"), "{text}");
        assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{text:?}");
    }

    #[test]
    fn the_files_of_a_folder_are_described() {
        let mut originals = Originals::default();
        let wanted = ImageShape::square(3, 4);
        [(8, 4), (3, 2), (4, 4), (640, 480)].into_iter().for_each(|size| originals.add(size, wanted));
        originals.skipped = ["a", "b", "c", "d", "e", "f", "g"].map(Into::into).to_vec();
        let text = of(&[2, 2], Some(originals));
        for line in [
            "sizes found: 3x2 to 640x480; 3 not square, cut to the middle\n",
            "note: 1 image is smaller than 4x4 and enlarged",
            "not images in the sub-directory of a class: a, b, c, d, e and 2 more\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}

//! Parts of pictures for a judge, a network that learns to count objects and never sees the checker.
//!
//! A picture of 24x24 pixels is divided into cells of 3x3, so small that no two objects have their centres in one. A
//! classifier learns from a view, the picture around a cell, which object has its centre there, if any. The sum of its
//! probabilities over all cells then counts the objects of each kind; where a centre is on the border of two cells, they
//! share it. The mean over several grids of cells, each shifted by a pixel, errs less.

use super::scene::{BACKGROUND, Object, SIDE, Scene};
use super::{Caption, Colour, Shape};
use crate::flow::noise::{NoiseKey, Stream};

/// Height and width in pixels of a picture that is judged.
pub const VIEWED: usize = SIDE as usize;
/// Height and width in pixels of a view. The largest object just fits in.
pub const VIEW: usize = 15;
/// Views of a picture: those of one grid, and of others that are shifted and so have one more row and column.
pub const VIEWS: usize = (VIEWED / CELL).pow(2) + (GRIDS - 1) * (VIEWED / CELL + 1).pow(2);
/// Grids of cells, each shifted by a pixel to the left and upwards.
pub const GRIDS: usize = CELL;
/// Kinds of objects: a colour and a shape each.
pub const KINDS: usize = Colour::ALL.len() * Shape::ALL.len();

/// Height and width in pixels of a cell.
const CELL: usize = 3;
/// Pixels of a view before its cell, and behind it.
const AROUND: isize = ((VIEW - CELL) / 2) as isize;
/// How many pixels a drawn cell may lie beside an object's centre, so that most views have something in them.
const BESIDE: isize = 1;

/// What a view may show: nothing, or an object of one of the kinds, such as `red disc`.
pub fn view_names() -> Vec<String> {
    let of = |colour: Colour| Shape::ALL.map(|shape| format!("{} {}", colour.word(), shape.word()));
    std::iter::once("nothing".to_owned()).chain(Colour::ALL.into_iter().flat_map(of)).collect()
}

/// The number of an object's kind.
fn kind(object: &Object) -> usize {
    object.colour as usize * Shape::ALL.len() + object.shape as usize
}

/// All views of a picture `[3, 24, 24]`, grid by grid and row by row: `[VIEWS, 3, VIEW, VIEW]`.
pub fn views(picture: &[f32]) -> Vec<f32> {
    let mut all = Vec::with_capacity(VIEWS * 3 * VIEW * VIEW);
    for shift in 0..GRIDS as isize {
        let cells = || (-shift..VIEWED as isize).step_by(CELL);
        for row in cells() {
            for column in cells() {
                push_view(&mut all, picture, [column, row]);
            }
        }
    }
    all
}

/// Appends the view of the cell that begins at \[column, row\]; beyond the border there is background.
fn push_view(all: &mut Vec<f32>, picture: &[f32], cell: [isize; 2]) {
    let size = VIEWED as isize;
    for (channel, background) in BACKGROUND.into_iter().enumerate() {
        for row in cell[1] - AROUND..cell[1] - AROUND + VIEW as isize {
            for column in cell[0] - AROUND..cell[0] - AROUND + VIEW as isize {
                let is_inside = (0..size).contains(&row) && (0..size).contains(&column);
                let at = channel as isize * size * size + row * size + column;
                all.push(if is_inside { picture[at as usize] } else { (f64::from(background) / 127.5 - 1.0) as f32 });
            }
        }
    }
}

/// Draws a view of a scene of one to four objects, of any kinds, and what it shows, as an index into [`view_names`]. Three
/// of four are of cells on an object's centre or near it, a quarter of any cell.
pub fn draw_view(key: NoiseKey) -> (Vec<f32>, u32) {
    let mut random = Stream::new(key);
    let mut below = |count: usize| random.below(count as u32) as usize;
    let count = [1, 2, 2, 3, 4][below(5)];
    let mut kinds: Vec<(Shape, Colour)> = (0..count).map(|_| (Shape::ALL[below(3)], Colour::ALL[below(5)])).collect();
    // Objects of one kind are as common as in captions.
    if below(2) == 0 {
        kinds = vec![kinds[0]; count];
    }
    let (nearest, is_anywhere) = (below(count), below(4) == 0);
    let scene = Scene::of(&kinds, None, &mut random);
    let centre = scene.objects[nearest].centre.map(|at| at.floor() as isize);
    let cell = centre.map(|centre| match is_anywhere {
        true => random.below((VIEWED - CELL + 1) as u32) as isize,
        false => centre + BESIDE - random.below(CELL as u32 + 2 * BESIDE as u32) as isize,
    });
    let has_centre = |object: &&Object| {
        (0..2).all(|axis| (0..CELL as isize).contains(&(object.centre[axis].floor() as isize - cell[axis])))
    };
    let shown = scene.objects.iter().find(has_centre).map_or(0, |object| 1 + kind(object));
    let mut view = Vec::with_capacity(3 * VIEW * VIEW);
    push_view(&mut view, &scene.render(VIEWED), cell);
    (view, shown as u32)
}

/// Whether so many objects of each kind are those that a caption demands. Where they lie is not looked at.
pub fn are_demanded(counts: &[usize; KINDS], caption: &Caption) -> bool {
    let is_demanded = |group: &super::Group| {
        let of = |colour: Colour| counts[colour as usize * Shape::ALL.len() + group.shape as usize];
        let fitting = Colour::ALL.into_iter().filter(|colour| group.colour.is_none_or(|wanted| wanted == *colour));
        fitting.map(of).sum::<usize>() == group.count
    };
    let demanded: usize = caption.groups.iter().map(|group| group.count).sum();
    counts.iter().sum::<usize>() == demanded && caption.groups.iter().all(is_demanded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::{captions, parse};

    /// The objects of a scene by kind.
    fn counts(scene: &Scene) -> [usize; KINDS] {
        let mut counts = [0; KINDS];
        scene.objects.iter().for_each(|object| counts[kind(object)] += 1);
        counts
    }

    #[test]
    fn scenes_have_the_demanded_objects_and_those_of_other_captions_do_not() {
        for (index, caption) in captions().iter().enumerate() {
            let mut random = Stream::new(NoiseKey { seed: 4, rollout: 0, sample: index as u32, step: 0 });
            let counts = counts(&Scene::draw(caption, &mut random));
            assert!(are_demanded(&counts, caption), "{}", caption.text);
            for object in 0..KINDS {
                let mut more = counts;
                more[object] += 1;
                assert!(!are_demanded(&more, caption), "{} and another object", caption.text);
            }
        }
        let scene = Scene::draw(
            parse("two red discs").unwrap(),
            &mut Stream::new(NoiseKey { seed: 4, rollout: 0, sample: 0, step: 0 }),
        );
        for (text, expected) in
            [("two discs", true), ("two blue discs", false), ("two squares", false), ("a disc", false)]
        {
            assert_eq!(are_demanded(&counts(&scene), parse(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn views_show_what_their_labels_say() {
        let names = view_names();
        assert_eq!((names.len(), &*names[1], &*names[KINDS]), (1 + KINDS, "red disc", "white triangle"));
        let background = BACKGROUND.map(|byte| (f64::from(byte) / 127.5 - 1.0) as f32);
        let mut shown = [0; 1 + KINDS];
        for sample in 0..2000 {
            let (view, label) = draw_view(NoiseKey { seed: 1, rollout: 0, sample, step: 0 });
            assert_eq!(view.len(), 3 * VIEW * VIEW);
            shown[label as usize] += 1;
            if let Some(object) = (label as usize).checked_sub(1) {
                let rgb = Colour::ALL[object / 3].rgb().map(|byte| (f64::from(byte) / 127.5 - 1.0) as f32);
                let is_object = |at: usize| {
                    let at = (6 + at / CELL) * VIEW + 6 + at % CELL;
                    let far =
                        |from: [f32; 3]| (0..3).map(|c| (view[c * VIEW * VIEW + at] - from[c]).abs()).sum::<f32>();
                    far(rgb) < far(background)
                };
                // The tip of a triangle is narrow, but it is somewhere in the cell.
                assert!((0..CELL * CELL).any(is_object), "{}", names[label as usize]);
            }
        }
        // Three quarters of the views have 9 of 25 places on an object.
        assert!((1300..1600).contains(&shown[0]) && shown[1..].iter().all(|count| *count > 10), "{shown:?}");
    }

    #[test]
    fn a_picture_has_a_view_of_each_cell() {
        let picture: Vec<f32> = (0..3 * VIEWED * VIEWED).map(|index| index as f32).collect();
        let all = views(&picture);
        assert_eq!(all.len(), VIEWS * 3 * VIEW * VIEW);
        for (number, view) in all.chunks(3 * VIEW * VIEW).enumerate().take(VIEWS - 2 * 81) {
            let (column, row) = (number % 8 * CELL + 1, number / 8 * CELL + 1);
            for channel in 0..3 {
                let middle = view[channel * VIEW * VIEW + VIEW * VIEW / 2];
                assert_eq!(middle, picture[(channel * VIEWED + row) * VIEWED + column], "view {number}");
            }
        }
        // The second grid begins a pixel earlier.
        let second = &all[64 * 3 * VIEW * VIEW..];
        assert_eq!(second[VIEW * VIEW / 2], picture[0]);
        assert_eq!(all[0], (f64::from(BACKGROUND[0]) / 127.5 - 1.0) as f32);
    }
}

//! Samples of a model whose "pictures" are points of the plane: one pixel with two channels.

use image::{Rgb, RgbImage};

use super::canvas::{CAPTION, HEADING, MARGIN, PAD, RULE, TITLE, blend, text_width, write_text};
use super::{Dataset, rings};
use crate::shape::ImageShape;

/// Side of the square that shows the plane.
const SIDE: usize = 440;
/// Radius of a sample's disc, and of a training point's.
const RADIUS: [f64; 2] = [3.2, 1.6];
/// Opacity of a disc, of 255.
const COVER: [f64; 2] = [225.0, 70.0];
/// Diameter of a disc in the legend, including the gap beside it.
const KEY: usize = 22;

/// Lighter than on paper, as the canvas is dark; distinguishable with any kind of colour vision.
const COLOURS: [Rgb<u8>; 7] = [
    Rgb([86, 180, 233]),
    Rgb([230, 159, 0]),
    Rgb([0, 188, 140]),
    Rgb([224, 130, 180]),
    Rgb([240, 228, 66]),
    Rgb([232, 104, 40]),
    Rgb([170, 176, 188]),
];

/// Points in the colours of the requested classes, with the data faintly behind them.
#[derive(Debug, Clone, Copy)]
pub struct Scatter<'a> {
    /// `[N, 2]`: x to the right, y upwards.
    pub points: &'a [f32],
    /// `[N]`, indices into `class_names`.
    pub labels: &'a [u32],
    /// The name of each class.
    pub class_names: &'a [String],
    /// Text under each name, such as the mean reward of the class; may be empty.
    pub captions: &'a [String],
    /// Heading above everything.
    pub heading: &'a str,
    /// Points that the model learned from; they also set the scale.
    pub data: Option<&'a Dataset>,
}

/// Whether samples of this shape are points.
pub fn is_point(shape: ImageShape) -> bool {
    shape == ImageShape::square(2, 1)
}

/// The built-in points to which classes of these names belong.
pub fn data_of(class_names: &[String]) -> Option<Dataset> {
    let rings = rings::generate();
    (rings.class_names == class_names).then_some(rings)
}

impl Scatter<'_> {
    /// Width and height in pixels, with the margin.
    pub(super) fn size(&self) -> [usize; 2] {
        let names = self.class_names.iter().map(|name| text_width(name, &TITLE));
        let captions = self.captions.iter().map(|caption| text_width(caption, &CAPTION));
        let legend = KEY + names.chain(captions).max().unwrap_or(0);
        let width = (SIDE + 2 * PAD + legend).max(text_width(self.heading, &HEADING));
        [width + 2 * MARGIN, HEADING.size.val() + PAD + SIDE + 2 * MARGIN]
    }

    /// Draws it with its left edge at `left`, margin included.
    pub(super) fn draw(&self, canvas: &mut RgbImage, left: usize) {
        let (left, top) = (left + MARGIN, MARGIN + HEADING.size.val() + PAD);
        write_text(canvas, &HEADING, self.heading, left, MARGIN);
        for offset in 0..=SIDE {
            for (x, y) in [(offset, 0), (offset, SIDE), (0, offset), (SIDE, offset)] {
                canvas.put_pixel((left + x) as u32, (top + y) as u32, RULE);
            }
        }
        let shown = self.data.map_or(self.points, |data| &data.images);
        let farthest =
            shown.iter().filter(|value| value.is_finite()).fold(0.0_f32, |most, value| most.max(value.abs()));
        let scale = SIDE as f64 / (2.2 * f64::from(farthest.max(f32::MIN_POSITIVE)));
        let mut draw_points = |points: &[f32], labels: &[u32], layer: usize| {
            for (point, label) in points.chunks_exact(2).zip(labels) {
                let [x, y] = [point[0], -point[1]].map(|value| SIDE as f64 / 2.0 + scale * f64::from(value));
                // Points outside the square are not drawn.
                let inside = RADIUS[0]..SIDE as f64 - RADIUS[0];
                if inside.contains(&x) && inside.contains(&y) {
                    let centre = [left as f64 + x, top as f64 + y];
                    draw_disc(canvas, centre, RADIUS[layer], colour(*label), COVER[layer]);
                }
            }
        };
        if let Some(data) = self.data {
            draw_points(&data.images, &data.labels, 1);
        }
        draw_points(self.points, self.labels, 0);

        let x = left + SIDE + 2 * PAD;
        let pitch = TITLE.size.val() * if self.captions.is_empty() { 1 } else { 2 } + PAD;
        for (class, name) in self.class_names.iter().enumerate().take(SIDE / pitch) {
            let y = top + class * pitch;
            let centre = [x as f64 + 6.0, (y + TITLE.size.val() / 2) as f64];
            draw_disc(canvas, centre, 5.0, colour(class as u32), 255.0);
            write_text(canvas, &TITLE, name, x + KEY, y);
            if let Some(caption) = self.captions.get(class) {
                write_text(canvas, &CAPTION, caption, x + KEY, y + TITLE.size.val());
            }
        }
    }
}

fn colour(class: u32) -> Rgb<u8> {
    COLOURS[class as usize % COLOURS.len()]
}

/// A disc with a soft edge; `centre` is on the canvas, further than `radius` from its border.
fn draw_disc(canvas: &mut RgbImage, centre: [f64; 2], radius: f64, ink: Rgb<u8>, cover: f64) {
    let range = |at: f64| (at - radius - 1.0) as u32..=(at + radius + 1.0) as u32;
    for y in range(centre[1]) {
        for x in range(centre[0]) {
            let distance = (f64::from(x) - centre[0]).hypot(f64::from(y) - centre[1]);
            let share = (radius + 0.5 - distance).clamp(0.0, 1.0);
            blend(canvas.get_pixel_mut(x, y), ink, (cover * share) as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::canvas::{BACKGROUND, canvas};

    fn drawn(scatter: &Scatter) -> RgbImage {
        let [width, height] = scatter.size();
        let mut sheet = canvas(width, height);
        scatter.draw(&mut sheet, 0);
        sheet
    }

    #[test]
    fn a_sample_is_drawn_at_its_position_in_the_colour_of_its_class() {
        let names = ["one", "two"].map(str::to_owned);
        let points = [1.0, 0.5, -1.0, -0.5];
        let scatter = Scatter {
            points: &points,
            labels: &[1, 0],
            class_names: &names,
            captions: &[],
            heading: "heading",
            data: None,
        };
        let sheet = drawn(&scatter);
        let at = |x: f64, y: f64| {
            let place = |value: f64| SIDE as f64 / 2.0 + SIDE as f64 / 2.2 * value;
            let [x, y] = [MARGIN as f64 + place(x), (MARGIN + HEADING.size.val() + PAD) as f64 + place(-y)];
            sheet.get_pixel(x as u32, y as u32).0
        };
        let near = |found: [u8; 3], ink: Rgb<u8>| found.iter().zip(ink.0).all(|(a, b)| a.abs_diff(b) < 30);
        assert!(near(at(1.0, 0.5), colour(1)), "{:?}", at(1.0, 0.5));
        assert!(near(at(-1.0, -0.5), colour(0)), "{:?}", at(-1.0, -0.5));
        assert_eq!(at(1.0, -0.5), BACKGROUND.0);
    }

    #[test]
    fn any_point_can_be_drawn() {
        let points = [f32::NAN, 0.0, f32::INFINITY, -1e30, 0.0, 0.0, 1.1, 1.1];
        let rings = data_of(&rings::generate().class_names);
        assert!(rings.is_some() && data_of(&["0".to_owned()]).is_none());
        for data in [None, rings.as_ref()] {
            drawn(&Scatter {
                points: &points,
                labels: &[0, 1, 2, 99],
                class_names: &[],
                captions: &[],
                heading: "",
                data,
            });
        }
        drawn(&Scatter { points: &[], labels: &[], class_names: &[], captions: &[], heading: "", data: None });
    }
}

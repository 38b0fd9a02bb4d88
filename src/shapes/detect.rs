//! Finds the objects of a picture, as models make it: with noise, blur and colours in between.
//!
//! A pixel is taken as a mixture of the background and one colour of the palette. That makes a pixel on the edge of a
//! yellow object a half covered yellow one, although dark yellow is nearer to green and red. Connected pixels of one
//! colour are an object, whose shape is that of the template which overlaps with it most.

use super::scene::{BACKGROUND, Object, SIDE, coverage};
use super::{Colour, Shape};

/// From this coverage on, a pixel belongs to an object.
const COVERED: f64 = 0.5;
/// Areas, in square units, between which something becomes an object. The smallest of a scene has 19.8.
const SMALLEST: [f64; 2] = [2.0, 12.0];
/// Areas between which something becomes too large for an object. The largest of a scene has 159.
const LARGEST: [f64; 2] = [200.0, 300.0];
/// How much nearer than the next colour a colour must be, in bytes of sRGB, to be the colour without doubt.
const NEARER: f64 = 60.0;
/// How much more than the next template a template must overlap to be the shape without doubt.
const MORE_ALIKE: f64 = 0.05;
/// Overlaps between which something becomes like its template.
const ALIKE: [f64; 2] = [0.6, 0.8];
/// Overlaps compare shares of pixels after this ramp, because blur changes the faint ones first.
const SHARP: [f64; 2] = [0.2, 0.8];

/// Steps to the pixels that share an edge.
const EDGES: [(isize, isize); 4] = [(1, 0), (-1, 0), (0, 1), (0, -1)];
/// Steps to those that share a corner.
const CORNERS: [(isize, isize); 4] = [(1, 1), (1, -1), (-1, 1), (-1, -1)];

/// An object of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Detected {
    /// The colour that its pixels have.
    pub colour: Colour,
    /// The shape that it has most of.
    pub shape: Shape,
    /// The centre of that shape, \[x, y\] in the units of a scene.
    pub centre: [f64; 2],
    /// In square units.
    pub area: f64,
    /// From 0, a speck, to 1, an object of the size that scenes have.
    pub presence: f64,
    /// How much it is of each colour, in the order of [`Colour::ALL`]: 0.5 halfway between two, 1 without doubt.
    pub colours: [f64; 5],
    /// How much it has of each shape, in the order of [`Shape::ALL`], likewise.
    pub shapes: [f64; 3],
}

/// The objects of a picture `[3, size, size]`, those with the largest presence first. The smallest specks are none.
pub fn detect(picture: &[f32], size: usize) -> Vec<Detected> {
    let pixels = differences(picture, size);
    let labels: Vec<Option<Colour>> = pixels.iter().map(|pixel| label(*pixel)).collect();
    // With its edge, a pixel covers at most itself and its eight neighbours. Large noisy pictures have specks by the
    // thousand, and looking at each would take long.
    let unit = SIDE / size as f64;
    let may_be_object = |component: &[usize]| 9.0 * component.len() as f64 * unit * unit > SMALLEST[0];
    let mut found: Vec<Detected> = (components(&labels, size).into_iter())
        .filter(|(_, component)| may_be_object(component))
        .filter_map(|(colour, component)| Region::new(&pixels, &labels, colour, &component, size).detected())
        .collect();
    found.sort_by(|one, other| other.presence.total_cmp(&one.presence));
    found
}

/// How far along from `low` to `high` a value is: 0 before, 1 behind.
pub(super) fn ramp(value: f64, [low, high]: [f64; 2]) -> f64 {
    ((value - low) / (high - low)).clamp(0.0, 1.0)
}

/// Each pixel minus the background, in bytes of sRGB that need not be whole.
fn differences(picture: &[f32], size: usize) -> Vec<[f64; 3]> {
    let byte = |level: f32| (f64::from(level.clamp(-1.0, 1.0)) + 1.0) * 127.5;
    let area = size * size;
    (0..area).map(|at| [0, 1, 2].map(|c| byte(picture[c * area + at]) - f64::from(BACKGROUND[c]))).collect()
}

/// A difference from the background as a multiple of that of a colour, and how far it is from the nearest multiple
/// between 0 and 1.
fn unmix(difference: [f64; 3], colour: Colour) -> [f64; 2] {
    let rgb = colour.rgb();
    let full = [0, 1, 2].map(|c| f64::from(rgb[c]) - f64::from(BACKGROUND[c]));
    let product: f64 = (0..3).map(|c| difference[c] * full[c]).sum();
    let share = (product / full.iter().map(|value| value * value).sum::<f64>()).clamp(0.0, 1.0);
    let rest: f64 = (0..3).map(|c| (difference[c] - share * full[c]).powi(2)).sum();
    [share, rest.sqrt()]
}

/// The colour that a pixel is a mixture of, unless it is background.
fn label(difference: [f64; 3]) -> Option<Colour> {
    let mixtures = Colour::ALL.map(|colour| (colour, unmix(difference, colour)));
    let (colour, [share, _]) = mixtures.into_iter().min_by(|(_, one), (_, other)| one[1].total_cmp(&other[1]))?;
    (share >= COVERED).then_some(colour)
}

/// The pixels at these steps from one, as far as the picture has them.
fn neighbours(at: usize, size: usize, steps: &[(isize, isize)]) -> impl Iterator<Item = usize> {
    steps.iter().filter_map(move |(x, y)| {
        let (column, row) = ((at % size).wrapping_add_signed(*x), (at / size).wrapping_add_signed(*y));
        (column < size && row < size).then(|| row * size + column)
    })
}

/// Pixels of one colour that are connected by edges.
fn components(labels: &[Option<Colour>], size: usize) -> Vec<(Colour, Vec<usize>)> {
    let mut is_taken = vec![false; labels.len()];
    let mut all = Vec::new();
    for first in 0..labels.len() {
        let Some(colour) = labels[first].filter(|_| !is_taken[first]) else { continue };
        is_taken[first] = true;
        let mut component = vec![first];
        let mut next = 0;
        while let Some(at) = component.get(next).copied() {
            for other in neighbours(at, size, &EDGES) {
                if labels[other] == Some(colour) && !is_taken[other] {
                    is_taken[other] = true;
                    component.push(other);
                }
            }
            next += 1;
        }
        all.push((colour, component));
    }
    all
}

/// A component with the background along its edge.
struct Region {
    size: usize,
    colour: Colour,
    /// The share of each pixel of the picture that it covers.
    shares: Vec<f64>,
    /// The mean difference of its pixels from the background.
    mean: [f64; 3],
}

impl Region {
    fn new(pixels: &[[f64; 3]], labels: &[Option<Colour>], colour: Colour, component: &[usize], size: usize) -> Self {
        let mut shares = vec![0.0; pixels.len()];
        let around = |at: usize| neighbours(at, size, &EDGES).chain(neighbours(at, size, &CORNERS));
        let edge = component.iter().flat_map(|at| around(*at)).filter(|at| labels[*at].is_none());
        for at in edge.chain(component.iter().copied()) {
            shares[at] = unmix(pixels[at], colour)[0];
        }
        let mean = |c: usize| component.iter().map(|at| pixels[*at][c]).sum::<f64>() / component.len() as f64;
        Self { size, colour, shares, mean: [0, 1, 2].map(mean) }
    }

    /// What it is; `None` if it is no object at all.
    fn detected(&self) -> Option<Detected> {
        let unit = SIDE / self.size as f64;
        let total: f64 = self.shares.iter().sum();
        let area = total * unit * unit;
        let presence = ramp(area, SMALLEST) * (1.0 - ramp(area, LARGEST));
        if presence == 0.0 {
            return None;
        }
        let weighted = |of: fn(usize, usize) -> usize| -> f64 {
            let sum: f64 = self.shares.iter().enumerate().map(|(at, share)| share * of(at, self.size) as f64).sum();
            (sum / total + 0.5) * unit
        };
        let centroid = [weighted(|at, size| at % size), weighted(|at, size| at / size)];
        let templates = Shape::ALL.map(|shape| template(shape, self.colour, centroid, area));
        let overlaps = templates.map(|template| self.overlap(&template, unit));
        let shapes = likeness(&overlaps, MORE_ALIKE);
        let shapes = [0, 1, 2].map(|shape| shapes[shape] * ramp(overlaps[shape], ALIKE));
        let best = (0..3).max_by(|one, other| overlaps[*one].total_cmp(&overlaps[*other]))?;
        let colours = likeness(&Colour::ALL.map(|colour| -unmix(self.mean, colour)[1]), NEARER);
        let Object { shape, centre, .. } = templates[best];
        Some(Detected { colour: self.colour, shape, centre, area, presence, colours, shapes })
    }

    /// The area that it shares with a template, divided by the area that either of them covers.
    fn overlap(&self, template: &Object, unit: f64) -> f64 {
        let (mut of_both, mut of_template) = (0.0, 0.0);
        for (at, own) in template.pixels(self.size) {
            let share = ramp(coverage(template, at, unit), SHARP);
            of_template += share;
            of_both += share.min(ramp(self.shares[own], SHARP));
        }
        let own: f64 = self.shares.iter().map(|share| ramp(*share, SHARP)).sum();
        of_both / (own + of_template - of_both)
    }
}

/// The shape with this centroid and area.
fn template(shape: Shape, colour: Colour, centroid: [f64; 2], area: f64) -> Object {
    let [width, height] = shape.half_extents();
    let (unit_area, below) = match shape {
        Shape::Disc => (std::f64::consts::PI, 0.0),
        Shape::Square => (4.0 * width * height, 0.0),
        // The centroid is a third of the height above the level side.
        Shape::Triangle => (2.0 * width * height, height / 3.0),
    };
    let radius = (area / unit_area).sqrt();
    Object { shape, colour, centre: [centroid[0], centroid[1] - below * radius], radius }
}

/// How much something is of each kind, by its values: 0.5 where two are largest, 1 where one is larger than all others by
/// `clear`.
fn likeness<const N: usize>(values: &[f64; N], clear: f64) -> [f64; N] {
    std::array::from_fn(|kind| {
        let others = (0..N).filter(|other| *other != kind).map(|other| values[other]);
        let lead = values[kind] - others.fold(f64::NEG_INFINITY, f64::max);
        ramp(lead, [-clear, clear])
    })
}

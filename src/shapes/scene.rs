//! Places the objects of a caption, and paints them.

use super::grammar::split_of;
use super::{Caption, Colour, Group, Relation, Shape, Split};
use crate::flow::noise::Stream;

/// The side of a picture in the units of a scene. A picture of this size has pixels of 1 unit.
pub const SIDE: f64 = 24.0;
/// The colour around the objects, as bytes of sRGB.
pub const BACKGROUND: [u8; 3] = [20, 22, 28];

/// The least distance of objects from the border, in units.
const MARGIN: f64 = 1.0;
/// The least distance between the bounding boxes of two objects, in units. Pictures of 24 pixels have at least one pixel
/// of background between objects.
const GAP: f64 = 2.0;
/// How often objects are placed at random before they are placed on a grid.
const ATTEMPTS: usize = 300;
/// Where the grid has its rows and columns.
const GRID: [f64; 2] = [0.25 * SIDE, 0.75 * SIDE];
/// A pixel is sampled at this many points per side.
const SAMPLES: usize = 8;

/// One thing in a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Object {
    /// Its form.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// The centre of its bounding box, \[x, y\] in units from the top left corner.
    pub centre: [f64; 2],
    /// Its size in units; see [`Shape::half_extents`].
    pub radius: f64,
}

impl Object {
    /// Half its width and half its height, in units.
    pub fn half_extents(&self) -> [f64; 2] {
        self.shape.half_extents().map(|extent| extent * self.radius)
    }

    /// The pixels of a picture of this size that its bounding box touches: \[column, row\], and the index in a channel.
    pub(super) fn pixels(&self, size: usize) -> impl Iterator<Item = ([usize; 2], usize)> + use<> {
        let (unit, extents) = (SIDE / size as f64, self.half_extents());
        let pixel = |at: f64| (at / unit).floor().clamp(0.0, (size - 1) as f64) as usize;
        let [columns, rows] =
            [0, 1].map(|axis| pixel(self.centre[axis] - extents[axis])..=pixel(self.centre[axis] + extents[axis]));
        rows.flat_map(move |row| columns.clone().map(move |column| ([column, row], row * size + column)))
    }

    /// Whether it covers the point \[x, y\].
    fn covers(&self, point: [f64; 2]) -> bool {
        let [width, height] = self.half_extents();
        let [x, y] = [point[0] - self.centre[0], point[1] - self.centre[1]];
        match self.shape {
            Shape::Disc => x * x + y * y <= self.radius * self.radius,
            Shape::Square => x.abs() <= width && y.abs() <= height,
            // From the tip at -height to the whole width at +height.
            Shape::Triangle => y <= height && 2.0 * height * x.abs() <= width * (y + height),
        }
    }

    /// Whether there is a gap between its bounding box and that of another object.
    fn is_apart_from(&self, other: &Self) -> bool {
        let (own, others) = (self.half_extents(), other.half_extents());
        (0..2).any(|axis| (self.centre[axis] - other.centre[axis]).abs() >= own[axis] + others[axis] + GAP)
    }

    /// Whether it lies clearly in this direction from another object: the bounding boxes have a gap along the axis, and
    /// the distance to the side is at most half of that along the axis.
    fn is_clearly(&self, relation: Relation, other: &Self) -> bool {
        let [ahead, aside] = relation.distances(self.centre, other.centre);
        let axis = relation.axis();
        ahead >= self.half_extents()[axis] + other.half_extents()[axis] + GAP && aside <= 0.5 * ahead
    }
}

/// The objects of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// In the order of the caption.
    pub objects: Vec<Object>,
}

impl Scene {
    /// Draws a scene that a caption describes: its objects and no others, apart from each other and from the border.
    /// Objects of a group have one colour, and free colours form no combination that is held out.
    pub fn draw(caption: &Caption, random: &mut Stream) -> Self {
        let kinds: Vec<(Shape, Colour)> = (coloured(&caption.groups, random).iter())
            .flat_map(|(group, colour)| vec![(group.shape, *colour); group.count])
            .collect();
        Self::of(&kinds, caption.relation, random)
    }

    /// Draws a scene of one to four objects of these kinds, the first of two in this direction from the second.
    pub(super) fn of(kinds: &[(Shape, Colour)], relation: Option<Relation>, random: &mut Stream) -> Self {
        let mut scene = Self { objects: Vec::new() };
        for _ in 0..ATTEMPTS {
            scene = Self::scattered(kinds, random);
            if scene.is_clear(relation) {
                return scene;
            }
        }
        scene.align(relation, random);
        scene
    }

    /// Objects of random sizes at random places within the border.
    fn scattered(kinds: &[(Shape, Colour)], random: &mut Stream) -> Self {
        // Four of the largest fit on the grid.
        let [smallest, largest] = match kinds.len() {
            1 => [4.0, 7.0],
            2 => [3.0, 4.5],
            3 => [3.0, 4.0],
            _ => [3.0, 3.8],
        };
        let mut between = |low: f64, high: f64| low + (high - low) * random.uniform();
        let objects = kinds.iter().map(|&(shape, colour)| {
            let radius = between(smallest, largest);
            let extents = shape.half_extents().map(|extent| extent * radius);
            let centre = extents.map(|extent| between(MARGIN + extent, SIDE - MARGIN - extent));
            Object { shape, colour, centre, radius }
        });
        Self { objects: objects.collect() }
    }

    /// Whether all objects are apart, and the first lies in this direction from the second.
    fn is_clear(&self, relation: Option<Relation>) -> bool {
        let objects = &self.objects;
        let are_apart = (1..objects.len()).all(|index| {
            let (before, object) = (&objects[..index], &objects[index]);
            before.iter().all(|other| object.is_apart_from(other))
        });
        are_apart && relation.is_none_or(|relation| objects[0].is_clearly(relation, &objects[1]))
    }

    /// Moves up to four objects to the places of a grid, and two that are related to opposite sides; each anywhere within
    /// its quarter that leaves half a gap to its edges.
    fn align(&mut self, relation: Option<Relation>, random: &mut Stream) {
        for (index, object) in self.objects.iter_mut().enumerate() {
            let mut place = [GRID[index % 2], GRID[index / 2]];
            if let Some(relation) = relation {
                let is_before = matches!(relation, Relation::Above | Relation::LeftOf) == (index == 0);
                place = [SIDE / 2.0; 2];
                place[relation.axis()] = GRID[usize::from(!is_before)];
            }
            let extents = object.half_extents();
            object.centre = [0, 1].map(|axis| {
                let room = 0.25 * SIDE - 0.5 * GAP - extents[axis];
                place[axis] + room * (2.0 * random.uniform() - 1.0)
            });
        }
    }

    /// Paints the scene without jagged edges: `[3, size, size]`, from -1 to 1.
    pub fn render(&self, size: usize) -> Vec<f32> {
        let unit = SIDE / size as f64;
        let mut picture: Vec<f64> = BACKGROUND.iter().flat_map(|byte| vec![f64::from(*byte); size * size]).collect();
        for object in &self.objects {
            for (pixel, at) in object.pixels(size) {
                let coverage = coverage(object, pixel, unit);
                for (channel, byte) in object.colour.rgb().into_iter().enumerate() {
                    let difference = f64::from(byte) - f64::from(BACKGROUND[channel]);
                    picture[channel * size * size + at] += coverage * difference;
                }
            }
        }
        picture.into_iter().map(|level| (level / 127.5 - 1.0) as f32).collect()
    }
}

/// The share of a pixel that an object covers.
pub(super) fn coverage(object: &Object, [column, row]: [usize; 2], unit: f64) -> f64 {
    let at = |pixel: usize, sample: usize| (pixel as f64 + (sample as f64 + 0.5) / SAMPLES as f64) * unit;
    let covered = (0..SAMPLES * SAMPLES)
        .filter(|sample| object.covers([at(column, sample % SAMPLES), at(row, sample / SAMPLES)]))
        .count();
    covered as f64 / (SAMPLES * SAMPLES) as f64
}

/// The groups with their colours: those demanded, and in place of free ones a random choice.
fn coloured(groups: &[Group], random: &mut Stream) -> Vec<(Group, Colour)> {
    let mut choices: Vec<Vec<Group>> = vec![Vec::new()];
    for group in groups {
        let colours = group.colour.map_or(Colour::ALL.to_vec(), |colour| vec![colour]);
        let with = |chosen: &Vec<Group>, colour| [&chosen[..], &[Group { colour: Some(colour), ..*group }]].concat();
        choices = choices.iter().flat_map(|chosen| colours.iter().map(|colour| with(chosen, *colour))).collect();
    }
    if groups.iter().any(|group| group.colour.is_none()) {
        choices.retain(|chosen| split_of(chosen) != Split::HeldOut);
    }
    let chosen = &choices[random.below(choices.len() as u32) as usize];
    chosen.iter().filter_map(|group| Some((*group, group.colour?))).collect()
}

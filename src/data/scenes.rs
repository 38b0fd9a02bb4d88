//! Scenes of coloured shapes with captions, drawn when they are needed: nothing is stored.

use std::fmt::Write;
use std::path::Path;

use super::Shown;
use super::grid::Grid;
use super::panel::Panel;
use crate::Result;
use crate::flow::noise::{NoiseKey, Stream};
use crate::shape::ImageShape;
use crate::shapes::{Caption, Category, Scene, Split, captions};

/// Examples for each percent of a category's weight: so many that no caption is favoured.
const PER_PERCENT: usize = 1 << 20;

/// Scenes on a contact sheet.
const SHOWN: usize = 24;

/// Scenes of one size, with the captions that pretraining may see.
#[derive(Clone, Debug)]
pub struct Scenes {
    size: usize,
    captions: Vec<&'static Caption>,
    /// The places of the captions of each category.
    places: [Vec<u32>; Category::ALL.len()],
}

impl Scenes {
    /// Scenes of this height and width in pixels, of all captions that are not held out.
    pub fn new(size: usize) -> Self {
        let captions: Vec<&Caption> = captions().iter().filter(|caption| caption.split != Split::HeldOut).collect();
        let of = |category: Category| {
            let places = captions.iter().zip(0..).filter(move |(caption, _)| caption.category == category);
            places.map(|(_, place)| place).collect()
        };
        let places = Category::ALL.map(of);
        Self { size, captions, places }
    }

    /// The captions, each a condition.
    pub fn captions(&self) -> &[&'static Caption] {
        &self.captions
    }

    /// How many examples there are.
    pub fn count(&self) -> usize {
        100 * PER_PERCENT
    }

    /// The place of an example's caption: examples are spread over categories by their weights, and over the captions of
    /// each evenly.
    pub fn caption(&self, index: usize) -> u32 {
        let (mut percent, number) = ((index % 100) as u32, index / 100);
        let category = Category::ALL.iter().position(|category| match percent.checked_sub(category.weight()) {
            None => true,
            Some(rest) => {
                percent = rest;
                false
            }
        });
        let places = &self.places[category.expect("the weights are percent")];
        places[number % places.len()]
    }

    /// Appends an example `[3, size, size]`, whose scene is drawn by `key`.
    pub fn push(&self, images: &mut Vec<f32>, index: usize, key: NoiseKey) {
        let caption = self.captions[self.caption(index) as usize];
        images.extend(Scene::draw(caption, &mut Stream::new(key)).render(self.size));
    }
}

impl Shown for Scenes {
    fn summary(&self) -> String {
        let mut text = format!("scenes of {0}x{0} pixels, {1} captions\n", self.size, self.captions.len());
        for (category, places) in Category::ALL.iter().zip(&self.places) {
            let (name, weight) = (category.name(), category.weight());
            let _ = writeln!(text, "  {name:18} {:>4} captions {weight:>4} %", places.len());
        }
        text
    }

    fn counted(&self) -> String {
        format!("scenes of {} captions", self.captions.len())
    }

    fn write_sheet(&self, path: &Path) -> Result<()> {
        let (mut images, mut titles) = (Vec::new(), Vec::new());
        for sample in 0..SHOWN {
            // Neighbouring examples are of other categories, and these of neighbouring captions.
            let index = sample * 100 / SHOWN + 100 * 17 * sample;
            let key = NoiseKey { seed: 0, rollout: 0, sample: sample as u32, step: 0 };
            self.push(&mut images, index, key);
            titles.push(self.captions[self.caption(index) as usize].text.clone());
        }
        let heading = format!("{SHOWN} scenes");
        let shape = ImageShape::square(3, self.size);
        Panel::Grid(Grid { heading: &heading, row_titles: &titles, ..Grid::new(&images, shape, 1) }).write(path)
    }
}

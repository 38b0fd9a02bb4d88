//! A small world with words: pictures of a few coloured shapes, and captions that describe them.
//!
//! The captions follow the categories of GenEval (Ghosh et al., arXiv 2310.11513), so a model of these pictures can be
//! measured as large ones are, with an exact checker in place of an object detector.

mod check;
#[cfg(test)]
mod check_tests;
mod detect;
mod grammar;
mod scene;
#[cfg(test)]
mod tests;
mod views;

pub use check::{Verdict, check};
pub use detect::{Detected, detect};
pub use grammar::{Caption, Group, captions, listed, parse, vocabulary};
pub use scene::{BACKGROUND, Object, SIDE, Scene};
pub use views::{GRIDS, KINDS, VIEW, VIEWED, VIEWS, are_demanded, draw_view, view_names, views};

/// The form of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    /// A filled circle.
    Disc,
    /// A filled square with upright sides.
    Square,
    /// A filled triangle on a level side, with its tip above the middle of that side.
    Triangle,
}

impl Shape {
    /// Every shape.
    pub const ALL: [Self; 3] = [Self::Disc, Self::Square, Self::Triangle];

    /// The word for one of them; with `s` it is the word for several.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Disc => "disc",
            Self::Square => "square",
            Self::Triangle => "triangle",
        }
    }

    /// Half the width and half the height of a shape of radius 1. Shapes of one radius look equally large.
    pub const fn half_extents(self) -> [f64; 2] {
        match self {
            Self::Disc => [1.0, 1.0],
            Self::Square => [0.9, 0.9],
            Self::Triangle => [1.1, 1.0],
        }
    }
}

/// The colour of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Colour {
    /// `red`
    Red,
    /// `green`
    Green,
    /// `blue`
    Blue,
    /// `yellow`
    Yellow,
    /// `white`
    White,
}

impl Colour {
    /// Every colour.
    pub const ALL: [Self; 5] = [Self::Red, Self::Green, Self::Blue, Self::Yellow, Self::White];

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Yellow => "yellow",
            Self::White => "white",
        }
    }

    /// Red, green and blue as bytes of sRGB.
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [230, 45, 45],
            Self::Green => [50, 190, 75],
            Self::Blue => [55, 95, 235],
            Self::Yellow => [250, 215, 45],
            Self::White => [245, 245, 245],
        }
    }
}

/// Where one object lies, seen from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// `above`
    Above,
    /// `below`
    Below,
    /// `left of`
    LeftOf,
    /// `right of`
    RightOf,
}

impl Relation {
    /// Every relation.
    pub const ALL: [Self; 4] = [Self::Above, Self::Below, Self::LeftOf, Self::RightOf];

    /// The words for it.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Above => "above",
            Self::Below => "below",
            Self::LeftOf => "left of",
            Self::RightOf => "right of",
        }
    }

    /// The axis that it is about: 0 for x, to the right; 1 for y, downwards.
    pub const fn axis(self) -> usize {
        match self {
            Self::LeftOf | Self::RightOf => 0,
            Self::Above | Self::Below => 1,
        }
    }

    /// How far a centre \[x, y\] lies in this direction from another, and how far to the side. The relation holds if the
    /// first number is the larger one.
    pub fn distances(self, centre: [f64; 2], other: [f64; 2]) -> [f64; 2] {
        let axis = self.axis();
        let ahead = match self {
            Self::Above | Self::LeftOf => other[axis] - centre[axis],
            Self::Below | Self::RightOf => centre[axis] - other[axis],
        };
        [ahead, (centre[1 - axis] - other[1 - axis]).abs()]
    }
}

/// What a caption is about, as in GenEval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// `a disc`
    SingleObject,
    /// `a red disc`
    Colours,
    /// `three discs`, `three red discs`
    Counting,
    /// `a disc and a square`
    TwoObjects,
    /// `a disc above a square`, `a red disc above a blue square`
    Position,
    /// `a red disc and a blue square`
    AttributeBinding,
}

impl Category {
    /// Every category.
    pub const ALL: [Self; 6] =
        [Self::SingleObject, Self::Colours, Self::Counting, Self::TwoObjects, Self::Position, Self::AttributeBinding];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SingleObject => "single object",
            Self::Colours => "colours",
            Self::Counting => "counting",
            Self::TwoObjects => "two objects",
            Self::Position => "position",
            Self::AttributeBinding => "attribute binding",
        }
    }

    /// How often it is drawn, in percent: categories with more captions more often.
    pub const fn weight(self) -> u32 {
        match self {
            Self::SingleObject => 5,
            Self::Colours => 15,
            Self::Counting => 25,
            Self::TwoObjects => 10,
            Self::Position => 25,
            Self::AttributeBinding => 20,
        }
    }
}

/// Which part of the captions a model has seen, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// In pretraining, and among the prompts of reinforcement learning.
    Trained,
    /// In pretraining only: shows what reinforcement learning makes a model forget.
    Forgotten,
    /// In neither: shows whether a model combines words as it never saw them.
    HeldOut,
}

impl Split {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trained => "trained",
            Self::Forgotten => "forgotten",
            Self::HeldOut => "held out",
        }
    }
}

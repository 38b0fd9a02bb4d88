//! The captions: all sentences of a small grammar, what they demand, and the part that models never see.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::{Category, Colour, Relation, Shape, Split};
use crate::error::{Error, Result};

/// The words for one to four objects.
const COUNTS: [&str; 4] = ["a", "two", "three", "four"];

/// Objects that a caption demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// How many, 1 to 4.
    pub count: usize,
    /// Their colour; `None` if it is free.
    pub colour: Option<Colour>,
    /// Their shape.
    pub shape: Shape,
}

impl Group {
    /// In words: `three red discs`.
    fn text(self) -> String {
        let colour = self.colour.map_or_else(String::new, |colour| format!("{} ", colour.word()));
        let ending = if self.count == 1 { "" } else { "s" };
        format!("{} {colour}{}{ending}", COUNTS[self.count - 1], self.shape.word())
    }
}

/// A sentence, and what it demands of a picture: the objects of its groups and no others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    /// The sentence: lower-case words between single spaces, at most eight.
    pub text: String,
    /// What it is about.
    pub category: Category,
    /// The objects, one or two groups of different shapes.
    pub groups: Vec<Group>,
    /// Where the first group lies, seen from the second.
    pub relation: Option<Relation>,
    /// When models see it.
    pub split: Split,
}

impl Caption {
    fn new(category: Category, groups: &[Group], relation: Option<Relation>) -> Self {
        let between = relation.map_or("and", Relation::words);
        let text = groups.iter().map(|group| group.text()).collect::<Vec<_>>().join(&format!(" {between} "));
        Self { text, category, groups: groups.to_vec(), relation, split: split_of(groups) }
    }
}

/// The split of a combination of objects, by a fixed rule in which every word and every pair of a colour and a shape is
/// trained in some combination:
///
/// - one coloured object: one colour of each shape is forgotten;
/// - several of one colour: of each number and shape, one colour is held out and another is forgotten;
/// - two objects of different colours: of the 60 combinations of two coloured shapes, in any order and relation, 9 are
///   held out and 9 are forgotten;
/// - everything else, such as captions without colours, is trained.
pub(super) fn split_of(groups: &[Group]) -> Split {
    match *groups {
        [Group { count: 1, colour: Some(colour), shape }] => match (colour as usize + 3 * shape as usize) % 5 {
            1 => Split::Forgotten,
            _ => Split::Trained,
        },
        [Group { count, colour: Some(colour), shape }] => match (colour as usize + count + 2 * shape as usize) % 5 {
            0 => Split::HeldOut,
            2 => Split::Forgotten,
            _ => Split::Trained,
        },
        [first, second] => {
            let (low, high) = if first.shape < second.shape { (first, second) } else { (second, first) };
            let (Some(of_low), Some(of_high)) = (low.colour, high.colour) else { return Split::Trained };
            // 1 to 4, or 0 for equal colours.
            let difference = (of_high as usize + 5 - of_low as usize) % 5;
            if difference == 0 {
                return Split::Trained;
            }
            let shapes = low.shape as usize + high.shape as usize - 1;
            let combination = 4 * of_low as usize + difference - 1;
            match (17 * combination + 6 * shapes) % 20 {
                0..3 => Split::HeldOut,
                3..6 => Split::Forgotten,
                _ => Split::Trained,
            }
        }
        _ => Split::Trained,
    }
}

/// Every caption, category by category; always in this order.
pub fn captions() -> &'static [Caption] {
    static CAPTIONS: OnceLock<Vec<Caption>> = OnceLock::new();
    CAPTIONS.get_or_init(|| {
        let colours = || Colour::ALL.map(Some);
        let mut all = Vec::new();
        for (category, counts, colours) in [
            (Category::SingleObject, 1..=1, vec![None]),
            (Category::Colours, 1..=1, colours().to_vec()),
            (Category::Counting, 2..=4, [vec![None], colours().to_vec()].concat()),
        ] {
            for count in counts {
                for colour in &colours {
                    let groups = Shape::ALL.map(|shape| Group { count, colour: *colour, shape });
                    all.extend(groups.map(|group| Caption::new(category, &[group], None)));
                }
            }
        }
        let free = pairs(&[[None; 2]]);
        let different: Vec<[Option<Colour>; 2]> = (colours().into_iter())
            .flat_map(|first| colours().map(|second| [first, second]))
            .filter(|[first, second]| first != second)
            .collect();
        let coloured = pairs(&different);
        all.extend(free.iter().map(|pair| Caption::new(Category::TwoObjects, pair, None)));
        for relation in Relation::ALL {
            let of = |pair: &[Group; 2]| Caption::new(Category::Position, pair, Some(relation));
            all.extend(free.iter().chain(&coloured).map(of));
        }
        all.extend(coloured.iter().map(|pair| Caption::new(Category::AttributeBinding, pair, None)));
        all
    })
}

/// Two single objects of different shapes, in both orders, with each of these pairs of colours.
fn pairs(colours: &[[Option<Colour>; 2]]) -> Vec<[Group; 2]> {
    let mut pairs = Vec::new();
    for first in Shape::ALL {
        for second in Shape::ALL.into_iter().filter(|second| *second != first) {
            let single = |colour, shape| Group { count: 1, colour, shape };
            pairs.extend(
                colours.iter().map(|[of_first, of_second]| [single(*of_first, first), single(*of_second, second)]),
            );
        }
    }
    pairs
}

/// Captions of a category in a list; of more, so many are spread over all.
const MOST_OF_CATEGORY: usize = 24;

/// The captions of a split that are a list of prompts: some of each category in turn, so that a rollout has some of each.
pub fn listed(split: Split) -> Vec<&'static Caption> {
    let of = |category: Category| {
        let all: Vec<&Caption> =
            captions().iter().filter(|caption| (caption.split, caption.category) == (split, category)).collect();
        let count = all.len().min(MOST_OF_CATEGORY);
        (0..count).map(|at| all[at * all.len() / count]).collect::<Vec<_>>()
    };
    let categories = Category::ALL.map(of);
    (0..MOST_OF_CATEGORY)
        .flat_map(|at| categories.iter().filter_map(move |of| of.get(at).copied()).collect::<Vec<_>>())
        .collect()
}

/// Every word of the captions, sorted.
pub fn vocabulary() -> Vec<&'static str> {
    captions().iter().flat_map(|caption| caption.text.split(' ')).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The caption with this text.
///
/// # Errors
/// [`Error::Input`] for text that is none, with the word that no caption has, if there is one.
pub fn parse(text: &str) -> Result<&'static Caption> {
    captions().iter().find(|caption| caption.text == text).ok_or_else(|| {
        let known = vocabulary();
        let cause = match text.split(' ').find(|word| !known.contains(word)) {
            Some(word) => format!("no caption has the word {word:?}"),
            None => "its words do not form one".to_owned(),
        };
        Error::input(format!(
            "{text:?} is not a caption of coloured shapes: {cause}; captions are such as \"a disc\", \"a red disc\", \
             \"two discs\", \"three red discs\", \"a disc and a square\", \"a disc above a square\", \"a red disc left of a \
             blue square\" and \"a red disc and a blue square\", with the words {}",
            known.join(", ")
        ))
    })
}

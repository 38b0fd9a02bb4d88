//! Compares a picture with a caption.

use super::detect::{Detected, detect, ramp};
use super::{Caption, Colour, Group, Relation, Shape};

/// How far a centre must be ahead of the distance to the side, in units, for a relation to hold without doubt. In scenes
/// it is at least 4 ahead.
const AHEAD: f64 = 3.0;
/// Only the largest objects of a picture are compared with a caption, which demands at most four.
const COMPARED: usize = 6;

/// How well a picture shows what a caption demands. Every number is from 0 to 1, and 1 for every scene of the caption.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Everything together: the number of objects, times the mean of the other facts that the caption demands.
    pub score: f64,
    /// Whether every fact holds, and the picture shows nothing else.
    pub is_right: bool,
    /// The number of objects: the demanded or the present one divided by the other.
    pub count: f64,
    /// The share of the objects with the right colour; 1 if the caption leaves it free.
    pub colour: f64,
    /// The share of the objects with the right shape.
    pub shape: f64,
    /// Whether the two objects are found where the caption says; 1 if it says nothing.
    pub relation: f64,
}

/// Compares a picture `[3, size, size]` with a caption.
pub fn check(picture: &[f32], size: usize, caption: &Caption) -> Verdict {
    let found = detect(picture, size);
    let demanded: Vec<Group> =
        caption.groups.iter().flat_map(|group| vec![Group { count: 1, ..*group }; group.count]).collect();
    let present: f64 = found.iter().fold(0.0, |sum, object| sum + object.presence);
    let wanted = demanded.len() as f64;
    let count = present.min(wanted) / present.max(wanted);
    let mut candidates: Vec<Option<&Detected>> = found.iter().take(COMPARED).map(Some).collect();
    candidates.resize(candidates.len().max(demanded.len()), None);
    let best = best_match(&demanded, caption.relation, &candidates, &mut Vec::new());
    Verdict { score: count * best.score, is_right: is_right(caption, &found), count, ..best }
}

/// The best verdict, apart from the count, over all ways to take an object for each that is demanded.
fn best_match(
    demanded: &[Group],
    relation: Option<Relation>,
    candidates: &[Option<&Detected>],
    taken: &mut Vec<usize>,
) -> Verdict {
    if taken.len() == demanded.len() {
        let objects: Vec<Option<&Detected>> = taken.iter().map(|index| candidates[*index]).collect();
        return compare(demanded, relation, &objects);
    }
    let mut best: Option<Verdict> = None;
    for index in 0..candidates.len() {
        if taken.contains(&index) {
            continue;
        }
        taken.push(index);
        let verdict = best_match(demanded, relation, candidates, taken);
        taken.pop();
        if best.is_none_or(|best| verdict.score > best.score) {
            best = Some(verdict);
        }
    }
    best.expect("there are at least as many candidates as demanded objects")
}

/// Compares each demanded object with the one that is taken for it, if there is one.
fn compare(demanded: &[Group], relation: Option<Relation>, objects: &[Option<&Detected>]) -> Verdict {
    let pairs = || demanded.iter().zip(objects).filter_map(|(group, object)| object.map(|object| (group, object)));
    let present: f64 = pairs().map(|(_, object)| object.presence).sum();
    let share = |of: &dyn Fn(&Group, &Detected) -> f64| match present {
        0.0 => 0.0,
        _ => pairs().map(|(group, object)| object.presence * of(group, object)).sum::<f64>() / present,
    };
    let colour = share(&|group, object| group.colour.map_or(1.0, |colour| object.colours[colour as usize]));
    let shape = share(&|group, object| object.shapes[group.shape as usize]);
    let mut facts = vec![shape];
    if demanded.iter().any(|group| group.colour.is_some()) {
        facts.push(colour);
    }
    let mut related = 1.0;
    if let Some(relation) = relation {
        related = match objects {
            [Some(first), Some(second)] => {
                let [ahead, aside] = relation.distances(first.centre, second.centre);
                let least = pairs().map(|(group, object)| identity(group, object)).fold(1.0, f64::min);
                ramp(ahead - aside, [-AHEAD, AHEAD]) * least
            }
            _ => 0.0,
        };
        facts.push(related);
    }
    let score = facts.iter().sum::<f64>() / facts.len() as f64;
    Verdict { score, is_right: false, count: 0.0, colour, shape, relation: related }
}

/// How surely an object is the demanded one.
fn identity(group: &Group, object: &Detected) -> f64 {
    let shape = object.shapes[group.shape as usize];
    let colour = group.colour.map_or(shape, |colour| object.colours[colour as usize]);
    object.presence * 0.5 * (shape + colour)
}

/// Whether the objects are exactly the demanded ones.
fn is_right(caption: &Caption, found: &[Detected]) -> bool {
    let objects: Vec<&Detected> = found.iter().filter(|object| object.presence >= 0.5).collect();
    let of = |group: &Group| -> Vec<&Detected> {
        let fits = |object: &&&Detected| {
            let is_colour = |colour: Colour| object.colours[colour as usize] >= 0.5;
            let is_shape = |shape: Shape| object.shapes[shape as usize] >= 0.5;
            is_shape(group.shape) && group.colour.is_none_or(is_colour)
        };
        objects.iter().filter(fits).copied().collect()
    };
    let groups: Vec<Vec<&Detected>> = caption.groups.iter().map(of).collect();
    let has_all = groups.iter().zip(&caption.groups).all(|(objects, group)| objects.len() == group.count);
    let has_no_others = objects.len() == caption.groups.iter().map(|group| group.count).sum::<usize>();
    let is_related = |relation: Relation| {
        let [ahead, aside] = relation.distances(groups[0][0].centre, groups[1][0].centre);
        ahead > aside
    };
    has_all && has_no_others && caption.relation.is_none_or(is_related)
}

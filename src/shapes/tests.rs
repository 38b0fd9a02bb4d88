use std::collections::BTreeMap;

use super::*;
use crate::flow::noise::{NoiseKey, Stream};

fn key(seed: u64) -> NoiseKey {
    NoiseKey { seed, rollout: 0, sample: 0, step: 0 }
}

/// The captions of a category in each split: trained, forgotten, held out.
fn counts(category: Category) -> [usize; 3] {
    [Split::Trained, Split::Forgotten, Split::HeldOut]
        .map(|split| captions().iter().filter(|caption| (caption.category, caption.split) == (category, split)).count())
}

#[test]
fn captions_have_different_texts_of_at_most_eight_words_that_parse() {
    for (index, caption) in captions().iter().enumerate() {
        let parsed = parse(&caption.text).unwrap();
        assert!(std::ptr::eq(parsed, caption), "{} is caption {index} and another", caption.text);
        assert!(caption.text.split(' ').count() <= 8, "{}", caption.text);
        assert!(caption.text.split(' ').all(|word| word.chars().all(|c| c.is_ascii_lowercase())), "{}", caption.text);
    }
    let sought = |text: &str| parse(text).unwrap();
    let three = Group { count: 3, colour: Some(Colour::Green), shape: Shape::Square };
    assert_eq!(sought("three green squares").groups, [three]);
    let related = sought("a blue triangle left of a yellow disc");
    let single = |colour, shape| Group { count: 1, colour: Some(colour), shape };
    assert_eq!(related.groups, [single(Colour::Blue, Shape::Triangle), single(Colour::Yellow, Shape::Disc)]);
    assert_eq!((related.relation, related.category), (Some(Relation::LeftOf), Category::Position));
}

#[test]
fn other_texts_are_rejected_with_what_is_wrong() {
    for (text, cause) in [
        ("a purple disc", "no caption has the word \"purple\""),
        ("A red disc", "no caption has the word \"A\""),
        ("a red disc.", "no caption has the word \"disc.\""),
        ("a  disc", "no caption has the word \"\""),
        ("a disc red", "its words do not form one"),
        ("a red disc and a red square", "its words do not form one"),
    ] {
        let message = parse(text).unwrap_err().to_string();
        let expected =
            format!("{text:?} is not a caption of coloured shapes: {cause}; captions are such as \"a disc\"");
        assert!(message.starts_with(&expected), "{message}");
    }
}

#[test]
fn the_vocabulary_is_every_word() {
    let expected = [
        "a",
        "above",
        "and",
        "below",
        "blue",
        "disc",
        "discs",
        "four",
        "green",
        "left",
        "of",
        "red",
        "right",
        "square",
        "squares",
        "three",
        "triangle",
        "triangles",
        "two",
        "white",
        "yellow",
    ];
    assert_eq!(vocabulary(), expected);
}

#[test]
fn the_splits_are_as_documented() {
    assert_eq!(Category::ALL.map(counts), [[3, 0, 0], [12, 3, 0], [36, 9, 9], [6, 0, 0], [360, 72, 72], [84, 18, 18]]);
    let known: Vec<&Caption> = captions().iter().filter(|caption| caption.split != Split::HeldOut).collect();
    for word in vocabulary() {
        let count = known.iter().filter(|caption| caption.text.split(' ').any(|other| other == word)).count();
        assert!(count >= 10, "{word} is in {count} captions of pretraining");
    }
    // A combination is in one split, whatever its order and relation.
    let mut of_combination = BTreeMap::new();
    for caption in captions() {
        let mut groups = caption.groups.clone();
        groups.sort_unstable();
        assert_eq!(*of_combination.entry(groups).or_insert(caption.split), caption.split, "{}", caption.text);
    }
    // Every colour of every shape is trained alone or forgotten, and trained beside another object.
    for shape in Shape::ALL {
        for colour in Colour::ALL {
            let wanted = Group { count: 1, colour: Some(colour), shape };
            let is_pair = |caption: &&&Caption| caption.groups.len() == 2 && caption.groups.contains(&wanted);
            assert!(known.iter().filter(is_pair).any(|caption| caption.split == Split::Trained), "{wanted:?}");
        }
    }
}

#[test]
fn scenes_have_the_objects_of_their_caption_apart_and_inside() {
    for (index, caption) in captions().iter().enumerate() {
        let mut random = Stream::new(key(index as u64));
        for _ in 0..10 {
            let scene = Scene::draw(caption, &mut random);
            let demanded: Vec<(Shape, Option<Colour>)> =
                caption.groups.iter().flat_map(|group| vec![(group.shape, group.colour); group.count]).collect();
            assert_eq!(scene.objects.len(), demanded.len(), "{}", caption.text);
            for (object, (shape, colour)) in scene.objects.iter().zip(demanded) {
                assert!(object.shape == shape && colour.is_none_or(|colour| object.colour == colour));
                for (centre, extent) in object.centre.into_iter().zip(object.half_extents()) {
                    assert!(centre - extent >= 1.0 && centre + extent <= SIDE - 1.0, "{}: {scene:?}", caption.text);
                }
            }
            for (index, object) in scene.objects.iter().enumerate() {
                for other in &scene.objects[..index] {
                    let distance = |axis: usize| {
                        let between = (object.centre[axis] - other.centre[axis]).abs();
                        between - object.half_extents()[axis] - other.half_extents()[axis]
                    };
                    assert!(distance(0).max(distance(1)) >= 2.0, "{}: {scene:?}", caption.text);
                }
            }
            if let Some(relation) = caption.relation {
                let [ahead, aside] = relation.distances(scene.objects[0].centre, scene.objects[1].centre);
                assert!(ahead >= 2.0 * aside, "{}: {scene:?}", caption.text);
            }
        }
    }
}

#[test]
fn free_colours_form_no_combination_that_is_held_out() {
    let free = captions().iter().filter(|caption| caption.groups.iter().all(|group| group.colour.is_none()));
    for caption in free {
        let mut random = Stream::new(key(5));
        let mut seen = BTreeMap::new();
        for _ in 0..200 {
            let scene = Scene::draw(caption, &mut random);
            let mut rest = &scene.objects[..];
            let mut groups = Vec::new();
            for group in &caption.groups {
                let (own, others) = rest.split_at(group.count);
                assert!(own.iter().all(|object| object.colour == own[0].colour), "{}", caption.text);
                groups.push(Group { colour: Some(own[0].colour), ..*group });
                *seen.entry(own[0].colour).or_insert(0) += 1;
                rest = others;
            }
            assert_ne!(grammar::split_of(&groups), Split::HeldOut, "{groups:?}");
        }
        assert!(seen.len() >= 4, "{}: {seen:?}", caption.text);
    }
}

#[test]
fn a_relation_compares_centres_along_its_axis() {
    let above = Relation::Above.distances([3.0, 4.0], [5.0, 10.0]);
    assert_eq!((above, Relation::Below.distances([3.0, 4.0], [5.0, 10.0])), ([6.0, 2.0], [-6.0, 2.0]));
    let left = Relation::LeftOf.distances([3.0, 4.0], [5.0, 10.0]);
    assert_eq!((left, Relation::RightOf.distances([3.0, 4.0], [5.0, 10.0])), ([2.0, 6.0], [-2.0, 6.0]));
}

#[test]
fn a_picture_has_the_areas_and_colours_of_its_objects() {
    let object = |shape, colour, centre| Object { shape, colour, centre, radius: 4.0 };
    let scene = Scene {
        objects: vec![
            object(Shape::Disc, Colour::Red, [6.0, 6.5]),
            object(Shape::Square, Colour::Blue, [17.3, 6.0]),
            object(Shape::Triangle, Colour::White, [12.0, 17.0]),
        ],
    };
    let picture = scene.render(24);
    assert!(picture.iter().all(|level| (-1.0..=1.0).contains(level)));
    let pixel = |x: usize, y: usize| [0, 1, 2].map(|c| ((picture[(c * 24 + y) * 24 + x] + 1.0) * 127.5).round() as u8);
    assert_eq!([pixel(6, 6), pixel(17, 6), pixel(12, 18)], [Colour::Red, Colour::Blue, Colour::White].map(Colour::rgb));
    assert_eq!([pixel(0, 0), pixel(12, 9), pixel(23, 23)], [BACKGROUND; 3]);
    // The areas in the middle channel: a disc of radius 4, a square of side 7.2, a triangle of 8.8 by 8.
    let byte = |colour: Colour| f64::from(colour.rgb()[1]) - f64::from(BACKGROUND[1]);
    let expected = std::f64::consts::PI * 16.0 * byte(Colour::Red)
        + 7.2 * 7.2 * byte(Colour::Blue)
        + 0.5 * 8.8 * 8.0 * byte(Colour::White);
    let above = |level: &f32| (f64::from(*level) + 1.0) * 127.5 - f64::from(BACKGROUND[1]);
    let total: f64 = picture[576..1152].iter().map(above).sum();
    // 64 points in each of about 25 pixels along an edge.
    assert!((total / expected - 1.0).abs() < 0.01, "{total} {expected}");
}

#[test]
fn equal_keys_give_equal_pictures_with_their_fixed_bytes() {
    let caption = parse("a yellow square above a white disc").unwrap();
    let draw = |seed| Scene::draw(caption, &mut Stream::new(key(seed))).render(24);
    assert_eq!(draw(0), draw(0));
    assert_ne!(draw(0), draw(1));
    // If this changes, every model of these pictures has to be trained again.
    let bytes: Vec<u8> = draw(3).iter().map(|level| ((level + 1.0) * 127.5).round() as u8).collect();
    assert_eq!(crc32fast::hash(&bytes), 3_485_313_822);
}

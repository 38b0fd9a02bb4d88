//! The checker, on scenes, on scenes with faults, and on pictures that are none.

use super::*;
use crate::flow::noise::{NoiseKey, Stream};

const SIZE: usize = 24;

fn random(sample: u32) -> Stream {
    Stream::new(NoiseKey { seed: 9, rollout: 0, sample, step: 0 })
}

/// A disc, square or triangle of radius 3.5.
fn object(shape: Shape, colour: Colour, centre: [f64; 2]) -> Object {
    Object { shape, colour, centre, radius: 3.5 }
}

fn verdict(text: &str, objects: &[Object]) -> Verdict {
    check(&Scene { objects: objects.to_vec() }.render(SIZE), SIZE, parse(text).unwrap())
}

/// Score, whether it is right, count, colour, shape, relation.
fn facts(verdict: Verdict) -> (f64, bool, [f64; 4]) {
    let Verdict { score, is_right, count, colour, shape, relation } = verdict;
    (score, is_right, [count, colour, shape, relation])
}

/// Mixes each pixel with this share of each neighbour along rows, then along columns.
fn blurred(picture: &[f32], share: f32) -> Vec<f32> {
    let along = |picture: &[f32], step: usize| -> Vec<f32> {
        let place = |at: usize| at / step % SIZE;
        let before = |at: usize| picture[if place(at) == 0 { at } else { at - step }];
        let after = |at: usize| picture[if place(at) == SIZE - 1 { at } else { at + step }];
        let mix = |at: usize| (1.0 - 2.0 * share) * picture[at] + share * (before(at) + after(at));
        (0..picture.len()).map(mix).collect()
    };
    along(&along(picture, 1), SIZE)
}

/// The verdicts on one changed scene of each caption.
fn of_all_captions(change: impl Fn(Vec<f32>, &mut Stream) -> Vec<f32>) -> Vec<(&'static Caption, Verdict)> {
    let verdict = |(index, caption): (usize, &'static Caption)| {
        let mut random = random(index as u32);
        let picture = Scene::draw(caption, &mut random).render(SIZE);
        (caption, check(&change(picture, &mut random), SIZE, caption))
    };
    captions().iter().enumerate().map(verdict).collect()
}

#[test]
fn every_scene_is_right() {
    for (index, caption) in captions().iter().enumerate() {
        let mut random = random(index as u32);
        for _ in 0..5 {
            let verdict = check(&Scene::draw(caption, &mut random).render(SIZE), SIZE, caption);
            assert_eq!(facts(verdict), (1.0, true, [1.0; 4]), "{}", caption.text);
        }
    }
}

#[test]
fn bytes_noise_and_slight_blur_change_no_verdict() {
    let bytes = |picture: Vec<f32>, _: &mut Stream| -> Vec<f32> {
        picture.iter().map(|level| ((level + 1.0) * 127.5).round() / 127.5 - 1.0).collect()
    };
    assert!(of_all_captions(bytes).iter().all(|(_, verdict)| facts(*verdict) == (1.0, true, [1.0; 4])));
    let noisy = |picture: Vec<f32>, random: &mut Stream| -> Vec<f32> {
        picture.iter().map(|level| level + 0.1 * random.normal() as f32).collect()
    };
    let both = |picture: Vec<f32>, random: &mut Stream| noisy(blurred(&picture, 0.1), random);
    for verdicts in
        [of_all_captions(noisy), of_all_captions(|picture, _| blurred(&picture, 0.1)), of_all_captions(both)]
    {
        for (caption, verdict) in &verdicts {
            assert!(verdict.is_right && verdict.score > 0.85, "{}: {verdict:?}", caption.text);
        }
        let mean = verdicts.iter().map(|(_, verdict)| verdict.score).sum::<f64>() / verdicts.len() as f64;
        assert!(mean > 0.999, "{mean}");
    }
}

#[test]
fn objects_are_found_where_they_are() {
    for (index, caption) in captions().iter().enumerate() {
        let scene = Scene::draw(caption, &mut random(index as u32));
        let found = detect(&scene.render(SIZE), SIZE);
        assert_eq!(found.len(), scene.objects.len(), "{}", caption.text);
        for object in &scene.objects {
            let is_it = |found: &&Detected| {
                let distance = (0..2).map(|axis| (found.centre[axis] - object.centre[axis]).abs()).fold(0.0, f64::max);
                // Where the points of a pixel's grid are is the only uncertainty of a centroid.
                (found.shape, found.colour) == (object.shape, object.colour) && distance < 0.1
            };
            let [width, height] = object.half_extents();
            let area = match object.shape {
                Shape::Disc => std::f64::consts::PI * object.radius * object.radius,
                Shape::Square => 4.0 * width * height,
                Shape::Triangle => 2.0 * width * height,
            };
            let found = found.iter().find(is_it).unwrap_or_else(|| panic!("{object:?} is not in {found:?}"));
            assert!((found.area / area - 1.0).abs() < 0.05 && found.presence == 1.0, "{found:?}, but {area}");
        }
    }
}

#[test]
fn each_fault_lowers_its_fact() {
    use Colour::{Blue, Green, Red};
    use Shape::{Disc, Square, Triangle};
    let corners = [[6.0, 6.0], [17.5, 6.5], [6.5, 17.5], [18.0, 18.0]];
    let discs = |count: usize| corners[..count].iter().map(|at| object(Disc, Red, *at)).collect::<Vec<_>>();
    let two = |first, second| [object(Square, first, corners[0]), object(Disc, second, corners[3])];
    // Count: score is that share of the other facts, which hold.
    assert_eq!(facts(verdict("three red discs", &discs(3))), (1.0, true, [1.0; 4]));
    assert_eq!(facts(verdict("three red discs", &discs(2))), (2.0 / 3.0, false, [2.0 / 3.0, 1.0, 1.0, 1.0]));
    assert_eq!(facts(verdict("three discs", &discs(4))), (0.75, false, [0.75, 1.0, 1.0, 1.0]));
    assert_eq!(facts(verdict("a red disc", &two(Blue, Red))), (0.5, false, [0.5, 1.0, 1.0, 1.0]));
    // Colour, of one object and of both, swapped.
    let bound = "a red square and a green disc";
    assert_eq!(facts(verdict(bound, &two(Red, Green))), (1.0, true, [1.0; 4]));
    assert_eq!(facts(verdict(bound, &two(Red, Blue))), (0.75, false, [1.0, 0.5, 1.0, 1.0]));
    assert_eq!(facts(verdict(bound, &two(Green, Red))), (0.5, false, [1.0, 0.0, 1.0, 1.0]));
    // Shape.
    let mut other = two(Red, Green);
    other[1].shape = Triangle;
    assert_eq!(facts(verdict(bound, &other)), (0.75, false, [1.0, 1.0, 0.5, 1.0]));
    assert_eq!(facts(verdict("a triangle", &discs(1))), (0.0, false, [1.0, 1.0, 0.0, 1.0]));
    // Relation, and that of an object which is not the demanded one.
    let stacked = |first, second| [object(Square, Red, [12.0, first]), object(Disc, Green, [13.0, second])];
    let above = "a red square above a green disc";
    assert_eq!(facts(verdict(above, &stacked(6.0, 18.0))), (1.0, true, [1.0; 4]));
    assert_eq!(facts(verdict(above, &stacked(18.0, 6.0))), (2.0 / 3.0, false, [1.0, 1.0, 1.0, 0.0]));
    let mut wrong = stacked(6.0, 18.0);
    wrong[1].colour = Blue;
    assert_eq!(facts(verdict(above, &wrong)), (2.0 / 3.0, false, [1.0, 0.5, 1.0, 0.5]));
}

#[test]
fn what_is_no_scene_scores_almost_nothing() {
    let red = {
        let mut picture = vec![-1.0_f32; 3 * SIZE * SIZE];
        picture[..SIZE * SIZE].fill(0.8);
        picture
    };
    for (index, caption) in captions().iter().enumerate() {
        for (name, picture) in [
            ("empty", Scene { objects: Vec::new() }.render(SIZE)),
            ("black", vec![-1.0; 3 * SIZE * SIZE]),
            ("white", vec![1.0; 3 * SIZE * SIZE]),
            ("grey", vec![0.0; 3 * SIZE * SIZE]),
            ("far too bright", vec![1e30; 3 * SIZE * SIZE]),
            ("red", red.clone()),
        ] {
            let verdict = check(&picture, SIZE, caption);
            assert_eq!((verdict.score, verdict.count, verdict.is_right), (0.0, 0.0, false), "{name}: {}", caption.text);
        }
        let mut random = random(index as u32);
        let noise: Vec<f32> = (0..3 * SIZE * SIZE).map(|_| random.normal() as f32).collect();
        let verdict = check(&noise, SIZE, caption);
        assert!(!verdict.is_right && verdict.score < 0.3, "{}: {verdict:?}", caption.text);
    }
}

#[test]
fn the_score_rises_step_by_step() {
    let rises = |scores: &[f64]| {
        // Pixels are coarse: a part of a step may go back.
        assert!(scores.windows(2).all(|pair| pair[1] >= pair[0] - 0.05), "{scores:?}");
        assert!(scores[0] < 0.1 && scores[scores.len() - 1] == 1.0, "{scores:?}");
        assert!(scores.iter().filter(|score| (0.1..0.9).contains(*score)).count() >= 3, "{scores:?}");
    };
    let steps = |count: i32| (0..=count).map(move |step| f64::from(step) / f64::from(count));
    // An object grows from a speck.
    let size =
        |t: f64| verdict("a disc", &[Object { radius: 0.8 + 2.2 * t, ..object(Shape::Disc, Colour::Red, [9.0; 2]) }]);
    rises(&steps(16).map(|t| size(t).count).collect::<Vec<_>>());
    // It passes from yellow to red.
    let colour = |t: f64| {
        let [yellow, red] = [Colour::Yellow, Colour::Red]
            .map(|colour| Scene { objects: vec![object(Shape::Disc, colour, [12.0; 2])] }.render(SIZE));
        let mixed: Vec<f32> = yellow.iter().zip(&red).map(|(a, b)| a + t as f32 * (b - a)).collect();
        check(&mixed, SIZE, parse("a red disc").unwrap()).colour
    };
    rises(&steps(16).map(colour).collect::<Vec<_>>());
    // A triangle becomes a disc, pixel by pixel.
    let shape = |t: f64| {
        let [triangle, disc] = [Shape::Triangle, Shape::Disc]
            .map(|shape| Scene { objects: vec![object(shape, Colour::White, [12.0; 2])] }.render(SIZE));
        let mixed: Vec<f32> = triangle.iter().zip(&disc).map(|(a, b)| a + t as f32 * (b - a)).collect();
        check(&mixed, SIZE, parse("a disc").unwrap()).shape
    };
    rises(&steps(40).map(shape).collect::<Vec<_>>());
    // It moves from the left of another object to a place below it.
    let relation = |t: f64| {
        let square = object(Shape::Square, Colour::Blue, [18.0, 6.0]);
        let disc = object(Shape::Disc, Colour::Red, [6.0 + 12.0 * t, 6.0 + 12.0 * t]);
        verdict("a red disc below a blue square", &[disc, square]).relation
    };
    rises(&steps(24).map(relation).collect::<Vec<_>>());
}

//! The built-in judge of coloured shapes, on scenes.

use flowdppo_wgpu::classes::Classes;
use flowdppo_wgpu::flow::noise::{NoiseKey, Stream};
use flowdppo_wgpu::model::Pictures;
use flowdppo_wgpu::reward::Judge;
use flowdppo_wgpu::shape::ImageShape;
use flowdppo_wgpu::shapes::{Caption, Scene, captions};

use crate::common::gpu;

/// Every third caption: a third of the time, and all categories.
fn some() -> Vec<&'static Caption> {
    captions().iter().step_by(3).collect()
}

/// The share of scenes, one of each caption, with noise of this standard deviation, that the judge recognises as the
/// caption that comes so many places later.
fn accuracy(judge: &mut Judge, noise: f64, later: usize) -> f64 {
    let captions = some();
    let picture = |(sample, caption): (u32, &&Caption)| -> Vec<f32> {
        let mut random = Stream::new(NoiseKey { seed: 77, rollout: 0, sample, step: 0 });
        let scene = Scene::draw(caption, &mut random).render(24);
        scene.iter().map(|level| level + (noise * random.normal()) as f32).collect()
    };
    let pictures: Vec<f32> = (0..).zip(&captions).flat_map(picture).collect();
    let labels: Vec<u32> = (0..captions.len()).map(|index| ((index + later) % captions.len()) as u32).collect();
    let recognised = judge.recognises(&pictures, &labels).expect("the device works");
    assert_eq!(recognised.len(), captions.len());
    let share = recognised.iter().filter(|is_right| **is_right).count() as f64 / recognised.len() as f64;
    println!("noise {noise}, {later} later: {share:.3}");
    share
}

#[test]
fn the_judge_recognises_scenes_and_only_as_what_they_show() {
    let names: Vec<String> = some().iter().map(|caption| caption.text.clone()).collect();
    let classes = Classes { of: "the model", count: names.len(), names: &names };
    let pictures = Pictures { shape: ImageShape::square(3, 24), classes, prompts: &[] };
    Judge::check("builtin:shapes-judge", &pictures).expect("it fits");
    let mut judge = Judge::new(gpu(), "builtin:shapes-judge", &pictures).expect("it fits");
    assert!(accuracy(&mut judge, 0.0, 0) > 0.97);
    assert!(accuracy(&mut judge, 0.1, 0) > 0.97);
    // Neighbours in the list have other objects.
    assert!(accuracy(&mut judge, 0.0, 1) < 0.03);
}

//! Services that score correctly.

use std::sync::atomic::{AtomicUsize, Ordering};

use flowdppo_wgpu::reward::{Description, Limits, Outside, Reward, Service, http};
use flowdppo_wgpu::{Result, config};
use serde_json::json;

use super::pictures::{Pictures, assert_close, limits, model_of, pictures};
use super::server::{good, serve, serve_under};

pub fn start(url: &str, rewards: &[&str], limits: Limits, pictures: &Pictures) -> Result<Outside<Service>> {
    let rewards: Vec<String> = rewards.iter().map(|reward| (*reward).to_owned()).collect();
    http(url, &rewards, limits, &pictures.subject())
}

#[test]
fn scores_are_the_same_with_any_batch_and_workers() {
    let (pictures, server) = (pictures(23), serve(|body| (200, good(body).to_string())));
    let labels: Vec<f64> = (0..23).map(|index| f64::from(index % 3)).collect();
    let opposite: Vec<f64> = labels.iter().map(|label| -label).collect();
    let mut seen = Vec::new();
    for (batch, workers) in [(23, 1), (1, 5), (4, 2), (100, 2)] {
        let mut reward = start(&server.url, &["unified", "ocr"], limits(batch, workers, 0), &pictures).unwrap();
        assert_eq!(reward.components(), ["unified.alignment", "unified.style", "ocr"]);
        let scores = pictures.score(&mut reward).unwrap();
        assert_eq!(scores[..2], [opposite.clone(), labels.clone()]);
        assert_close(&scores[2], &pictures.brightness());
        seen.push(scores);
    }
    assert!(seen.iter().all(|scores| *scores == seen[0]), "scores depend on batch or workers: {seen:?}");
    assert_eq!(server.scored(), 1 + 23 + 6 + 1, "requests");
}

#[test]
fn requests_are_as_documented() {
    let (pictures, server) = (pictures(2), serve_under("/v1", |body| (200, good(body).to_string())));
    let mut reward = start(&format!("{}/", server.url), &["clip"], limits(2, 1, 0), &pictures).unwrap();
    pictures.score(&mut reward).unwrap();
    let mut posted = server.posted.lock().unwrap().clone();
    let request = |sample: u32, prompt: &str, iteration: u32, purpose: &str| {
        json!({
            "history": [{"text": prompt, "image_b64": "..."}],
            "required_rewards": ["clip"],
            "metadata": {
                "label": sample, "prompt": prompt, "iteration": iteration, "purpose": purpose, "sample": sample
            }
        })
    };
    for body in &mut posted {
        for request in body["requests"].as_array_mut().unwrap() {
            let image = request["history"][0]["image_b64"].take();
            assert!(image.as_str().unwrap().starts_with("iVBORw0KGgo"), "no PNG: {image}");
            request["history"][0]["image_b64"] = json!("...");
        }
    }
    assert_eq!(
        posted,
        [
            json!({"requests": [request(0, "zero", 0, "start")]}),
            json!({"requests": [request(0, "zero", 5, "training"), request(1, "one", 5, "training")]})
        ]
    );
}

#[test]
fn a_service_gets_the_metadata_of_the_class() {
    let (folder, mut pictures) = (tempfile::tempdir().unwrap(), pictures(2));
    let file = folder.path().join("classes.json");
    let task = |class: &str| json!({"tag": "single_object", "include": [{"class": class, "count": 1}]});
    let mut two = task("two");
    two["prompt"] = json!("a pair");
    let by_name = json!({"zero": task("zero"), "one": task("one"), "two \"{2}\"": two});
    for entries in [by_name, json!([task("zero"), task("one"), two])] {
        std::fs::write(&file, entries.to_string()).unwrap();
        let reward = config::Reward {
            prompt: "a sign that says \"{class}\"".into(),
            metadata: file.to_str().unwrap().into(),
            ..config::Reward::default()
        };
        pictures.descriptions = Description::of_classes(&reward, &model_of(&pictures.class_names)).unwrap();
        assert_eq!(pictures.descriptions[2].prompt, "a pair");
        let server = serve(|body| (200, good(body).to_string()));
        let mut reward = start(&server.url, &["ocr"], limits(2, 1, 0), &pictures).unwrap();
        pictures.score(&mut reward).unwrap();
        let posted = server.posted.lock().unwrap().clone();
        let told = posted.iter().flat_map(|body| body["requests"].as_array().unwrap());
        for (request, name) in told.zip(["zero", "zero", "one"]) {
            assert_eq!(request["history"][0]["text"], json!(format!("a sign that says \"{name}\"")));
            let (label, mut expected) = (request["metadata"]["label"].clone(), task(name));
            assert_eq!(label, json!(u32::from(name == "one")));
            for key in ["label", "prompt", "iteration", "purpose", "sample"] {
                expected[key] = request["metadata"][key].clone();
            }
            assert_eq!(request["metadata"], expected);
            assert_eq!(expected["prompt"], request["history"][0]["text"]);
        }
        assert_eq!(posted.len(), 2);
    }
}

#[test]
fn requests_to_an_overloaded_or_broken_service_are_retried() {
    let pictures = pictures(4);
    for status in [429, 500, 503] {
        let asked = AtomicUsize::new(0);
        let server = serve(move |body| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => (status, "busy".into()),
            _ => (200, good(body).to_string()),
        });
        let mut reward = start(&server.url, &["ocr"], limits(4, 1, 1), &pictures).unwrap();
        assert_close(&pictures.score(&mut reward).unwrap()[0], &pictures.brightness());
        assert_eq!(server.scored(), 2, "after {status}");
    }
}

//! Classes of two files are matched by name.

use std::fs;
use std::path::Path;

use flowdppo_wgpu::model::Model;
use serde_json::Value;

use super::bad_input::{case, check};
use super::workplace::Workplace;

/// Renames the classes of a model.
fn rename(here: &Workplace, file: &str, names: &[&str]) {
    let path = here.path(file);
    let mut model = Model::load(&path).unwrap();
    model.class_names = names.iter().map(|name| (*name).to_owned()).collect();
    model.save(&path).unwrap();
}

fn evaluated(here: &Workplace) -> Value {
    let arguments = "-q eval --config train.toml --model base.safetensors --json";
    serde_json::from_str(&here.run(arguments).succeeds()).unwrap()
}

fn classes_of(path: &Path) -> Vec<String> {
    Model::load(path).unwrap().class_names
}

#[test]
fn a_classifier_with_the_classes_in_another_order_scores_alike() {
    let here = Workplace::new();
    let before = evaluated(&here);
    let names = classes_of(&here.path("classifier.safetensors"));
    assert!(names.len() > 2, "{names:?}");
    // The same classifier with its classes reversed: its names, and the rows of its last layer.
    let path = here.path("classifier.safetensors");
    let mut model = Model::load(&path).unwrap();
    model.class_names.reverse();
    let layout = model.kind.layout();
    let of_classes: Vec<_> = layout.entries().iter().filter(|entry| entry.shape[0] == names.len()).cloned().collect();
    assert_eq!(of_classes.len(), 2, "a weight and a bias: {of_classes:?}");
    for entry in of_classes {
        let row = entry.elements() / names.len();
        let values = &mut model.weights[entry.offset..entry.offset + entry.elements()];
        let reversed: Vec<f32> = values.chunks(row).rev().flatten().copied().collect();
        values.copy_from_slice(&reversed);
    }
    model.save(&path).unwrap();
    let after = evaluated(&here);
    for key in ["reward_mean", "judge_accuracy"] {
        let (before, after) = (before[key].as_f64().unwrap(), after[key].as_f64().unwrap());
        assert!((before - after).abs() < 1e-6, "{key}: {before} and {after}");
    }
}

#[test]
fn classes_that_do_not_match_are_rejected_with_both_lists() {
    let wrong =
        |here: &Workplace| rename(here, "classifier.safetensors", &["a", "b", "c", "d", "e", "f", "g", "h", "i", "z"]);
    check(&[
        case(
            wrong,
            "train --config train.toml --out run",
            2,
            &["the classes of the classifier classifier.safetensors do not fit those of the model", "\"z\"]", "\"9\"]"],
        ),
        case(
            |here| {
                fs::copy(here.path("base.safetensors"), here.path("other.safetensors")).unwrap();
                rename(here, "other.safetensors", &["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"]);
            },
            "eval --config train.toml --model base.safetensors --base other.safetensors",
            2,
            &["base.safetensors and other.safetensors must have the same classes in the same order"],
        ),
        case(
            |here| rename(here, "base.safetensors", &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]),
            "pretrain --config pretrain.toml --set model={file='base.safetensors'} --out run",
            2,
            &["the classes of base.safetensors do not fit those of `data`", "[\"a\", \"b\"", "[\"0\", \"1\""],
        ),
    ]);
}

/// Further training keeps the order of the model's classes, whatever their order in the data.
#[test]
fn pretraining_from_a_model_keeps_its_classes() {
    let here = Workplace::new();
    let names = ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"];
    rename(&here, "base.safetensors", &names);
    here.run(
        "-q pretrain --config pretrain.toml --set model={file='base.safetensors'} --set pretrain.steps=1 --out run",
    )
    .succeeds();
    assert_eq!(classes_of(&here.path("run/model.safetensors")), names);
}

#[test]
fn import_reports_what_it_assumes_about_the_last_class() {
    let here = Workplace::new();
    fs::copy(super::workplace::sit_tiny("model.safetensors"), here.path("foreign.safetensors")).unwrap();
    let import = "import --format sit --num-heads 2 foreign.safetensors";
    let out = here.run(&format!("{import} a.safetensors")).succeeds();
    assert!(out.contains("10 classes") && out.contains("--no-null-class"), "{out}");
    let out = here.run(&format!("{import} b.safetensors --no-null-class")).succeeds();
    assert!(out.contains("11 classes") && !out.contains("assumed"), "{out}");
    let ended = here.run("sample --model b.safetensors --guidance-scale 2 --out b.png");
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("--guidance-scale is 2, but the model has no \"no class\""), "{}", ended.err);
    let ended = here.run(&format!("{import} c.safetensors --num-classes 5"));
    assert!(ended.err.contains("--num-classes is 5") && ended.err.contains("11 rows"), "{}", ended.err);
}

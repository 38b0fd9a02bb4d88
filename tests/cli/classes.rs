//! Classes of two files are matched by name.

use std::fs;
use std::path::Path;

use flowdppo_wgpu::model::{Model, ModelKind, Tensors, read_tensors, write_tensors};
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

/// Writes the SiT model of the tests with the first rows of its class table.
fn import_rows(here: &Workplace, name: &str, rows: usize) {
    let mut tensors: Tensors = read_tensors(&super::workplace::sit_tiny("model.safetensors")).unwrap();
    let (shape, values) = tensors.get_mut("y_embedder.embedding_table.weight").unwrap();
    values.truncate(rows * shape[1]);
    shape[0] = rows;
    write_tensors(&here.path(name), &tensors).unwrap();
}

/// A table of 10 rows may have 10 classes, or 9 and "no class"; one of a single row has one class.
#[test]
fn every_class_of_a_table_can_be_imported() {
    let here = Workplace::new();
    import_rows(&here, "ten.safetensors", 10);
    import_rows(&here, "one.safetensors", 1);
    let import = |arguments: &str| here.run(&format!("import --force --format sit --num-heads 2 {arguments}"));
    for (arguments, says) in [
        ("ten.safetensors a.safetensors", " 9 classes"),
        ("ten.safetensors a.safetensors --num-classes 9", " 9 classes"),
        ("ten.safetensors a.safetensors --num-classes 10", " 10 classes"),
        ("ten.safetensors ten.native.safetensors --no-null-class", " 10 classes"),
        ("one.safetensors a.safetensors", "assumed: its only class is a class"),
        ("one.safetensors a.safetensors --num-classes 1", " 1 classes"),
        ("one.safetensors one.native.safetensors --no-null-class", " 1 classes"),
    ] {
        let out = import(arguments).succeeds();
        assert!(out.contains(says), "{arguments}: {out}");
    }
    for (arguments, says) in [
        ("ten.safetensors a.safetensors --num-classes 0", "has 10 rows: it must be 10, or 9 if the last row means"),
        ("ten.safetensors a.safetensors --num-classes 11", "has 10 rows: it must be 10, or 9"),
        ("one.safetensors a.safetensors --num-classes 0", "has a single row: it must be 1"),
        ("one.safetensors a.safetensors --num-classes 2", "has a single row: it must be 1"),
    ] {
        let ended = import(arguments);
        assert!(ended.code == Some(2) && ended.err.contains(says), "{arguments}: {}", ended.err);
    }
    for (model, last) in [("ten", 9), ("one", 0)] {
        let sample = format!("-q sample --model {model}.native.safetensors --count 1 --steps 1 --force --class");
        here.run(&format!("{sample} {last}")).succeeds();
        let ended = here.run(&format!("{sample} {}", last + 1));
        assert!(ended.err.contains("is out of range"), "{}", ended.err);
    }
}

/// Takes "no class" from `base.safetensors`: the last row of its class table.
fn remove_null_class(here: &Workplace) {
    let path = here.path("base.safetensors");
    let with = Model::load(&path).unwrap();
    let mut kind = with.kind.clone();
    let ModelKind::Dit(dit) = &mut kind else { panic!("it is a flow model") };
    dit.has_null_class = false;
    let layout = kind.layout();
    let mut weights = vec![0.0; layout.elements()];
    for (entry, old) in layout.entries().iter().zip(with.kind.layout().entries()) {
        assert_eq!(entry.name, old.name);
        weights[entry.offset..][..entry.elements()].copy_from_slice(&with.weights[old.offset..][..entry.elements()]);
    }
    Model { kind, weights, ..with }.save(&path).unwrap();
}

/// Nothing that guides a model, or that teaches it "no class", is accepted for one that has none.
#[test]
fn guidance_is_refused_where_there_is_no_null_class() {
    let here = Workplace::new();
    remove_null_class(&here);
    for (set, key) in [
        ("--set rollout.guidance_scale=2", "`rollout.guidance_scale` is 2"),
        ("--set eval.guidance_scale=2", "`eval.guidance_scale` is 2"),
        (
            "--set objective.reference.beta=1 --set objective.reference.guidance_scale=2",
            "`objective.reference.guidance_scale` is 2",
        ),
    ] {
        let says = format!("{key}, but the model has no \"no class\", which guidance needs: set it to 1");
        let ended = here.run(&format!("config check train.toml {set}"));
        assert!(ended.code == Some(2) && ended.out.contains(&says), "{}", ended.out);
        for command in ["train --dry-run", "train --out run"] {
            let ended = here.run(&format!("-q {command} --config train.toml {set}"));
            assert!(ended.code == Some(2) && ended.err.contains(&says), "{}", ended.err);
        }
        assert!(!here.path("run").exists());
    }
    let ended = here.run("eval --config train.toml --model base.safetensors --set eval.guidance_scale=2");
    assert!(ended.code == Some(2) && ended.err.contains("`eval.guidance_scale` is 2"), "{}", ended.err);
    let pretrain = "-q pretrain --config pretrain.toml --set model={file='base.safetensors'} --set pretrain.steps=1";
    let ended = here.run(&format!("{pretrain} --out dropped"));
    assert!(ended.code == Some(2) && ended.err.contains("`pretrain.class_dropout` is 0.1"), "{}", ended.err);
    here.run(&format!("{pretrain} --set pretrain.class_dropout=0 --out more")).succeeds();
    here.run("-q train --config train.toml --set train.iterations=1 --out run").succeeds();
}

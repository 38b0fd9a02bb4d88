//! Models whose values do not fit in 16 bits.

use std::fs;

use flowdppo_wgpu::model::{Model, ModelKind};

use super::workplace::{Workplace, lines};

/// Scales the values of attention in `base.safetensors` by a power of two, and the projection after them by its inverse:
/// the same function, and in 32 bits the same digits.
fn scale_values(here: &Workplace, exponent: i32) {
    let path = here.path("base.safetensors");
    let mut model = Model::load(&path).unwrap();
    let layout = model.kind.layout();
    let ModelKind::Dit(dit) = &model.kind else { panic!("it is a flow model") };
    let width = dit.hidden_size;
    for entry in layout.entries() {
        let range = entry.offset..entry.offset + entry.elements();
        let (range, exponent) = match entry.name.as_str() {
            "blocks.0.attn.qkv.weight" => (range.start + 2 * width * width..range.end, exponent),
            "blocks.0.attn.qkv.bias" => (range.start + 2 * width..range.end, exponent),
            "blocks.0.attn.proj.weight" => (range, -exponent),
            _ => continue,
        };
        model.weights[range].iter_mut().for_each(|weight| *weight *= 2.0_f32.powi(exponent));
    }
    model.save(&path).unwrap();
}

/// A run whose tensors are large enough to be worth packing.
const TRAIN: &str = "train --config train.toml --out run --set rollout.group_size=32 --set train.half_activations=true";

#[test]
fn activations_that_do_not_fit_are_never_learned_from() {
    let here = Workplace::new();
    scale_values(&here, 22);
    let ended = here.run(TRAIN);
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    // Four updates of the first iteration are skipped, two of the second, and the next one is too many.
    let first = &lines(&here.path("run/metrics.jsonl"))[0..2];
    let line = first.iter().find(|line| line["iteration"] == 1).unwrap();
    assert_eq!(line["skipped_updates"], 4);
    let lost = line["lost_in_half"].as_array().unwrap();
    let of =
        |name: &str| lost.iter().find(|entry| entry["tensor"] == name).unwrap_or_else(|| panic!("{name}: {lost:?}"));
    for tensor in [of("blocks.0.attn.qkv.matmul"), of("blocks.0.attention")] {
        assert!(tensor["beyond"].as_u64() > Some(1000) && tensor["largest"].as_f64() > Some(1e5), "{tensor}");
    }
    let what = ["values of blocks.0.", "are beyond 65504, up to", "do not fit in 16 bits", "more tensor"];
    for text in what.into_iter().chain(["set `train.half_activations` = false", "`half-activations`"]) {
        assert!(ended.err.contains(text), "{text}: {}", ended.err);
    }
    let error = ended.err.lines().find(|line| line.contains("6 updates in a row")).unwrap();
    assert!(error.contains("set `train.half_activations` = false"), "{error}");
    assert_eq!(lines(&here.path("run/warnings.jsonl"))[0]["kind"], "half-activations");
    // With 32 bits it learns.
    here.run("train --resume --out run --set train.half_activations=false").succeeds();
    let last = lines(&here.path("run/metrics.jsonl")).pop().unwrap();
    assert!(last["skipped_updates"] == 0 && last.get("lost_in_half").is_none(), "{last}");
}

#[test]
fn activations_that_are_too_small_are_reported() {
    let here = Workplace::new();
    scale_values(&here, -22);
    // A usual learning rate is larger than these weights, so an update changes them completely.
    here.run(&format!("{TRAIN} --set train.iterations=1 --set train.learning_rate=1e-12")).succeeds();
    let warning = &lines(&here.path("run/warnings.jsonl"))[0];
    assert_eq!(warning["kind"], "half-activations");
    let message = warning["message"].as_str().unwrap();
    assert!(message.starts_with("all values of blocks.0.attention are so small"), "{message}");
}

#[test]
fn activations_of_usual_size_are_not_reported() {
    let here = Workplace::new();
    let ended = here.run(&format!("{TRAIN} --set train.iterations=1"));
    assert!(!ended.err.contains("16 bits"), "{}", ended.err);
    ended.succeeds();
    let line = lines(&here.path("run/metrics.jsonl")).into_iter().find(|line| line["iteration"] == 1).unwrap();
    assert!(line["lost_in_half"].as_array().unwrap().is_empty() && line["skipped_updates"] == 0, "{line}");
}

#[test]
fn pretraining_reports_what_does_not_fit() {
    let here = Workplace::new();
    // All activations of such pictures are large.
    let text = fs::read_to_string(here.path("pretrain.toml")).unwrap();
    let text = text.replace("batch_size = 8", "batch_size = 32\nlearning_rate = 1e5\nhalf_activations = true");
    fs::write(here.path("pretrain.toml"), text.replace("steps = 3", "steps = 30")).unwrap();
    let ended = here.run("pretrain --config pretrain.toml --out wild");
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.contains("`pretrain.half_activations` = false"), "{}", ended.err);
}

#[test]
fn a_base_that_does_not_fit_is_rejected() {
    for (exponent, expected) in [
        (22, ["blocks.0.attn.qkv.weight", "are beyond 65504, the largest is"]),
        (-22, ["blocks.0.attn.qkv.weight", "of them round to 0"]),
        (16, ["blocks.0.attn.proj.weight", "below 6.1e-5 and lose digits"]),
    ] {
        let here = Workplace::new();
        scale_values(&here, exponent);
        let ended = here.run("train --config train.toml --out run --set model.weights=f16");
        assert_eq!(ended.code, Some(2), "{exponent}: {}", ended.err);
        for text in
            expected.into_iter().chain(["`model.weights` = \"f16\" cannot keep", "set `model.weights` = \"f32\""])
        {
            assert!(ended.err.contains(text), "{exponent} {text}: {}", ended.err);
        }
        assert!(!here.path("run").exists(), "nothing is started");
    }
    Workplace::new().run("train --config train.toml --out run --set model.weights=f16").succeeds();
}

#[test]
fn pretraining_has_no_frozen_weights() {
    let here = Workplace::new();
    let ended = here.run("pretrain --config pretrain.toml --out run --set model.weights=q8_0");
    assert!(
        ended.err.contains("`model.weights` = \"q8_0\" is for frozen weights, and there are none"),
        "{}",
        ended.err
    );
    ended.succeeds();
}

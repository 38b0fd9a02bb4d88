//! Resumed runs: the same bytes as without a stop, from any directory, and never with silently changed files.

use std::fs;
use std::process::Stdio;

use super::workplace::{Ended, Workplace, lines, program};

/// Supervised training that is stopped and resumed writes the same bytes as without a stop.
#[test]
fn supervised_training_resumes_to_the_same_bytes() {
    let here = Workplace::new();
    for (command, config, key) in
        [("pretrain", "pretrain.toml", "pretrain"), ("fit-classifier", "fit.toml", "classifier")]
    {
        let start = format!("-q {command} --config {config} --set {key}.steps");
        // Its checkpoints are those of steps 3, 6 and 7, of which the newest two are kept.
        let whole = format!("{start}=7 --set {key}.save_every=3 --out {command}-whole");
        here.run(&whole).succeeds();
        here.run(&whole.replace("-whole", "-resumed")).succeeds();
        // As if it had been killed after the sixth step.
        fs::remove_dir_all(here.path(&format!("{command}-resumed/checkpoints/000007"))).unwrap();
        fs::remove_file(here.path(&format!("{command}-resumed/model.safetensors"))).unwrap();
        here.run(&format!("-q {command} --resume --out {command}-resumed")).succeeds();
        for file in
            ["model.safetensors", "checkpoints/000007/model.safetensors", "checkpoints/000007/optimizer.safetensors"]
        {
            let [whole, resumed] =
                ["whole", "resumed"].map(|run| fs::read(here.path(&format!("{command}-{run}/{file}"))).unwrap());
            assert!(whole == resumed, "{command}: {file} has other bytes");
        }
        let fewer = here.run(&format!("-q {command} --resume --out {command}-resumed --set {key}.steps=2"));
        assert_eq!(fewer.code, Some(2));
        assert!(fewer.err.contains(&format!("`{key}.steps` must be at least 7")), "{}", fewer.err);
        let other = here.run(&format!("-q train --resume --out {command}-resumed"));
        assert!(other.err.contains(&format!("is a run of {command}")) || other.err.contains(command), "{}", other.err);
        assert_eq!(other.code, Some(2));
    }
}

/// Further pretraining of a model with classes, of which only an adapter is trained.
#[test]
fn an_adapter_in_pretraining_resumes_to_the_same_bytes_and_belongs_to_its_base() {
    let here = Workplace::new();
    let text = fs::read_to_string(here.path("pretrain.toml")).unwrap();
    let (before, after) = text.split_once("image_size = 8").unwrap();
    let (_, after) = after.split_once("[pretrain]").unwrap();
    let lora = "[lora]\nrank = 2\ntargets = [\"attn.qkv\"]";
    let text = format!("{before}file = \"base.safetensors\"\n{lora}\n[pretrain]{after}");
    fs::write(here.path("adapter.toml"), text).unwrap();
    let start = "-q pretrain --config adapter.toml --set pretrain.decay=constant --set pretrain.steps";
    here.run(&format!("{start}=4 --out whole")).succeeds();
    here.run(&format!("{start}=2 --out parts")).succeeds();
    here.run("-q pretrain --resume --out parts --set pretrain.steps=4").succeeds();
    for file in ["adapter/adapter_model.safetensors", "checkpoints/000004/adapter_training.safetensors"] {
        let [whole, parts] = ["whole", "parts"].map(|run| fs::read(here.path(run).join(file)).unwrap());
        assert!(whole == parts, "{file} has other bytes");
    }
    assert!(!here.path("whole/model.safetensors").exists());
    // The directory of the run stands for the base with the adapter.
    here.run("-q sample --model whole --out drawn.png").succeeds();
    for (set, says) in [
        ("lora.rank=0", "contains an adapter, but `lora` now trains all weights"),
        ("lora.rank=3", "contains a different adapter than `lora` describes"),
    ] {
        let refused = here.run(&format!("-q pretrain --resume --out whole --set pretrain.steps=5 --set {set}"));
        assert!(refused.code == Some(2) && refused.err.contains(says), "{set}: {}", refused.err);
    }
    let mut base = flowdppo_wgpu::model::Model::load(&here.path("base.safetensors")).unwrap();
    base.weights[0] += 1.0;
    base.save(&here.path("base.safetensors")).unwrap();
    let refused = here.run("-q pretrain --resume --accept-changes --out whole --set pretrain.steps=5");
    assert!(refused.code == Some(2) && refused.err.contains("was trained from a base whose"), "{}", refused.err);
}

#[test]
fn a_dry_run_of_supervised_training_prints_its_cost_and_writes_nothing() {
    let here = Workplace::new();
    let before = here.snapshot();
    for command in ["pretrain --config pretrain.toml", "fit-classifier --config fit.toml"] {
        let out = here.run(&format!("{command} --dry-run")).succeeds();
        for part in ["parameters  ", "per step  ", "dispatches", "planned device memory", "steps = 3"] {
            assert!(out.contains(part), "{command}: {part} is missing in {out}");
        }
    }
    assert_eq!(here.snapshot(), before);
}

#[test]
fn a_run_is_resumed_from_any_directory_and_with_the_files_that_it_was_started_with() {
    let here = Workplace::new();
    here.run("-q train --config train.toml --out run").succeeds();
    fs::create_dir(here.path("else where")).unwrap();
    let elsewhere = |arguments: &str| Ended::of(&mut program(&here.path("else where"), arguments));
    elsewhere("-q train --resume --out ../run --set train.iterations=3").succeeds();
    // Another classifier of the same shape.
    let file = here.path("classifier.safetensors");
    let mut classifier = flowdppo_wgpu::model::Model::load(&file).unwrap();
    classifier.weights[0] += 1.0;
    classifier.save(&file).unwrap();
    let before = here.snapshot();
    let refused = here.run("-q train --resume --out run --set train.iterations=4");
    assert_eq!(refused.code, Some(2));
    for part in ["`reward.0.file` names", "classifier.safetensors, which has changed", "--accept-changes"] {
        assert!(refused.err.contains(part), "{part}: {}", refused.err);
    }
    assert_eq!(here.snapshot(), before, "a rejected resume writes nothing");
    here.run("-q train --resume --out run --set train.iterations=4 --accept-changes").succeeds();
    // From then on the new file is the expected one.
    here.run("-q train --resume --out run --set train.iterations=5").succeeds();
}

/// A kill may leave half a line of metrics, a temporary file and half a checkpoint.
#[test]
fn leftovers_of_a_kill_are_cleaned_up_on_resume() {
    let here = Workplace::new();
    here.run("-q train --config train.toml --out run").succeeds();
    let log = here.path("run/metrics.jsonl");
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, format!("{text}{{\"iteration\": 3, \"rew")).unwrap();
    fs::write(here.path("run/.writing-abc"), "half").unwrap();
    fs::create_dir(here.path("run/checkpoints/.000003.tmp-4711")).unwrap();
    let resumed = here.run("-q train --resume --out run --set train.iterations=3");
    assert_eq!(resumed.code, Some(0), "{}", resumed.err);
    assert!(resumed.err.contains("truncated by a crash and is cut off"), "-q hides no damage: {}", resumed.err);
    // Every line is JSON again.
    assert_eq!(lines(&log).len(), 4);
    assert!(!here.path("run/.writing-abc").exists() && !here.path("run/checkpoints/.000003.tmp-4711").exists());
}

/// `ulimit -f` would kill the program silently.
#[cfg(unix)]
#[test]
fn a_file_that_is_too_large_is_an_error_like_a_full_disk() {
    let here = Workplace::new();
    fs::copy(super::workplace::sit_tiny("model.safetensors"), here.path("foreign.safetensors")).unwrap();
    let program = program(&here.path(""), "");
    // Its output is 200 KiB.
    let line = format!(
        "ulimit -f 100 && exec {} import --format sit --num-heads 2 foreign.safetensors sit.safetensors",
        program.get_program().to_string_lossy()
    );
    let ended =
        Ended::of(std::process::Command::new("sh").args(["-c", &line]).current_dir(here.path("")).stdin(Stdio::null()));
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.contains("File too large"), "{}", ended.err);
    let left: Vec<_> =
        here.snapshot().into_keys().filter(|path| path.to_string_lossy().contains(".writing-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The warm-up of the averaged weights counts the iterations before: docs/configuration.md says 1/10 in the first
/// iteration, and 2/11 in the second.
#[test]
fn the_average_is_warmed_up_from_the_first_iteration_on() {
    let here = Workplace::new();
    here.run("-q train --config train.toml --set train.learning_rate=1e-2 --out run").succeeds();
    let weights = |file: &str| flowdppo_wgpu::model::Model::load(&here.path(file)).unwrap().weights;
    let mut average = weights("base.safetensors");
    for (iteration, decay) in [("000001", 1.0 / 10.0), ("000002", 2.0 / 11.0)] {
        let trained = weights(&format!("run/checkpoints/{iteration}/model.safetensors"));
        let kept = weights(&format!("run/checkpoints/{iteration}/ema.safetensors"));
        let moved = trained.iter().zip(&average).filter(|(new, old)| (**new - **old).abs() > 1e-3).count();
        assert!(moved > 100, "{iteration}: only {moved} weights differ");
        for ((old, new), kept) in average.iter().zip(&trained).zip(&kept) {
            let expected = decay * old + (1.0 - decay) * new;
            // Two roundings of f32.
            assert!((kept - expected).abs() <= 2e-7 * (old.abs() + new.abs()), "{iteration}: {kept}, not {expected}");
        }
        average = kept;
    }
}

//! Commands with valid input: what they print and what they write.

use std::path::Path;

use flowdppo_wgpu::config::Config;
use flowdppo_wgpu::model::{Model, read_tensors};
use serde_json::Value;

use super::workplace::{Ended, MADE, Workplace, lines, number, picture, program};

#[test]
fn devices_lists_and_tests_every_adapter() {
    let here = Workplace::new();
    let text = here.run("devices").succeeds();
    for check in ["matmul against f64", "Philox known answers", "reduction", "non-finite detector", "determinism"] {
        assert!(text.contains(&format!("PASS {check}")), "{text}");
    }
    assert!(!text.contains("FAIL"), "{text}");

    let ended = here.run("-q devices --json");
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    let adapters: Value = serde_json::from_str(&ended.out).unwrap();
    for adapter in adapters.as_array().unwrap() {
        assert!(adapter["name"].is_string() && adapter["backend"].is_string() && adapter["driver"].is_string());
        assert!(adapter["max_buffer_size"].is_u64() && adapter["max_storage_buffer_binding_size"].is_u64());
        let checks = adapter["self_test"].as_array().unwrap();
        assert!(checks.len() >= 5 && checks.iter().all(|check| check["passed"] == true), "{adapter}");
    }
    let only: Value = serde_json::from_str(&here.run("devices --json --device 0").succeeds()).unwrap();
    assert_eq!(only[0]["name"], adapters[0]["name"]);
    assert_eq!(only.as_array().unwrap().len(), 1);
}

#[test]
fn pretrain_writes_a_model_its_configuration_metrics_and_samples() {
    let run = MADE.join("runs/base");
    let config = Config::load(Some(&run.join("config.toml")), &[]).unwrap();
    assert_eq!((config.pretrain.steps, config.run.name.as_str()), (3, "base"));
    let metrics = lines(&run.join("metrics.jsonl"));
    assert_eq!(metrics.iter().map(|line| line["iteration"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    for line in &metrics {
        assert!(number(line, "loss") > 0.0 && number(line, "grad_norm") > 0.0 && number(line, "lr") >= 0.0);
    }
    // Steps 2 (`pretrain.sample_every`) and 3 (the last): two samples for each of ten classes.
    for step in [2, 3] {
        let (width, height) = picture(&run.join(format!("samples/00000{step}.png")));
        assert!(width > 2 * 64 && height > 10 * 64, "{width} x {height}");
    }
    assert!(!run.join("samples/000001.png").exists());
    let model = Model::load(&run.join("model.safetensors")).unwrap();
    assert_eq!(model.dit("it").unwrap().hidden_size, 8);
    assert_eq!(model.class_names.len(), 10);
}

#[test]
fn fit_classifier_writes_a_classifier() {
    let run = MADE.join("runs/classifier");
    let model = Model::load(&run.join("model.safetensors")).unwrap();
    let network = model.classifier("it").unwrap();
    assert_eq!((network.image_size, network.hidden_size, network.num_classes), (8, 8, 10));
    assert!(number(&lines(&run.join("metrics.jsonl"))[0], "loss") > 0.0);
    assert_eq!(Config::load(Some(&run.join("config.toml")), &[]).unwrap().classifier.steps, 3);
}

#[test]
fn pretrain_learns_from_a_folder_of_pictures_and_continues_from_a_file() {
    let here = Workplace::new();
    for (class, red) in [("cats", 250), ("dogs", 10)] {
        std::fs::create_dir_all(here.path("images").join(class)).unwrap();
        for index in 0..3 {
            let path = here.path("images").join(class).join(format!("{index}.png"));
            image::RgbImage::from_pixel(9, 12, image::Rgb([red, 20 * index, 30])).save(path).unwrap();
        }
    }
    let data = "--set data.kind=folder --set data.path=images --set data.channels=3";
    let out = here
        .run(&format!(
            "pretrain --config pretrain.toml {data} --set model.channels=3 --set model.num_classes=2 --out first"
        ))
        .succeeds();
    assert!(out.contains("6 images of 2 classes") && out.contains("model: first"), "{out}");
    assert!(out.contains("6 images of 8x8 pixels in colour, 2 classes"), "{out}");
    assert!(out.contains("sizes found: 9x12; 6 not square"), "{out}");
    assert!(picture(&here.path("first/data.png")).0 > 10 * 64);
    let first = Model::load(&here.path("first/model.safetensors")).unwrap();
    assert_eq!(first.class_names, ["cats", "dogs"]);

    let sizes = "--set pretrain.steps=2 --set pretrain.warmup_steps=0 --set preview.per_class=1 --set preview.steps=1";
    here.run(&format!("pretrain --set model.file=first/model.safetensors {data} {sizes} --out second")).succeeds();
    let second = Model::load(&here.path("second/model.safetensors")).unwrap();
    assert_eq!(first.kind, second.kind);
    assert_ne!(first.weights, second.weights);
}

#[test]
fn data_shows_the_training_data_and_trains_nothing() {
    let here = Workplace::new();
    for (class, count) in [("cats", 5), ("dogs", 1)] {
        std::fs::create_dir_all(here.path("images").join(class)).unwrap();
        for index in 0..count {
            image::RgbImage::new(4, 6).save(here.path(&format!("images/{class}/{index}.bmp"))).unwrap();
        }
    }
    let out = here.run("data --set data.kind=folder --set data.path=images --out sheet.png").succeeds();
    for line in [
        "6 images of 8x8 pixels in grey, 2 classes",
        "cats       5   83.3 %",
        "dogs       1   16.7 %",
        "6 images are smaller than 8x8 and enlarged",
        "the class \"dogs\" has one image",
        "\"cats\" has 5 times the images of \"dogs\"",
        "images: sheet.png",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert!(picture(&here.path("sheet.png")).0 > 10 * 64);
    assert!(!here.path("runs").exists());
}

#[test]
fn train_writes_all_files_of_a_run() {
    let here = Workplace::new();
    let out = here.run("train --config train.toml --out run").succeeds();
    for word in ["run directory run", "base", "tuned", "reward", "judge's accuracy", "diversity", "drift"] {
        assert!(out.contains(word), "{word}: {out}");
    }
    let run = here.path("run");
    let config = Config::load(Some(&run.join("config.toml")), &[]).unwrap();
    // Paths are absolute, so that the run can be resumed from anywhere.
    let mut expected = Config::load(Some(&here.path("train.toml")), &[]).unwrap();
    let absolute = |file: &str| here.path(file).canonicalize().unwrap().display().to_string();
    expected.model.file = Some(absolute("base.safetensors"));
    expected.reward[0].file = absolute("classifier.safetensors");
    expected.eval.judge = absolute("classifier.safetensors");
    assert_eq!(config, expected);

    let metrics = lines(&run.join("metrics.jsonl"));
    assert_eq!(metrics.iter().map(|line| line["iteration"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(metrics[0]["eval/judge_accuracy"].is_f64() && metrics[2]["eval/drift"]["velocity_msd"].is_f64());
    for line in &metrics[1..] {
        for key in [
            "reward_mean",
            "reward_std",
            "reward_min",
            "reward_max",
            "reward/classifier_mean",
            "advantage_abs_max",
            "zero_std_group_ratio",
            "zero_std_group_count",
            "ratio_mean",
            "ratio_std",
            "ratio_min",
            "ratio_max",
            "kl_new_old_mean",
            "kl_new_old_max",
            "kl_mask_fraction",
            "pos_rm_fraction",
            "neg_rm_fraction",
            "masked_fraction",
            "unmasked_fraction",
            "approx_kl",
            "policy_loss",
            "grad_norm",
            "lr",
            "images_per_second",
        ] {
            assert!(number(line, key).is_finite(), "{key}");
        }
        // The first update is on-policy to the bit.
        assert_eq!((number(line, "ratio_update0_maxdev"), number(line, "kl_update0_max")), (0.0, 0.0));
        assert_eq!(line["kl_by_update"].as_array().unwrap().len(), 4, "two epochs of two updates");
        assert!(number(line, "kl_new_old_max") > 0.0, "later updates move the policy");
        assert!((0.0..=1.0).contains(&number(line, "reward_mean")));
    }
    for iteration in 0..=2 {
        picture(&run.join(format!("samples/00000{iteration}.png")));
    }
    let (width, height) = picture(&run.join("before_after.png"));
    let (single, _) = picture(&run.join("samples/000002.png"));
    assert!(width > single && height > 640, "both grids are side by side");
    let report = std::fs::read_to_string(run.join("report.html")).unwrap();
    assert!(report.contains("iteration 2 of 2") && report.contains(">finished<"));
    assert_eq!(report.matches("data-iteration=").count(), 3);
    assert_eq!(std::fs::read_dir(run.join("tensorboard")).unwrap().count(), 1);
    let device: Value = serde_json::from_slice(&std::fs::read(run.join("device.json")).unwrap()).unwrap();
    assert!(device["name"].is_string());

    for iteration in [1_u64, 2] {
        let checkpoint = run.join(format!("checkpoints/00000{iteration}"));
        let model = Model::load(&checkpoint.join("model.safetensors")).unwrap();
        assert_eq!(model.kind, Model::load(&checkpoint.join("ema.safetensors")).unwrap().kind);
        let moments = read_tensors(&checkpoint.join("optimizer.safetensors")).unwrap();
        assert!(moments["first_moment"].1.iter().any(|value| *value != 0.0));
        let state: Value = serde_json::from_slice(&std::fs::read(checkpoint.join("state.json")).unwrap()).unwrap();
        assert_eq!(
            (state["iteration"].as_u64(), state["optimizer_step"].as_u64()),
            (Some(iteration), Some(4 * iteration))
        );
    }
    let tuned = std::fs::read(run.join("model.safetensors")).unwrap();
    assert_eq!(tuned, std::fs::read(run.join("checkpoints/000002/ema.safetensors")).unwrap());
    assert_ne!(tuned, std::fs::read(here.path("base.safetensors")).unwrap());
}

#[test]
fn two_updates_are_dumped_next_to_the_run() {
    let here = Workplace::new();
    here.run("train --config train.toml --set train.iterations=1 --dump-update dump.safetensors").succeeds();
    let dump = read_tensors(&here.path("dump.safetensors")).unwrap();
    let base = read_tensors(&here.path("base.safetensors")).unwrap();
    for (name, tensor) in &base {
        assert_eq!(dump[&format!("update0.parameters_before.{name}")], *tensor, "{name}");
        assert!(dump.contains_key(&format!("update0.gradients.{name}")), "{name}");
    }
    assert!(dump["update0.kl"].1.iter().all(|kl| *kl == 0.0));

    let refused = here.run("train --config train.toml --dump-update nowhere/dump.safetensors");
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(refused.err.contains("cannot write nowhere/dump.safetensors"), "{}", refused.err);
}

#[test]
fn a_dry_run_prints_what_training_would_cost_and_writes_nothing() {
    let here = Workplace::new();
    let before = here.snapshot();
    let out = here.run("train --config train.toml --dry-run --set train.iterations=7").succeeds();
    for words in [
        "iterations = 7",
        "parameters",
        "GFLOP",
        "dispatches",
        "planned device memory",
        "with train.half_activations = true",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    // The printed text is a valid configuration.
    let printed = out.split("\ndevice  ").next().unwrap();
    assert_eq!(Config::parse(printed, "printed", &[]).unwrap().train.iterations, 7);
    assert_eq!(here.snapshot(), before);
}

#[test]
fn training_twice_loses_nothing_and_a_resumed_run_ends_like_an_uninterrupted_one() {
    let here = Workplace::new();
    here.run("train --config train.toml --set train.iterations=1").succeeds();
    let first = std::fs::read(here.path("runs/tiny/model.safetensors")).unwrap();
    here.run("train --config train.toml").succeeds();
    assert_eq!(std::fs::read(here.path("runs/tiny/model.safetensors")).unwrap(), first);
    let whole = std::fs::read(here.path("runs/tiny-2/model.safetensors")).unwrap();
    assert_ne!(whole, first);

    let ended = here.run("train --config train.toml --resume --set train.iterations=2");
    assert!(ended.err.contains("resumed after iteration 1"), "{}", ended.err);
    assert!(!ended.err.contains("keeps its own configuration"), "{}", ended.err);
    assert!(ended.out.starts_with("changed: train.iterations 1 → 2\n"), "{}", ended.out);
    ended.succeeds();
    assert_eq!(std::fs::read(here.path("runs/tiny/model.safetensors")).unwrap(), whole);
    let iterations = lines(&here.path("runs/tiny/metrics.jsonl"));
    assert_eq!(iterations.iter().map(|line| line["iteration"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    std::fs::write(here.path("pretrain.toml"), "[train]\niterations = 9\n").unwrap();
    let ended = here.run("train --config pretrain.toml --resume --out runs/tiny");
    assert!(ended.err.contains("keeps its own configuration, runs/tiny/config.toml"), "{}", ended.err);
    ended.succeeds();
    // The configuration in the directory is the current one of the run.
    let config = |run: &str| Config::load(Some(&here.path(&format!("runs/{run}/config.toml"))), &[]).unwrap();
    assert_eq!(config("tiny").train.iterations, 2);
    // Without --out the name determines the directory; the run keeps its own name.
    let out = here.run("train --resume --set run.name=tiny-2 --set run.seed=5 --set train.iterations=3").succeeds();
    assert!(out.starts_with("changed: run.seed 0 → 5, train.iterations 2 → 3\n"), "{out}");
    assert_eq!((config("tiny-2").run.name.as_str(), config("tiny-2").run.seed), ("tiny", 5));
}

#[test]
fn quiet_still_prints_the_results() {
    let here = Workplace::new();
    for (arguments, result) in [
        ("train --config train.toml --out run -q", "tuned model: run"),
        ("sample --model base.safetensors --count 1 --steps 1 -q", "10 samples: samples.png"),
        ("pretrain --config pretrain.toml --out base -q", "model: base"),
        ("fit-classifier --config fit.toml --out classifier -q", "model: classifier"),
    ] {
        let ended = here.run(arguments);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{arguments}");
        assert!(ended.out.contains(result) && !ended.out.contains("training"), "{arguments}: {}", ended.out);
    }
}

/// Every command that reads a damaged file reports it, as its results may be incomplete.
#[test]
fn quiet_does_not_hide_damage() {
    let here = Workplace::new();
    here.run("-q train --config train.toml --out run").succeeds();
    let log = here.path("run/metrics.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, format!("{text}{{\"iteration\": 3, \"rew")).unwrap();
    for command in ["compare run --out figures", "report run", "train --resume --out run"] {
        let ended = here.run(&format!("-q {command}"));
        assert_eq!(ended.code, Some(0), "{command}: {}", ended.err);
        let says = |words: &str| ended.err.contains("run/metrics.jsonl: line 4") && ended.err.contains(words);
        assert!(says("is truncated, skipped") || says("is cut off"), "{command}: {}", ended.err);
    }
}

/// As `flowdppo-wgpu devices | head -0` does.
#[test]
fn a_closed_pipe_is_not_a_failure() {
    let here = Workplace::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended =
        Ended::of(program(&here.path(""), "sample --model base.safetensors --count 1 --steps 1").stdout(writer));
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    picture(&here.path("samples.png"));
}

#[test]
fn compare_reads_runs_and_a_log_with_a_truncated_line() {
    let here = Workplace::new();
    here.run("-q train --config train.toml --out one").succeeds();
    here.run("-q train --config train.toml --out two --set run.seed=1").succeeds();
    here.run("-q train --config train.toml --out other --set train.learning_rate=1e-3").succeeds();
    let log = here.path("two/metrics.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, &text[..text.len() - 9]).unwrap();
    let table = here.run("-q compare tiny=one tiny=two other --out compared/deep").succeeds();
    for words in ["| tiny ", "| 2 (1 unfinished) |", " 1 to 2 |", "| other ", "±"] {
        assert!(table.contains(words), "{words} is missing in {table}");
    }
    let found: Value =
        serde_json::from_slice(&std::fs::read(here.path("compared/deep/comparison.json")).unwrap()).unwrap();
    let runs = &found["groups"][0]["runs"];
    assert_eq!((runs[0]["status"].as_str(), runs[1]["status"].as_str()), (Some("finished"), Some("unfinished")));
    assert!(number(&found["groups"][1]["over_seeds"]["kl_to_base"], "mean") > 0.0, "{found}");
    for name in ["reward", "reward_drift", "reward_kl", "judge", "masked", "kl_by_step", "rollout_reward"] {
        let svg = std::fs::read_to_string(here.path(&format!("compared/deep/{name}.svg"))).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("tiny") && svg.trim_end().ends_with("</svg>"), "{svg}");
    }
    // A comparison may be repeated in the same directory.
    here.run("-q compare one --out compared/deep").succeeds();
}

#[test]
fn points_are_pretrained_fitted_tuned_and_drawn_as_a_scatter_plot() {
    let here = Workplace::new();
    let rings = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/rings");
    let run = |command: &str, file: &str, rest: &str| {
        let config = rings.join(file).display().to_string();
        let mut program = program(&here.path(""), &format!("-q {command} --out {command} {rest} --config"));
        Ended::of(program.arg(config)).succeeds()
    };
    run("pretrain", "pretrain.toml", "--set pretrain.steps=2 --set pretrain.warmup_steps=1");
    run("fit-classifier", "fit-classifier.toml", "--set classifier.steps=2");
    run("train", "train.toml", "--set train.iterations=1 --set eval.count=20");
    for (model, channels) in [("pretrain", 2), ("train", 2)] {
        let model = Model::load(&here.path(model).join("model.safetensors")).unwrap();
        let dit = model.dit("it").unwrap();
        assert_eq!((dit.image_size, dit.channels, model.class_names[3].as_str()), (1, channels, "ring 4"));
    }
    here.run("-q sample --model train/model.safetensors --count 5 --out points.png").succeeds();
    let one = picture(&here.path("points.png"));
    assert_eq!(picture(&here.path("pretrain/samples/000002.png")).1, one.1);
    let both = picture(&here.path("train/before_after.png"));
    assert!(both.0 > 2 * 440 && both.1 == one.1, "{both:?} {one:?}");
}

#[test]
fn a_truncated_line_of_metrics_is_reported_once() {
    let here = Workplace::new();
    here.run("train --config train.toml --out run").succeeds();
    let log = here.path("run/metrics.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, format!("{{\"iteration\": 0, \"rew\n{text}")).unwrap();
    // Four reports are written during the run, and each reads the log.
    let resumed = here.run("train --resume --out run --set train.iterations=5");
    assert_eq!(
        (resumed.code, resumed.err.matches("line 1 was truncated by a crash").count()),
        (Some(0), 1),
        "{}",
        resumed.err
    );
}

/// The claim of configs/rings/train.toml, on four of its twenty rollouts.
#[test]
fn tuning_the_rings_raises_the_reward() {
    let here = Workplace::new();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/rings/train.toml");
    let mut program = program(&here.path(""), "-q train --out rings --set train.iterations=4 --config");
    Ended::of(program.arg(config)).succeeds();
    let metrics = lines(&here.path("rings/metrics.jsonl"));
    let reward = |line: &Value| number(line, "eval/reward_mean");
    let (base, tuned) = (reward(&metrics[0]), reward(&metrics[4]));
    // The standard error of each is 0.011.
    assert!((0.75..0.85).contains(&base) && tuned > base + 0.04, "{base} {tuned}");
}

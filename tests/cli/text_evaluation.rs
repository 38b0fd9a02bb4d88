//! `eval` and `sweep` with prompts, on a tiny pipeline with random weights.

use std::fs;

use serde_json::Value;

use super::workplace::{Workplace, copy_folder, lines, number, pipeline};

#[test]
fn eval_measures_a_pipeline_and_a_run_as_training_does() {
    let here = Workplace::of_prompts();
    here.run("-q train --config train.toml --out run --set train.learning_rate=0.01").succeeds();
    let eval = |options: &str, models: &[&str]| -> Value {
        serde_json::from_str(&here.run_with(&format!("eval --json {options}"), models).succeeds()).unwrap()
    };
    let model = pipeline();
    let metrics = lines(&here.path("run/metrics.jsonl"));
    let (first, last) = (&metrics[0], &metrics[metrics.len() - 1]);

    // The run's own configuration, its adapter, and its base.
    let tuned = eval("--model run", &["--base", &model]);
    for key in ["samples", "reward_mean", "reward_standard_error", "diversity", "high_frequency", "drift"] {
        assert_eq!(tuned[key], last[format!("eval/{key}")], "{key}");
    }
    assert!(number(&tuned["drift"], "velocity_msd") > 0.0 && number(&tuned["drift"], "kl_mean") > 0.0);
    // The same with everything named.
    let named = "--config train.toml --prompts prompts.txt --lora run/adapter";
    assert_eq!(eval(named, &["--model", &model, "--base", &model]), tuned);

    // The base of the run, by itself and as an adapter that adds nothing.
    let base = eval("--config train.toml", &["--model", &model, "--base", &model]);
    assert_eq!((&base["reward_mean"], &base["samples"]), (&first["eval/reward_mean"], &first["eval/samples"]));
    assert_eq!((number(&base["drift"], "velocity_msd"), number(&base["drift"], "image_msd")), (0.0, 0.0));
    let without = eval(&format!("{named} --adapter-scale 0"), &["--model", &model]);
    assert_eq!((&without["reward_mean"], &without["drift"]), (&base["reward_mean"], &Value::Null));

    // The parts of a run have its configuration, too, wherever they are named from.
    let best = eval("--model run/best", &["--base", &model]);
    assert_eq!(best["samples"], tuned["samples"]);
    assert_eq!(eval("--model run/adapter", &["--base", &model]), tuned);
    let checkpoint = fs::read_dir(here.path("run/checkpoints")).unwrap().next().unwrap().unwrap().path();
    let checkpoint = eval("", &["--model", checkpoint.to_str().unwrap()]);
    assert_eq!(checkpoint["samples"], tuned["samples"]);

    // Other pictures than those of the run: it is the same base.
    let small = eval("--model run/adapter --config train.toml --set model.size=[32,32] --set eval.classes=[0,1]", &[]);
    assert_eq!(number(&small, "samples"), 4.0);
    let text = here.run_with("eval --model run", &["--base", &model]).succeeds();
    assert!(text.contains("reward") && text.contains("drift: velocity") && text.contains("KL by step"), "{text}");
}

#[test]
fn mistakes_with_pipelines_get_one_sentence() {
    let here = Workplace::of_prompts();
    here.run("-q train --config train.toml --out run --set train.iterations=1").succeeds();
    let record = here.path("run/adapter/adapter_base.json");
    let mut other_base: Value = serde_json::from_str(&fs::read_to_string(&record).unwrap()).unwrap();
    other_base["crc32"] = 1.into();
    let refused = |options: &str, models: &[&str], says: &str| {
        let message = here.run_with(&format!("eval {options}"), models).refused();
        assert!(message.contains(says), "{options}: {message}\nlacks: {says}");
    };
    let model = pipeline();
    refused("", &["--model", &model], "needs prompts: set `prompts.file`");
    refused("--config train.toml --prompts nowhere.txt", &["--model", &model], "cannot read nowhere.txt");
    refused(
        "--model run --set eval.classes=[2]",
        &[],
        "`eval.classes` names prompt 2, but there are 2 prompts, 0 to 1",
    );
    refused("--model run --base builtin:digits8-base", &[], "measured from its own pipeline: give --base ");
    refused("--model run --vae vae", &[], "--vae is for models with classes, and run is a text-to-image model");
    refused("--model run --lora run/adapter", &[], "run has an adapter already, run/adapter");
    refused("--model builtin:digits8-base --prompts prompts.txt", &[], "and builtin:digits8-base is none");
    refused("--model run --set eval.judge=builtin:digits8-judge", &[], "but the model makes 64x64 images of 3");
    copy_folder(&here.path("run/adapter"), &here.path("moved"));
    refused("--model moved", &[], "moved is the adapter of a run, but not in the directory of one");
    fs::write(&record, other_base.to_string()).unwrap();
    refused("--model run", &[], "was trained on weights with the CRC-32");
}

#[test]
fn a_sweep_over_runs_with_prompts_is_compared_and_done_once() {
    let here = Workplace::of_prompts();
    let sweep = r#"
        [sweep]
        base = "train.toml"
        set = ["train.iterations=1", "preview.every=0"]
        [[variant]]
        label = "plain"
        [[variant]]
        label = "narrow"
        set = ["lora.rank=1", "model.weights=f32"]
        [[variant]]
        label = "negative"
        set = ["prompts.negative=blurry"]
    "#;
    fs::write(here.path("sweep.toml"), sweep).unwrap();
    here.run("config check sweep.toml").succeeds();
    let list = here.run("sweep sweep.toml --out s --dry-run").succeeds();
    assert!(list.contains("narrow, seed 0") && list.contains("3 runs") && !here.path("s").exists(), "{list}");
    let said = here.run("sweep sweep.toml --out s").succeeds();
    for words in ["3 of 3 runs to do", "[3/3] reward", "| plain ", "| narrow ", "| negative "] {
        assert!(said.contains(words), "{words} is missing in {said}");
    }
    let said = here.run("sweep sweep.toml --out s").succeeds();
    assert!(!said.contains("runs to do") && said.contains("| negative "), "{said}");

    // A run of a sweep is that of `train` by itself.
    let alone = "-q train --config train.toml --out alone --set train.iterations=1 --set preview.every=0";
    here.run(&format!("{alone} --set prompts.negative=blurry")).succeeds();
    let adapter = |run: &str| fs::read(here.path(&format!("{run}/adapter/adapter_model.safetensors"))).unwrap();
    assert!(adapter("alone") == adapter("s/runs/negative-seed0"));
    assert!(adapter("alone") != adapter("s/runs/plain-seed0"), "the negative prompt guides");

    here.rewrite("sweep.toml", "wrong.toml", ["blurry", "blurry\", \"rollout.classes=[5]"]);
    let message = here.run("sweep wrong.toml --out t --dry-run").refused();
    assert!(message.contains("names prompt 5, but there are 2 prompts"), "{message}");
}

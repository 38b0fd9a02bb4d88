//! The measurements of `eval`.

use std::fs;

use serde_json::Value;

use super::bad_input::{case, check, nothing};
use super::workplace::{Workplace, lines, number};

#[test]
fn eval_measures_a_model_and_its_drift() {
    let here = Workplace::new();
    here.run("train --config train.toml --out run --set train.learning_rate=0.01").succeeds();
    let eval = |arguments: &str| here.run(&format!("eval --config train.toml {arguments}")).succeeds();
    let json = |arguments: &str| -> Value { serde_json::from_str(&eval(&format!("{arguments} --json"))).unwrap() };

    let text = eval("--model base.safetensors");
    assert!(text.contains("reward") && text.contains("judge's accuracy") && !text.contains("drift"), "{text}");
    let alone = json("--model base.safetensors");
    assert_eq!((alone["samples"].as_u64(), &alone["drift"]), (Some(20), &Value::Null));
    assert!((0.0..=1.0).contains(&number(&alone, "judge_accuracy")) && number(&alone, "diversity") > 0.0);

    let tuned = json("--model run/model.safetensors --base base.safetensors");
    assert!(number(&tuned["drift"], "velocity_msd") > 0.0 && number(&tuned["drift"], "kl_mean") > 0.0);
    assert_eq!(tuned["drift"]["kl_by_step"].as_array().unwrap().len(), 4);
    let unmoved = json("--model base.safetensors --base base.safetensors");
    assert_eq!((number(&unmoved["drift"], "velocity_msd"), number(&unmoved["drift"], "image_msd")), (0.0, 0.0));
    assert!(eval("--model run/model.safetensors --base base.safetensors").contains("KL by step"));
    // `eval` reports the same for the files as training did at the end.
    let last = lines(&here.path("run/metrics.jsonl")).pop().unwrap();
    assert_eq!(last["eval/reward_mean"], tuned["reward_mean"]);
}

#[test]
fn eval_reports_trained_classes_and_single_rewards_separately() {
    let here = Workplace::new();
    here.run("train --config train.toml --out run --set train.learning_rate=0.01").succeeds();
    let json = |arguments: &str| -> Value {
        let model = "eval --config train.toml --json --model run/model.safetensors";
        serde_json::from_str(&here.run(&format!("{model} {arguments}")).succeeds()).unwrap()
    };
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    let all = json("--base base.safetensors");
    assert!(["reward_untrained", "components"].iter().all(|key| all.get(*key).is_none()), "{all}");

    // Four of ten classes.
    let part = json("--base base.safetensors --set rollout.classes=[0,3,4,9]");
    for [whole, trained, untrained] in
        [["reward_mean", "reward_trained", "reward_untrained"], ["judge_accuracy", "judge_trained", "judge_untrained"]]
    {
        close(number(&part, whole), number(&all, whole));
        close(number(&part, whole), 0.4 * number(&part, trained) + 0.6 * number(&part, untrained));
    }
    assert_ne!(part["reward_trained"], part["reward_untrained"]);
    let [moved, everywhere] = [number(&part, "image_msd_untrained"), number(&part["drift"], "image_msd")];
    assert!(moved > 0.0 && moved < everywhere / 0.6, "{moved} of {everywhere}");

    // Some of the evaluated classes are trained, none, or all of them.
    let some = json("--set eval.classes=[4,5] --set rollout.classes=[0,4]");
    assert_eq!(some["samples"].as_u64().map(|count| 5 * count), all["samples"].as_u64());
    close(number(&some, "reward_mean"), 0.5 * (number(&some, "reward_trained") + number(&some, "reward_untrained")));
    for trained in ["[0]", "[4,5]"] {
        let one = json(&format!("--set eval.classes=[4,5] --set rollout.classes={trained}"));
        assert!(one.get("reward_trained").is_none() && one["reward_mean"] == some["reward_mean"], "{one}");
    }

    let ink = json("--set reward.1.kind=ink --set reward.1.weight=-0.5");
    let [classifier, ink_of] = ["classifier", "ink"].map(|name| number(&ink["components"], name));
    close(number(&ink, "reward_mean"), classifier - 0.5 * ink_of);
    close(classifier, number(&all, "reward_mean"));
    assert!(ink_of > 0.0 && ink_of < 1.0, "{ink_of}");
}

#[test]
fn eval_does_not_require_keys_that_only_training_needs() {
    let here = Workplace::new();
    fs::write(here.path("eval.toml"), "[eval]\ncount = 2\nsteps = 2\n[rollout]\nsampler = 'ode'\nsteps = 4\n").unwrap();
    let eval = |arguments: &str| {
        let measured = here.run(&format!("eval --json --model base.safetensors {arguments}")).succeeds();
        serde_json::from_str::<Value>(&measured).unwrap()
    };
    let few = "--set eval.count=2 --set eval.steps=2";
    let plain = eval("--config eval.toml");
    assert_eq!(eval(&format!("--config pretrain.toml {few}")), plain);
    assert_eq!(eval("--config eval.toml --set train.micro_batch=7"), plain);
    let unweighted = eval("--config eval.toml --set reward.0.weight=0");
    assert_eq!((number(&unweighted, "reward_mean"), &unweighted["diversity"]), (0.0, &plain["diversity"]));
    check(&[case(nothing, "eval --model base.safetensors --set eval.count=1", 2, &["`eval.count` must be"])]);
}

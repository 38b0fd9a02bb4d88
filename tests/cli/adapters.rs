//! Trains an adapter, and uses it in all other commands.

use std::fs;

use flowdppo_wgpu::model::{read_tensors, write_tensors};
use serde_json::Value;

use super::bad_input::{case, check, nothing};
use super::workplace::{Workplace, lines, number};

/// A run that has trained an adapter on `base.safetensors`.
fn trained(here: &Workplace) {
    here.run("train --config train.toml --out run --set lora.rank=2 --set train.learning_rate=0.01").succeeds();
}

#[test]
fn an_adapter_is_trained_saved_sampled_and_merged() {
    let here = Workplace::new();
    let read = |name: &str| fs::read(here.path(name)).unwrap();
    trained(&here);
    let base = read("base.safetensors");

    // The folder is like PEFT's. The checkpoint is also such a folder, and has no other weights.
    let config: Value = serde_json::from_slice(&read("run/adapter/adapter_config.json")).unwrap();
    assert_eq!((config["r"].as_u64(), config["lora_alpha"].as_u64()), (Some(2), Some(4)));
    let tensors = read_tensors(&here.path("run/adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(tensors.len(), 8, "two matrices for each of four layers");
    assert_eq!(tensors["base_model.model.blocks.0.attn.qkv.lora_A.weight"].0, [2, 8]);
    assert_eq!(tensors["base_model.model.blocks.0.attn.qkv.lora_B.weight"].0, [24, 2]);
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        assert!(read(&format!("run/adapter/{file}")) == read(&format!("run/checkpoints/000002/{file}")), "{file}");
    }
    assert!(!here.path("run/checkpoints/000002/model.safetensors").exists());

    // The run leaves the adapter alone. It stands for the model that merging makes.
    assert!(!here.path("run/model.safetensors").exists());
    let record: Value = serde_json::from_slice(&read("run/adapter/adapter_base.json")).unwrap();
    assert_eq!(record["model"].as_str(), here.path("base.safetensors").to_str());
    here.run("merge --model base.safetensors --adapter run/adapter merged.safetensors").succeeds();
    assert_ne!(read("merged.safetensors"), base);
    here.run("merge --model base.safetensors --adapter run/adapter --scale 0 none.safetensors").succeeds();
    assert!(read("none.safetensors") == base);

    let sample = |arguments: &str| {
        here.run(&format!("sample --count 1 --steps 2 --save-tensors x --out x.png --force {arguments}")).succeeds();
        read("x")
    };
    let tuned = sample("--model merged.safetensors");
    for folder in ["run", "run/adapter", "run/checkpoints/000002"] {
        assert!(sample(&format!("--model {folder}")) == tuned, "{folder}");
    }
    let lost = here.run("sample --model run --count 1 --steps 1 --out x.png --save-tensors base.safetensors --force");
    assert!(lost.code == Some(2) && lost.err.contains("base.safetensors, which would be lost"), "{}", lost.err);
    let untuned = sample("--model base.safetensors");
    let adapter = "--model base.safetensors --adapter run/adapter";
    assert!(sample(adapter) == tuned && tuned != untuned);
    assert!(sample(&format!("{adapter} --adapter-scale 0")) == untuned);
    let half = sample(&format!("{adapter} --adapter-scale 0.5"));
    assert!(half != tuned && half != untuned);
    let json = |arguments: &str| {
        let eval = here.run(&format!("eval --config train.toml --json --base base.safetensors {arguments}")).succeeds();
        serde_json::from_str::<Value>(&eval).unwrap()
    };
    let evaluated = json(adapter);
    for model in ["merged.safetensors", "run"] {
        assert_eq!(evaluated, json(&format!("--model {model}")), "{model}");
    }

    // Another run continues from it.
    let more = "train --config train.toml --out more --set train.learning_rate=0.01 --set lora.adapter=run/adapter";
    here.run(more).succeeds();
    let config: Value = serde_json::from_slice(&read("more/adapter/adapter_config.json")).unwrap();
    assert_eq!(config["r"].as_u64(), Some(2));
    assert_ne!(read("more/adapter/adapter_model.safetensors"), read("run/adapter/adapter_model.safetensors"));

    // And one on top of it.
    let on_top = "train --config train.toml --out top --set lora.rank=1 --set model.file=run";
    here.run(&format!("{on_top} --set eval.every=1")).succeeds();
    here.run("merge --model merged.safetensors --adapter top/adapter top.safetensors").succeeds();
    let top = sample("--model top.safetensors");
    assert!(sample("--model top") == top && top != tuned);
    assert!(here.run("inspect top").succeeds().contains("its base is"), "{}", here.run("inspect top").succeeds());
}

#[test]
fn a_runs_adapter_needs_its_base() {
    let here = Workplace::new();
    trained(&here);
    let refusal = |model: &str, parts: &[&str]| {
        let refused = here.run(&format!("sample --model {model} --count 1 --steps 1 --out x.png --force"));
        assert_eq!(refused.code, Some(2), "{}", refused.err);
        for part in parts {
            assert!(refused.err.contains(part), "{}\nlacks: {part}", refused.err);
        }
    };
    fs::rename(here.path("base.safetensors"), here.path("elsewhere.safetensors")).unwrap();
    refusal("run", &["cannot read", "base.safetensors", "base of the adapter run/adapter", "--adapter run/adapter"]);
    here.run("sample --model elsewhere.safetensors --adapter run/adapter --count 1 --steps 1 --out x.png").succeeds();
    here.run("merge --model elsewhere.safetensors --adapter run/adapter base.safetensors").succeeds();
    refusal("run", &["the adapter run/adapter was trained on weights with the CRC-32", "--adapter run/adapter"]);
    let record = here.path("run/adapter/adapter_base.json");
    let loop_of = format!("{{\"model\": {:?}, \"crc32\": 0}}", here.path("run"));
    for (text, part) in [("{", "adapter_base.json"), (loop_of.as_str(), "names a base that is an adapter itself")] {
        fs::write(&record, text).unwrap();
        refusal("run", &[part]);
    }
    fs::remove_file(&record).unwrap();
    refusal("run/adapter", &["an adapter without a record of its base"]);
}

#[test]
fn the_best_model_has_its_adapter() {
    let here = Workplace::new();
    let read = |name: &str| fs::read(here.path(name)).unwrap();
    here.run("train --config train.toml --out run --set lora.rank=2 --set train.learning_rate=0.01 --set eval.every=1")
        .succeeds();
    here.run("merge --model base.safetensors --adapter run/best best.safetensors").succeeds();
    assert!(!here.path("run/best/model.safetensors").exists());
    let sample = |arguments: &str| {
        here.run(&format!("sample --count 1 --steps 2 --save-tensors x --out x.png --force {arguments}")).succeeds();
        read("x")
    };
    let best = sample("--model best.safetensors");
    assert!(sample("--model base.safetensors --adapter run/best") == best && sample("--model run/best") == best);
    assert!(sample("--model base.safetensors") != best);
}

#[test]
fn a_run_is_resumed_without_the_adapter_that_it_started_with() {
    let here = Workplace::new();
    trained(&here);
    fs::rename(here.path("run/adapter"), here.path("brought")).unwrap();
    let more = "--out more --set train.learning_rate=0.01 --set lora.adapter=brought";
    here.run(&format!("train --config train.toml {more}")).succeeds();
    fs::remove_dir_all(here.path("brought")).unwrap();
    let resume = "train --resume --out more --set train.iterations=3";
    assert!(here.run(&format!("{resume} --dry-run")).succeeds().contains("/brought\"\n"));
    here.run(resume).succeeds();
    let config: Value =
        serde_json::from_slice(&fs::read(here.path("more/adapter/adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["r"].as_u64(), Some(2));
    assert!(fs::read_to_string(here.path("more/config.toml")).unwrap().contains("/brought\"\n"));
    let refused = here.run("train --resume --out more --set lora.rank=5");
    assert!(refused.code == Some(2) && refused.err.contains("`lora.rank` is 5"), "{}", refused.err);
    let refused = here.run("train --resume --out more --set lora.adapter=run/best");
    assert!(refused.code == Some(2) && refused.err.contains("`lora.adapter` cannot change"), "{}", refused.err);
}

/// Writes an adapter on every layer to `brought`, which changes the model a lot, and its model to `tuned.safetensors`.
fn brought(here: &Workplace) {
    here.run("train --config train.toml --out run --set lora.rank=2 --set lora.targets=[\"*\"]").succeeds();
    fs::rename(here.path("run/adapter"), here.path("brought")).unwrap();
    let path = here.path("brought/adapter_model.safetensors");
    let mut tensors = read_tensors(&path).unwrap();
    for (index, (_, (_, values))) in tensors.iter_mut().filter(|(name, _)| name.contains("lora_B")).enumerate() {
        for (at, value) in values.iter_mut().enumerate() {
            *value = 0.3 * ((7 * at + index) as f32).sin();
        }
    }
    write_tensors(&path, &tensors).unwrap();
    here.run("merge --model base.safetensors --adapter brought tuned.safetensors").succeeds();
}

/// A run that continues from that adapter.
const ON: &str = "train --config train.toml --set lora.adapter=brought --set objective.reference.beta=1 \
    --set eval.every=1 --set train.learning_rate=";

#[test]
fn a_run_is_measured_from_the_model_that_it_starts_from() {
    let here = Workplace::new();
    brought(&here);
    let evaluated = |model: &str| -> f64 {
        let out = here.run(&format!("eval --config train.toml --json --model {model}")).succeeds();
        number(&serde_json::from_str(&out).unwrap(), "reward_mean")
    };
    let [tuned, base] = ["tuned.safetensors", "base.safetensors"].map(evaluated);
    assert!((tuned - base).abs() > 1e-4, "the adapter does something: {tuned} and {base}");

    // Nothing is learned: no drift, no penalty, and iteration 0 is the model with the adapter.
    let out = here.run(&format!("{ON}1e-12 --out start")).succeeds();
    assert!(out.lines().next().unwrap().contains("start"), "{out}");
    let start = lines(&here.path("start/metrics.jsonl"));
    let kl = |line: &Value| number(&line["eval/drift"], "kl_mean");
    // The merged weights are rounded once more than adapter and base.
    assert!((number(&start[0], "eval/reward_mean") - tuned).abs() < 1e-5, "{tuned}: {}", start[0]);
    assert_eq!(start[1]["kl_ref_by_update"][0], 0.0, "the same kernels on the same weights");
    assert!(number(&start[1], "kl_ref_mean") < 1e-12 && kl(&start[2]) < 1e-12, "{}", start[2]);

    // The base alone can still be chosen.
    let out = here.run(&format!("{ON}1e-12 --out bare --set lora.reference=base")).succeeds();
    assert!(out.lines().next().unwrap().contains("base"), "{out}");
    let bare = lines(&here.path("bare/metrics.jsonl"));
    assert!((number(&bare[0], "eval/reward_mean") - base).abs() < 1e-9, "{base}: {}", bare[0]);
    assert!(number(&bare[1], "kl_ref_mean") > 1e-6 && kl(&bare[2]) > 1e-6, "{}", bare[2]);
    let picture = |run: &str| fs::read(here.path(&format!("{run}/samples/000000.png"))).unwrap();
    assert!(picture("start") != picture("bare"), "iteration 0 shows what it measures");
}

#[test]
fn a_resumed_run_is_measured_from_its_start() {
    let here = Workplace::new();
    brought(&here);
    here.run(&format!("{ON}0.01 --out whole")).succeeds();
    here.run(&format!("{ON}0.01 --out halves --set train.iterations=1")).succeeds();
    fs::remove_dir_all(here.path("brought")).unwrap();
    here.run("train --resume --out halves --set train.iterations=2").succeeds();
    let [whole, halves] = ["whole", "halves"].map(|run| lines(&here.path(&format!("{run}/metrics.jsonl"))));
    assert_eq!((whole.len(), halves.len()), (3, 3));
    for key in ["eval/drift", "eval/reward_mean", "kl_ref_by_update", "eval/kl_efficiency"] {
        assert_eq!(whole[2][key], halves[2][key], "{key}");
    }
    assert!(number(&whole[2]["eval/drift"], "kl_mean") > 1e-9, "it learned");
    for file in ["adapter/adapter_model.safetensors", "checkpoints/000002/adapter_start.safetensors"] {
        let [whole, halves] = ["whole", "halves"].map(|run| fs::read(here.path(&format!("{run}/{file}"))).unwrap());
        assert!(whole == halves, "{file}");
    }
    // Another reference may be chosen at any time.
    here.run("train --resume --out halves --set train.iterations=3 --set lora.reference=base").succeeds();
    let last = &lines(&here.path("halves/metrics.jsonl"))[3];
    assert!(number(&last["eval/drift"], "kl_mean") > 2.0 * number(&whole[2]["eval/drift"], "kl_mean"), "{last}");
}

#[test]
fn the_cost_is_known_in_advance() {
    let here = Workplace::new();
    let dry = here.run("train --config train.toml --dry-run --set lora.rank=2").succeeds();
    let parameters = dry.lines().find(|line| line.starts_with("parameters")).unwrap();
    // A and B of 8 -> 24, 8 -> 8, 8 -> 32 and 32 -> 8.
    let trained = 2 * (8 + 24 + 8 + 8 + 8 + 32 + 32 + 8);
    assert!(parameters.ends_with(&format!("({trained} trained)")), "{parameters}");
    assert!(
        dry.contains("with train.half_activations = true")
            && dry.contains("with model.weights = \"q8_0\"")
            && dry.contains("frozen base "),
        "{dry}"
    );
}

#[test]
fn bad_adapters() {
    check(&[
        case(
            nothing,
            "train --config train.toml --set lora.rank=2 --set lora.targets=[\"attn.qvk\"]",
            2,
            &["`lora.targets` contains \"attn.qvk\", which is not a layer of the model", "did you mean \"attn.qkv\"?"],
        ),
        case(nothing, "train --config train.toml --set lora.rank=2 --set lora.targets=[]", 2, &["`lora.targets`"]),
        case(nothing, "train --config train.toml --set lora.alpha=4", 2, &["`lora.alpha`", "set `lora.rank` above 0"]),
        case(
            nothing,
            "train --config train.toml --set lora.targets=[\"attn.qkv\"]",
            2,
            &["`lora.targets` do nothing", "set `lora.rank` above 0"],
        ),
        case(
            nothing,
            "train --config train.toml --set lora.adapter=run/adapter --set lora.alpha=4",
            2,
            &["`lora.alpha` does nothing with `lora.adapter`"],
        ),
        case(
            nothing,
            "train --config train.toml --set lora.rank=2 --set lora.reference=\"base\"",
            2,
            &["`lora.reference` does nothing without `lora.adapter`", "set `lora.adapter`"],
        ),
        case(nothing, "train --config train.toml --set lora.rank=2 --set lora.alpha=0", 2, &["`lora.alpha`"]),
        case(
            nothing,
            "train --config train.toml --set lora.rank=2 --set train.half_base=true",
            2,
            &["`train.half_base` is now `model.weights`", "set `model.weights` = \"f16\""],
        ),
        case(
            nothing,
            "train --config train.toml --set lora.adapter=nowhere",
            2,
            &["cannot read nowhere/adapter_config.json"],
        ),
        case(
            |here| {
                trained(here);
                here.import_sit();
            },
            "sample --model sit.safetensors --adapter run/adapter",
            2,
            &["run/adapter/adapter_model.safetensors", "has shape [2, 8], but [2, 32] is expected"],
        ),
        case(
            trained,
            "merge --model base.safetensors --adapter run/adapter --scale nan out.safetensors",
            2,
            &["scale is NaN"],
        ),
        case(
            trained,
            "merge --model base.safetensors --adapter run/adapter --scale 1e300 out.safetensors",
            2,
            &["base.safetensors cannot take the adapter at a scale of 1e300:", "the sum for blocks.0.attn.", "smaller"],
        ),
        case(
            trained,
            "merge --model classifier.safetensors --adapter run/adapter out.safetensors",
            2,
            &["classifier.safetensors is a classifier"],
        ),
        case(
            |here| {
                trained(here);
                here.run("merge --model base.safetensors --adapter run/adapter tuned.safetensors").succeeds();
                fs::rename(here.path("tuned.safetensors"), here.path("base.safetensors")).unwrap();
            },
            "train --resume --accept-changes --out run",
            2,
            &["was trained from a base whose weights have the CRC-32", "resume with the model and configuration"],
        ),
        // It changes nothing in the run, which continues as it was started.
        case(
            trained,
            "train --resume --out run --set lora.rank=5",
            2,
            &["contains a different adapter than `lora` describes"],
        ),
    ]);
}

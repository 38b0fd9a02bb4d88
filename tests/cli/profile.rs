//! `--profile`, and the cache of pipelines: neither changes what a run computes.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::workplace::{Ended, Workplace, program};

fn json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
}

/// Begin and end in nanoseconds; the trace has microseconds.
fn interval(event: &Value) -> [u64; 2] {
    let nanoseconds = |key: &str| (event[key].as_f64().unwrap() * 1e3).round() as u64;
    [nanoseconds("ts"), nanoseconds("ts") + nanoseconds("dur")]
}

/// Checks aggregate and trace of a run of two iterations.
fn check(aggregate: &Value, trace: &Value) {
    let count = aggregate["dispatches"].as_u64().unwrap();
    for table in ["by_op", "by_layer", "by_phase", "kernels"] {
        let rows = aggregate[table].as_array().unwrap();
        let sum = |key: &str| rows.iter().map(|row| row[key].as_f64().unwrap()).sum::<f64>();
        assert!((sum("share") - 1.0).abs() < 1e-9, "{table}: {}", sum("share"));
        assert_eq!(sum("count") as u64, count, "{table}");
    }
    let named = |table: &str, name: &str| {
        let rows = aggregate[table].as_array().unwrap();
        let found = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}: {rows:?}"));
        assert!(found["count"].as_u64().unwrap() > 0);
        found["flops"].as_f64().unwrap()
    };
    for (phase, multiplies) in
        [("sampling", true), ("forward", true), ("loss", false), ("backward", true), ("optimizer", false)]
    {
        assert!(named("by_phase", phase) > 0.0 || !multiplies, "{phase}");
    }
    assert!(named("by_op", "matmul") > 0.0 && named("by_layer", "blocks.*.attn.qkv") > 0.0);
    for limit in ["flops_per_second", "bytes_per_second"] {
        assert!(aggregate["roofline"][limit].as_f64().unwrap() > 0.0);
    }

    let events = trace["traceEvents"].as_array().unwrap();
    let track = |name: &str| {
        let of_track = |event: &&Value| event["name"] == "thread_name" && event["args"]["name"].as_str() == Some(name);
        let tid = &events.iter().find(of_track).unwrap_or_else(|| panic!("no track {name}"))["tid"];
        let of_thread = |event: &&Value| event["ph"] == "X" && event["tid"] == *tid;
        let mut found: Vec<&Value> = events.iter().filter(of_thread).collect();
        found.sort_by_key(|event| interval(event));
        found
    };
    let device = track(&format!("device: {}", aggregate["device"].as_str().unwrap()));
    assert_eq!(device.len() as u64, count + aggregate["first_runs"].as_u64().unwrap(), "the run is short");
    for pair in device.windows(2) {
        assert!(interval(pair[0])[1] <= interval(pair[1])[0], "{} and {} overlap", pair[0], pair[1]);
    }
    assert!(device.iter().all(|event| event["args"]["bytes"].as_u64().unwrap() > 0 && event["cat"].is_string()));
    let host = track("host");
    for phase in ["preparation", "iteration", "rollout", "reward", "update", "base", "evaluation", "checkpoint"] {
        assert!(host.iter().any(|event| event["name"] == phase), "no {phase}");
    }
    // Phases nest: one that begins within another ends within it.
    for (index, outer) in host.iter().enumerate() {
        for inner in &host[index + 1..] {
            let ([_, end], [begin, inner_end]) = (interval(outer), interval(inner));
            assert!(begin >= end || inner_end <= end, "{outer} and {inner} cross");
        }
    }
}

#[test]
fn a_profiled_run_ends_with_the_same_bytes_and_reports_where_the_time_went() {
    let here = Workplace::new();
    here.run("train --config train.toml --out plain").succeeds();
    let out = here.run("train --config train.toml --out profiled --profile").succeeds();
    for file in ["model.safetensors", "before_after.png", "samples/000000.png", "checkpoints/000002/state.json"] {
        let [plain, profiled] = ["plain", "profiled"].map(|run| std::fs::read(here.path(run).join(file)).unwrap());
        assert_eq!(plain, profiled, "{file}");
    }
    for words in ["phase", "layer", "roofline", "blocks.*.attn.qkv", "profiled/trace.json"] {
        assert!(out.replace('\\', "/").contains(words), "{words}: {out}");
    }
    check(&json(&here.path("profiled/profile.json")), &json(&here.path("profiled/trace.json")));
    assert!(!here.path("plain/trace.json").exists() && !here.path("plain/profile.json").exists());

    // Without timestamps: wall time. The trace goes to a file of the user's choice.
    let arguments = "train --config train.toml --limits webgpu-default --out limited";
    let out = here.run(&format!("{arguments} --profile here.json")).succeeds();
    assert!(out.contains("by wall time") && out.contains("no timestamps"), "{out}");
    let aggregate = json(&here.path("limited/profile.json"));
    assert_eq!(aggregate["clock"], "host");
    check(&aggregate, &json(&here.path("here.json")));
}

#[test]
fn pretraining_and_fitting_are_profiled_too() {
    let here = Workplace::new();
    for (command, config) in [("pretrain", "pretrain.toml"), ("fit-classifier", "fit.toml")] {
        here.run(&format!("{command} --config {config} --out {command} --profile")).succeeds();
        let aggregate = json(&here.path(command).join("profile.json"));
        let phases: Vec<&str> =
            aggregate["by_phase"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
        for phase in ["forward", "loss", "backward", "optimizer"] {
            assert!(phases.contains(&phase), "{command}: {phases:?}");
        }
    }
}

#[test]
fn a_trace_that_cannot_be_written_is_rejected_before_the_work() {
    let here = Workplace::new();
    let before = here.snapshot();
    let ended = here.run("train --config train.toml --profile nowhere/trace.json");
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("nowhere/trace.json"), "{}", ended.err);
    assert_eq!(here.snapshot(), before);
}

#[test]
fn a_cache_of_pipelines_is_kept_and_a_damaged_one_ignored() {
    let here = Workplace::new();
    let sample = |cache: &Path, switch: Option<&str>| {
        let mut command =
            program(&here.path(""), "sample --model base.safetensors --count 1 --steps 1 --seed 3 --force");
        command.env("FLOWDPPO_CACHE_DIR", cache).env_remove("FLOWDPPO_NO_PIPELINE_CACHE");
        if let Some(value) = switch {
            command.env("FLOWDPPO_NO_PIPELINE_CACHE", value);
        }
        Ended::of(&mut command).succeeds();
        std::fs::read(here.path("samples.png")).unwrap()
    };
    let files = |cache: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(cache).map(|entries| entries.map(|entry| entry.unwrap().path()));
        entries.map(Iterator::collect).unwrap_or_default()
    };
    let (cache, off) = (here.path("cache/new"), here.path("off"));
    let plain = sample(&off, Some("1"));
    assert_eq!(files(&off), [] as [PathBuf; 0]);
    assert_eq!(sample(&cache, None), plain);
    let adapters: Value = serde_json::from_str(&here.run("-q devices --json").succeeds()).unwrap();
    let limited = std::env::var("FLOWDPPO_LIMITS").is_ok_and(|limits| limits == "webgpu-default");
    if adapters[0]["backend"] != "Vulkan" || limited {
        assert_eq!(files(&cache), [] as [PathBuf; 0], "only Vulkan has such a cache");
        return;
    }
    let [file] = &files(&cache)[..] else { panic!("one file: {:?}", files(&cache)) };
    let kept = std::fs::read(file).unwrap();
    assert_eq!(sample(&cache, None), plain);
    let half = kept[..kept.len() / 2].to_vec();
    let flipped = kept.iter().enumerate().map(|(index, byte)| byte ^ u8::from(index == kept.len() - 1)).collect();
    for damaged in [Vec::new(), b"something else".to_vec(), half, flipped] {
        std::fs::write(file, &damaged).unwrap();
        assert_eq!(sample(&cache, None), plain);
        assert_ne!(std::fs::read(file).unwrap(), damaged, "it is written again");
    }
    // A file is in place of the folder: nothing is cached, and nothing fails.
    std::fs::write(here.path("taken"), b"x").unwrap();
    assert_eq!(sample(&here.path("taken"), None), plain);
    assert_eq!(std::fs::read(here.path("taken")).unwrap(), b"x");
}

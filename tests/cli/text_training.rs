//! `train` with prompts, on a tiny pipeline with random weights.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::workplace::{Ended, lines, number, program};

fn pipeline() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/sd35_tiny_pipeline")
}

/// One group of two samples, one trained step of two; as small as a run can be.
const CONFIGURATION: &str = r#"
    [model]
    folder = "FOLDER"
    weights = "f16"
    [prompts]
    file = "prompts.txt"
    [rollout]
    steps = 2
    groups = 2
    group_size = 2
    micro_batch = 2
    guidance_scale = 2.0
    schedule = { kind = "static-shift", shift = 3.0 }
    trained_steps = { kind = "sparse-early", count = 1, from = 0.0, to = 0.5 }
    [[reward]]
    kind = "brightness"
    [train]
    iterations = 2
    updates_per_rollout = 1
    inner_epochs = 1
    micro_batch = 2
    [lora]
    rank = 2
    targets = ["attn.to_q", "attn.add_k_proj"]
    [eval]
    judge = ""
    classes = [1]
    count = 2
    steps = 2
    guidance_scale = 2.0
    [preview]
    per_class = 1
    steps = 2
    [checkpoint]
    every = 1
"#;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let here = Self(tempfile::tempdir().unwrap());
        let folder = pipeline().display().to_string().replace('\\', "/");
        fs::write(here.path("train.toml"), CONFIGURATION.replace("FOLDER", &folder)).unwrap();
        fs::write(here.path("prompts.txt"), "a red square\n\na blue disc\n").unwrap();
        here
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &str) -> Ended {
        Ended::of(&mut program(self.0.path(), arguments))
    }

    /// What the program says when it refuses its input.
    fn refused(&self, arguments: &str) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, Some(2), "{arguments}: {}", ended.err);
        ended.err
    }
}

#[test]
fn a_run_with_prompts_is_resumed_byte_for_byte_and_its_adapter_draws() {
    let here = Place::new();
    here.run("config check train.toml").succeeds();
    let plan = here.run("train --config train.toml --dry-run").succeeds();
    assert!(plan.contains("planned device memory") && plan.contains("in f16"), "{plan}");
    here.run("-q train --config train.toml --out whole").succeeds();
    here.run("-q train --config train.toml --out parts --set train.iterations=1").succeeds();
    here.run("-q train --out parts --resume --set train.iterations=2").succeeds();
    for file in ["adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"] {
        let [whole, parts] =
            ["whole", "parts"].map(|run| fs::read(here.path(&format!("{run}/adapter/{file}"))).unwrap());
        assert!(whole == parts, "{file}");
    }
    let metrics = lines(&here.path("whole/metrics.jsonl"));
    let last = &metrics[metrics.len() - 1];
    assert_eq!([number(last, "ratio_update0_maxdev"), number(last, "kl_update0_max")], [0.0; 2]);
    assert!(here.path("whole/report.html").is_file() && here.path("whole/before_after.png").is_file());

    // What was trained can be drawn with, from either form of the adapter.
    let model = pipeline().display().to_string();
    let draw = |lora: &str, out: &str| {
        let folder = here.0.path();
        let options =
            format!("-q sample --size 64x64 --steps 2 {lora} --save-tensors {out}.safetensors --out {out}.png");
        let mut command = program(folder, &options);
        Ended::of(command.args(["--model", &model, "--prompt", "a blue disc"])).succeeds();
        flowdppo_wgpu::model::read_tensors(&here.path(&format!("{out}.safetensors"))).unwrap()
    };
    let peft = draw("--lora whole/adapter", "a");
    assert_eq!(peft, draw("--lora whole/adapter/pytorch_lora_weights.safetensors", "b"));
    assert_ne!(peft, draw("", "c"), "the adapter changes nothing");
}

#[test]
fn prompts_can_be_encoded_before() {
    let here = Place::new();
    let model = pipeline().display().to_string();
    let mut encode =
        program(here.0.path(), "-q encode --prompts prompts.txt --precision f32 --out conditions.safetensors");
    Ended::of(encode.args(["--model", &model])).succeeds();
    let train = "-q train --config train.toml --set train.iterations=1";
    here.run(&format!("{train} --out texts")).succeeds();
    here.run(&format!("{train} --out encoded --set prompts.file=conditions.safetensors")).succeeds();
    let [texts, encoded] = ["texts", "encoded"]
        .map(|run| fs::read(here.path(&format!("{run}/adapter/adapter_model.safetensors"))).unwrap());
    assert!(texts == encoded, "the same prompts, encoded before");
}

#[test]
fn mistakes_in_runs_with_prompts_get_one_sentence() {
    let here = Place::new();
    fs::write(here.path("latin.txt"), b"caf\xe9\n").unwrap();
    for (set, says) in [
        ("prompts.file=nowhere.txt", "cannot read nowhere.txt"),
        ("prompts.file=latin.txt", "is not UTF-8"),
        ("prompts.negative=[1]", "`prompts.negative`"),
        ("model.size=[60,64]", "`model.size` is 60x64: width and height must be multiples of 16"),
        ("model.folder=prompts.txt", "which is not a text-to-image model"),
        ("model.folder=no-org/no-model", "nothing is downloaded"),
        ("model.file=builtin:digits8-base", "`model.folder` and `model.file` exclude each other"),
        ("rollout.classes=[2]", "rollout.classes"),
        ("lora.targets=[\"attn.qkv\"]", "\"attn.qkv\", which is not a layer of the model"),
        ("eval.judge=builtin:digits8-judge", "8x8 images of 1 channels, but the model makes 64x64 images of 3"),
    ] {
        let message = here.refused(&format!("train --config train.toml --dry-run --set {set}"));
        assert!(message.contains(says), "{set}: {message}\nlacks: {says}");
        assert_eq!(message.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{message}");
    }
    let text = fs::read_to_string(here.path("train.toml")).unwrap();
    fs::write(here.path("no-prompts.toml"), text.replace("file = \"prompts.txt\"", "")).unwrap();
    let message = here.refused("train --config no-prompts.toml --dry-run");
    assert!(message.contains("needs prompts: set `prompts.file`"), "{message}");
    fs::write(here.path("full.toml"), text.replace("rank = 2", "rank = 0").replace("targets = [", "# [")).unwrap();
    let message = here.refused("train --config full.toml --dry-run");
    assert!(message.contains("train an adapter, with `lora.rank`"), "{message}");
    let message = here.refused("pretrain --config train.toml");
    assert!(message.contains("which learns from images with captions: set `data.kind`"), "{message}");
}

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
    for part in [
        "rollout, update and optimizer",
        "the decoder, while it decodes whole images, on top",
        "the largest layer of text_encoder",
    ] {
        assert!(
            plan.lines().any(|line| line.trim_start().split_once(" MiB").is_some_and(|(_, it)| it.contains(part))),
            "{part}: {plan}"
        );
    }
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

/// A program that scores an image by a field of its prompt's line.
const PROGRAM: &str = "\
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    scores = [item['wanted']['score'] + item['sample'] for item in request['items']]
    print(json.dumps({'id': request['id'], 'scores': scores}), flush=True)
";

/// The same prompts, encoded before: nothing differs, and the fields of their lines reach a program in both cases.
#[test]
fn prompts_can_be_encoded_before_and_their_fields_reach_rewards() {
    let here = Place::new();
    let lines =
        [r#"{"prompt": "a red square", "wanted": {"score": 10}}"#, r#"{"wanted": {"score": 20}, "prompt": "a disc"}"#];
    fs::write(here.path("prompts.jsonl"), lines.join("\n")).unwrap();
    fs::write(here.path("score.py"), PROGRAM).unwrap();
    let text = fs::read_to_string(here.path("train.toml")).unwrap();
    let reward = "kind = \"command\"\nprogram = [\"python3\", \"score.py\"]";
    fs::write(here.path("train.toml"), text.replace("kind = \"brightness\"", reward)).unwrap();
    let model = pipeline().display().to_string();
    let mut encode =
        program(here.0.path(), "-q encode --prompts prompts.jsonl --precision f32 --out conditions.safetensors");
    Ended::of(encode.args(["--model", &model])).succeeds();
    let train = "-q train --config train.toml --set train.iterations=1";
    here.run(&format!("{train} --out texts --set prompts.file=prompts.jsonl")).succeeds();
    here.run(&format!("{train} --out encoded --set prompts.file=conditions.safetensors")).succeeds();
    for file in ["adapter/adapter_model.safetensors", "rewards.csv"] {
        let [texts, encoded] = ["texts", "encoded"].map(|run| fs::read(here.path(&format!("{run}/{file}"))).unwrap());
        assert!(texts == encoded, "{file}");
    }
    let scores = fs::read_to_string(here.path("texts/rewards.csv")).unwrap();
    let training: Vec<&str> = scores.lines().filter(|line| line.contains(",training,")).collect();
    let expected = ["1,training,0,0,10,10", "1,training,1,0,11,11", "1,training,2,1,22,22", "1,training,3,1,23,23"];
    assert_eq!(training, expected);

    fs::write(here.path("prompts.jsonl"), r#"{"prompt": "a", "label": 3}"#).unwrap();
    let message = here.refused("train --config train.toml --dry-run --set prompts.file=prompts.jsonl");
    assert!(message.contains("prompt 1 of `prompts.file` has a field `label`"), "{message}");
}

/// Every file that pictures depend on is compared; only what is of one kind of file is named here.
#[test]
fn a_part_of_the_model_that_has_changed_is_named_on_resume() {
    let here = Place::new();
    copy_folder(&pipeline(), &here.path("model"));
    let train = "-q train --config train.toml --set model.folder=model --set train.iterations=1 --out run";
    here.run(train).succeeds();
    let resume = "-q train --out run --resume --set train.iterations=2";
    for file in [
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "text_encoder_2/model.safetensors",
        "text_encoder_3/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
    ] {
        let path = here.path("model").join(file);
        let whole = fs::read(&path).unwrap_or_else(|cause| panic!("{file}: {cause}"));
        let mut changed = whole.clone();
        // Still a complete file of its kind: a weight, or a space that was a line break.
        let last = changed.len() - if file.ends_with(".json") { 2 } else { 4 };
        changed[last] = if file.ends_with(".json") { b' ' } else { changed[last] ^ 1 };
        assert_ne!(changed, whole, "{file}");
        fs::write(&path, changed).unwrap();
        let message = here.refused(resume).replace('\\', "/");
        assert!(message.contains(&format!("/{file}, which has changed since the run started")), "{file}: {message}");
        fs::write(&path, whole).unwrap();
    }
    here.run(resume).succeeds();
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// More prompts than are kept in memory are encoded once, for all runs beside each other.
#[test]
fn many_prompts_are_encoded_into_a_file_that_is_used_again() {
    let here = Place::new();
    let lines: Vec<String> =
        (0..260).map(|number| format!(r#"{{"prompt": "square {number}", "number": {number}}}"#)).collect();
    fs::write(here.path("many.jsonl"), lines.join("\n")).unwrap();
    let train = "train --config train.toml --set prompts.file=many.jsonl --set train.iterations=1";
    let kept = || {
        let files =
            fs::read_dir(here.path("runs")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        files.filter(|name| name.starts_with("prompts-") && name.ends_with(".safetensors")).collect::<Vec<_>>()
    };
    here.run(&format!("{train} --dry-run")).succeeds();
    assert!(!here.path("runs").exists(), "a dry run writes nothing");
    here.run(&format!("{train} --out runs/one")).succeeds();
    let first = kept();
    let [file] = first.as_slice() else { panic!("{first:?}") };
    let written = fs::metadata(here.path("runs").join(file)).unwrap().modified().unwrap();
    here.run(&format!("{train} --out runs/two")).succeeds();
    here.run("train --out runs/one --resume --set train.iterations=2").succeeds();
    assert_eq!(kept(), first);
    assert_eq!(fs::metadata(here.path("runs").join(file)).unwrap().modified().unwrap(), written, "encoded again");

    // The same as what `encode` writes.
    here.run(&format!("{train} --out encoded/run --set prompts.file=runs/{file}")).succeeds();
    let [two, encoded] = ["runs/two", "encoded/run"]
        .map(|run| fs::read(here.path(&format!("{run}/adapter/adapter_model.safetensors"))).unwrap());
    assert!(two == encoded, "the same prompts");
    here.run(&format!("{train} --out runs/other --set prompts.negative=blurry")).succeeds();
    assert_eq!(kept().len(), 2, "another negative prompt");
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
    assert!(message.contains("pretrain cannot train the text-to-image model"), "{message}");
}

//! `train` with prompts, on a tiny pipeline with random weights.

use std::fs;
use std::path::Path;

use super::workplace::{Workplace, copy_folder, lines, number, pipeline};

#[test]
fn a_run_with_prompts_is_resumed_byte_for_byte_and_its_adapter_draws() {
    let here = Workplace::of_prompts();
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
    let draw = |lora: &str, out: &str| {
        let options =
            format!("-q sample --size 64x64 --steps 2 {lora} --save-tensors {out}.safetensors --out {out}.png");
        here.run_with(&options, &["--model", &pipeline(), "--prompt", "a blue disc"]).succeeds();
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
    let here = Workplace::of_prompts();
    let lines =
        [r#"{"prompt": "a red square", "wanted": {"score": 10}}"#, r#"{"wanted": {"score": 20}, "prompt": "a disc"}"#];
    fs::write(here.path("prompts.jsonl"), lines.join("\n")).unwrap();
    fs::write(here.path("score.py"), PROGRAM).unwrap();
    let reward = "kind = \"command\"\nprogram = [\"python3\", \"score.py\"]";
    here.rewrite("train.toml", "train.toml", ["kind = \"brightness\"", reward]);
    let encode = "-q encode --prompts prompts.jsonl --precision f32 --out conditions.safetensors";
    here.run_with(encode, &["--model", &pipeline()]).succeeds();
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
    let message = here.run("train --config train.toml --dry-run --set prompts.file=prompts.jsonl").refused();
    assert!(message.contains("prompt 1 of `prompts.file` has a field `label`"), "{message}");
}

/// Every file that pictures depend on is compared; only what is of one kind of file is named here.
#[test]
fn a_part_of_the_model_that_has_changed_is_named_on_resume() {
    let here = Workplace::of_prompts();
    copy_folder(Path::new(&pipeline()), &here.path("model"));
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
        let message = here.run(resume).refused().replace('\\', "/");
        assert!(message.contains(&format!("/{file}, which has changed since the run started")), "{file}: {message}");
        fs::write(&path, whole).unwrap();
    }
    here.run(resume).succeeds();
}

/// More prompts than are kept in memory are encoded once, for all runs beside each other.
#[test]
fn many_prompts_are_encoded_into_a_file_that_is_used_again() {
    let here = Workplace::of_prompts();
    let lines: Vec<String> =
        (0..260).map(|number| format!(r#"{{"prompt": "square {number}", "number": {number}}}"#)).collect();
    fs::write(here.path("many.jsonl"), lines.join("\n")).unwrap();
    let train =
        "train --config train.toml --set prompts.file=many.jsonl --set train.iterations=1 --set preview.classes=[0]";
    let kept = || {
        let files =
            fs::read_dir(here.path("runs")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        files.filter(|name| name.starts_with("prompts-") && name.ends_with(".safetensors")).collect::<Vec<_>>()
    };
    here.run(&format!("{train} --dry-run")).succeeds();
    let message = here.run(&format!("{train} --out runs/one --set rollout.classes=[260]")).refused();
    assert!(message.contains("names prompt 260") && !message.contains("encod"), "{message}");
    assert!(!here.path("runs").exists(), "neither a dry run nor a run with a mistake encodes anything");
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
}

#[test]
fn mistakes_in_runs_with_prompts_get_one_sentence() {
    let here = Workplace::of_prompts();
    fs::write(here.path("latin.txt"), b"caf\xe9\n").unwrap();
    for (set, says) in [
        ("prompts.file=nowhere.txt", "cannot read nowhere.txt"),
        ("prompts.file=latin.txt", "is not UTF-8"),
        ("prompts.negative=[1]", "`prompts.negative`"),
        ("model.size=[60,64]", "`model.size` is 60x64: width and height must be multiples of 16"),
        ("model.folder=prompts.txt", "which is not a text-to-image model"),
        ("model.folder=no-org/no-model", "nothing is downloaded"),
        ("model.file=builtin:digits8-base", "`model.folder` and `model.file` exclude each other"),
        ("rollout.classes=[2]", "`rollout.classes` names prompt 2, but there are 2 prompts, 0 to 1"),
        ("eval.classes=[1,1]", "`eval.classes` names prompt 1 twice: name each prompt once"),
        ("lora.targets=[\"attn.qkv\"]", "\"attn.qkv\", which is not a layer of the model"),
        ("eval.judge=builtin:digits8-judge", "8x8 images of 1 channels, but the model makes 64x64 images of 3"),
    ] {
        let message = here.run(&format!("train --config train.toml --dry-run --set {set}")).refused();
        assert!(message.contains(says), "{set}: {message}\nlacks: {says}");
    }
    here.rewrite("train.toml", "no-prompts.toml", ["file = \"prompts.txt\"", ""]);
    let message = here.run("train --config no-prompts.toml --dry-run").refused();
    assert!(message.contains("needs prompts: set `prompts.file`"), "{message}");
    let message = here.run("pretrain --config train.toml").refused();
    assert!(message.contains("which learns from images with captions: set `data.kind`"), "{message}");
}

/// All weights: the result is the published file with other values, and the table of positions as it was, of which only a
/// part was on the device.
#[test]
fn all_weights_are_trained_into_a_published_file() {
    let here = Workplace::of_prompts();
    here.without_lora();
    let set = "--set model.weights=f32 --set model.size=[32,32]";
    here.run(&format!("-q train --config train.toml --out run --set train.iterations=1 {set}")).succeeds();
    let weights = "transformer/diffusion_pytorch_model.safetensors";
    let read = |path: &Path| flowdppo_wgpu::model::read_tensors(path).unwrap();
    let [before, after] =
        [Path::new(&pipeline()).join(weights), here.path("run/model.safetensors")].map(|path| read(&path));
    assert!(before.keys().eq(after.keys()));
    let changed: Vec<&String> = before.keys().filter(|name| before[*name] != after[*name]).collect();
    assert!(!changed.iter().any(|name| *name == "pos_embed.pos_embed") && 2 * changed.len() > before.len());
    copy_folder(Path::new(&pipeline()), &here.path("copied"));
    fs::copy(here.path("run/model.safetensors"), here.path("copied").join(weights)).unwrap();
    let draw = |model: &str| {
        let options = "-q sample --size 48x32 --steps 2 --save-tensors drawn.safetensors --out drawn.png --force";
        here.run_with(options, &["--model", model, "--prompt", "a blue disc"]).succeeds();
        read(&here.path("drawn.safetensors"))
    };
    assert!(draw("run") == draw("copied") && draw("run") != draw(&pipeline()));
    let message = here.run("sample --model run --variant fp16 --prompt fox").refused();
    assert!(message.contains("the variant fp16 is of the weights in"), "{message}");
}

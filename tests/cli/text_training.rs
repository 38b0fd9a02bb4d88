//! `train` with prompts, on a tiny pipeline with random weights.

use std::fs;

use super::workplace::{Workplace, lines, number, pipeline};

#[test]
fn a_run_with_prompts_is_resumed_byte_for_byte_and_its_adapter_draws() {
    let here = Workplace::of_prompts();
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

#[test]
fn prompts_can_be_encoded_before() {
    let here = Workplace::of_prompts();
    let encode = "-q encode --prompts prompts.txt --precision f32 --out conditions.safetensors";
    here.run_with(encode, &["--model", &pipeline()]).succeeds();
    let train = "-q train --config train.toml --set train.iterations=1";
    here.run(&format!("{train} --out texts")).succeeds();
    here.run(&format!("{train} --out encoded --set prompts.file=conditions.safetensors")).succeeds();
    let [texts, encoded] = ["texts", "encoded"]
        .map(|run| fs::read(here.path(&format!("{run}/adapter/adapter_model.safetensors"))).unwrap());
    assert!(texts == encoded, "the same prompts, encoded before");
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
    here.rewrite("train.toml", "full.toml", ["rank = 2\ntargets = [", "# ["]);
    let message = here.run("train --config full.toml --dry-run").refused();
    assert!(message.contains("train an adapter, with `lora.rank`"), "{message}");
    let message = here.run("pretrain --config train.toml").refused();
    assert!(message.contains("pretrain cannot train the text-to-image model"), "{message}");
}

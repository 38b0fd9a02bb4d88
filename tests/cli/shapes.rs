//! The small world with words: a model that learns it from the beginning, its folder, and the built-in one.

use std::fs;

use flowdppo_wgpu::assets::{WordFiles, word_model};
use flowdppo_wgpu::config::builtin_folder;
use flowdppo_wgpu::model::{Prompt, TRANSFORMER_WEIGHTS, read_tensors};

use super::workplace::{Workplace, lines, number};

/// A model so small that it learns nothing, in the world as it is.
const PRETRAIN: &str = r#"
    [model]
    image_size = 24
    channels = 3
    patch_size = 6
    hidden_size = 8
    depth = 2
    num_heads = 2
    text = { kind = "words", tokens = 8 }
    [data]
    kind = "shapes"
    [pretrain]
    steps = 4
    batch_size = 4
    micro_batch = 2
    warmup_steps = 1
    learning_rate = 1e-2
    log_every = 1
    sample_every = 0
    save_every = 2
    [preview]
    classes = [0, 20]
    per_class = 1
    steps = 2
"#;

/// Two updates of four pictures.
const TRAIN: &str = r#"
    [model]
    folder = "builtin:shapes-base"
    [prompts]
    file = "builtin:shapes-trained"
    [rollout]
    steps = 2
    groups = 2
    group_size = 2
    micro_batch = 2
    trained_steps = { kind = "sparse-early", count = 1, from = 0.0, to = 0.5 }
    [[reward]]
    kind = "shapes"
    [train]
    iterations = 2
    updates_per_rollout = 1
    inner_epochs = 2
    micro_batch = 2
    [eval]
    judge = ""
    count = 2
    steps = 2
    classes = [0, 1, 2, 3]
    group_by = ["category"]
    [preview]
    per_class = 1
    steps = 2
    classes = [0, 5]
"#;

fn place() -> Workplace {
    let here = Workplace::new();
    fs::write(here.path("pretrain.toml"), PRETRAIN).unwrap();
    fs::write(here.path("train.toml"), TRAIN).unwrap();
    here
}

const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";

#[test]
fn a_new_model_of_words_is_resumed_byte_for_byte_and_its_folder_is_a_model() {
    let here = place();
    here.run("config check pretrain.toml --for pretrain").succeeds();
    let plan = here.run("pretrain --config pretrain.toml --dry-run").succeeds();
    assert!(plan.contains("planned device memory"), "{plan}");
    here.run("-q pretrain --config pretrain.toml --out whole").succeeds();
    here.run("-q pretrain --config pretrain.toml --out parts --set pretrain.steps=2").succeeds();
    // The decay of the learning rate depends on the number of steps.
    let constant = "--set pretrain.decay=constant";
    here.run(&format!("-q pretrain --config pretrain.toml --out steady {constant}")).succeeds();
    here.run(&format!("-q pretrain --config pretrain.toml --out two {constant} --set pretrain.steps=2")).succeeds();
    here.run("-q pretrain --out two --resume --set pretrain.steps=4").succeeds();
    let bytes = |run: &str| fs::read(here.path(&format!("{run}/{WEIGHTS}"))).unwrap();
    assert!(bytes("steady") == bytes("two"), "a resumed run has other weights");
    assert!(bytes("whole") != bytes("parts") && bytes("whole") != bytes("steady"));

    let inspected = here.run("inspect whole").succeeds();
    assert!(inspected.contains("words and pixels") && inspected.contains("transformer"), "{inspected}");
    let draw = "-q sample --model whole --steps 2 --save-tensors whole.safetensors --out disc.png";
    here.run_with(draw, &["--prompt", "a red disc"]).succeeds();
    assert!(here.path("disc.png").is_file());
    let message = here.run_with("sample --model whole --out fox.png", &["--prompt", "a red fox"]).refused();
    assert!(message.contains("has the word \"fox\"") && message.contains("this model knows a, above,"), "{message}");
    let long = ["--prompt", "a red disc left of a blue square above a disc"];
    let message = here.run_with("sample --model whole --out long.png", &long).refused();
    assert!(message.contains("has 11 words, but this model takes 8"), "{message}");

    // The folder is the start of further pretraining, and of an adapter.
    let on = "-q pretrain --config pretrain.toml --out on --set pretrain.steps=1";
    fs::write(here.path("on.toml"), "[model]\nfolder = \"whole\"\n").unwrap();
    let rest = PRETRAIN.split_once("[data]").unwrap().1;
    fs::write(here.path("pretrain.toml"), format!("[model]\nfolder = \"whole\"\n[data]{rest}")).unwrap();
    here.run(on).succeeds();
    assert!(here.path("on/transformer_base.json").is_file());
    here.run_with("-q sample --model on --steps 2 --out on.png", &["--prompt", "two discs"]).succeeds();
}

#[test]
fn a_folder_of_words_is_exported_whole() {
    let here = place();
    here.run("-q export --format words --half builtin:shapes-base half").succeeds();
    here.run("-q export --format words half whole").succeeds();
    let [half, whole] =
        ["half", "whole"].map(|folder| read_tensors(&here.path(&format!("{folder}/{WEIGHTS}"))).unwrap());
    assert!(half == whole, "16 bits are exact in 32");
    let message = here.run("export --format words half whole").refused();
    assert!(message.contains("it exists and is not empty"), "{message}");
    here.run("-q --force export --format words half whole").succeeds();
    let message = here.run("export --format words builtin:digits8-base digits").refused();
    assert!(message.contains("is no text-to-image model"), "{message}");
}

#[test]
fn the_built_in_model_is_tuned_on_policy_and_resumed_byte_for_byte() {
    let here = place();
    here.run("config check builtin:shapes").succeeds();
    let inspected = here.run("inspect builtin:shapes-base").succeeds();
    assert!(inspected.contains("words and pixels") && inspected.contains("--prompt \"a red disc\""), "{inspected}");
    here.run("-q train --config train.toml --out whole").succeeds();
    here.run("-q train --config train.toml --out parts --set train.iterations=1").succeeds();
    here.run("-q train --out parts --resume --set train.iterations=2").succeeds();
    let [whole, parts] =
        ["whole", "parts"].map(|run| fs::read(here.path(&format!("{run}/model.safetensors"))).unwrap());
    assert!(whole == parts, "a resumed run has other weights");
    // The evaluations differ: a run of one iteration has one at its end, and the base is measured again.
    let [whole, parts] = ["whole", "parts"].map(|run| {
        let scores = fs::read_to_string(here.path(&format!("{run}/rewards.csv"))).unwrap();
        scores.lines().filter(|line| line.contains(",training,")).map(str::to_owned).collect::<Vec<_>>()
    });
    assert!(whole == parts && whole.len() == 8, "{whole:?}\n{parts:?}");
    // The first line is the base.
    for line in lines(&here.path("whole/metrics.jsonl")).into_iter().skip(1) {
        assert_eq!([number(&line, "ratio_update0_maxdev"), number(&line, "kl_update0_max")], [0.0; 2]);
    }
    here.run_with("-q sample --model whole --steps 2 --out disc.png", &["--prompt", "a red disc"]).succeeds();
    let measured =
        "eval --config train.toml --model whole --base builtin:shapes-base --prompts builtin:shapes-held-out";
    let table = here.run(measured).succeeds();
    // Both models, by the category of the prompts.
    assert!(table.contains("builtin:shapes-base") && table.contains("counting"), "{table}");
    let message = here.run(&format!("{measured} --set eval.group_by=['colour']")).refused();
    assert!(message.contains("`eval.group_by` has \"colour\", but the prompt"), "{message}");
}

#[test]
fn settings_that_do_not_fit_a_world_with_words_are_refused() {
    let here = place();
    let pretrain = |set: &str| here.run(&format!("pretrain --config pretrain.toml --dry-run --set {set}")).refused();
    for (set, reason) in [
        ("model.num_classes=3", "`model.num_classes` does not fit `model.text`"),
        ("model.channels=1", "`model.channels` does not fit `model.text`"),
        ("model.text.tokens=3", "has 5 words, but this model takes 3"),
        (
            "data.kind=captions --set data.path=.",
            "`model.text` takes its words from the captions of `data.kind` = \"shapes\"",
        ),
        ("data.horizontal_flip=true", "a mirrored scene is not what its caption says"),
        ("lora.rank=2", "an adapter (`lora`) is trained on a trained model"),
    ] {
        let message = pretrain(set);
        assert!(message.contains(reason), "{set}: {message}\nlacks: {reason}");
    }
    let train = |set: &str| here.run(&format!("train --config train.toml --dry-run --set {set}")).refused();
    for (set, reason) in [
        ("prompts.file=builtin:shape", "there is no list of prompts `builtin:shape`; did you mean `builtin:shapes`?"),
        ("model.folder=builtin:shape-base", "is not a text-to-image model"),
        ("prompts.t5=false", "this model has no T5"),
    ] {
        let message = train(set);
        assert!(message.contains(reason), "{set}: {message}\nlacks: {reason}");
    }
    fs::write(here.path("fox.txt"), "a red fox\n").unwrap();
    let message = train("prompts.file=fox.txt");
    assert!(message.contains("\"a red fox\" is not a caption of coloured shapes"), "{message}");
    let message = here.run("train --config builtin:shape").refused();
    assert!(message.contains("did you mean `builtin:shapes`?"), "{message}");
}

/// A file of weights that names its pipeline, as the page in a browser writes it.
#[test]
fn a_transformer_that_names_its_pipeline_stands_for_the_model() {
    let here = Workplace::new();
    let file = |name: &str| {
        let all = builtin_folder("builtin:shapes-base").unwrap();
        all.iter().find(|(found, _)| *found == name).unwrap().1
    };
    let text = |name: &str| std::str::from_utf8(file(name)).unwrap();
    let of = |name| {
        let (config, vocabulary) = (text("transformer/config.json"), text("tokenizer/vocab.txt"));
        let files = WordFiles { name, config, vocabulary, weights: file(TRANSFORMER_WEIGHTS).to_vec() };
        word_model(files, vec![Prompt::from("a disc")]).unwrap()
    };
    of("builtin:shapes-base").save(&here.path("tuned.safetensors")).unwrap();
    let inspected = here.run("inspect tuned.safetensors").succeeds();
    assert!(inspected.contains("trained from builtin:shapes-base"), "{inspected}");
    let draw = |model: &str, name: &str| {
        let arguments =
            format!("-q sample --model {model} --steps 2 --out {name}.png --save-tensors {name}.safetensors");
        here.run_with(&arguments, &["--prompt", "two green discs"]).succeeds();
        read_tensors(&here.path(&format!("{name}.safetensors"))).unwrap()
    };
    assert!(draw("tuned.safetensors", "file") == draw("builtin:shapes-base", "builtin"));
    of("/lost/model").save(&here.path("lost.safetensors")).unwrap();
    let message = here.run_with("sample --model lost.safetensors --out a.png", &["--prompt", "a disc"]).refused();
    assert!(
        message.contains("lost.safetensors names the model /lost/model, which is not there: put it back"),
        "{message}"
    );
}

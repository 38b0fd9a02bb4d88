//! The commands besides `train` that several ranks share.

use std::fs;
use std::path::Path;

use super::{finish, folder, mpirun, ready, text};

/// The path of a file of the repository.
fn repository(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

/// Runs supervised training on 1, 2 and 4 ranks, and checks that these files are the same.
fn same_on_any_number(command: &str, config: &str, sets: &[&str], parts: &[&str]) {
    let run = |size: usize| folder().join(format!("{command}-{size}"));
    for size in [1, 2, 4] {
        let (config, out) = (repository(config), run(size).display().to_string());
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let arguments = [command, "--config", &config, "--out", &out].into_iter().chain(sets);
        finish(mpirun(&[(size, arguments.map(str::to_owned).collect())]));
        for part in parts {
            let [one, many] = [1, size].map(|size| fs::read(run(size).join(part)).expect("the run wrote it"));
            assert!(one == many, "{command}, {size} ranks: {part}");
        }
    }
}

#[test]
fn pretraining_writes_the_same_bytes_on_any_number_of_ranks() {
    let Some(_one) = ready() else { return };
    let sets = [
        "pretrain.steps=4",
        "pretrain.warmup_steps=1",
        "pretrain.batch_size=12",
        "pretrain.micro_batch=2",
        "pretrain.log_every=1",
        "pretrain.sample_every=2",
        "pretrain.save_every=2",
        "preview.per_class=1",
        "preview.steps=2",
    ];
    let parts =
        ["model.safetensors", "metrics.jsonl", "samples/000004.png", "checkpoints/000002/optimizer.safetensors"];
    same_on_any_number("pretrain", "configs/rings/pretrain.toml", &sets, &parts);
}

#[test]
fn classifiers_have_the_same_bytes_on_any_number_of_ranks() {
    let Some(_one) = ready() else { return };
    let sets = [
        "classifier.steps=5",
        "classifier.batch_size=12",
        "classifier.micro_batch=2",
        "classifier.save_every=2",
        "data.horizontal_flip=true",
    ];
    let parts = ["model.safetensors", "metrics.jsonl", "checkpoints/000004/optimizer.safetensors"];
    same_on_any_number("fit-classifier", "configs/rings/fit-classifier.toml", &sets, &parts);

    let (config, out) = (repository("configs/rings/fit-classifier.toml"), folder().join("unfit").display().to_string());
    let arguments = ["fit-classifier", "--config", &config, "--out", &out].map(str::to_owned);
    let output = mpirun(&[(2, arguments.to_vec())]).output().expect("mpirun starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("set `classifier.micro_batch` = 64"), "{}", text(&output));
}

#[test]
fn encoded_prompts_are_the_same_on_any_number_of_ranks() {
    let Some(_one) = ready() else { return };
    let prompts = folder().join("prompts.txt");
    // The last is too long for CLIP, which a warning says.
    let long = "word ".repeat(100);
    fs::write(&prompts, format!("a cat\na dog\ntwo birds\n{long}\n")).expect("the folder is writable");
    let encode = |size: usize, more: &[&str]| {
        let out = folder().join(format!("prompts-{size}-{}.safetensors", more.len()));
        let arguments = [
            "encode",
            "--model",
            &repository("tests/formats/sd35_tiny_pipeline"),
            "--prompts",
            &prompts.display().to_string(),
            "--negative-prompt",
            "bad",
            "--out",
            &out.display().to_string(),
        ];
        let arguments = arguments.iter().chain(more).map(|part| (*part).to_owned()).collect();
        let output = finish(mpirun(&[(size, arguments)]));
        assert_eq!(text(&output).matches("prompt 4 is too long for ").count(), 3, "{}", text(&output));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said, format!("4 prompts: {}\n", out.display()), "one rank talks");
        fs::read(out).expect("the command wrote it")
    };
    for more in [&["--group", "1"][..], &["--group", "2", "--precision", "f32"]] {
        let alone = encode(1, more);
        // With three, some have no group in the last round.
        for size in [2, 3] {
            assert!(encode(size, more) == alone, "{size} ranks, {more:?}");
        }
    }
}

#[test]
fn sweeps_are_spread_over_ranks() {
    let Some(_one) = ready() else { return };
    let file = folder().join("sweep.toml");
    let sweep = format!(
        "[sweep]\nbase = {:?}\nseeds = [0, 1]\nset = [\"train.iterations=2\", \"rollout.groups=2\", \
         \"rollout.group_size=4\", \"rollout.steps=6\", \"train.updates_per_rollout=1\", \"train.micro_batch=4\", \
         \"eval.count=2\", \"eval.steps=2\", \"eval.every=2\", \"preview.per_class=1\", \"preview.steps=2\"]\n\
         [[variant]]\nlabel = \"dppo\"\n[[variant]]\nlabel = \"hot\"\nset = [\"train.learning_rate=1e30\", \
         \"train.max_skipped_updates=0\"]\n",
        repository("configs/rings/train.toml")
    );
    fs::write(&file, sweep).expect("the folder is writable");
    let spread = |size: usize| {
        let out = folder().join(format!("sweep-{size}"));
        let arguments = ["sweep", &file.display().to_string(), "--out", &out.display().to_string()];
        let output = finish(mpirun(&[(size, arguments.map(str::to_owned).to_vec())]));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("4 of 4 runs to do on") && out.join("comparison.md").is_file(), "{said}");
        out
    };
    let [alone, many] = [1, 3].map(spread);
    let logs = [1, 2].map(|rank| fs::read_to_string(many.join(format!("rank-{rank}.log"))).expect("each rank has one"));
    assert!(logs[0].contains("[2/4]") && logs[1].contains("[3/4]"), "{logs:?}");
    let mut count = 0;
    for run in fs::read_dir(alone.join("runs")).expect("the sweep wrote it") {
        let name = run.expect("the folder can be read").file_name();
        let name = name.to_string_lossy();
        let [one, other] = [&alone, &many].map(|out| out.join("runs").join(&*name));
        let part = if one.join("failed.txt").is_file() { "failed.txt" } else { "model.safetensors" };
        assert!(fs::read(one.join(part)).unwrap() == fs::read(other.join(part)).unwrap(), "{name}: {part}");
        count += 1;
    }
    assert_eq!(count, 4);
}

#[test]
fn ranks_may_have_different_devices() {
    let Some(_one) = ready() else { return };
    let swiftshader = repository("target/swiftshader/vk_swiftshader_icd.json");
    let lavapipe = fs::read_dir("/usr/share/vulkan/icd.d").ok().and_then(|entries| {
        let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path().display().to_string()));
        paths.find(|path| path.contains("lvp_icd"))
    });
    let Some(lavapipe) = lavapipe.filter(|_| Path::new(&swiftshader).is_file()) else {
        super::skip::not_checked("ranks on different devices: needs lavapipe, and SwiftShader from `.ci/swiftshader`");
        return;
    };
    let mut mixed = super::train("configs/rings/train.toml", "mixed", &[]);
    mixed.extend(["--device", "0,1"].map(str::to_owned));
    let mut command = mpirun(&[(2, mixed)]);
    command.env("VK_DRIVER_FILES", format!("{lavapipe}:{swiftshader}"));
    let output = finish(command);
    assert!(text(&output).contains("different devices"), "{}", text(&output));
    assert!(folder().join("mixed/before_after.png").is_file());
}

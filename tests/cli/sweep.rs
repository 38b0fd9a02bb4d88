//! `sweep`: what it runs, what it leaves unchanged, and how it continues.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::workplace::{Ended, Workplace, program};

const SWEEP: &str = r#"
[sweep]
base = "train.toml"
seeds = [0]
set = ["preview.every=0"]
[[variant]]
label = "mask"
[[variant]]
label = "cps"
set = ["rollout.sampler=cps"]
"#;

fn here() -> Workplace {
    let here = Workplace::new();
    fs::write(here.path("sweep.toml"), SWEEP).unwrap();
    here
}

fn written(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|file| file.modified()).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
}

#[test]
fn a_sweep_runs_everything_compares_it_and_does_nothing_twice() {
    let here = here();
    let list = here.run("sweep sweep.toml --out s --dry-run").succeeds();
    for words in ["mask, seed 0", "cps, seed 0", "2 iterations", "GFLOP", "2 runs"] {
        assert!(list.contains(words), "{words} is missing in {list}");
    }
    assert!(!here.path("s").exists(), "a dry run writes nothing");

    let said = here.run("sweep sweep.toml --out s").succeeds();
    for words in ["2 of 2 runs to do", "[1/2] mask, seed 0", "[2/2] reward", "| mask ", "| cps "] {
        assert!(said.contains(words), "{words} is missing in {said}");
    }
    for file in ["sweep.toml", "comparison.md", "comparison.json", "reward.svg", "kl_by_step.svg"] {
        assert!(here.path("s").join(file).is_file(), "{file}");
    }
    let config = fs::read_to_string(here.path("s/runs/cps-seed0/config.toml")).unwrap();
    assert!(config.contains("sampler = \"cps\"") && config.contains("name = \"cps-seed0\""), "{config}");
    let models = ["mask", "cps"].map(|label| here.path(&format!("s/runs/{label}-seed0/model.safetensors")));
    let before = models.each_ref().map(|model| written(model));

    // Nothing is left to do; another seed is another run.
    let said = here.run("sweep sweep.toml --out s").succeeds();
    assert!(!said.contains("runs to do") && said.contains("| cps "), "{said}");
    fs::write(here.path("sweep.toml"), SWEEP.replace("[0]", "[0, 1]")).unwrap();
    let said = here.run("sweep sweep.toml --out s").succeeds();
    assert!(said.contains("2 of 4 runs to do") && said.contains("[2/4] mask, seed 1"), "{said}");
    assert_eq!(models.each_ref().map(|model| written(model)), before);
    let table = fs::read_to_string(here.path("s/comparison.md")).unwrap();
    assert!(table.contains("±"), "{table}");
}

#[test]
fn an_interrupted_run_continues_and_ends_like_an_uninterrupted_one() {
    let here = here();
    here.run("-q sweep sweep.toml --out whole").succeeds();
    here.run("-q sweep sweep.toml --out cut").succeeds();
    // As if the second run had been killed in its second iteration.
    let run = here.path("cut/runs/cps-seed0");
    for file in ["model.safetensors", "before_after.png", "samples/000002.png"] {
        fs::remove_file(run.join(file)).unwrap();
    }
    fs::remove_dir_all(run.join("checkpoints/000002")).unwrap();
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    fs::write(run.join("metrics.jsonl"), &log[..log.len() - 30]).unwrap();
    let said = here.run("sweep sweep.toml --out cut").succeeds();
    assert!(said.contains("1 of 2 runs to do"), "{said}");
    let model = |folder: &str| fs::read(here.path(folder).join("runs/cps-seed0/model.safetensors")).unwrap();
    assert!(model("whole") == model("cut"));
}

#[test]
fn a_run_that_diverges_is_recorded_and_the_sweep_continues() {
    let here = here();
    let wild = "[[variant]]\nlabel = \"wild\"\nset = [\"train.learning_rate=1e30\", \"train.max_skipped_updates=0\"]\n";
    fs::write(here.path("sweep.toml"), SWEEP.replacen("[[variant]]", &format!("{wild}[[variant]]"), 1)).unwrap();
    let said = here.run("sweep sweep.toml --out s").succeeds();
    assert!(said.contains("[1/3] failed: ") && said.contains("| wild ") && said.contains("1 (1 failed)"), "{said}");
    assert!(said.contains("[3/3] reward"), "{said}");
    let reason = fs::read_to_string(here.path("s/runs/wild-seed0/failed.txt")).unwrap();
    // Its configuration belongs to the sweep, which rejects a change to it.
    assert!(reason.contains("not finite") && !reason.contains("--set"), "{reason}");
    let said = here.run("sweep sweep.toml --out s --dry-run").succeeds();
    assert_eq!((said.matches("  failed").count(), said.matches("  finished").count()), (1, 2), "{said}");
}

/// Encoding and training take long: a mistake in the last run is found before the first has started.
#[test]
fn every_run_with_prompts_is_checked_before_the_first_starts() {
    let here = Workplace::of_prompts();
    let sweep = |last: &str| {
        let last = format!("[[variant]]\nlabel = \"last\"\nset = [{last}]\n");
        let first = "[sweep]\nbase = \"train.toml\"\nseeds = [0]\n[[variant]]\nlabel = \"first\"\n";
        fs::write(here.path("sweep.toml"), format!("{first}{last}")).unwrap();
    };
    fs::write(here.path("others.txt"), "a fox\n").unwrap();
    for (last, says) in [
        ("'rollout.classes=[2]'", "`rollout.classes` names prompt 2, but there are 2 prompts"),
        ("'prompts.file=others.txt', 'eval.classes=[1]'", "`eval.classes` names prompt 1"),
        ("'lora.targets=[\"attn.qkv\"]'", "\"attn.qkv\", which is not a layer of the model"),
    ] {
        sweep(last);
        for options in ["", " --dry-run"] {
            let message = here.run(&format!("sweep sweep.toml --out s{options}")).refused();
            assert!(message.contains(says) && message.contains("(the run last, seed 0)"), "{last}: {message}");
            assert!(!here.path("s").exists(), "{last}");
        }
    }
    sweep("'model.size=[256,256]'");
    let little = Ended::of(program(&here.path(""), "sweep sweep.toml --out s").env("FLOWDPPO_MEMORY_LIMIT_MIB", "14"));
    assert_eq!(little.code, Some(3), "{}", little.err);
    assert!(little.err.contains("(the run last, seed 0)") && !here.path("s").exists(), "{}", little.err);
}

//! Runs on the rings that go wrong on purpose: they cause warnings, can be stopped, and keep their best model.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use flowdppo_wgpu::run::{Record, metrics};

/// Where the runs of this test binary are; emptied by the next one.
fn folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guard");
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("the folder is ours");
        }
        fs::create_dir_all(&folder).expect("the target folder is writable");
        folder
    });
    &FOLDER
}

/// The reward is how far a point is to the upper right, whatever the requested ring, which lowers the judge's accuracy.
/// The mask is too loose to act.
const HACKED: [&str; 10] = [
    "reward=[{ kind = 'ink' }]",
    "objective.kl_mask_threshold=0.0655",
    "rollout.group_size=16",
    "rollout.micro_batch=64",
    "train.iterations=6",
    "train.learning_rate=5e-4",
    "eval.every=1",
    "eval.count=50",
    "eval.steps=10",
    "checkpoint.every=2",
];

/// `train` into the directory `name`, with these settings.
fn train(name: &str, resume: bool, settings: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowdppo-wgpu"));
    command.arg("train").arg("--out").arg(folder().join(name));
    // Not the user's configuration.
    command.env("FLOWDPPO_CACHE_DIR", folder().join("cache"));
    match resume {
        true => command.arg("--resume"),
        false => command.args(["--config", "configs/rings/train.toml", "--set", "preview.per_class=2"]),
    };
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read(name: &str, file: &str) -> Vec<u8> {
    let path = folder().join(name).join(file);
    fs::read(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
}

fn warnings(name: &str) -> Vec<Record> {
    text(&read(name, "warnings.jsonl")).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_hacked_reward_causes_a_warning_and_the_best_model_is_kept() {
    let whole = train("hacked", false, &HACKED);
    let (out, err) = (text(&whole.stdout), text(&whole.stderr));
    assert!(whole.status.success(), "{err}");
    assert!(err.contains("warning: the judge's accuracy fell from"), "{err}");
    let warned = warnings("hacked");
    let judge = warned.iter().find(|line| line["kind"] == "judge").expect("the judge does not like ink");
    let message = judge["message"].as_str().unwrap();
    for part in ["while the reward rose from", "`train.learning_rate`", "docs/troubleshooting.md"] {
        assert!(message.contains(part), "{message}");
    }

    let best: Record = serde_json::from_slice(&read("hacked", "best/best.json")).unwrap();
    let history = metrics::read(&folder().join("hacked/metrics.jsonl")).unwrap();
    let accuracy = |line: &Record| metrics::number(line, "eval/judge_accuracy");
    // Of equals the first; the base is not a candidate.
    let expected = history[1..].iter().rev().max_by(|a, b| accuracy(a).partial_cmp(&accuracy(b)).unwrap()).unwrap();
    assert_eq!((&best["by"], &best["iteration"]), (&"judge".into(), &expected["iteration"]));
    assert_ne!(best["iteration"], 6);
    assert!(read("hacked", "best/model.safetensors") != read("hacked", "model.safetensors"));
    assert!(out.contains("best by judge: iteration ") && out.contains("warnings: "), "{out}");

    // A run that stops because it is hacked is saved, says why, and can be resumed.
    let stopped = train("stopped", false, &[&HACKED[..], &["guard.stop_on_hack=true"]].concat());
    let err = text(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(1), "{err}");
    let iteration = warnings("stopped")[0]["iteration"].as_u64().unwrap();
    let path = folder().join("stopped").display().to_string();
    let how = format!(
        "saved up to iteration {iteration}: choose other values, then resume with: flowdppo-wgpu train --resume --out {path} "
    );
    for part in [&format!("stopped after iteration {iteration}: the reward is being hacked"), &how] {
        assert!(err.contains(part), "{part} is missing: {err}");
    }
    read("stopped", &format!("checkpoints/{iteration:06}/manifest.json"));
    assert!(err.contains(text(&read("stopped", "failed.txt")).trim()), "{err}");
    assert!(text(&read("stopped", "report.html")).contains("class=\"state failed\""));
    let resumed = train("stopped", true, &["guard.stop_on_hack=false"]);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    assert!(!folder().join("stopped/failed.txt").exists());
    assert!(text(&read("stopped", "report.html")).contains("class=\"state finished\""));
    for file in ["best/model.safetensors", "best/best.json", "warnings.jsonl", "model.safetensors"] {
        assert!(read("stopped", file) == read("hacked", file), "{file} has other bytes");
    }
}

#[test]
fn a_mask_that_drops_almost_everything_stops_the_run() {
    let tight =
        [&HACKED[..], &["objective.kl_mask_threshold=1e-9", "guard.max_masked_fraction=0.3", "guard.patience=1"]]
            .concat();
    let stopped = train("masked", false, &[&tight[..], &["guard.stop_after_masked=2"]].concat());
    let err = text(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(1), "{err}");
    assert!(err.contains("stopped after iteration 2: more than 0.3 of the terms were dropped"), "{err}");
    assert!(err.contains("raise `objective.kl_mask_threshold`"), "{err}");
    read("masked", "checkpoints/000002/manifest.json");
    assert_eq!(warnings("masked")[0]["kind"], "masked");
}

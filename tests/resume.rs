//! A run that is stopped at any moment and resumed ends in the same bytes as an uninterrupted one. These tests run the
//! program itself and kill it as a power cut would.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use common::tiny;
use flowdppo_wgpu::run::metrics;

/// Files of a checkpoint.
const FILES: [&str; 4] = ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"];

/// Where the runs of this test binary are; emptied by the next one.
fn folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("resume");
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("the folder is ours");
        }
        fs::create_dir_all(&folder).expect("the target folder is writable");
        let [model, classifier] = ["model", "classifier"].map(|name| folder.join(format!("{name}.safetensors")));
        tiny::dit(1).save(&model).expect("the folder is writable");
        tiny::classifier().save(&classifier).expect("the folder is writable");
        let mut config = tiny::config(&classifier);
        config.model.file = Some(model.display().to_string());
        config.train.iterations = 4;
        config.eval.every = 1;
        config.checkpoint.every = 2;
        config.checkpoint.keep = 10;
        fs::write(folder.join("config.toml"), config.to_toml()).expect("the folder is writable");
        folder
    });
    &FOLDER
}

/// `train` into a directory of this name.
fn train(name: &str, resume: bool) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowdppo-wgpu"));
    command.arg("train").arg("--out").arg(folder().join(name));
    // Not the user's configuration.
    command.env("FLOWDPPO_CACHE_DIR", folder().join("cache"));
    match resume {
        true => command.arg("--resume"),
        false => command.arg("--config").arg(folder().join("config.toml")),
    };
    command
}

/// Runs to the end; returns the directory.
fn finish(mut command: Command, name: &str) -> PathBuf {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    folder().join(name)
}

/// The uninterrupted run.
fn undisturbed() -> &'static Path {
    static RUN: LazyLock<PathBuf> = LazyLock::new(|| finish(train("undisturbed", false), "undisturbed"));
    &RUN
}

/// Resumes a run and compares all of its files with the uninterrupted run.
fn resume_and_compare(name: &str) {
    let run = finish(train(name, true), name);
    let same = |file: &str| {
        let [actual, expected] = [&run, undisturbed()].map(|run| fs::read(run.join(file)));
        assert!(actual.expect("the run ended") == expected.expect("the run ended"), "{name}: {file} has other bytes");
    };
    for file in FILES {
        same(&format!("checkpoints/000004/{file}"));
    }
    let best = ["best/model.safetensors", "best/best.json"];
    for file in ["model.safetensors", "samples/000004.png", "before_after.png"].into_iter().chain(best) {
        same(file);
    }
    let history = |run: &Path| {
        let mut records = metrics::read(&run.join("metrics.jsonl")).expect("the log is complete");
        for record in &mut records {
            record.retain(|key, _| !key.starts_with("seconds_") && key != "images_per_second");
        }
        records
    };
    let actual = history(&run);
    assert_eq!(actual.iter().map(|record| record["iteration"].as_u64()).collect::<Vec<_>>(), [0, 1, 2, 3, 4].map(Some));
    assert_eq!(actual, history(undisturbed()), "{name}: the metrics differ");
}

/// Starts a run and waits for a condition; `None` if the run ended before.
fn start_and_wait_for(name: &str, mut seen: impl FnMut(&Path) -> bool) -> Option<Child> {
    let run = folder().join(name);
    let mut child = train(name, false).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    let deadline = Instant::now() + Duration::from_secs(120);
    while !seen(&run) {
        if child.try_wait().expect("the program is our child").is_some() {
            return None;
        }
        assert!(Instant::now() < deadline, "{name} does not reach the expected state");
        std::thread::sleep(Duration::from_micros(200));
    }
    Some(child)
}

/// Ends a process without giving it a chance to react (SIGKILL on systems with signals).
fn kill(mut child: Child) {
    child.kill().expect("the program is our child");
    child.wait().expect("the program is our child");
}

/// The log has the line of this iteration.
fn has_line(run: &Path, iteration: u64) -> bool {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let is_it = |line: &str| {
        let record: Option<serde_json::Value> = serde_json::from_str(line).ok();
        record.is_some_and(|record| record["iteration"].as_u64() == Some(iteration))
    };
    text.lines().any(is_it)
}

fn has_checkpoint(run: &Path, iteration: u64) -> bool {
    run.join(format!("checkpoints/{iteration:06}/manifest.json")).exists()
}

/// The folder in which the checkpoint of an iteration is being written.
fn half_written(run: &Path, iteration: u64) -> Option<PathBuf> {
    let prefix = format!(".{iteration:06}.tmp-");
    let entries = fs::read_dir(run.join("checkpoints")).ok()?;
    entries.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).map(|entry| entry.path())
}

#[test]
fn a_run_killed_in_the_middle_of_an_iteration_resumes_exactly() {
    // The fourth iteration is between the third line of the log and the second checkpoint.
    let killed = (0..5).find_map(|attempt| {
        let name = format!("killed-in-iteration-{attempt}");
        let child = start_and_wait_for(&name, |run| has_line(run, 3))?;
        kill(child);
        let run = folder().join(&name);
        (!has_line(&run, 4) && half_written(&run, 4).is_none() && !has_checkpoint(&run, 4)).then_some(name)
    });
    let name = killed.expect("one of five runs is killed in time");
    assert!(has_checkpoint(&folder().join(&name), 2));
    resume_and_compare(&name);
}

#[test]
fn a_run_killed_before_its_first_checkpoint_starts_over() {
    let killed = (0..5).find_map(|attempt| {
        let name = format!("killed-early-{attempt}");
        kill(start_and_wait_for(&name, |run| has_line(run, 1))?);
        (!has_checkpoint(&folder().join(&name), 2)).then_some(name)
    });
    resume_and_compare(&killed.expect("one of five runs is killed in time"));
}

#[test]
fn a_run_killed_while_it_writes_a_checkpoint_resumes_exactly() {
    // If writing ends before the signal arrives, the moment is missed. Then `leftovers_of_a_crash_are_harmless` covers
    // it, and the last of these runs must still be exact.
    let mut name = String::new();
    for attempt in 0..5 {
        name = format!("killed-in-checkpoint-{attempt}");
        let Some(child) = start_and_wait_for(&name, |run| half_written(run, 4).is_some()) else { continue };
        kill(child);
        let run = folder().join(&name);
        assert!(has_checkpoint(&run, 2));
        if half_written(&run, 4).is_some() {
            break;
        }
    }
    resume_and_compare(&name);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_what_it_has_and_resumes_exactly() {
    let name = "interrupted";
    let mut child = start_and_wait_for(name, |run| has_line(run, 2)).expect("two iterations are left");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("there is a kill");
    assert!(sent.success());
    assert_eq!(child.wait().expect("the program is our child").code(), Some(0));
    let run = folder().join(name);
    assert!(has_checkpoint(&run, 2) || has_checkpoint(&run, 3));
    assert!(!has_checkpoint(&run, 4) && !run.join("before_after.png").exists(), "it stopped early");
    resume_and_compare(name);
}

/// A copy of the uninterrupted run, changed as by a crash or a bad disk.
fn spoilt(name: &str, spoil: impl FnOnce(&Path)) {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("the folder is writable");
        for entry in fs::read_dir(from).expect("the folder is there") {
            let entry = entry.expect("the folder is readable");
            let target = to.join(entry.file_name());
            match entry.path().is_dir() {
                true => copy(&entry.path(), &target),
                false => drop(fs::copy(entry.path(), target).expect("the folder is writable")),
            }
        }
    }
    let run = folder().join(name);
    copy(undisturbed(), &run);
    for file in ["model.safetensors", "samples/000004.png", "before_after.png"] {
        fs::remove_file(run.join(file)).expect("the run wrote it");
    }
    spoil(&run);
    resume_and_compare(name);
}

fn truncate(file: &Path) {
    let bytes = fs::read(file).expect("the run wrote it");
    fs::write(file, &bytes[..bytes.len() / 2]).expect("the folder is writable");
}

#[test]
fn a_damaged_checkpoint_is_skipped_for_the_previous_one() {
    spoilt("damaged-checkpoint", |run| {
        let file = run.join("checkpoints/000004/optimizer.safetensors");
        let mut bytes = fs::read(&file).expect("the run wrote it");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).expect("the folder is writable");
    });
}

#[test]
fn a_best_model_that_was_being_replaced_is_recovered() {
    // The best is the last, and its model and its numbers do not match yet.
    spoilt("half-a-best", |run| {
        fs::remove_dir_all(run.join("checkpoints/000004")).expect("the run wrote it");
        truncate(&run.join("best/model.safetensors"));
    });
}

#[test]
fn leftovers_of_a_crash_are_harmless() {
    spoilt("half-a-checkpoint", |run| {
        // The second file was being written, and so was the last line of the log.
        let hidden = run.join("checkpoints/.000004.tmp-4711");
        fs::rename(run.join("checkpoints/000004"), &hidden).expect("the folder is writable");
        truncate(&hidden.join("ema.safetensors"));
        for file in ["optimizer.safetensors", "state.json", "manifest.json"] {
            fs::remove_file(hidden.join(file)).expect("the run wrote it");
        }
        let log = run.join("metrics.jsonl");
        let text = fs::read_to_string(&log).expect("the run wrote it");
        fs::write(&log, &text[..text.len() - 20]).expect("the folder is writable");
    });
}

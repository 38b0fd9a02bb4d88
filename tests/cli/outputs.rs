//! Output files: never written over inputs, over other files only with --force, and never silently lost.

use std::fs;
use std::process::Stdio;

use super::bad_input::{case, check, nothing};
use super::workplace::{Ended, Workplace, program};
use crate::skip;

#[test]
fn an_input_is_never_overwritten() {
    check(&[
        case(
            |here| {
                here.import_sit();
            },
            "export --format sit sit.safetensors ./sit.safetensors --force",
            2,
            &["cannot write ./sit.safetensors", "it is the input sit.safetensors", "choose another name"],
        ),
        case(
            |here| {
                fs::write(
                    here.path("in.safetensors"),
                    fs::read(super::workplace::sit_tiny("model.safetensors")).unwrap(),
                )
                .unwrap()
            },
            "import --format sit --num-heads 2 in.safetensors in.safetensors --force",
            2,
            &["it is the input in.safetensors, which would be lost"],
        ),
        case(
            nothing,
            "sample --model base.safetensors --save-tensors base.safetensors --force",
            2,
            &["cannot write base.safetensors", "it is the input"],
        ),
        case(
            nothing,
            "train --config train.toml --dump-update classifier.safetensors --force --out run",
            2,
            &["cannot write classifier.safetensors", "it is the input"],
        ),
        case(nothing, "config init --config train.toml --out train.toml --force", 2, &["it is the input train.toml"]),
        case(
            nothing,
            "sample --model base.safetensors --out both.png --save-tensors both.png",
            2,
            &["cannot write both.png", "two results would have this name"],
        ),
    ]);
    check(&[case(
        |here| {
            here.run("-q sample --model base.safetensors --count 1 --steps 1").succeeds();
            fs::create_dir_all(here.path("images/a")).unwrap();
            fs::rename(here.path("samples.png"), here.path("images/a/1.png")).unwrap();
        },
        "data --set data={kind='folder',path='images',channels=1,image_size=8} --out images/a/1.png --force",
        2,
        &["cannot write images/a/1.png", "it is a part of the input images, which would be lost"],
    )]);
    #[cfg(unix)]
    check(&[case(
        |here| std::os::unix::fs::symlink("base.safetensors", here.path("link.safetensors")).unwrap(),
        "sample --model base.safetensors --save-tensors link.safetensors --force",
        2,
        &["cannot write link.safetensors", "it is the input base.safetensors"],
    )]);
}

#[test]
fn a_file_that_exists_is_replaced_only_with_force() {
    let here = Workplace::new();
    fs::write(here.path("kept.png"), "mine").unwrap();
    let sample = "-q sample --model base.safetensors --count 1 --steps 2 --out kept.png";
    let refused = here.run(sample);
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.contains("cannot write kept.png: it exists already"), "{}", refused.err);
    assert!(refused.err.contains("--force"), "{}", refused.err);
    assert_eq!(fs::read(here.path("kept.png")).unwrap(), b"mine");
    here.run(&format!("{sample} --force")).succeeds();
    assert_ne!(fs::read(here.path("kept.png")).unwrap(), b"mine");
    #[cfg(unix)]
    {
        let refused = here.run("-q sample --model base.safetensors --steps 2 --save-tensors /dev/null");
        assert!(refused.err.contains("it is a device or a pipe"), "{}", refused.err);
    }
}

/// `/dev/full` fails every write as a full disk does.
#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_printed_is_an_error() {
    let here = Workplace::new();
    for arguments in ["config print", "--help", "config check train.toml", "completions bash"] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended = Ended::of(program(&here.path(""), arguments).stdout(Stdio::from(full)));
        assert_eq!(ended.code, Some(1), "{arguments}: {}", ended.err);
        assert!(ended.err.contains("cannot write to standard output: No space left"), "{arguments}: {}", ended.err);
    }
    // A closed pipe is fine.
    let mut child = program(&here.path(""), "config print").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_run_stands_for_its_model() {
    let here = Workplace::new();
    here.run("-q train --config train.toml --out run").succeeds();
    let out = here.run("-q eval --config train.toml --model run --json").succeeds();
    assert_eq!(out, here.run("-q eval --config train.toml --model run/model.safetensors --json").succeeds());
    check(&[
        case(
            |here| fs::create_dir(here.path("folder")).unwrap(),
            "sample --model folder",
            2,
            &["cannot read folder: it is a directory without a model.safetensors"],
        ),
        case(
            |here| fs::write(here.path("a.safetensors"), "version https://git-lfs.github.com/spec/v1\noid x").unwrap(),
            "sample --model a.safetensors",
            2,
            &["a.safetensors is not safetensors: it is a Git LFS pointer"],
        ),
        case(
            |here| {
                let index =
                    r#"{"metadata": {"total_size": 1}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}"#;
                fs::write(here.path("model.safetensors.index.json"), index).unwrap();
            },
            "sample --model model.safetensors.index.json",
            2,
            &["it is the index of a sharded model"],
        ),
    ]);
    let ended = here.run("config check train.toml --set model.file=/ --set reward.0.file=.");
    assert_eq!(ended.code, Some(2));
    assert!(ended.out.contains("`model.file` names /, which is a directory"), "{}", ended.out);
    assert!(ended.out.contains("`reward.0.file` names ., which is a directory"), "{}", ended.out);
    here.run("config check train.toml --set model.file=run").succeeds();
}

/// Wherever a file is wanted, a directory or a device is none: it is said by name, by `config check` too, and nothing is
/// read without end.
#[cfg(unix)]
#[test]
fn directories_and_devices_are_no_files() {
    let here = Workplace::new();
    let device = "a device or a pipe";
    for (command, key, set, what) in [
        ("train", "model.file", "model.file=/", "a directory"),
        ("train", "model.file", "model.file=/dev/null", device),
        ("train", "reward.0.file", "reward.0.file=/", "a directory"),
        ("train", "reward.0.file", "reward.0.file=/dev/null", device),
        ("train", "reward.0.file", "reward.0={kind='template',file='/dev/null'}", device),
        ("train", "reward.0.metadata", "reward.0={kind='command',program=['true'],metadata='/dev/null'}", device),
        ("train", "eval.judge", "eval.judge=/", "a directory"),
        ("train", "eval.judge", "eval.judge=/dev/null", device),
        ("train", "/dev/null", "lora.adapter=/dev/null", "it is no directory, but that of an adapter is needed"),
        ("pretrain", "/dev/null", "data={kind='sheet',path='/dev/null',labels='train.toml'}", device),
        ("pretrain", "data.labels", "data={kind='sheet',path='samples.png',labels='/dev/null'}", device),
    ] {
        if !here.path("samples.png").exists() {
            here.run("-q sample --model base.safetensors --count 1 --steps 1").succeeds();
        }
        let before = here.snapshot();
        let checked = here.run(&format!("config check {command}.toml --set {set}"));
        assert_eq!(checked.code, Some(2), "{set}: {}", checked.out);
        assert!(checked.out.contains(key) && checked.out.contains(what), "{set}: {}", checked.out);
        let ended = here.run(&format!("-q {command} --config {command}.toml --set {set} --out run"));
        assert_eq!(ended.code, Some(2), "{set}: {}", ended.err);
        assert!(ended.err.contains("/dev/null") || what == "a directory", "{set}: {}", ended.err);
        assert!(here.snapshot() == before, "{set}: something is written");
    }
    // It has no end, and no more of it is read than a text could have.
    let ended = here.run("train --config /dev/zero --out run");
    assert!(ended.code == Some(2) && ended.err.contains("more than 64 MiB"), "{}", ended.err);
}

/// A disk that is full at the very first or the very last write of a run is an error like every other, with exit code 1:
/// the user's input is right.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_never_a_success_nor_bad_input() {
    let here = Workplace::new();
    let program = program(&here.path(""), "");
    let script = format!(
        "mount -t tmpfs -o size=8k none full || exit 77; exec {} -q train --config train.toml --out full/run",
        program.get_program().to_string_lossy()
    );
    fs::create_dir(here.path("full")).unwrap();
    let mut unshare = std::process::Command::new("unshare");
    match unshare.args(["-rm", "sh", "-c", &script]).current_dir(here.path("")).output().map(Ended::with) {
        Ok(ended) if ended.code != Some(77) && !ended.err.contains("unshare failed") => {
            assert_eq!(ended.code, Some(1), "{}", ended.err);
            let says = ["cannot write full/run/", "No space left on device"];
            assert!(says.iter().all(|text| ended.err.contains(text)), "{}", ended.err);
            assert!(!ended.err.contains(".writing-"), "a name that nobody knows: {}", ended.err);
        }
        _ => skip::not_checked("a full disk: no small file system can be mounted"),
    }

    // Nothing can be renamed to a directory, as nothing can be written to a full disk.
    fs::create_dir_all(here.path("last/report.html/taken")).unwrap();
    let ended = here.run("-q train --config train.toml --out last");
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    let says = ["cannot write last/report.html", "the run itself is saved", "flowdppo-wgpu report last"];
    assert!(says.iter().all(|text| ended.err.contains(text)), "{}", ended.err);
    assert!(here.path("last/model.safetensors").exists());
    let ended = here.run("-q report last");
    assert!(ended.code == Some(1) && ended.err.contains("cannot write last/report.html"), "{}", ended.err);
}

/// `ulimit -f` also limits the memory of a software driver, which is a file: no command ends without a word.
#[cfg(target_os = "linux")]
#[test]
fn a_limit_on_the_size_of_files_is_named() {
    let here = Workplace::new();
    for arguments in ["train --config train.toml --out run", "sample --model base.safetensors", "devices"] {
        let program = program(&here.path(""), "");
        let line = format!("ulimit -f 100 && exec {} -q {arguments}", program.get_program().to_string_lossy());
        let mut shell = std::process::Command::new("sh");
        let ended = Ended::of(shell.args(["-c", &line]).current_dir(here.path("")).stdin(Stdio::null()));
        let is_named = ["ulimit -f", "File too large"].iter().any(|text| ended.err.contains(text));
        // A device with memory of its own has room for small results.
        assert!(ended.code == Some(0) || (ended.code == Some(1) && is_named), "{arguments}: {ended:?}");
    }
}

//! Output files: never written over inputs, over other files only with --force, and never silently lost.

use std::fs;
use std::process::Stdio;

use super::bad_input::{case, check, nothing};
use super::workplace::{Ended, Workplace, program};

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

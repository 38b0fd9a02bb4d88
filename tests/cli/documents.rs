//! Runs the command lines of the documents as written, but with fewer and smaller steps.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[path = "../common/command_lines.rs"]
mod command_lines;

use command_lines::{command_lines, shell_words};

use super::workplace::{Ended, copy_folder, program};

/// A command that takes longer does not end by itself, and would block the tests forever.
const PATIENCE: Duration = Duration::from_secs(300);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Arguments that reduce a command to about a second: fewer and smaller steps of the same kind.
fn smaller(command: &str) -> &'static str {
    match command {
        "train" => {
            " --set train.iterations=1 --set rollout.groups=2 --set rollout.group_size=2 --set train.inner_epochs=1 \
             --set eval.count=2 --set eval.steps=2 --set preview.per_class=1 --set preview.steps=2"
        }
        "pretrain" => {
            " --set pretrain.steps=2 --set pretrain.warmup_steps=1 --set pretrain.batch_size=4 \
             --set preview.per_class=1 --set preview.steps=2"
        }
        "fit-classifier" => " --set classifier.steps=2 --set classifier.batch_size=4",
        "eval" => " --set eval.count=2 --set eval.steps=2",
        // Complete runs are tested in tests/cli/sweep.rs.
        "sweep" => " --dry-run",
        _ => "",
    }
}

/// Why a command line is only parsed (by tests/docs.rs).
fn only_parsed(arguments: &str) -> Option<&'static str> {
    let is_placeholder = |word: &str| {
        let stem = word.split('.').next().unwrap_or_default();
        stem.len() > 1 && stem.chars().all(|letter| letter.is_ascii_uppercase())
    };
    if arguments.split([' ', '=']).any(|word| is_placeholder(word) || word.starts_with("SiT-")) {
        return Some("it names a file of the reader's");
    }
    if arguments.contains("configs/rewards/http.toml") {
        return Some("its service is another program");
    }
    match arguments.split(' ').next() {
        Some("bench") => Some("it measures for minutes; tests/cli/bench.rs runs every option"),
        Some("doctor") => Some("it measures for minutes; tests/cli/doctor.rs runs it"),
        Some("web") => Some("it serves until it is stopped; .ci/web-test stops it"),
        Some("dashboard") => Some("it serves until it is stopped; tests/cli/dashboard.rs stops it"),
        _ => None,
    }
}

fn run_in(here: &Path, command_line: &str) -> Ended {
    let mut command = assert_cmd::Command::from_std(program(here, ""));
    command.args(shell_words(command_line));
    Ended::with(command.timeout(PATIENCE).output().expect("the program starts"))
}

fn documents() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md")];
    for folder in [root().to_owned(), root().join("docs")] {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect();
        paths.sort();
        found.extend(paths);
    }
    found
}

/// Writes the code blocks that start with `# NAME.EXTENSION` as files of that name.
fn write_files_of_documents(here: &Path) {
    let mut written = HashSet::new();
    for path in documents().iter().skip(1) {
        let text = std::fs::read_to_string(path).unwrap();
        for block in text.split("\n```").filter_map(|block| block.split_once('\n')).map(|(_, block)| block) {
            let first = block.lines().next().and_then(|line| line.strip_prefix("# "));
            let Some(name) = first.filter(|name| name.contains('.') && !name.contains(' ')) else { continue };
            std::fs::write(here.join(name), block).unwrap();
            assert!(written.insert(name.to_owned()), "{}: another block is also called {name}", path.display());
        }
    }
    for name in ["pretrain.toml", "train.toml", "score.py", "bright.toml"] {
        assert!(written.contains(name), "no document shows {name}");
    }
}

#[test]
fn every_command_line_of_the_documents_runs() {
    let place = tempfile::tempdir().unwrap();
    let here = place.path();
    for folder in ["assets", "configs", "docs/rewards", "docs/tutorial", "tests/formats"] {
        copy_folder(&root().join(folder), &here.join(folder));
    }
    let drawn = Command::new("python3").arg("docs/tutorial/draw.py").current_dir(here).status();
    assert!(drawn.expect("python3 is needed, as for the rewards that are programs").success());
    write_files_of_documents(here);
    // A run that a document refers to but none creates.
    run_in(here, &format!("train --out runs/second --set run.seed=1{}", smaller("train"))).succeeds();

    let (mut run, mut parsed) = (HashSet::new(), HashSet::new());
    for path in documents() {
        for arguments in command_lines(&std::fs::read_to_string(&path).unwrap()) {
            if only_parsed(&arguments).is_some() {
                parsed.insert(arguments);
            } else if run.insert(arguments.clone()) {
                let command = arguments.split(' ').next().unwrap_or_default();
                let smaller = Some(smaller(command)).filter(|more| !arguments.ends_with(more)).unwrap_or_default();
                let ended = run_in(here, &format!("{arguments}{smaller}"));
                assert_eq!(ended.code, Some(0), "{}: {arguments}\n{}\n{}", path.display(), ended.out, ended.err);
            }
        }
    }
    assert!(run.len() >= 30 && run.len() > parsed.len(), "{} were run, {} only parsed", run.len(), parsed.len());
}

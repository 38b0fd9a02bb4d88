//! The documents are correct: their command lines parse (tests/cli/documents.rs runs them), their configurations are
//! valid, the reference of keys is generated from the code, and that of metrics names every metric.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use flowdppo_wgpu::cli::Cli;
use flowdppo_wgpu::config::{Checked, Command, Config, ObjectiveName, PRESETS, Sweep, reference};
use flowdppo_wgpu::evaluate::{Drift, Evaluation, GroupScores, Split};
use flowdppo_wgpu::flow::standard_ratio::StandardRatio;
use flowdppo_wgpu::rl::guard::WarningKind;
use flowdppo_wgpu::rl::{IterationMetrics, Line, StepMetrics, UpdateMetrics};
use flowdppo_wgpu::run::checkpoint;

#[path = "common/command_lines.rs"]
mod command_lines;

use command_lines::{PROGRAM, command_lines, shell_words};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
}

/// The files in a folder with this extension.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == ending));
    paths.sort();
    paths
}

fn documents() -> Vec<PathBuf> {
    let documents = [files("", "md"), files("docs", "md"), files("docs/gpu-reports", "md")].concat();
    assert!(documents.len() >= 7, "{documents:?}");
    documents
}

/// Parses a command line, and checks that the shipped files that it names exist.
fn check_command(place: &Path, arguments: &str) {
    let words = shell_words(arguments);
    if let Err(cause) = Cli::try_parse_from([PROGRAM.trim()].into_iter().chain(words.iter().map(String::as_str))) {
        use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
        assert!(matches!(cause.kind(), DisplayHelp | DisplayVersion), "{}: {arguments}\n{cause}", place.display());
    }
    for word in words.iter().filter(|word| ["configs/", "tests/"].iter().any(|folder| word.starts_with(folder))) {
        assert!(root().join(word).exists(), "{}: {word} does not exist", place.display());
    }
    let overrides: Vec<String> =
        words.windows(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1].to_owned()).collect();
    Config::parse("", "", &overrides).unwrap_or_else(|cause| panic!("{}: {arguments}\n{cause}", place.display()));
}

#[test]
fn command_lines_are_found() {
    let text = "run `A=1 flowdppo-wgpu devices` or\n#   flowdppo-wgpu train --resume  # on\n`flowdppo-wgpu` is";
    assert_eq!(command_lines(text), ["devices", "train --resume"]);
    assert_eq!(command_lines("cargo run --release -- train"), ["train"]);
}

#[test]
fn words_are_split_as_in_a_shell() {
    assert_eq!(shell_words("train  --set 'a=[\"b\",\"c d\"]'"), ["train", "--set", "a=[\"b\",\"c d\"]"]);
    assert_eq!(shell_words("--set a=\"b c\""), ["--set", "a=b c"]);
    assert!(std::panic::catch_unwind(|| shell_words("--set a=[\"b\"]")).is_err(), "a shell turns it into a=[b]");
}

#[test]
fn every_command_line_in_the_documents_parses() {
    let mut count = 0;
    for path in documents() {
        for arguments in command_lines(&read(&path)) {
            check_command(&path, &arguments);
            count += 1;
        }
    }
    assert!(count >= 20, "only {count} command lines were found");
}

#[test]
fn the_examples_in_the_help_parse() {
    let help = Cli::command().render_long_help().to_string();
    let lines = command_lines(&help);
    assert!(lines.len() >= 5, "{lines:?}");
    lines.iter().for_each(|arguments| check_command(Path::new("--help"), arguments));
}

#[test]
fn every_command_line_in_the_configurations_parses() {
    for folder in ["digits8", "mnist28", "emoji32", "rings", "rewards", "evidence", "shapes", "sit", "sd35"] {
        for path in files(&format!("configs/{folder}"), "toml") {
            let lines = command_lines(&read(&path));
            assert!(!lines.is_empty(), "{} does not say how to use it", path.display());
            lines.iter().for_each(|arguments| check_command(&path, arguments));
        }
    }
}

#[test]
fn the_sweeps_of_the_evidence_are_valid_and_have_three_seeds() {
    let mut sweeps = files("configs/evidence", "toml");
    sweeps.retain(|path| !path.ends_with("base-digits.toml"));
    assert_eq!(sweeps.len(), 8);
    for path in sweeps {
        let mut sweep = Sweep::load(&path).unwrap();
        sweep.sweep.base = sweep.sweep.base.map(|base| root().join(base));
        let name = path.display().to_string();
        let runs = sweep.runs(&name, Path::new("runs")).unwrap_or_else(|cause| panic!("{cause}"));
        assert_eq!(sweep.sweep.seeds, [0, 1, 2], "{name}");
        assert!(runs.len() >= 6, "{name}");
    }
}

#[test]
fn the_readme_shows_every_command() {
    let readme = read("README.md");
    let lines = command_lines(&readme);
    let commands = [
        "train",
        "sample",
        "encode",
        "eval",
        "pretrain",
        "fit-classifier",
        "data",
        "inspect",
        "import",
        "export",
        "merge",
        "compare",
        "sweep",
        "devices",
        "doctor",
        "bench",
        "config",
        "completions",
        "report",
        "dashboard",
        "web",
    ];
    let known = Cli::command();
    assert_eq!(known.get_subcommands().filter(|command| command.get_name() != "help").count(), commands.len());
    for command in commands {
        assert!(lines.iter().any(|line| line.split(' ').next() == Some(command)), "README.md lacks `{command}`");
    }
    assert!(readme.lines().count() <= 200, "README.md is too long: move details to docs/");
}

#[test]
fn the_configurations_of_the_tutorial_are_valid() {
    let tutorial = read("docs/tutorial.md");
    let blocks: Vec<&str> =
        tutorial.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    for (name, commands) in
        [("pretrain.toml", &[Command::Pretrain, Command::FitClassifier][..]), ("train.toml", &[Command::Train])]
    {
        let block = blocks.iter().find(|block| block.starts_with(&format!("# {name}\n"))).expect(name);
        let config = Config::parse(block, name, &[]).unwrap_or_else(|cause| panic!("{cause}"));
        commands.iter().for_each(|command| config.validate(*command).unwrap_or_else(|cause| panic!("{cause}")));
    }
}

#[test]
fn links_between_the_documents_are_valid() {
    for path in documents() {
        for target in read(&path).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !target.contains("://") && !target.starts_with('#') {
                let target = path.parent().unwrap().join(target.split('#').next().unwrap_or_default());
                assert!(target.exists(), "{} links to {}", path.display(), target.display());
            }
        }
    }
}

/// Asserts that a document matches the code; with `UPDATE_DOCS=1` it is rewritten.
fn check_or_update(path: &str, expected: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(root().join(path), expected).unwrap();
    }
    let found = read(path);
    let differs = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    let line = differs.unwrap_or_else(|| found.lines().count().min(expected.lines().count())) + 1;
    assert!(
        found == expected,
        "{path}:{line} does not match the code: regenerate it with `UPDATE_DOCS=1 cargo test --release --test docs`"
    );
}

#[test]
fn the_reference_matches_the_code() {
    let path = "docs/configuration.md";
    let text = read(path);
    let (by_hand, _) = text.split_once(" -->\n\n").expect("a comment where the reference begins");
    check_or_update(path, &format!("{by_hand} -->\n\n{}", reference()));
}

/// The message of a command about a configuration.
fn message(command: Command, input: &str) -> String {
    let (text, overrides) = match input.strip_prefix("--set ") {
        Some(set) => ("", set.split(" --set ").map(str::to_owned).collect()),
        None => (input, Vec::new()),
    };
    match Config::parse(text, "my.toml", &overrides).and_then(|config| config.validate(command)) {
        Err(cause) => {
            assert_eq!(cause.exit_code(), 2, "{input}");
            cause.to_string()
        }
        Ok(()) => panic!("nothing is wrong with {input} for {command}"),
    }
}

/// The first message of `config check` about a file.
fn message_of_check(input: &str) -> String {
    let found = Checked::text(input, "my.toml", &[], None);
    let said = found.errors.iter().chain(&found.missing).next();
    said.unwrap_or_else(|| panic!("nothing is wrong with {input}")).to_string()
}

/// The message of a complete command line, in a folder with a run, a sweep and a configuration, to which nothing is
/// added.
fn message_of_program(arguments: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    std::fs::create_dir(here("run")).unwrap();
    checkpoint::save::<Vec<u8>>(&here("run/checkpoints"), 3, &[], 0).unwrap();
    for (name, text) in [
        ("run/config.toml", Config::default().to_toml()),
        ("run/metrics.jsonl", "{\"iteration\": 3}\n".to_owned()),
        ("sweep.toml", "grid.run.seed = [1, 2]\n".to_owned()),
        ("train.toml", "[train]\n".to_owned()),
    ] {
        std::fs::write(here(name), text).unwrap();
    }
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_flowdppo-wgpu"));
    let ended = program.current_dir(folder.path()).args(arguments.split(' ')).env_remove("RUST_LOG").output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap().replace(std::path::MAIN_SEPARATOR, "/");
    assert_eq!(ended.status.code(), Some(2), "{arguments}: {said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "{arguments}");
    let sentence = said.strip_prefix("error: ").unwrap_or_else(|| panic!("{arguments}: {said}")).trim_end();
    assert_eq!(sentence.lines().count(), 1, "{arguments}: {said}");
    sentence.to_owned()
}

/// Asserts that the tables of a document show the messages of the program. `ask` gets the section and the code in the
/// first column; it returns nothing if that is not an input.
fn check_messages(path: &str, least: usize, ask: impl Fn(&str, &str) -> Option<String>) {
    let (mut section, mut expected, mut count) = (String::new(), String::new(), 0);
    for line in read(path).lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            heading.clone_into(&mut section);
        }
        let input = line.strip_prefix("| `").and_then(|rest| rest.split_once("` |"));
        match input.and_then(|(input, _)| Some((input, ask(&section, input)?))) {
            Some((input, message)) => {
                expected += &format!("| `{input}` | {} |\n", message.replace('|', "\\|"));
                count += 1;
            }
            None => expected += &format!("{line}\n"),
        }
    }
    assert!(count >= least, "{path}: {count}");
    check_or_update(path, &expected);
}

#[test]
fn the_documents_show_the_actual_messages() {
    check_messages("docs/errors.md", 100, |section, input| {
        let commands = [Command::Train, Command::Eval, Command::Pretrain, Command::FitClassifier];
        Some(match section {
            "Keys, names and types" => message(Command::Train, input),
            "Sweeps" | "What `config check` finds missing" => message_of_check(input),
            "Command lines" => message_of_program(input),
            _ => {
                let is_for = |command: &Command| section == format!("Values for `{command}`");
                let command =
                    commands.into_iter().find(is_for).unwrap_or_else(|| panic!("no command belongs to {section}"));
                message(command, input)
            }
        })
    });
    check_messages("docs/rewards.md", 15, |section, input| {
        (section == "What the messages mean").then(|| message(Command::Train, &format!("reward = [{{ {input} }}]")))
    });
}

#[test]
fn the_presets_are_listed() {
    let text = read("docs/configuration.md");
    for preset in PRESETS {
        assert!(text.contains(&format!("| `{}` |", preset.name)), "docs/configuration.md lacks `{}`", preset.name);
    }
}

/// Every `make` target in the documents exists.
#[test]
fn make_has_every_target_that_the_documents_name() {
    let makefile = read("Makefile");
    let mut count = 0;
    for path in documents() {
        for line in read(&path).lines() {
            let Some(target) = line.strip_prefix("make ").and_then(|rest| rest.split(' ').next()) else { continue };
            assert!(makefile.contains(&format!("\n{target}:")), "{}: {line}", path.display());
            count += 1;
        }
    }
    assert!(count >= 3, "{count}");
}

#[test]
fn every_warning_is_explained() {
    let guide = read("docs/troubleshooting.md");
    for kind in WarningKind::ALL {
        assert!(guide.contains(&format!("| `{}` |", kind.name())), "docs/troubleshooting.md lacks {kind:?}");
    }
}

#[test]
fn the_reference_names_every_metric() {
    let update = UpdateMetrics { kl_ref_mean: Some(0.0), ..UpdateMetrics::default() };
    let iteration = |objective| IterationMetrics {
        iteration: 1,
        objective,
        reference_beta: 0.1,
        reward: [0.0; 4],
        components: vec![("classifier".into(), [0.5; 2])],
        advantage: [1.0; 2],
        zero_std_groups: [0, 1],
        trained_steps: vec![0],
        updates: vec![update.clone()],
        by_step: vec![StepMetrics::default()],
        on_policy: [0.0; 2],
        standard_ratio: Some(StandardRatio::default()),
        lost_in_half: Some(Vec::new()),
        dim: 64,
        seconds: [1.0; 3],
        images: 1,
    };
    let drift = Drift { velocity_msd: 0.0, kl_by_step: vec![None], kl_mean: 0.0, image_msd: 0.0 };
    let drift_keys = serde_json::to_value(&drift).unwrap();
    let evaluation = Evaluation {
        samples: 2,
        reward_mean: 0.0,
        reward_standard_error: 0.0,
        judge_accuracy: None,
        diversity: 0.0,
        diversity_standard_error: 0.0,
        high_frequency: None,
        high_frequency_standard_error: None,
        components: [("ink".into(), 0.5)].into(),
        components_standard_error: [("ink".into(), 0.1)].into(),
        groups: BTreeMap::from([(
            "counting".into(),
            GroupScores {
                samples: 2,
                reward_mean: 0.0,
                reward_standard_error: 0.0,
                components: BTreeMap::from([("ink".into(), 0.5)]),
                components_standard_error: BTreeMap::from([("ink".into(), 0.1)]),
                judge_accuracy: Some(0.5),
            },
        )]),
        split: Some(Split {
            reward_trained: 0.0,
            reward_untrained: 0.0,
            judge_trained: None,
            judge_untrained: None,
            image_msd_untrained: None,
        }),
        drift: Some(drift),
        kl_efficiency: Some(0.0),
    };
    let evaluation = serde_json::to_value(&evaluation).unwrap();
    let names = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let objectives = [ObjectiveName::FlowDppo, ObjectiveName::FlowGrpo, ObjectiveName::Nft];
    let lines = objectives.map(|objective| {
        let learned = Some(iteration(objective).line(1e-4));
        let line = Line { iteration: 1, learned, ..Line::default() };
        names(&serde_json::to_value(line).unwrap())
    });
    let mut found = lines.concat();
    found.extend(names(&evaluation).iter().map(|key| format!("eval/{key}")));
    found.extend(names(&drift_keys));
    let reference = read("docs/metrics.md");
    for key in &found {
        assert!(reference.contains(&format!("`{key}`")), "docs/metrics.md lacks `{key}`");
    }
}

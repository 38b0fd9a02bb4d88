//! The documents tell the truth: their command lines parse, their configurations are valid, and the references name
//! every key that exists.

use std::path::{Path, PathBuf};

use clap::Parser;
use flowdppo_wgpu::cli::Cli;
use flowdppo_wgpu::config::{Command, Config, ObjectiveName, Sweep};
use flowdppo_wgpu::evaluate::{Drift, Evaluation, Split};
use flowdppo_wgpu::flow::standard_ratio::StandardRatio;
use flowdppo_wgpu::rl::guard::Kind;
use flowdppo_wgpu::rl::{IterationMetrics, StepMetrics, UpdateMetrics};

const PROGRAM: &str = "flowdppo-wgpu ";
const CARGO_RUN: &str = "cargo run --release -- ";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
}

/// The files in a folder with this ending.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == ending));
    paths.sort();
    paths
}

fn documents() -> Vec<PathBuf> {
    let documents = [files("", "md"), files("docs", "md")].concat();
    assert!(documents.len() >= 7, "{documents:?}");
    documents
}

/// The arguments of every command line of this program in a text: lines of blocks and comments, and spans of code.
fn command_lines(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        // Outside of code spans a line may be a command as a whole; the odd pieces between backquotes are spans.
        let pieces: Vec<&str> = line.split('`').collect();
        let spans = pieces.iter().skip(1).step_by(2).copied();
        let whole = (pieces.len() == 1).then(|| line.trim_start_matches(['#', '/', '!', ' ']));
        for candidate in spans.chain(whole) {
            let words = candidate.split(' ').skip_while(|word| word.contains('=') && !word.starts_with('-'));
            let command = words.collect::<Vec<_>>().join(" ");
            let arguments = command.strip_prefix(PROGRAM).or_else(|| command.strip_prefix(CARGO_RUN));
            found
                .extend(arguments.map(|arguments| arguments.split("  #").next().unwrap_or_default().trim().to_owned()));
        }
    }
    found
}

/// Parses a command line, and checks that a shipped file that it names is there.
fn check_command(place: &Path, arguments: &str) {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    if let Err(cause) = Cli::try_parse_from([PROGRAM.trim()].iter().chain(&words)) {
        use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
        assert!(matches!(cause.kind(), DisplayHelp | DisplayVersion), "{}: {arguments}\n{cause}", place.display());
    }
    for word in words.iter().filter(|word| ["configs/", "tests/"].iter().any(|folder| word.starts_with(folder))) {
        assert!(root().join(word).is_file(), "{}: {word} does not exist", place.display());
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
fn every_command_line_in_the_configurations_parses() {
    for folder in ["digits8", "mnist28", "emoji32", "rings", "rewards", "evidence"] {
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
    assert_eq!(sweeps.len(), 5);
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
fn the_readme_shows_every_command_and_its_configurations_are_valid() {
    let readme = read("README.md");
    let lines = command_lines(&readme);
    let commands = [
        "train",
        "sample",
        "eval",
        "pretrain",
        "fit-classifier",
        "import",
        "export",
        "merge",
        "compare",
        "sweep",
        "devices",
        "bench",
    ];
    for command in commands {
        assert!(lines.iter().any(|line| line.split(' ').next() == Some(command)), "README.md lacks `{command}`");
    }
    let blocks: Vec<&str> =
        readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    for (name, commands) in
        [("pretrain.toml", &[Command::Pretrain, Command::FitClassifier][..]), ("train.toml", &[Command::Train])]
    {
        let block = blocks.iter().find(|block| block.starts_with(&format!("# {name}\n"))).expect(name);
        let config = Config::parse(block, name, &[]).unwrap_or_else(|cause| panic!("{cause}"));
        commands.iter().for_each(|command| config.validate(*command).unwrap_or_else(|cause| panic!("{cause}")));
    }
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    for path in documents() {
        for target in read(&path).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !target.contains("://") && !target.starts_with('#') {
                let target = path.parent().unwrap().join(target.split('#').next().unwrap_or_default());
                assert!(target.exists(), "{} links to {}", path.display(), target.display());
            }
        }
    }
}

/// The dotted keys of a table, without indices of lists.
fn keys(prefix: &str, value: &toml::Value, found: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                keys(&path, value, found);
            }
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            items.iter().for_each(|item| keys(prefix, item, found));
        }
        _ => found.push(prefix.to_owned()),
    }
}

#[test]
fn the_reference_names_every_key_of_the_configuration() {
    // A new model has sizes, a sheet has paths: together these have every key that there is.
    let overrides = [
        "data.path=x",
        "data.labels=y",
        "reward.0.colour=[0, 0, 0]",
        "reward.0.input_size=[1, 1]",
        "lora.alpha=4",
        "lora.adapter=z",
    ];
    let sizes = "[model]\nimage_size = 8\nchannels = 1\npatch_size = 2\nhidden_size = 8\ndepth = 1\nnum_heads = 1\n\
                 mlp_ratio = 4.0\nnum_classes = 2";
    let mut found = Vec::new();
    for text in ["", sizes] {
        let config = Config::parse(text, "keys.toml", &overrides.map(str::to_owned)).unwrap();
        keys("", &toml::Value::try_from(config).unwrap(), &mut found);
    }
    found.sort();
    found.dedup();
    assert!(found.len() > 70, "{found:?}");
    let reference = read("docs/configuration.md");
    for key in &found {
        assert!(reference.contains(&format!("`{key}`")), "docs/configuration.md lacks `{key}`");
    }
    // And nothing that does not exist: the first cell of a row of a section's table.
    for line in reference.lines().filter(|line| line.starts_with("| `")) {
        let cell = line.split('|').nth(1).unwrap_or_default();
        for key in cell.split('`').skip(1).step_by(2).filter(|key| key.contains('.')) {
            let known = found.iter().any(|known| known == key || known.starts_with(&format!("{key}.")));
            assert!(known, "docs/configuration.md invents `{key}`");
        }
    }
}

#[test]
fn every_warning_is_explained() {
    let guide = read("docs/troubleshooting.md");
    for kind in Kind::ALL {
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
        split: Some(Split {
            reward_trained: 0.0,
            reward_untrained: 0.0,
            judge_trained: None,
            judge_untrained: None,
            image_msd_untrained: None,
        }),
        drift: Some(drift),
    };
    let evaluation = serde_json::to_value(&evaluation).unwrap();
    let names = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let objectives = [ObjectiveName::FlowDppo, ObjectiveName::FlowGrpo, ObjectiveName::Nft];
    let lines = objectives.map(|objective| iteration(objective).to_json(1e-4));
    let mut found: Vec<String> = lines.into_iter().flatten().map(|(key, _)| key).collect();
    found.extend(names(&evaluation).iter().map(|key| format!("eval/{key}")));
    found.extend(names(&drift_keys));
    let reference = read("docs/metrics.md");
    for key in &found {
        assert!(reference.contains(&format!("`{key}`")), "docs/metrics.md lacks `{key}`");
    }
}

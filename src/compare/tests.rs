use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// Writes a run with known rewards: `rewards` has one per iteration, from 0.
fn run(root: &TempDir, name: &str, config: &str, rewards: &[f64]) -> PathBuf {
    let path = root.path().join(name);
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("config.toml"), config).unwrap();
    let line = |(iteration, reward): (usize, &f64)| {
        let drift = (iteration > 0)
            .then(|| json!({"velocity_msd": 0.01 * iteration as f64, "kl_mean": 0.1 * iteration as f64}));
        let mut line = json!({
            "iteration": iteration, "eval/reward_mean": reward, "eval/judge_accuracy": reward, "eval/diversity": 4.0,
            "eval/drift": drift,
        });
        if iteration > 0 {
            let fields = json!({
                "reward_mean": reward, "masked_fraction": 0.1, "trained_steps": [iteration % 2, 3],
                "kl_by_step": [1e-3 * iteration as f64, 2e-2], "seconds_rollout": 1.0, "seconds_reward": 0.5,
                "seconds_update": 2.0, "z_fresh_histogram": [0, iteration, 3, 1],
            });
            line.as_object_mut().unwrap().append(&mut fields.as_object().unwrap().clone());
        }
        format!("{line}\n")
    };
    fs::write(path.join("metrics.jsonl"), rewards.iter().enumerate().map(line).collect::<String>()).unwrap();
    path
}

fn config(seed: u64, learning_rate: f64) -> String {
    format!("[run]\nname = \"n{seed}\"\nseed = {seed}\n[train]\nlearning_rate = {learning_rate}\niterations = 2\n")
}

fn read(paths: &[PathBuf]) -> Result<Comparison> {
    let sources: Vec<Source> = paths.iter().map(|path| Source { label: None, path: path.clone() }).collect();
    Comparison::read(&sources)
}

fn value(comparison: &Comparison, group: usize, key: &str) -> Statistic {
    let quantity = QUANTITIES.iter().find(|quantity| quantity.key == key).unwrap();
    quantity.over(&comparison.groups()[group]).unwrap()
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-12, "{a} is not {b}");
}

#[test]
fn seeds_of_one_configuration_are_a_group_and_their_numbers_a_mean() {
    let root = tempfile::tempdir().unwrap();
    let runs = [
        run(&root, "slow-seed0", &config(0, 1e-4), &[0.5, 0.8, 0.7]),
        run(&root, "fast", &config(0, 3e-4), &[0.5, 0.9, 0.95]),
        run(&root, "slow-seed1", &config(1, 1e-4), &[0.4, 0.6, 0.9]),
    ];
    let comparison = read(&runs).unwrap();
    let labels: Vec<&str> = comparison.groups().iter().map(|group| group.label.as_str()).collect();
    assert_eq!(labels, ["slow", "fast"]);
    assert!(comparison.groups().iter().flat_map(|group| &group.runs).all(|run| run.status == Status::Finished));
    let seeds: Vec<Option<u64>> = comparison.groups()[0].runs.iter().map(|run| run.seed).collect();
    assert_eq!(seeds, [Some(0), Some(1)]);

    let reward = value(&comparison, 0, "reward_final");
    close(reward.mean, 0.8);
    close(reward.std.unwrap(), 0.02_f64.sqrt());
    assert_eq!(reward.count, 2);
    close(value(&comparison, 0, "reward_base").mean, 0.45);
    close(value(&comparison, 0, "reward_best").mean, 0.85);
    close(value(&comparison, 0, "kl_to_base").mean, 0.2);
    // The gains of the two seeds are 0.2 and 0.5.
    close(value(&comparison, 0, "kl_efficiency").mean, 0.35 / 0.2);
    close(value(&comparison, 0, "seconds").mean, 7.0);
    close(value(&comparison, 0, "masked_fraction").mean, 0.1);
    let alone = value(&comparison, 1, "reward_final");
    assert_eq!((alone.mean, alone.std, alone.count), (0.95, None, 1));
    // Step 0 was trained in iteration 2, step 1 in iteration 1, step 3 in both.
    let by_step = comparison.groups()[1].runs[0].kl_by_step();
    assert_eq!(by_step, [[0.0, 2e-3], [1.0, 1e-3], [3.0, 2e-2]]);
}

/// The same run twice is not two seeds: a spread of 0 would look like certainty.
#[test]
fn a_repeated_seed_is_rejected_unless_its_runs_are_labelled() {
    let root = tempfile::tempdir().unwrap();
    let runs = [
        run(&root, "first", &config(0, 1e-4), &[0.5, 0.8, 0.7]),
        run(&root, "other", &config(1, 1e-4), &[0.5, 0.8, 0.7]),
        run(&root, "again", &config(0, 1e-4), &[0.5, 0.8, 0.7]),
    ];
    let error = read(&runs).unwrap_err();
    let message = error.to_string();
    for part in ["first and ", "again have the same configuration and the same seed, 0", "leave one out"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(error.exit_code(), 2);
    let labelled: Vec<Source> = ["a", "a", "b"]
        .iter()
        .zip(&runs)
        .map(|(label, path)| Source { label: Some((*label).to_owned()), path: path.clone() })
        .collect();
    let comparison = Comparison::read(&labelled).unwrap();
    let counts: Vec<usize> = comparison.groups().iter().map(|group| group.runs.len()).collect();
    assert_eq!(counts, [2, 1]);
}

#[test]
fn the_table_and_every_figure_are_written() {
    let root = tempfile::tempdir().unwrap();
    let runs = [
        run(&root, "slow-seed0", &config(0, 1e-4), &[0.5, 0.8, 0.7]),
        run(&root, "slow-seed1", &config(1, 1e-4), &[0.4, 0.6]),
        run(&root, "fast", &config(0, 3e-4), &[0.5, 0.9, 0.95]),
    ];
    fs::write(runs[1].join("failed.txt"), "all is NaN\n").unwrap();
    let labels = ["a|b", "a|b", "fast"].map(|label| Some(label.to_owned()));
    let sources = labels.into_iter().zip(&runs).map(|(label, path)| Source { label, path: path.clone() });
    let comparison = Comparison::read(&sources.collect::<Vec<_>>()).unwrap();
    let out = root.path().join("deep/out");
    let written = comparison.write(&out).unwrap();
    let table = fs::read_to_string(out.join("comparison.md")).unwrap();
    for words in [
        "| a\\|b ",
        "| 2 (1 failed) |",
        " 1 to 2 |",
        "| 0.650 ± 0.071 |",
        " 0.950 |",
        "seed1 failed after 1 rollouts: all is NaN",
    ] {
        assert!(table.contains(words), "{words} is missing in\n{table}");
    }
    // A value that no run has gets no column.
    assert!(["masked |", "base reward"].iter().all(|title| table.contains(title)) && !table.contains("untrained"));
    let json: serde_json::Value = serde_json::from_slice(&fs::read(out.join("comparison.json")).unwrap()).unwrap();
    assert_eq!(json["groups"][0]["runs"][1]["status"], "failed");
    assert_eq!(json["groups"][0]["runs"][1]["planned_iterations"], 2);
    assert_eq!(json["groups"][1]["over_seeds"]["reward_final"]["mean"], 0.95);
    assert!(json["groups"][1]["over_seeds"]["reward_final"]["std"].is_null());
    for name in ["reward", "reward_drift", "reward_kl", "judge", "masked", "kl_by_step", "rollout_reward", "ratio_law"]
    {
        let path = out.join(name).with_extension("svg");
        assert!(written.contains(&path) && table.contains(&format!("({name}.svg)")), "{name}");
        let svg = fs::read_to_string(path).unwrap();
        assert!(svg.contains("a|b") && svg.contains("fast"), "{svg}");
    }
}

#[test]
fn a_mean_is_drawn_only_where_all_seeds_have_a_value() {
    let root = tempfile::tempdir().unwrap();
    let runs = [
        run(&root, "seed0", &config(0, 1e-4), &[0.5, 0.7, 0.9, 0.95]),
        run(&root, "seed1", &config(1, 1e-4), &[0.3, 0.5]),
    ];
    let comparison = read(&runs).unwrap();
    let figures = figures::all(comparison.groups());
    let series = &figures[0].1.series[0];
    let line: Vec<f64> = series.line.iter().flatten().copied().collect();
    [0.0, 0.4, 1.0, 0.6].into_iter().zip(&line).for_each(|(expected, found)| close(*found, expected));
    assert_eq!(line.len(), 4);
    assert_eq!(series.band, [[0.0, 0.3, 0.5], [1.0, 0.5, 0.7]]);
    assert_eq!(series.threads, [[[1.0, 0.7], [2.0, 0.9], [3.0, 0.95]]]);
}

#[test]
fn crashed_running_and_older_runs_are_read_as_far_as_they_go() {
    let root = tempfile::tempdir().unwrap();
    // A key that this version does not know, and a truncated last line.
    let old = format!("{}warmth = 3\n", config(0, 1e-4));
    let path = run(&root, "old", &old, &[0.5, 0.8, 0.9]);
    let log = path.join("metrics.jsonl");
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, &text[..text.len() - 30]).unwrap();
    // Only the base so far, without drift in its evaluation.
    let running = run(&root, "running", &config(1, 1e-4), &[]);
    fs::write(running.join("metrics.jsonl"), "{\"iteration\":0,\"eval/reward_mean\":0.5}\n").unwrap();
    let comparison = read(&[path, running]).unwrap();
    let old = &comparison.groups()[0].runs[0];
    assert_eq!((old.iterations, old.planned, &old.status), (1, Some(2), &Status::Unfinished));
    close(value(&comparison, 0, "reward_final").mean, 0.8);
    let quantity = |key: &str| QUANTITIES.iter().find(|quantity| quantity.key == key).unwrap();
    assert_eq!(quantity("kl_efficiency").over(&comparison.groups()[1]), None);
    comparison.write(&root.path().join("out")).unwrap();
}

#[test]
fn labels_name_groups_and_must_not_hide_a_difference() {
    let root = tempfile::tempdir().unwrap();
    let rewards = [0.5, 0.8, 0.9];
    let [a, b, c] = [("a", 0, 1e-4), ("b", 1, 1e-4), ("c", 0, 3e-4)]
        .map(|(name, seed, rate)| run(&root, name, &config(seed, rate), &rewards));
    let labelled = |label: &str, path: &PathBuf| Source::parse(&format!("{label}={}", path.display()));
    let comparison = Comparison::read(&[labelled("x", &a), labelled("x", &b), labelled("y", &c)]).unwrap();
    let groups: Vec<(&str, usize)> =
        comparison.groups().iter().map(|group| (group.label.as_str(), group.runs.len())).collect();
    assert_eq!(groups, [("x", 2), ("y", 1)]);

    let message = Comparison::read(&[labelled("x", &a), labelled("x", &c)]).unwrap_err().to_string();
    assert!(message.contains("label `x`") && message.contains("train.learning_rate"), "{message}");
    let message = read(&[a.clone(), a.join("../a")]).unwrap_err().to_string();
    assert!(message.contains("given twice"), "{message}");

    // One colour per family, one mark per member.
    let families = [labelled("m, 1", &a), labelled("n, 1", &b), labelled("m, 2", &c)];
    let styles: Vec<(usize, usize)> =
        Comparison::read(&families).unwrap().groups().iter().map(|group| (group.colour, group.shape)).collect();
    assert_eq!(styles, [(0, 0), (1, 0), (0, 1)]);
}

#[test]
fn a_path_with_an_equals_sign_is_a_path_if_it_exists() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("lr=3");
    fs::create_dir(&path).unwrap();
    let text = path.display().to_string();
    assert_eq!(Source::parse(&text), Source { label: None, path });
    assert_eq!(Source::parse("a=b=c"), Source { label: Some("a".into()), path: "b=c".into() });
    assert_eq!(Source::parse("=b"), Source { label: None, path: "=b".into() });
}

#[test]
fn names_of_seeds_are_cut_to_their_common_part() {
    let root = tempfile::tempdir().unwrap();
    for (names, expected) in [
        (["clip-seed0", "clip-seed10"], "clip"),
        (["digits8", "digits8-2"], "digits8"),
        (["one", "two"], "one"),
        (["seed0", "seed1"], "seed0"),
    ] {
        let runs = names.map(|name| History::read(&run(&root, name, &config(0, 1e-4), &[0.5])).unwrap());
        assert_eq!(common_name(&runs), expected);
    }
}

#[test]
fn the_distribution_of_the_ratio_sums_iterations_and_seeds() {
    let root = tempfile::tempdir().unwrap();
    let runs = [
        run(&root, "a-seed0", &config(0, 1e-4), &[0.5, 0.8, 0.7]),
        run(&root, "a-seed1", &config(1, 1e-4), &[0.5, 0.8]),
    ];
    let comparison = read(&runs).unwrap();
    assert_eq!(comparison.groups()[0].runs[0].z_histogram(), Some(vec![0.0, 3.0, 6.0, 2.0]));
    let charts = figures::all(comparison.groups());
    let (_, chart) = charts.iter().find(|(name, _)| *name == "ratio_law").unwrap();
    // Bins 2 wide: 0, 4, 9 and 3 of 16 terms.
    let density = [0.0, 0.125, 0.28125, 0.09375];
    for (bin, density) in density.into_iter().enumerate() {
        let edge = 2.0 * bin as f64 - 4.0;
        assert_eq!(chart.series[0].line[2 * bin..2 * bin + 2], [[edge, density], [edge + 2.0, density]]);
    }
    assert_eq!((chart.series.len(), chart.series[1].label.as_str()), (2, "normal law"));
}

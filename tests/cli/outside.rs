//! Training with a program as reward: what a person sees when it works, and when it does not.

use std::fs;

use super::bad_input::{case, check};
use super::workplace::Workplace;

/// Makes `train.toml` learn from a shell script.
fn learn_from(here: &Workplace, script: &str) {
    fs::write(here.path("score.sh"), script).unwrap();
    let reward = "[[reward]]\nkind = \"command\"\nprogram = [\"sh\", \"score.sh\"]\nretries = 0";
    let train = fs::read_to_string(here.path("train.toml")).unwrap();
    let train = train.replace("[[reward]]\nfile = \"classifier.safetensors\"", reward);
    assert!(train.contains("score.sh"), "train.toml has another reward by now");
    fs::write(here.path("train.toml"), train).unwrap();
}

/// Scores every sample by its label; a line may come before each answer.
fn labels(before: &str) -> String {
    format!(
        "while IFS= read -r line; do\n{before}\n\
         id=$(printf '%s' \"$line\" | sed 's/^{{\"id\":\\([0-9]*\\).*/\\1/')\n\
         scores=$(printf '%s\\n' \"$line\" | tr '{{' '\\n' | sed -n 's/.*\"label\":\\([0-9]*\\).*/\\1/p' | paste -sd, -)\n\
         printf '{{\"id\":%s,\"scores\":[%s]}}\\n' \"$id\" \"$scores\"\ndone\n"
    )
}

#[test]
fn a_run_learns_from_a_program() {
    let here = Workplace::new();
    learn_from(&here, &labels(""));
    here.run("-q train --config train.toml --out run").succeeds();
    let metrics = fs::read_to_string(here.path("run/metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    let reward = last["reward_mean"].as_f64().unwrap();
    assert!((0.0..=9.0).contains(&reward) && (2.0 * reward).fract() == 0.0, "two groups, a label each: {last}");
}

#[test]
fn a_program_that_does_not_start_is_found_before_anything_is_written() {
    check(&[
        case(
            |here| learn_from(here, "echo 'no model' >&2; exit 3\n"),
            "-q train --config train.toml --out run",
            2,
            &["the program `sh score.sh` ended with exit", "3 instead of giving an answer", "ends with: no model"],
        ),
        case(
            |here| learn_from(here, "echo hello; cat\n"),
            "-q train --config train.toml --out run",
            2,
            &["the program `sh score.sh` answered `hello`", "everything else belongs to standard error"],
        ),
        case(
            |here| learn_from(here, "exit 3\n"),
            "-q train --config train.toml --dry-run",
            2,
            &["the program `sh score.sh` ended with exit", "it said nothing on standard error"],
        ),
    ]);
}

#[test]
fn a_program_that_fails_in_the_middle_stops_the_run() {
    let here = Workplace::new();
    learn_from(&here, &labels("case $line in *'\"iteration\":1,'*) echo 'out of paper' >&2; exit 4;; esac"));
    let ended = here.run("-q train --config train.toml --out run");
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.starts_with("error: the program `sh score.sh` ended with exit"), "{}", ended.err);
    assert!(
        ended.err.contains("4 instead of giving an answer; its standard error ends with: out of paper"),
        "{}",
        ended.err
    );
    assert_eq!(ended.err.lines().count(), 1, "one sentence: {}", ended.err);
}

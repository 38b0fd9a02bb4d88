//! Training with a program or an ONNX model as the reward, when it works and when it fails.

use std::fs;

use super::bad_input::{case, check};
use super::workplace::Workplace;

/// Makes a shell script the reward of `train.toml`.
fn learn_from(here: &Workplace, script: &str) {
    fs::write(here.path("score.sh"), script).unwrap();
    replace_reward(here, "[[reward]]\nkind = \"command\"\nprogram = [\"sh\", \"score.sh\"]\nretries = 0");
}

fn replace_reward(here: &Workplace, reward: &str) {
    let train = fs::read_to_string(here.path("train.toml")).unwrap();
    let train = train.replace("[[reward]]\nfile = \"classifier.safetensors\"", reward);
    assert!(train.contains(reward), "train.toml has another reward by now");
    fs::write(here.path("train.toml"), train).unwrap();
}

/// Scores every sample by its label; `before` may print a line before each answer.
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
            &["the program `sh score.sh` ended with exit", "3 instead of answering", "ends with: no model"],
        ),
        case(
            |here| learn_from(here, "echo hello; cat\n"),
            "-q train --config train.toml --out run",
            2,
            &["the program `sh score.sh` answered `hello`", "everything else must go to standard error"],
        ),
        case(
            |here| learn_from(here, "exit 3\n"),
            "-q train --config train.toml --dry-run",
            2,
            &["the program `sh score.sh` ended with exit", "it wrote nothing to standard error"],
        ),
    ]);
}

/// Fails from the second iteration on.
const FAILS: &str = "case $line in *'\"iteration\":1,'*) echo 'out of paper' >&2; exit 4;; esac";

#[test]
fn a_program_that_fails_during_a_run_stops_it_and_a_fixed_one_continues_it() {
    let here = Workplace::new();
    learn_from(&here, &labels(FAILS));
    let ended = here.run("-q train --config train.toml --out run --set checkpoint.every=0");
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.starts_with("error: the program `sh score.sh` ended with exit"), "{}", ended.err);
    assert!(ended.err.contains("4 instead of answering; its standard error ends with: out of paper"), "{}", ended.err);
    assert_eq!(ended.err.lines().count(), 1, "one sentence: {}", ended.err);
    assert!(here.path("run/checkpoints/000001/manifest.json").exists() && !here.path("run/model.safetensors").exists());
    // The recommended command does not accept the changed file by itself: it names the file and stops.
    let how = "saved up to iteration 1: fix the reward, then resume with: flowdppo-wgpu ";
    let (_, command) = ended.err.split_once(how).unwrap();
    assert_eq!(command.trim(), "train --resume --out run");
    fs::write(here.path("score.sh"), labels("")).unwrap();
    let asked = here.run(&format!("-q {}", command.trim()));
    assert_eq!(asked.code, Some(2), "{}", asked.err);
    assert!(asked.err.contains("`reward.0.program` names") && asked.err.contains("--accept-changes"), "{}", asked.err);
    here.run(&format!("-q {} --accept-changes", command.trim())).succeeds();
    let metrics = fs::read_to_string(here.path("run/metrics.jsonl")).unwrap();
    assert!(metrics.lines().last().unwrap().contains("\"iteration\":2,"), "{metrics}");
    assert!(here.path("run/model.safetensors").exists());
}

/// The message must not promise saved iterations if the directory has been deleted.
#[test]
fn a_run_whose_directory_was_deleted_promises_nothing() {
    let here = Workplace::new();
    learn_from(&here, &labels("case $line in *'\"iteration\":1,'*) rm -rf run; exit 4;; esac"));
    let ended = here.run("-q train --config train.toml --out run --set checkpoint.every=1");
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.contains("nothing of the run is left, because run was deleted"), "{}", ended.err);
    assert!(!ended.err.contains("saved up to"), "{}", ended.err);
}

/// The name of a component that would clear the screen.
const NAMES: &str = r#"read -r line; printf '%s\n' '{"id": 0, "components": ["a", "b\u001b[2J"]}'; cat >/dev/null"#;

#[test]
fn a_name_with_control_characters_is_rejected() {
    check(&[case(
        |here| learn_from(here, NAMES),
        "-q train --config train.toml --out run",
        2,
        &["the reward command measures \"b\\u{1b}[2J\", which has U+001B: a name must not contain control"],
    )]);
}

#[cfg(feature = "onnx")]
#[test]
fn a_run_learns_from_an_onnx_model() {
    let here = Workplace::new();
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/onnx/classifier.onnx"), here.path("scorer.onnx")).unwrap();
    let reward = "[[reward]]\nkind = \"onnx\"\nfile = \"scorer.onnx\"\noutput_name = \"logits\"\noutput = { kind = \"scalar\", index = 1 }";
    replace_reward(&here, reward);
    here.run("-q train --config train.toml --out run").succeeds();
    let scores = fs::read_to_string(here.path("run/rewards.csv")).unwrap();
    let mut lines = scores.lines();
    assert_eq!(lines.next(), Some("iteration,purpose,sample,class,onnx,total"));
    let mut training: Vec<&str> =
        lines.filter(|line| line.contains("training")).map(|line| line.rsplit(',').next().unwrap()).collect();
    training.sort_unstable();
    training.dedup();
    assert_eq!(training.len(), 2 * 8, "every image of two rollouts has its own score: {scores}");
    let weights = |file: &str| flowdppo_wgpu::model::Model::load(&here.path(file)).unwrap().weights;
    assert!(weights("base.safetensors") != weights("run/model.safetensors"), "nothing was learned");
}

#[cfg(unix)]
mod ctrl_c {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Child, Command, Stdio};

    use super::super::interruption::ctrl_c::wait_for;
    use super::super::workplace::program;
    use super::*;

    fn start(here: &Workplace) -> Child {
        let arguments = "-q train --config train.toml --out run --set reward.0.retries=1000";
        program(&here.path(""), arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn interrupt(child: &Child) {
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    }

    #[test]
    fn ends_the_attempts_and_saves_the_run() {
        let here = Workplace::new();
        learn_from(&here, &labels(&FAILS.replace("exit", "echo . >>failed; exit")));
        let mut child = start(&here);
        wait_for("the fourth failure", || {
            let failed = fs::read_to_string(here.path("failed")).unwrap_or_default();
            (failed.lines().count() >= 4).then_some(())
        });
        interrupt(&child);
        let code = wait_for("the end of the program", || child.try_wait().unwrap()).code();
        let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("out of paper") && said.contains("saved up to iteration 1: fix"), "{said}");
        assert!(here.path("run/checkpoints/000001/manifest.json").exists());
    }

    #[test]
    fn twice_also_ends_a_hung_program() {
        let here = Workplace::new();
        let hangs = "case $line in *'\"iteration\":1,'*) sleep 600 & echo $! >pid; wait;; esac";
        learn_from(&here, &labels(hangs));
        let mut child = start(&here);
        let read_pid = || fs::read_to_string(here.path("pid")).ok().filter(|pid| pid.ends_with('\n'));
        let pid = wait_for("the second iteration", read_pid);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        interrupt(&child);
        // Two signals at the same moment would be delivered as one.
        let told = |line: &str| line.contains("again to stop immediately");
        assert!(stderr.by_ref().lines().any(|line| told(&line.unwrap())));
        interrupt(&child);
        assert_eq!(wait_for("the end of the program", || child.try_wait().unwrap()).code(), Some(130));
        let script = format!("case $(ps -o stat= -p {}) in ''|Z*) ;; *) exit 1;; esac", pid.trim());
        let is_dead = || Command::new("sh").args(["-c", &script]).status().unwrap().success();
        wait_for("the end of what hangs", || is_dead().then_some(()));
    }
}

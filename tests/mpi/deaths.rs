//! What happens if a rank dies, fails, or is asked to end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::{assert_same, finish, folder, mpirun, ready, resume, text, train, undisturbed};

/// Within this time every rank ends after another has died.
const LONGEST_END: Duration = Duration::from_secs(30);

/// Starts a run and waits for a condition; `None` if the run ended before.
fn start_and_wait_for(command: &mut Command, run: &Path, seen: impl Fn(&Path) -> bool) -> Option<Child> {
    let mut child = command.spawn().expect("mpirun starts");
    let deadline = Instant::now() + Duration::from_secs(120);
    while !seen(run) {
        if child.try_wait().expect("mpirun is our child").is_some() {
            return None;
        }
        assert!(Instant::now() < deadline, "{} does not reach the expected state", run.display());
        std::thread::sleep(Duration::from_micros(200));
    }
    Some(child)
}

/// The process of rank 1 of a run, which its log names.
fn second_rank(run: &Path) -> Option<String> {
    let log = fs::read_to_string(run.join("rank-1.log")).ok()?;
    Some(log.split("process ").nth(1)?.split_whitespace().next()?.to_owned())
}

fn signal(signal: &str, process: &str) {
    let sent = Command::new("kill").args([signal, process]).status().expect("there is a kill");
    assert!(sent.success());
}

/// The process of rank 0 of a run, the other child of `mpirun`.
fn first_rank(mpirun: &Child, run: &Path) -> Option<String> {
    let second = second_rank(run)?;
    let children = Command::new("pgrep").args(["-P", &mpirun.id().to_string()]).output().expect("there is a pgrep");
    let children = String::from_utf8_lossy(&children.stdout).into_owned();
    children.lines().map(str::to_owned).find(|child| *child != second)
}

/// Kills a rank of a run of two when a condition is met; both end in time, with a message.
fn kill(name: &str, rank: usize, seen: impl Fn(&Path) -> bool, wait: Duration) {
    let run = folder().join(name);
    let mut command = mpirun(&[(2, train("configs/rings/train.toml", name, &[]))]);
    let child = start_and_wait_for(&mut command, &run, |run| second_rank(run).is_some() && seen(run));
    let child = child.unwrap_or_else(|| panic!("{name}: the run ended before it could be disturbed"));
    std::thread::sleep(wait);
    let begin = Instant::now();
    let process = if rank == 0 { first_rank(&child, &run) } else { second_rank(&run) };
    signal("-KILL", &process.expect("the run has two ranks"));
    let output = child.wait_with_output().expect("mpirun is our child");
    assert!(begin.elapsed() < LONGEST_END, "{name}: {:?}", begin.elapsed());
    assert!(!output.status.success(), "{name}");
    let said = text(&output);
    assert!(
        said.contains(&format!("rank {rank} (process ")) && said.contains("has died") && said.contains("--resume"),
        "{name}: {said}"
    );
}

/// Continues a run to its end, which has the bytes of the undisturbed one.
fn resume_to_the_same_end(name: &str) {
    finish(mpirun(&[(2, resume_or_start(name))]));
    assert_same(name, undisturbed());
}

/// The temporary folder in which the checkpoint of the first iteration is written.
fn unfinished_checkpoint(run: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(run.join("checkpoints")).ok()?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".000001.tmp")))
}

/// A run that was killed before its first line of metrics starts over.
fn resume_or_start(name: &str) -> Vec<String> {
    match folder().join(name).join("config.toml").is_file() {
        true => resume(name),
        false => train("configs/rings/train.toml", name, &[]),
    }
}

fn has_line(run: &Path, iteration: usize) -> bool {
    fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|text| text.lines().count() > iteration)
}

#[test]
fn all_end_when_a_rank_is_killed_and_the_run_can_be_resumed() {
    let Some(_one) = ready() else { return };
    undisturbed();
    // Before the first line: in the first rollout. After a line: in an evaluation, a rollout or an update.
    for rank in [0, 1] {
        let [rollout, update] = ["rollout", "update"].map(|phase| format!("killed-{rank}-in-{phase}"));
        kill(&rollout, rank, |run| run.join("device.json").is_file(), Duration::ZERO);
        resume_to_the_same_end(&rollout);
        kill(&update, rank, |run| has_line(run, 1), Duration::from_millis(30));
        resume_to_the_same_end(&update);
    }
}

#[test]
fn a_rank_that_is_killed_while_it_writes_a_checkpoint_leaves_a_run_that_can_be_resumed() {
    let Some(_one) = ready() else { return };
    undisturbed();
    // Rank 0 writes, in a few milliseconds: some attempts miss them.
    for attempt in 1..=10 {
        let name = format!("killed-in-checkpoint-{attempt}");
        kill(&name, 0, |run| unfinished_checkpoint(run).is_some() || has_line(run, 2), Duration::ZERO);
        let is_hit = unfinished_checkpoint(&folder().join(&name)).is_some();
        resume_to_the_same_end(&name);
        if is_hit {
            return;
        }
    }
    panic!("no attempt has hit a checkpoint in the writing");
}

#[test]
fn a_run_that_is_asked_to_end_is_saved_by_all() {
    let Some(_one) = ready() else { return };
    let (name, run) = ("asked", folder().join("asked"));
    let mut command = mpirun(&[(2, train("configs/rings/train.toml", name, &["train.iterations=200"]))]);
    let child = start_and_wait_for(&mut command, &run, |run| has_line(run, 1)).expect("200 iterations take longer");
    // The launcher passes it on.
    signal("-USR1", &child.id().to_string());
    let output = child.wait_with_output().expect("mpirun is our child");
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("stopped after iteration") && said.contains("--resume"), "{said}");
    assert!(!run.join("before_after.png").exists());
}

#[test]
fn a_reward_that_fails_on_one_rank_ends_all_and_loses_nothing() {
    let Some(_one) = ready() else { return };
    // The program of rank 1 stops working after the first iteration.
    let script = "import json, os, sys\n\
                  for line in sys.stdin:\n    \
                      request = json.loads(line)\n    \
                      late = any(item.get('iteration', 0) > 0 and item['purpose'] == 'training' for item in request.get('items', []))\n    \
                      if late and os.environ.get('OMPI_COMM_WORLD_RANK') == '1': sys.exit(3)\n    \
                      answer = {'id': 0} if 'hello' in request else {'id': request['id'], 'scores': [item['sample'] % 3 for item in request['items']]}\n    \
                      print(json.dumps(answer), flush=True)\n";
    let [program, config] = ["reward.py", "failing.toml"].map(|name| folder().join(name));
    fs::write(&program, script).expect("the folder is writable");
    let reward = format!("[[reward]]\nkind = \"command\"\nprogram = [\"python3\", {program:?}]\nretries = 0\n");
    fs::write(&config, reward).expect("the folder is writable");
    let arguments = train(&config.display().to_string(), "failing", &["checkpoint.every=0"]);
    let output = mpirun(&[(2, arguments)]).output().expect("mpirun starts");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    for part in ["error: rank 1: the program", "saved up to iteration 1", "fix the reward", "--resume"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(said.matches("error: ").count(), 1, "one rank talks: {said}");
}

//! Runs of several ranks, started with `mpirun`: the same bytes on any number of them, and an end with a clear message if
//! one of them dies or fails. They need the feature `mpi` and Open MPI:
//!
//! `cargo test --release --features mpi --test mpi`

#[allow(dead_code, reason = "the kernels use the rest")]
#[path = "common/skip.rs"]
mod skip;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowdppo_wgpu::run::metrics;

const PROGRAM: &str = env!("CARGO_BIN_EXE_flowdppo-wgpu");

/// Within this time every rank ends after another has died.
const LONGEST_END: Duration = Duration::from_secs(30);

/// Whether ranks can be started here. One test at a time starts them: each rank uses all processors.
fn ready() -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::new(());
    if !cfg!(feature = "mpi") {
        skip::report("runs of several ranks: built without `--features mpi`");
        return None;
    }
    if !Command::new("mpirun").arg("--version").output().is_ok_and(|output| output.status.success()) {
        skip::not_checked("runs of several ranks: there is no `mpirun`");
        return None;
    }
    Some(ONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Where the runs of this test binary are; emptied by the next one.
fn folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mpi");
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("the folder is ours");
        }
        fs::create_dir_all(&folder).expect("the target folder is writable");
        folder
    });
    &FOLDER
}

/// Tiny runs: four micro-batches per update, two passes, an evaluation and a checkpoint after each iteration.
const SMALL: [&str; 15] = [
    "rollout.groups=4",
    "rollout.group_size=4",
    "rollout.steps=6",
    "train.iterations=3",
    "train.updates_per_rollout=2",
    "train.inner_epochs=2",
    "train.micro_batch=2",
    "train.max_skipped_updates=0",
    "eval.every=1",
    "eval.count=3",
    "eval.steps=2",
    "preview.per_class=1",
    "preview.steps=2",
    "preview.every=1",
    "checkpoint.every=1",
];

/// Starts so many ranks with these arguments.
fn mpirun(ranks: &[(usize, Vec<String>)]) -> Command {
    mpirun_of(&ranks.iter().map(|(count, arguments)| (*count, PROGRAM, arguments.clone())).collect::<Vec<_>>())
}

/// The same of several programs.
fn mpirun_of(ranks: &[(usize, &str, Vec<String>)]) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe"]);
    for (index, (count, program, arguments)) in ranks.iter().enumerate() {
        if index > 0 {
            command.arg(":");
        }
        command.args(["-n", &count.to_string(), program]).args(arguments);
    }
    // Not the user's configuration.
    command.env("FLOWDPPO_CACHE_DIR", folder().join("cache")).env("XDG_RUNTIME_DIR", "/tmp");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The arguments of a tiny `train` into a directory of this name.
fn train(config: &str, name: &str, more: &[&str]) -> Vec<String> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join(config).display().to_string();
    let out = folder().join(name).display().to_string();
    let sets = SMALL.iter().chain(more).flat_map(|set| ["--set", set]);
    ["train", "--config", &config, "--out", &out].into_iter().chain(sets).map(str::to_owned).collect()
}

fn resume(name: &str) -> Vec<String> {
    ["train", "--resume", "--out", &folder().join(name).display().to_string()].map(str::to_owned).into()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn finish(mut command: Command) -> Output {
    let output = command.output().expect("mpirun starts");
    assert!(output.status.success(), "{}", text(&output));
    output
}

/// Everything of a run that does not depend on the time: files, and the lines of metrics.
fn result(name: &str) -> Vec<(String, Vec<u8>)> {
    let run = folder().join(name);
    let mut files = Vec::new();
    for part in
        ["model.safetensors", "before_after.png", "samples/000003.png", "best/best.json", "best/model.safetensors"]
    {
        files.push((
            part.to_owned(),
            fs::read(run.join(part)).unwrap_or_else(|cause| panic!("{name}: {part}: {cause}")),
        ));
    }
    for part in ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"] {
        let part = format!("checkpoints/000003/{part}");
        files.push((part.clone(), fs::read(run.join(&part)).expect("a finished run has it")));
    }
    let mut records = metrics::read(&run.join("metrics.jsonl")).expect("the log is complete");
    for record in &mut records {
        record.retain(|key, _| !key.starts_with("seconds_") && key != "images_per_second");
    }
    files.push(("metrics".to_owned(), serde_json::to_vec(&records).expect("numbers are JSON")));
    files
}

/// The scores of a run, the last of each sample.
fn rewards(name: &str) -> Vec<String> {
    let text = fs::read_to_string(folder().join(name).join("rewards.csv")).expect("the run wrote it");
    text.lines().map(str::to_owned).collect()
}

fn assert_same(name: &str, expected: &[(String, Vec<u8>)]) {
    for ((part, actual), (_, expected)) in result(name).iter().zip(expected) {
        assert!(actual == expected, "{name}: {part} has other bytes");
    }
}

/// The uninterrupted run on two ranks.
fn undisturbed() -> &'static [(String, Vec<u8>)] {
    static RESULT: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
        finish(mpirun(&[(2, train("configs/rings/train.toml", "undisturbed", &[]))]));
        result("undisturbed")
    });
    &RESULT
}

#[test]
fn any_number_of_ranks_writes_the_same_bytes() {
    let Some(_one) = ready() else { return };
    for (config, label) in [("configs/rings/train.toml", "rings"), ("configs/digits8/train.toml", "digits")] {
        let name = |size: usize| format!("{label}-{size}");
        for size in [1, 2, 3, 4] {
            let output = finish(mpirun(&[(size, train(config, &name(size), &[]))]));
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(said.matches("report: ").count(), 1, "one rank talks: {said}");
            if size > 1 {
                assert_same(&name(size), &result(&name(1)));
                assert_eq!(rewards(&name(size)), rewards(&name(1)));
                for rank in 1..size {
                    let log = fs::read_to_string(folder().join(name(size)).join(format!("rank-{rank}.log")));
                    assert!(log.expect("each rank has one").contains(&format!("rank {rank} of {size}")));
                }
            }
        }
    }
}

#[test]
fn pretraining_writes_the_same_bytes_on_any_number_of_ranks() {
    let Some(_one) = ready() else { return };
    let sets = [
        "pretrain.steps=4",
        "pretrain.warmup_steps=1",
        "pretrain.batch_size=12",
        "pretrain.micro_batch=2",
        "pretrain.log_every=1",
        "pretrain.sample_every=2",
        "pretrain.save_every=2",
        "preview.per_class=1",
        "preview.steps=2",
    ];
    let name = |size: usize| format!("pretrained-{size}");
    for size in [1, 2, 4] {
        let run = folder().join(name(size)).display().to_string();
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/rings/pretrain.toml").display().to_string();
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let arguments = ["pretrain", "--config", &config, "--out", &run].into_iter().chain(sets);
        finish(mpirun(&[(size, arguments.map(str::to_owned).collect())]));
        for part in
            ["model.safetensors", "metrics.jsonl", "samples/000004.png", "checkpoints/000002/optimizer.safetensors"]
        {
            let [one, many] = [1, size].map(|size| fs::read(folder().join(name(size)).join(part)));
            assert!(one.expect("the run wrote it") == many.expect("the run wrote it"), "{size} ranks: {part}");
        }
    }
}

#[test]
fn a_run_continues_with_another_number_of_ranks() {
    let Some(_one) = ready() else { return };
    let expected = undisturbed();
    finish(mpirun(&[(3, train("configs/rings/train.toml", "fewer", &["train.iterations=2"]))]));
    let more = ["--set".to_owned(), "train.iterations=3".to_owned()];
    finish(mpirun(&[(1, [resume("fewer"), more.into()].concat())]));
    for (part, bytes) in result("fewer").iter().zip(expected).filter_map(|(it, other)| (it.1 != other.1).then_some(it))
    {
        // The end of a shorter run was measured and drawn as well, but what was trained is the same.
        assert!(!part.starts_with("checkpoints") && part != "model.safetensors", "{part}: {} bytes", bytes.len());
    }
}

/// Starts a run and waits for a condition; `None` if the run ended before.
fn start_and_wait_for(command: &mut Command, run: &Path, seen: impl Fn(&Path) -> bool) -> Option<Child> {
    let mut child = command.spawn().expect("mpirun starts");
    let deadline = Instant::now() + Duration::from_secs(120);
    while !seen(run) {
        if child.try_wait().expect("mpirun is our child").is_some() {
            return None;
        }
        assert!(Instant::now() < deadline, "{} does not reach the expected state", run.display());
        std::thread::sleep(Duration::from_millis(1));
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

/// Kills a rank when a condition is met; all end in time, with a message; and resuming gives the undisturbed bytes.
fn kill_and_resume(name: &str, seen: impl Fn(&Path) -> bool, wait: Duration) {
    let run = folder().join(name);
    let mut command = mpirun(&[(2, train("configs/rings/train.toml", name, &[]))]);
    let child = start_and_wait_for(&mut command, &run, |run| second_rank(run).is_some() && seen(run));
    let child = child.unwrap_or_else(|| panic!("{name}: the run ended before it could be disturbed"));
    std::thread::sleep(wait);
    let begin = Instant::now();
    signal("-KILL", &second_rank(&run).expect("its log names it"));
    let output = child.wait_with_output().expect("mpirun is our child");
    assert!(begin.elapsed() < LONGEST_END, "{name}: {:?}", begin.elapsed());
    assert!(!output.status.success(), "{name}");
    let said = text(&output);
    assert!(
        said.contains("rank 1 (process ") && said.contains("has died") && said.contains("--resume"),
        "{name}: {said}"
    );
    finish(mpirun(&[(2, resume_or_start(name))]));
    assert_same(name, undisturbed());
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
    kill_and_resume("killed-in-rollout", |run| run.join("device.json").is_file(), Duration::ZERO);
    kill_and_resume("killed-in-update", |run| has_line(run, 1), Duration::from_millis(30));
    let is_writing = |run: &Path| {
        fs::read_dir(run.join("checkpoints")).is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(".000001.tmp")))
        })
    };
    kill_and_resume("killed-in-checkpoint", |run| is_writing(run) || has_line(run, 1), Duration::ZERO);
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

#[test]
fn ranks_that_would_train_different_runs_are_refused() {
    let Some(_one) = ready() else { return };
    let of_seed = |seed: &str| train("configs/rings/train.toml", "different", &[seed]);
    let output = mpirun(&[(1, of_seed("run.seed=1")), (1, of_seed("run.seed=2"))]).output().expect("mpirun starts");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("rank 1 has another configuration"), "{}", text(&output));
    assert!(!folder().join("different").exists(), "nothing is written");

    let other = folder().join("other-program").display().to_string();
    fs::copy(PROGRAM, &other).expect("the folder is writable");
    let mut file = fs::File::options().append(true).open(&other).expect("the folder is writable");
    file.write_all(&[0]).expect("the folder is writable");
    drop(file);
    let ranks = [(1, PROGRAM, of_seed("run.seed=1")), (1, &*other, of_seed("run.seed=1"))];
    let output = mpirun_of(&ranks).output().expect("mpirun starts");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("rank 1 has another program"), "{}", text(&output));

    let output = mpirun(&[(4, train("configs/rings/train.toml", "different", &["train.micro_batch=8"]))]).output();
    let output = output.expect("mpirun starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("set `train.micro_batch` = 2"), "{}", text(&output));

    let output = mpirun(&[(2, vec!["devices".to_owned()])]).output().expect("mpirun starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("only `train` and `pretrain` are shared by several processes"), "{}", text(&output));
}

#[test]
fn a_program_without_mpi_is_not_started_several_times() {
    if cfg!(feature = "mpi") {
        return;
    }
    for variable in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"] {
        let output = Command::new(PROGRAM).args(["train", "--dry-run"]).env(variable, "4").output();
        let output = output.expect("the program starts");
        assert_eq!(output.status.code(), Some(2));
        let said = text(&output);
        assert!(said.contains("started 4 times") && said.contains("--features mpi"), "{said}");
    }
}

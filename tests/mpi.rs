//! Runs of several ranks, started with `mpirun`: the same bytes on any number of them, and an end with a clear message if
//! one of them dies or fails. They need the feature `mpi` and Open MPI:
//!
//! `cargo test --release --features mpi --test mpi`

#[path = "mpi/commands.rs"]
mod commands;
#[path = "mpi/deaths.rs"]
mod deaths;
#[allow(dead_code, reason = "the kernels use the rest")]
#[path = "common/skip.rs"]
mod skip;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use flowdppo_wgpu::run::metrics;

const PROGRAM: &str = env!("CARGO_BIN_EXE_flowdppo-wgpu");

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
    assert!(
        text(&output).contains("are shared by several processes, and this command was started 2 times"),
        "{}",
        text(&output)
    );
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

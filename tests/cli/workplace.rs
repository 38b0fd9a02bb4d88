//! A folder with tiny models and configurations, and the program run in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use serde_json::Value;
use tempfile::TempDir;

/// Eight pixels, one block: an iteration takes milliseconds, even on a software driver.
const PRETRAIN: &str = r#"
[run]
name = "base"
[model]
image_size = 8
channels = 1
patch_size = 4
hidden_size = 8
depth = 1
num_heads = 2
num_classes = 10
[pretrain]
steps = 3
warmup_steps = 1
batch_size = 8
log_every = 1
sample_every = 2
[preview]
per_class = 2
steps = 2
"#;

const FIT: &str = r#"
[run]
name = "classifier"
[classifier]
hidden_size = 8
steps = 3
"#;

const TRAIN: &str = r#"
[run]
name = "tiny"
[model]
file = "base.safetensors"
[rollout]
steps = 4
groups = 2
group_size = 4
trained_steps = { kind = "sparse-early", count = 1, from = 0.0, to = 0.5 }
[[reward]]
file = "classifier.safetensors"
[train]
iterations = 2
inner_epochs = 2
[eval]
every = 0
count = 2
steps = 2
judge = "classifier.safetensors"
[preview]
every = 1
per_class = 2
steps = 2
[checkpoint]
every = 1
"#;

/// With prompts, on a tiny pipeline with random weights: one group of two samples, one trained step of two.
const TRAIN_PROMPTS: &str = r#"
[model]
folder = "FORMATS/sd35_tiny_pipeline"
weights = "f16"
[prompts]
file = "prompts.txt"
[rollout]
steps = 2
groups = 2
group_size = 2
micro_batch = 2
guidance_scale = 2.0
schedule = { kind = "static-shift", shift = 3.0 }
trained_steps = { kind = "sparse-early", count = 1, from = 0.0, to = 0.5 }
[[reward]]
kind = "brightness"
[train]
iterations = 2
updates_per_rollout = 1
inner_epochs = 1
micro_batch = 2
[lora]
rank = 2
targets = ["attn.to_q", "attn.add_k_proj"]
[eval]
judge = ""
classes = [1]
count = 2
steps = 2
guidance_scale = 2.0
[preview]
per_class = 1
steps = 2
[checkpoint]
every = 1
"#;

/// The runs that train the models, done once by the program itself.
pub static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("the folder is ours");
    }
    std::fs::create_dir_all(&folder).expect("cargo's folder for tests is writable");
    std::fs::write(folder.join("pretrain.toml"), PRETRAIN).expect("the folder is writable");
    std::fs::write(folder.join("fit.toml"), FIT).expect("the folder is writable");
    run_in(&folder, "pretrain --config pretrain.toml").succeeds();
    run_in(&folder, "fit-classifier --config fit.toml").succeeds();
    folder
});

/// A file or folder of another program's format that ships with the tests.
pub fn formats(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name)
}

/// A file of the SiT format that ships with the tests.
pub fn sit_tiny(file: &str) -> PathBuf {
    formats("sit_tiny").join(file)
}

/// The folder of the tiny pipeline that `train.toml` of [`Workplace::of_prompts`] names.
pub fn pipeline() -> String {
    formats("sd35_tiny_pipeline").display().to_string()
}

pub fn minit2i() -> String {
    formats("minit2i_tiny").display().to_string()
}

/// A new folder for every test, with `base.safetensors`, `classifier.safetensors` and `*.toml`.
pub struct Workplace(TempDir);

impl Workplace {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = &*MADE;
        for model in ["base", "classifier"] {
            let from = made.join("runs").join(model).join("model.safetensors");
            std::fs::copy(from, folder.path().join(model).with_extension("safetensors")).expect("it was made");
        }
        for (name, text) in [("pretrain.toml", PRETRAIN), ("fit.toml", FIT), ("train.toml", TRAIN)] {
            std::fs::write(folder.path().join(name), text).expect("the folder is writable");
        }
        Self(folder)
    }

    /// A new folder with nothing in it.
    pub fn empty() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// A new folder with `train.toml` for a text-to-image model, and two prompts in `prompts.txt`.
    pub fn of_prompts() -> Self {
        let here = Self::empty();
        let formats = formats("").display().to_string().replace('\\', "/");
        let train = TRAIN_PROMPTS.replace("FORMATS/", &formats);
        for (name, text) in [("train.toml", train.as_str()), ("prompts.txt", "a red square\n\na blue disc\n")] {
            std::fs::write(here.path(name), text).expect("the folder is writable");
        }
        here
    }

    /// The same for MiniT2I.
    pub fn of_minit2i() -> Self {
        let here = Self::of_prompts();
        here.rewrite("train.toml", "train.toml", ["sd35_tiny_pipeline", "minit2i_tiny"]);
        here.rewrite("train.toml", "train.toml", ["schedule = { kind = \"static-shift\", shift = 3.0 }\n", ""]);
        here.rewrite("train.toml", "train.toml", ["\"attn.to_q\", \"attn.add_k_proj\"", "\"*qkv\", \"w2\""]);
        here
    }

    /// Changes `train.toml`, so that all weights are trained.
    pub fn without_lora(&self) {
        let text = std::fs::read_to_string(self.path("train.toml")).expect("the file is there");
        let (before, after) = text.split_once("[lora]").expect("it trains an adapter");
        let (_, after) = after.split_once("[eval]").expect("it is evaluated");
        std::fs::write(self.path("train.toml"), format!("{before}[eval]{after}")).expect("the folder is writable");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes `to`, the file `from` with a text replaced.
    pub fn rewrite(&self, from: &str, to: &str, [old, new]: [&str; 2]) {
        let text = std::fs::read_to_string(self.path(from)).expect("the file is there");
        assert!(text.contains(old), "{from} has no {old}");
        std::fs::write(self.path(to), text.replace(old, new)).expect("the folder is writable");
    }

    /// Runs the program here, with arguments separated by spaces.
    pub fn run(&self, arguments: &str) -> Ended {
        run_in(self.0.path(), arguments)
    }

    /// The same with more arguments, which may have spaces.
    pub fn run_with(&self, arguments: &str, more: &[&str]) -> Ended {
        Ended::of(program(self.0.path(), arguments).args(more))
    }

    /// Imports the SiT model of the tests as `sit.safetensors`.
    pub fn import_sit(&self) {
        std::fs::copy(sit_tiny("model.safetensors"), self.path("foreign.safetensors")).expect("it ships");
        self.run("import --format sit --num-heads 2 foreign.safetensors sit.safetensors").succeeds();
    }

    /// Every file and folder here, with its content.
    pub fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in std::fs::read_dir(folder).expect("the folder is readable") {
                let path = entry.expect("the folder is readable").path();
                if path.is_dir() {
                    found.insert(path.clone(), Vec::new());
                    walk(&path, found);
                } else {
                    found.insert(path.clone(), std::fs::read(&path).expect("the file is readable"));
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.0.path(), &mut found);
        found
    }
}

/// A command that runs the program in a folder.
pub fn program(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowdppo-wgpu"));
    command.current_dir(folder).args(arguments.split_whitespace()).env_remove("RUST_LOG").stdin(Stdio::null());
    // Not the user's configuration.
    command.env("FLOWDPPO_CACHE_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    command
}

fn run_in(folder: &Path, arguments: &str) -> Ended {
    Ended::of(&mut program(folder, arguments))
}

/// The output of a finished program.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    /// Standard error without the announcement of a software driver, and with `/` in paths on all systems.
    pub err: String,
}

impl Ended {
    pub fn of(command: &mut Command) -> Self {
        Self::with(command.output().expect("the program starts"))
    }

    pub fn with(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program prints UTF-8");
        let is_announcement = |line: &&str| line.starts_with("[WARN ]") && line.contains("is a software driver");
        let err = text(output.stderr).replace(std::path::MAIN_SEPARATOR, "/");
        let err = err.lines().filter(|line| !is_announcement(line)).map(|line| format!("{line}\n")).collect();
        Self { code: output.status.code(), out: text(output.stdout), err }
    }

    /// Asserts that the input was refused with one sentence; returns it.
    pub fn refused(self) -> String {
        assert_eq!(self.code, Some(2), "{}", self.err);
        assert_eq!(self.err.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{}", self.err);
        self.err
    }

    /// Asserts success; returns what was printed.
    pub fn succeeds(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.err);
        assert!(!self.err.contains("error"), "{}", self.err);
        self.out
    }
}

/// Width and height of a picture.
pub fn picture(path: &Path) -> (u32, u32) {
    let picture = image::open(path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
    (picture.width(), picture.height())
}

/// The lines of a file of JSON lines.
pub fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|cause| panic!("{cause}: {line}"))).collect()
}

pub fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} is no number in {value}"))
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

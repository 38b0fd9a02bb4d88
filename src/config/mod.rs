//! The configuration of `train`, `eval`, `pretrain` and `fit-classifier`: one TOML schema for all.
//!
//! Each command reads its own sections and leaves the others alone, so one file can serve several
//! commands. Every key has a built-in default; together the defaults train on 8x8 digits. The
//! fields of the section structs are the reference. Paths are relative to the current directory,
//! not to the configuration file.

mod builtin;
mod check;
mod choices;
mod decode;
mod derived;
mod foreign;
mod lora;
mod model;
mod paths;
mod presets;
mod prompts;
mod ranges;
mod reference;
mod reward;
mod schema;
mod sections;
mod sections_fit;
mod sections_guard;
mod sweep;
mod tree;
mod validate;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use builtin::{BuiltinFile, builtin, builtin_folder, builtin_prompts};
pub use check::Checked;
pub use choices::*;
pub(crate) use decode::nearest;
pub use lora::Lora;
pub use model::{ModelSizes, ModelSource};
pub use paths::{ADAPTER_BASE, MODEL, TRANSFORMER_BASE, adapter_in};
pub use presets::{PRESETS, Preset};
pub use prompts::{Prompts, is_encoded};
pub use reference::{Style, reference};
pub use reward::*;
pub use schema::schema;
pub use sections::*;
pub use sections_fit::*;
pub use sections_guard::Guard;
pub use sweep::{Sweep, SweepRun};

use crate::error::{Error, Result};
use tree::{Node, Sources};

/// A complete configuration; see the sections for what the keys mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[run]`
    #[schemars(extend("x-commands" = ["train", "eval", "pretrain", "fit-classifier"]))]
    pub run: Run,
    /// `[model]`
    #[schemars(extend("x-commands" = ["train", "eval", "pretrain"]))]
    pub model: Model,
    /// `[prompts]`
    #[schemars(extend("x-commands" = ["train", "eval", "pretrain"]))]
    pub prompts: Prompts,
    /// `[data]`
    #[schemars(extend("x-commands" = ["pretrain", "fit-classifier"]))]
    pub data: Data,
    /// `[rollout]`
    #[schemars(extend("x-commands" = ["train", "eval"]))]
    pub rollout: Rollout,
    /// `[[reward]]`, one entry per reward.
    #[schemars(extend("x-commands" = ["train", "eval"]))]
    pub reward: Vec<Reward>,
    /// `[advantage]`
    #[schemars(extend("x-commands" = ["train"]))]
    pub advantage: Advantage,
    /// `[objective]`
    #[schemars(extend("x-commands" = ["train"]))]
    pub objective: Objective,
    /// `[train]`
    #[schemars(extend("x-commands" = ["train"]))]
    pub train: Train,
    /// `[lora]`
    #[schemars(extend("x-commands" = ["train", "pretrain"]))]
    pub lora: Lora,
    /// `[eval]`
    #[schemars(extend("x-commands" = ["train", "eval"]))]
    pub eval: Eval,
    /// `[preview]`
    #[schemars(extend("x-commands" = ["train", "pretrain"]))]
    pub preview: Preview,
    /// `[checkpoint]`
    #[schemars(extend("x-commands" = ["train"]))]
    pub checkpoint: Checkpoint,
    /// `[guard]`
    #[schemars(extend("x-commands" = ["train"]))]
    pub guard: Guard,
    /// `[pretrain]`
    #[schemars(extend("x-commands" = ["pretrain"]))]
    pub pretrain: Pretrain,
    /// `[classifier]`
    #[schemars(extend("x-commands" = ["fit-classifier"]))]
    pub classifier: Classifier,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            run: Run::default(),
            model: Model::default(),
            prompts: Prompts::default(),
            data: Data::default(),
            rollout: Rollout::default(),
            reward: vec![Reward::default()],
            advantage: Advantage::default(),
            objective: Objective::default(),
            train: Train::default(),
            lora: Lora::default(),
            eval: Eval::default(),
            preview: Preview::default(),
            checkpoint: Checkpoint::default(),
            guard: Guard::default(),
            pretrain: Pretrain::default(),
            classifier: Classifier::default(),
        }
    }
}

/// The commands that read a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Command {
    /// `train`: needs `model.file`.
    Train,
    /// `eval`: takes its model from the command line.
    Eval,
    /// `pretrain`: needs the model's sizes, or a file or a folder to continue from.
    Pretrain,
    /// `fit-classifier`.
    FitClassifier,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Command {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
            Self::Pretrain => "pretrain",
            Self::FitClassifier => "fit-classifier",
        }
    }
}

impl Config {
    /// The defaults, changed by the file (if any), changed by the overrides in their order.
    ///
    /// An override is `key.path=value`: `train.iterations=3`, `reward.0.weight=2`,
    /// `rollout.classes=[0, 1]`. Its value is read as TOML, or as text when it is not TOML.
    /// [`Config::validate`] then checks ranges for a command.
    ///
    /// # Errors
    /// [`Error::Input`]: an unreadable file, invalid TOML, an unknown or misspelt section or key,
    /// a wrong type, an unknown name. The message has the location, the key and what was expected.
    pub fn load(path: Option<&Path>, overrides: &[String]) -> Result<Self> {
        match path {
            Some(path) => {
                let text = builtin::config_text(path)?;
                Self::parse(&text, &path.display().to_string(), overrides)
            }
            None => Self::parse("", "", overrides),
        }
    }

    /// The configuration with the default `[run]`: the same for runs that differ only in their seed, name or place.
    #[must_use]
    pub fn without_run(&self) -> Self {
        Self { run: Run::default(), ..self.clone() }
    }

    /// The configuration that the program wrote into the directory of a run, changed by the overrides.
    ///
    /// It contains every key that was read. If an override changes the objective, a kind or a mode, the keys of the
    /// earlier one are dropped, because the user did not write them. In a file of the user's they are an error.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn of_run(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::unreadable(path, e))?;
        Self::parse_as(&text, &path.display().to_string(), overrides, true)
    }

    /// The configuration that the runs of a sweep have in common, changed for one of them. If a change selects another
    /// objective, kind or mode, the file's keys of the earlier one are dropped.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_base(path: Option<&Path>, overrides: &[String]) -> Result<Self> {
        match path {
            Some(path) => Self::of_run(path, overrides),
            None => Self::load(None, overrides),
        }
    }

    /// [`Config::load`] from the text of a file, which messages call `name`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, name: &str, overrides: &[String]) -> Result<Self> {
        Self::parse_as(text, name, overrides, false)
    }

    /// [`Config::of_run`] from the text of a file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse_of_run(text: &str, name: &str) -> Result<Self> {
        Self::parse_as(text, name, &[], true)
    }

    fn parse_as(text: &str, name: &str, overrides: &[String], is_record: bool) -> Result<Self> {
        let sources = Sources { file: name, overrides };
        let mut root = parse_with_overrides(text, sources)?;
        if sweep::is_sweep(&root) {
            return Err(Error::input(format!("{name} is a sweep: flowdppo-wgpu sweep {name} --out DIR")));
        }
        let config: Self = decode::decode(&root, sources)?;
        let foreign = foreign::check(&mut root, &config, sources, is_record);
        match foreign.errors.into_iter().next() {
            Some(error) => Err(error),
            None if foreign.has_removed => decode::decode(&root, sources),
            None => Ok(config),
        }
    }

    /// The dotted keys in which two configurations differ.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        differences(&self.to_compared(), &other.to_compared())
    }

    /// What another configuration changes in this one: `run.seed 0 → 5`.
    pub fn changes(&self, other: &Self) -> Vec<String> {
        let text = |value: Option<&toml::Value>| value.map_or_else(|| "not set".to_owned(), reference::toml_of);
        let (from, to) = (self.to_compared(), other.to_compared());
        unequal(&from, &to).into_iter().map(|(key, from, to)| format!("{key} {} → {}", text(from), text(to))).collect()
    }

    /// The resolved configuration as TOML: every key that is read, with its value; those of another objective, kind or
    /// mode are left out. [`Config::parse`] reads the same configuration back.
    ///
    /// # Panics
    /// If a seed that did not come from TOML is over `i64::MAX`, TOML's largest integer.
    pub fn to_toml(&self) -> String {
        self.as_document(Style::default())
    }

    /// The values as a table, without keys that nothing reads.
    fn to_table(&self) -> toml::Table {
        let mut table = foreign::complete(self);
        foreign::remove_silent(&mut table);
        table
    }

    /// The values as a table to compare with another's; for a reward, only those of its kind.
    fn to_compared(&self) -> toml::Table {
        let mut table = foreign::complete(self);
        foreign::remove_silent_of_rewards(&mut table);
        table
    }
}

/// A file's text, changed by the overrides in their order.
fn parse_with_overrides(text: &str, sources: Sources) -> Result<Node> {
    let mut root = tree::parse_file(text, sources)?;
    if !sources.overrides.is_empty() {
        let defaults = default_tree();
        for index in 0..sources.overrides.len() {
            tree::apply_override(&mut root, defaults, index, sources)?;
        }
        keep_default_model(&mut root, text, sources)?;
    }
    Ok(root)
}

/// Restores the default file if overrides created a section `[model]` with only `weights`: that key says how to store
/// the default model, and does not replace it.
fn keep_default_model(root: &mut Node, text: &str, sources: Sources) -> Result<()> {
    let has_weights_alone = root.get("model").is_some_and(|model| model.keys().eq(["weights"]));
    if has_weights_alone && tree::parse_file(text, sources)?.get("model").is_none() {
        let file = Config::default().model.file.unwrap_or_default();
        let overrides = [format!("model.file={file}")];
        tree::apply_override(root, default_tree(), 0, Sources { overrides: &overrides, ..sources })?;
    }
    Ok(())
}

/// The defaults as a tree, for overrides that change a part of a default value.
///
/// `[model]` is left out: its default, a file, must go when sizes are given.
fn default_tree() -> &'static Node {
    static TREE: LazyLock<Node> = LazyLock::new(make_default_tree);
    &TREE
}

fn make_default_tree() -> Node {
    let text = toml::to_string(&Config::default().to_compared()).expect("the defaults are plain TOML");
    let sources = Sources { file: "built-in defaults", overrides: &[] };
    let mut root = tree::parse_file(&text, sources).expect("the defaults are plain TOML");
    root.remove("model");
    root.into_default()
}

/// The dotted keys in which two tables differ.
pub fn differences(a: &toml::Table, b: &toml::Table) -> Vec<String> {
    unequal(a, b).into_iter().map(|(key, ..)| key).collect()
}

type Unequal<'a> = (String, Option<&'a toml::Value>, Option<&'a toml::Value>);

/// The dotted keys in which two tables differ, with their values.
fn unequal<'a>(a: &'a toml::Table, b: &'a toml::Table) -> Vec<Unequal<'a>> {
    use toml::Value::{Array, Table};
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let mut found = Vec::new();
    for key in keys {
        let within = |inner: Vec<Unequal<'a>>, key: &str| {
            inner.into_iter().map(|(inner, a, b)| (format!("{key}.{inner}"), a, b)).collect::<Vec<_>>()
        };
        match (a.get(key), b.get(key)) {
            (a, b) if a == b => {}
            (Some(Table(a)), Some(Table(b))) => found.extend(within(unequal(a, b), key)),
            (Some(Array(a)), Some(Array(b))) if a.len() == b.len() && a.iter().all(toml::Value::is_table) => {
                for (at, pair) in a.iter().zip(b).enumerate() {
                    if let (Table(a), Table(b)) = pair {
                        found.extend(within(unequal(a, b), &format!("{key}.{at}")));
                    }
                }
            }
            (a, b) => found.push((key.clone(), a, b)),
        }
    }
    found
}

//! A sweep: a set of runs of `train`, described by a small file.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::decode::decode;
use super::schema::sections;
use super::tree::{Node, Sources, parse_file};
use super::{Command, Config};
use crate::error::{Error, Result};
use crate::files::read_text;

/// Largest number of runs in a sweep; a larger grid is a mistake.
const MAX_RUNS: usize = 10_000;

/// A complete file: `[sweep]`, `[grid]` and `[[variant]]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sweep {
    /// `[sweep]`
    pub sweep: Common,
    /// `[grid]`: every variant runs with every combination of these values.
    pub grid: Grid,
    /// `[[variant]]`, one entry per variant; may be empty if there is a grid.
    pub variant: Vec<Variant>,
}

/// What all runs share.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Common {
    /// The configuration that all runs start from, relative to the current directory; by default the built-in one.
    pub base: Option<PathBuf>,
    /// `run.seed` of the runs of each variant.
    pub seeds: Vec<u64>,
    /// `key=value`, like `--set`, for all runs.
    pub set: Vec<String>,
}

impl Default for Common {
    fn default() -> Self {
        Self { base: None, seeds: vec![0], set: Vec::new() }
    }
}

/// Runs with common settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Variant {
    /// Its name in tables and figures.
    pub label: String,
    /// `key=value`, like `--set`; overrides what all runs share.
    pub set: Vec<String>,
    /// Its own grid, in addition to the common one.
    pub grid: Grid,
}

/// Keys of the configuration and the values that each takes.
type Grid = BTreeMap<String, toml::Value>;

/// Whether a file describes a sweep.
pub(super) fn is_sweep(root: &Node) -> bool {
    root.keys_of_file().any(|key| ["sweep", "grid", "variant"].contains(&key))
}

/// One run of a sweep.
#[derive(Clone, Debug)]
pub struct SweepRun {
    /// Variant and values of the grid; the same for all seeds.
    pub label: String,
    /// Its configuration; `run.name` is unique, and names its directory.
    pub config: Config,
}

impl Sweep {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Input`]: an unreadable file, invalid TOML, an unknown key or a wrong type, with its location.
    pub fn load(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        let sources = Sources { file: &path.display().to_string(), overrides: &[] };
        Self::parse(&parse_file(&text, sources)?, sources)
    }

    /// The sweep that a file's tree describes.
    pub(super) fn parse(root: &Node, sources: Sources) -> Result<Self> {
        let is_config = |key: &str| sections().iter().any(|section| section.path == key);
        if !is_sweep(root) && root.keys().any(is_config) {
            return Err(Error::input(format!(
                "{0} is the configuration of a run, not a sweep: flowdppo-wgpu train --config {0}; a sweep refers to it as \
                 `sweep.base`",
                sources.file
            )));
        }
        decode(root, sources)
    }

    /// Every run, variant by variant, combination by combination, seed by seed; `out_dir` becomes their
    /// `run.out_dir`, and messages call the file `name`.
    ///
    /// # Errors
    /// [`Error::Input`] if there is nothing to run, if two runs are the same, or if a configuration is wrong.
    pub fn runs(&self, name: &str, out_dir: &Path) -> Result<Vec<SweepRun>> {
        if self.variant.is_empty() && self.grid.is_empty() {
            return Err(Error::input(format!("{name} has nothing to run: add a [[variant]] or a [grid]")));
        }
        if self.sweep.seeds.is_empty() {
            return Err(Error::input(format!("{name}: `sweep.seeds` is empty; name at least one, such as [0]")));
        }
        let shared = flatten(name, &self.grid)?;
        let unnamed = [Variant::default()];
        let variants = if self.variant.is_empty() { &unnamed[..] } else { &self.variant };
        let mut runs: Vec<SweepRun> = Vec::new();
        let mut folders: HashMap<String, usize> = HashMap::new();
        for variant in variants {
            if variant.label.is_empty() && !self.variant.is_empty() {
                return Err(Error::input(format!("{name}: a [[variant]] needs a `label`, its name in tables")));
            }
            let axes = [shared.clone(), flatten(name, &variant.grid)?].concat();
            let sizes = axes.iter().map(|(_, values)| values.len());
            let new = sizes.fold(self.sweep.seeds.len(), usize::saturating_mul);
            if runs.len().saturating_add(new) > MAX_RUNS {
                return Err(Error::input(format!(
                    "{name} describes more than {MAX_RUNS} runs: shorten `sweep.seeds` or the lists of the grid"
                )));
            }
            for values in combinations(&axes) {
                let label = label(&variant.label, &values);
                for seed in &self.sweep.seeds {
                    let set = values.iter().map(|(key, value)| format!("{key}={value}"));
                    let overrides: Vec<String> =
                        self.sweep.set.iter().chain(&variant.set).cloned().chain(set).collect();
                    let load = || -> Result<Config> {
                        let mut config = Config::load_base(self.sweep.base.as_deref(), &overrides)?;
                        config.run.seed = *seed;
                        config.run.name = format!("{}-seed{seed}", file_name(&label));
                        config.run.out_dir = out_dir.to_owned();
                        config.validate(Command::Train)?;
                        Ok(config)
                    };
                    let config = load().map_err(|cause| Error::input(format!("{name}, `{label}`: {cause}")))?;
                    // Some file systems ignore case.
                    if let Some(twin) = folders.insert(config.run.name.to_lowercase(), runs.len()) {
                        let twin = &runs[twin];
                        return Err(Error::input(format!(
                            "{name}: two runs are called {} (`{}` and `{label}`): use different labels, and \
                             list a seed or value once",
                            config.run.name, twin.label
                        )));
                    }
                    runs.push(SweepRun { label: label.clone(), config });
                }
            }
        }
        Ok(runs)
    }
}

/// The axes of a grid: keys with their values. `"train.learning_rate" = [...]` and `train.learning_rate = [...]`
/// are the same.
fn flatten(name: &str, grid: &Grid) -> Result<Vec<(String, Vec<toml::Value>)>> {
    let mut axes = Vec::new();
    for (key, value) in grid {
        match value {
            toml::Value::Array(values) if !values.is_empty() => axes.push((key.clone(), values.clone())),
            toml::Value::Table(table) => {
                let inner = table.iter().map(|(inner, value)| (format!("{key}.{inner}"), value.clone())).collect();
                axes.extend(flatten(name, &inner)?);
            }
            other => {
                return Err(Error::input(format!(
                    "{name}: the grid's `{key}` must be a list of values, such as [1e-4, 3e-4], not {other}"
                )));
            }
        }
    }
    Ok(axes)
}

type Values<'a> = Vec<(&'a str, &'a toml::Value)>;

/// Every combination, the last axis fastest.
fn combinations(axes: &[(String, Vec<toml::Value>)]) -> Vec<Values<'_>> {
    let mut found: Vec<Values<'_>> = vec![Vec::new()];
    for (key, values) in axes {
        let mut longer = Vec::new();
        for start in &found {
            longer.extend(values.iter().map(|value| [&start[..], &[(key.as_str(), value)]].concat()));
        }
        found = longer;
    }
    found
}

/// `flow-dppo, learning_rate=0.0001`: figures take the part before the comma as the family.
fn label(variant: &str, values: &Values<'_>) -> String {
    let value = |(key, value): &(&str, &toml::Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{}={text}", key.rsplit('.').next().unwrap_or(key))
    };
    let named = (!variant.is_empty()).then(|| variant.to_owned());
    named.into_iter().chain(values.iter().map(value)).collect::<Vec<_>>().join(", ")
}

/// A label as the name of a folder on any system.
fn file_name(label: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_.+".contains(c);
    let words: Vec<&str> = label.split(|c| !plain(c)).filter(|word| !word.is_empty()).collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Sweep> {
        let sources = Sources { file: "my.toml", overrides: &[] };
        Sweep::parse(&parse_file(text, sources)?, sources)
    }

    fn runs(text: &str) -> Result<Vec<SweepRun>> {
        parse(text)?.runs("my.toml", Path::new("out"))
    }

    #[test]
    fn variants_grids_and_seeds_are_multiplied() {
        let runs = runs(
            "[sweep]\nseeds = [0, 7]\nset = [\"train.iterations=3\", \"train.inner_epochs=9\"]\n\
             [grid]\ntrain.inner_epochs = [1, 2]\n\
             [[variant]]\nlabel = \"mask\"\ngrid = { \"objective.kl_mask_threshold\" = [0.1, inf] }\n\
             [[variant]]\nlabel = \"cps\"\nset = [\"rollout.sampler=cps\"]\n",
        )
        .unwrap();
        let names: Vec<&str> = runs.iter().map(|run| run.config.run.name.as_str()).collect();
        assert_eq!(names.len(), (2 * 2 + 2) * 2);
        assert_eq!(
            names[..4],
            [
                "mask-inner_epochs-1-kl_mask_threshold-0.1-seed0",
                "mask-inner_epochs-1-kl_mask_threshold-0.1-seed7",
                "mask-inner_epochs-1-kl_mask_threshold-inf-seed0",
                "mask-inner_epochs-1-kl_mask_threshold-inf-seed7",
            ]
        );
        let last = &runs[11];
        assert_eq!(last.label, "cps, inner_epochs=2");
        assert_eq!((last.config.run.seed, last.config.run.out_dir.as_path()), (7, Path::new("out")));
        assert_eq!((last.config.train.inner_epochs, last.config.train.iterations), (2, 3));
        assert_eq!(last.config.rollout.sampler, super::super::Sampler::Cps);
        assert!(runs[2].config.objective.kl_mask_threshold.is_infinite());
    }

    #[test]
    fn a_grid_alone_is_a_sweep() {
        let runs = runs("[grid]\n\"train.learning_rate\" = [1e-4, 3e-4]\n\"rollout.sampler\" = [\"cps\"]\n").unwrap();
        let labels: Vec<&str> = runs.iter().map(|run| run.label.as_str()).collect();
        assert_eq!(labels, ["sampler=cps, learning_rate=0.0001", "sampler=cps, learning_rate=0.0003"]);
        assert_eq!(runs[1].config.train.learning_rate, 3e-4);
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, expected) in [
            ("", "nothing to run"),
            ("[sweep]\nseed = [1]\n", "my.toml:2:1: unknown key `sweep.seed`; did you mean `sweep.seeds`?"),
            ("[grids]\n", "unknown section [grids]; did you mean [grid]?"),
            ("learning_rate = 1e-4\n", "unknown section [learning_rate]; the sections are sweep, grid, variant"),
            ("[train]\niterations = 3\n", "my.toml is the configuration of a run, not a sweep: flowdppo-wgpu train"),
            ("[[variant]]\nlable = \"x\"\n", "did you mean `variant.0.label`?"),
            ("[[variant]]\nset = []\n", "needs a `label`"),
            ("[sweep]\nseeds = []\n[[variant]]\nlabel = \"x\"\n", "`sweep.seeds` is empty"),
            ("[sweep]\nseeds = [3, 3]\n[[variant]]\nlabel = \"x\"\n", "two runs are called x-seed3"),
            ("[[variant]]\nlabel = \"a b\"\n[[variant]]\nlabel = \"a, b\"\n", "`a b` and `a, b`"),
            ("[grid]\n\"train.iterations\" = 3\n", "`train.iterations` must be a list of values"),
            ("[grid]\n\"train.iterations\" = []\n", "must be a list of values"),
            ("[grid]\n\"train.iteratons\" = [3]\n", "did you mean `train.iterations`?"),
            (
                "[[variant]]\nlabel = \"x\"\nset = [\"train.learning_rate=-1\"]\n",
                "my.toml, `x`: `train.learning_rate` must be",
            ),
        ] {
            let message = runs(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message} lacks {expected}");
        }
    }
}

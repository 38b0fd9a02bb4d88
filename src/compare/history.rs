//! Reads the directory of a run: its configuration, its metrics, and how it ended.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::{Command, Config};
use crate::error::{Error, Result};
use crate::files::{own_file, read_text};
use crate::run::directory::FAILURE;
use crate::run::{Record, metrics};

/// How far a run has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// All iterations of its configuration are done.
    Finished,
    /// Still running, stopped or crashed.
    Unfinished,
    /// Ended by non-finite numbers or by a guard rail, with this message.
    Failed(String),
}

/// One run.
#[derive(Debug)]
pub struct History {
    /// Its directory.
    pub path: PathBuf,
    /// The directory's name.
    pub name: String,
    /// Its seed, if known.
    pub seed: Option<u64>,
    /// Its configuration without seed, name and directory, which the seeds of one group share.
    pub config: toml::Table,
    /// Iterations done.
    pub iterations: u64,
    /// Which command wrote it.
    pub command: Command,
    /// Iterations, or steps, of its configuration, if known.
    pub planned: Option<u64>,
    /// How far it has come.
    pub status: Status,
    /// What was recorded, the base's evaluation as iteration 0.
    columns: Columns,
}

/// The metrics of a run by name. As records, the history of a long run would repeat every name in each iteration.
#[derive(Debug, Default)]
struct Columns {
    /// `(iteration, value)` wherever it was recorded, in order of iteration; none is empty.
    values: BTreeMap<String, Vec<(u64, Value)>>,
    /// The last iteration, if there is one.
    last: Option<u64>,
}

impl Columns {
    fn read(path: &Path) -> Result<Self> {
        let mut columns = Self::default();
        metrics::for_each(path, |iteration, record| columns.push(iteration, record))?;
        Ok(columns)
    }

    fn push(&mut self, iteration: u64, record: Record) {
        if self.last.is_some_and(|last| last >= iteration) {
            self.values.retain(|_, column| {
                column.truncate(column.partition_point(|(earlier, _)| *earlier < iteration));
                !column.is_empty()
            });
        }
        self.last = Some(iteration);
        for (name, value) in record {
            self.values.entry(name).or_default().push((iteration, value));
        }
    }

    fn of(&self, name: &str) -> &[(u64, Value)] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// The value of one iteration.
    fn at(&self, name: &str, iteration: u64) -> Option<&Value> {
        let column = self.of(name);
        let index = column.binary_search_by_key(&iteration, |(iteration, _)| *iteration).ok()?;
        Some(&column[index].1)
    }
}

impl History {
    /// Reads the directory of a run of `train`, finished or not. Truncated lines of metrics are skipped.
    ///
    /// # Errors
    /// [`Error::Input`] if it is not a run of `train`, or has no iteration yet.
    pub fn read(path: &Path) -> Result<Self> {
        if own_file(path, CONFIG).is_some() && own_file(path, METRICS).is_none() {
            return Err(no_run(path, "it has no metrics.jsonl"));
        }
        let run = Self::open(path)?;
        // A run may diverge before its first line, which is worth showing.
        if run.columns.last.is_none() && !matches!(run.status, Status::Failed(_)) {
            return Err(no_run(path, "its metrics.jsonl has no iteration yet"));
        }
        if run.command != Command::Train {
            return Err(no_run(path, "its metrics have no reward, so pretrain or fit-classifier wrote them"));
        }
        Ok(run)
    }

    /// Reads the directory of any run, even one that has no iteration yet. Links in it are not followed.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none, or its configuration is not TOML.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Err(no_run(path, if path.exists() { "it is a file" } else { "there is no such directory" }));
        }
        let file = own_file(path, CONFIG).ok_or_else(|| no_run(path, "it has no config.toml"))?;
        let mut config = read_config(&file)?;
        let mut seed = None;
        if let Some(toml::Value::Table(run)) = config.get_mut("run") {
            seed = run.remove("seed").and_then(|seed| u64::try_from(seed.as_integer()?).ok());
            run.remove("name");
            run.remove("out_dir");
        }
        let columns = own_file(path, METRICS).map_or_else(|| Ok(Columns::default()), |file| Columns::read(&file))?;
        let failure = own_file(path, FAILURE).and_then(|file| std::fs::read_to_string(file).ok());
        let failure = failure.map(|message| message.trim().to_owned());
        let iterations = columns.last.unwrap_or(0);
        let command = command_of(&columns);
        let (section, key) = match command {
            // `eval` does not write a run.
            Command::Train | Command::Eval => ("train", "iterations"),
            Command::Pretrain => ("pretrain", "steps"),
            Command::FitClassifier => ("classifier", "steps"),
        };
        let planned = config.get(section).and_then(|section| section.get(key)?.as_integer());
        let planned = planned.and_then(|planned| u64::try_from(planned).ok());
        let status = match failure {
            Some(message) => Status::Failed(message),
            None if planned.is_some_and(|planned| iterations >= planned) => Status::Finished,
            None => Status::Unfinished,
        };
        // `.` and `..` have no name of their own.
        let named = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let name = named.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { path: path.to_owned(), name, seed, config, iterations, command, planned, status, columns })
    }

    /// The names of everything that was recorded in any iteration.
    pub fn keys(&self) -> BTreeSet<&str> {
        self.columns.values.keys().map(String::as_str).collect()
    }

    /// The names of everything that was recorded in any iteration within the object `outer`.
    pub fn keys_within(&self, outer: &str) -> BTreeSet<&str> {
        let objects = self.columns.of(outer).iter().filter_map(|(_, value)| value.as_object());
        objects.flat_map(|object| object.keys().map(String::as_str)).collect()
    }

    /// `[iteration, value]` of a metric where it is a number. A `.` reaches into an object. The drift of the base is
    /// not measured; it is 0.
    pub fn points(&self, key: &str) -> Vec<[f64; 2]> {
        let number = |iteration: u64, value: &Value, inner: Option<&str>| match inner {
            None => value.as_f64(),
            Some(_) if iteration == 0 && value.is_null() => Some(0.0),
            Some(inner) => value.get(inner)?.as_f64(),
        };
        let (outer, inner) = key.split_once('.').map_or((key, None), |(outer, inner)| (outer, Some(inner)));
        let column = self.columns.of(outer).iter();
        column.filter_map(|(at, value)| Some([*at as f64, number(*at, value, inner)?])).collect()
    }

    /// The counts of `z_fresh_histogram`, summed over the iterations; `None` without any.
    pub fn z_histogram(&self) -> Option<Vec<f64>> {
        let counts =
            |(_, value): &(u64, Value)| -> Option<Vec<f64>> { value.as_array()?.iter().map(Value::as_f64).collect() };
        self.columns.of("z_fresh_histogram").iter().filter_map(counts).reduce(sum)
    }

    /// `[iteration, step, KL]`: the mean-reduced KL within an iteration at each trained step.
    pub fn kl_of_steps(&self) -> Vec<[f64; 3]> {
        let steps = |(iteration, kl): &(u64, Value)| -> Option<Vec<[f64; 3]>> {
            let steps = self.columns.at("trained_steps", *iteration)?.as_array()?;
            let pairs = steps.iter().zip(kl.as_array()?);
            Some(pairs.filter_map(|(step, kl)| Some([*iteration as f64, step.as_f64()?, kl.as_f64()?])).collect())
        };
        self.columns.of("kl_by_step").iter().filter_map(steps).flatten().collect()
    }

    /// `[step, KL]`: the mean of [`History::kl_of_steps`] over the iterations that trained a step.
    pub fn kl_by_step(&self) -> Vec<[f64; 2]> {
        let mut found: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for [_, step, kl] in self.kl_of_steps() {
            found.entry(step as u64).or_default().push(kl);
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        found.iter().map(|(step, values)| [*step as f64, mean(values)]).collect()
    }
}

const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";

/// Recognises the command by what it recorded; a run without records counts as one of `train`.
fn command_of(columns: &Columns) -> Command {
    let has = |key: &str| !columns.of(key).is_empty();
    if columns.last.is_none() || has("reward_mean") || has("eval/reward_mean") {
        Command::Train
    } else if has("lr") {
        Command::Pretrain
    } else {
        Command::FitClassifier
    }
}

fn no_run(path: &Path, what: &str) -> Error {
    Error::input(format!("{} is not a run of train: {what}; give the directories of runs", path.display()))
}

/// The element-wise sum of two lists.
pub(super) fn sum(a: Vec<f64>, b: Vec<f64>) -> Vec<f64> {
    a.into_iter().zip(b).map(|(a, b)| a + b).collect()
}

/// A configuration as a table: complete if this version of the program can read it, otherwise as it is in the file.
fn read_config(path: &Path) -> Result<toml::Table> {
    let text = read_text(path)?;
    let complete = Config::parse_of_run(&text, &path.display().to_string()).map(|config| config.to_toml());
    toml::from_str(&complete.unwrap_or(text)).map_err(|cause| Error::unreadable(path, cause.message()))
}

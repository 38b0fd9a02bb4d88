//! What a run's directory tells: its configuration, its metrics, and how it ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::run::directory::FAILURE;
use crate::run::metrics::{self, Record};

/// How far a run has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// All iterations of its configuration are done.
    Finished,
    /// Still running, stopped or crashed.
    Unfinished,
    /// It ended with numbers that are not finite; the message.
    Failed(String),
}

/// One run.
#[derive(Debug)]
pub struct History {
    /// Its directory.
    pub path: PathBuf,
    /// The directory's name.
    pub name: String,
    /// Its seed, if it can be told.
    pub seed: Option<u64>,
    /// Its configuration without seed, name and place: what seeds of one group share.
    pub config: toml::Table,
    /// Iterations done.
    pub iterations: u64,
    /// Iterations that it was to do, if they can be told.
    pub planned: Option<u64>,
    /// How far it has come.
    pub status: Status,
    /// A record an iteration, the base's evaluation (0) first.
    records: Vec<Record>,
}

impl History {
    /// Reads the directory of a run, finished or not. Lines of metrics that a crash cut are left out.
    ///
    /// # Errors
    /// [`Error::Input`] if it is no run of `train`, or has no iteration yet.
    pub fn read(path: &Path) -> Result<Self> {
        let no_run = |what: &str| {
            Error::input(format!("{} is no run of train: {what}; name directories of runs", path.display()))
        };
        if !path.is_dir() {
            return Err(no_run(if path.exists() { "it is a file" } else { "there is no such directory" }));
        }
        let file = |name: &str| path.join(name);
        if let Some(missing) = ["config.toml", "metrics.jsonl"].iter().find(|name| !file(name).is_file()) {
            return Err(no_run(&format!("it has no {missing}")));
        }
        let mut config = read_config(&file("config.toml"))?;
        let planned = config.get("train").and_then(|train| train.get("iterations")?.as_integer());
        let mut seed = None;
        if let Some(toml::Value::Table(run)) = config.get_mut("run") {
            seed = run.remove("seed").and_then(|seed| u64::try_from(seed.as_integer()?).ok());
            run.remove("name");
            run.remove("out_dir");
        }
        let records = metrics::read(&file("metrics.jsonl"))?;
        let failure = std::fs::read_to_string(file(FAILURE)).ok().map(|message| message.trim().to_owned());
        // A run may diverge before its first line; that is worth showing.
        if records.is_empty() && failure.is_none() {
            return Err(no_run("its metrics.jsonl has no iteration yet"));
        }
        let rewards = ["reward_mean", "eval/reward_mean"];
        if !records.is_empty() && !records.iter().any(|record| rewards.iter().any(|key| record.contains_key(*key))) {
            return Err(no_run("its metrics have no reward, so pretrain or fit-classifier wrote them"));
        }
        let iterations = records.last().and_then(|last| last["iteration"].as_u64()).unwrap_or(0);
        let planned = planned.and_then(|planned| u64::try_from(planned).ok());
        let status = match failure {
            Some(message) => Status::Failed(message),
            None if planned.is_some_and(|planned| iterations >= planned) => Status::Finished,
            None => Status::Unfinished,
        };
        // `.` and `..` have no name of their own.
        let named = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let name = named.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { path: path.to_owned(), name, seed, config, iterations, planned, status, records })
    }

    /// `[iteration, value]` of a metric wherever it is a number. A `.` leads into an object. The base has not moved,
    /// so its drift, which is not measured, is 0.
    pub fn points(&self, key: &str) -> Vec<[f64; 2]> {
        let unmoved = |record: &Record| {
            let (outer, _) = key.split_once('.')?;
            (record["iteration"] == 0 && record.get(outer)?.is_null()).then_some(0.0)
        };
        let value = |record: &Record| metrics::number(record, key).or_else(|| unmoved(record));
        let points = self.records.iter().filter_map(|record| Some([record["iteration"].as_f64()?, value(record)?]));
        points.collect()
    }

    /// The counts of `z_fresh_histogram`, summed over the iterations; `None` without any.
    pub fn z_histogram(&self) -> Option<Vec<f64>> {
        let counts = |record: &Record| -> Option<Vec<f64>> {
            record.get("z_fresh_histogram")?.as_array()?.iter().map(Value::as_f64).collect()
        };
        self.records.iter().filter_map(counts).reduce(sum)
    }

    /// `[step, KL]`: the mean-reduced KL within iterations at each trained step, mean over the iterations that trained
    /// it.
    pub fn kl_by_step(&self) -> Vec<[f64; 2]> {
        let mut found: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        let list = |record: &Record, key: &str| record.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        for record in &self.records {
            for (step, kl) in list(record, "trained_steps").iter().zip(list(record, "kl_by_step")) {
                if let (Some(step), Some(kl)) = (step.as_u64(), kl.as_f64()) {
                    found.entry(step).or_default().push(kl);
                }
            }
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        found.iter().map(|(step, values)| [*step as f64, mean(values)]).collect()
    }
}

/// Two lists added, number by number.
pub(super) fn sum(a: Vec<f64>, b: Vec<f64>) -> Vec<f64> {
    a.into_iter().zip(b).map(|(a, b)| a + b).collect()
}

/// A configuration as a table: complete, if this version of the program understands it, else as it stands there.
fn read_config(path: &Path) -> Result<toml::Table> {
    let text = std::fs::read_to_string(path).map_err(|cause| Error::unreadable(path, cause))?;
    let complete = Config::parse(&text, &path.display().to_string(), &[]).map(|config| config.to_toml());
    toml::from_str(&complete.unwrap_or(text)).map_err(|cause| Error::unreadable(path, cause.message()))
}

//! `metrics.jsonl`: one JSON object per line, one line per iteration.
//!
//! The file is append-only. A run that resumes from iteration *k* writes *k*, *k + 1*, … again after
//! the lines that the interrupted run left, and [`read`] lets a line supersede every earlier line of the
//! same or a later iteration. So the reader sees one unbroken history, and the file still contains everything that
//! ever happened.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::directory::RunDirectory;
use super::tensorboard::EventFile;
use super::{Record, repair};
use crate::error::DAMAGE;
use crate::files::{append_whole, without_mark};
use crate::{Error, Result};

/// The key that every record has.
const ITERATION: &str = "iteration";

/// A number of a record; a `.` leads into an object, as in `eval/drift.kl_mean`. `None` if missing or not a number.
pub fn number(record: &Record, key: &str) -> Option<f64> {
    match key.split_once('.') {
        None => record.get(key)?.as_f64(),
        Some((outer, inner)) => record.get(outer)?.get(inner)?.as_f64(),
    }
}

/// The metrics of a run, open for appending.
#[derive(Debug)]
pub struct MetricsLog {
    file: File,
    path: PathBuf,
    /// The same for TensorBoard.
    events: Option<EventFile>,
}

impl MetricsLog {
    /// Opens or creates the log. Lines that a crash truncated are removed first, so that every line is a record.
    ///
    /// # Errors
    /// [`Error::Failed`] if the file cannot be opened for writing.
    pub fn open_append(path: &Path) -> Result<Self> {
        repair::lines(path, is_record)?;
        let file = File::options().append(true).create(true).open(path);
        Ok(Self { file: file.map_err(|cause| Error::unwritable(path, cause))?, path: path.to_owned(), events: None })
    }

    /// Opens the log of a run that has done `done` iterations, and creates an event file for TensorBoard, to which
    /// everything is also appended.
    ///
    /// # Errors
    /// [`Error::Failed`] if a file cannot be opened for writing.
    pub fn open(directory: &RunDirectory, done: u64) -> Result<Self> {
        let config = std::fs::read_to_string(directory.config()).unwrap_or_default();
        let events = EventFile::create(&directory.tensorboard(), done, &config)?;
        Ok(Self { events: Some(events), ..Self::open_append(&directory.metrics())? })
    }

    /// Appends a preview grid, a PNG file, to the event file.
    ///
    /// # Errors
    /// As [`EventFile::append_picture`].
    pub fn append_picture(&mut self, iteration: u64, picture: &Path) -> Result<()> {
        match &mut self.events {
            Some(events) => events.append_picture(iteration, "samples", picture),
            None => Ok(()),
        }
    }

    /// Appends one record: anything that serializes to an object with a whole number `iteration`.
    /// JSON has no infinities and no NaN; they become `null`.
    ///
    /// # Errors
    /// [`Error::Failed`] if `record` is not such an object, or the disk is full.
    pub fn append(&mut self, record: &impl Serialize) -> Result<()> {
        let value = serde_json::to_value(record).map_err(|cause| Error::unwritable(&self.path, cause))?;
        let record = value.as_object();
        let Some((iteration, record)) = record.and_then(|record| Some((record.get(ITERATION)?.as_u64()?, record)))
        else {
            return Err(Error::unwritable(
                &self.path,
                format!("a record must be an object with a whole number {ITERATION:?}"),
            ));
        };
        if let Some(events) = &mut self.events {
            events.append_metrics(iteration, record)?;
        }
        append_whole(&mut self.file, format!("{value}\n").as_bytes())
            .map_err(|cause| Error::unwritable(&self.path, cause))
    }

    /// Waits until every record is on the disk. Called before a checkpoint, so that after a power cut
    /// the log never lacks an iteration that the checkpoint has.
    ///
    /// # Errors
    /// [`Error::Failed`] if the disk cannot be written.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|cause| Error::unwritable(&self.path, cause))
    }
}

/// Truncated lines that were reported, by file and number.
static REPORTED: Mutex<BTreeSet<(PathBuf, usize)>> = Mutex::new(BTreeSet::new());

/// A line as a record, with its iteration.
fn parse(line: &[u8]) -> Option<(u64, Record)> {
    let record = serde_json::from_slice::<Record>(line).ok()?;
    Some((record.get(ITERATION)?.as_u64()?, record))
}

/// Whether a line is a complete record.
pub(super) fn is_record(line: &[u8]) -> bool {
    parse(line).is_some()
}

/// Reads a log back, in order of iteration, each iteration once (see the module's documentation). Lines that a
/// crash truncated are skipped, with a warning the first time.
///
/// # Errors
/// [`Error::Input`] if the file cannot be read.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let mut records: Vec<(u64, Record)> = Vec::new();
    for_each(path, |iteration, record| {
        let superseded = records.partition_point(|(earlier, _)| *earlier < iteration);
        records.truncate(superseded);
        records.push((iteration, record));
    })?;
    Ok(records.into_iter().map(|(_, record)| record).collect())
}

/// Gives every record of a log to `take` as it was written: one supersedes all before that are not of an earlier
/// iteration. Otherwise as [`read`], without keeping the records.
///
/// # Errors
/// As [`read`].
pub fn for_each(path: &Path, mut take: impl FnMut(u64, Record)) -> Result<()> {
    let unreadable = |cause| Error::unreadable(path, cause);
    // Line by line: a long history takes enough memory without its text.
    let lines = BufReader::new(File::open(path).map_err(unreadable)?).split(b'\n');
    for (number, line) in lines.enumerate() {
        let line = line.map_err(unreadable)?;
        let line = if number == 0 { without_mark(&line) } else { &line[..] };
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match parse(line) {
            Some((iteration, record)) => take(iteration, record),
            None => {
                let mut reported = REPORTED.lock().unwrap_or_else(PoisonError::into_inner);
                if reported.insert((path.to_owned(), number)) {
                    log::warn!(target: DAMAGE, "{}: line {} is truncated, skipped", path.display(), number + 1);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rewards(path: &Path) -> Vec<(u64, f64)> {
        read(path)
            .unwrap()
            .iter()
            .map(|record| (record[ITERATION].as_u64().unwrap(), record["reward_mean"].as_f64().unwrap()))
            .collect()
    }

    #[test]
    fn a_resumed_run_supersedes_what_the_crash_left_and_destroys_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut log = MetricsLog::open_append(&path).unwrap();
        for (iteration, reward) in [(0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4)] {
            log.append(&json!({"iteration": iteration, "reward_mean": reward})).unwrap();
        }
        drop(log);
        let before = std::fs::read(&path).unwrap();

        let mut log = MetricsLog::open_append(&path).unwrap();
        log.append(&json!({"iteration": 1, "reward_mean": 0.25})).unwrap();
        // Iterations 2 and 3 belong to the abandoned history, even before they are written again.
        assert_eq!(rewards(&path), [(0, 0.1), (1, 0.25)]);
        log.append(&json!({"iteration": 2, "reward_mean": 0.35})).unwrap();
        log.sync().unwrap();
        assert_eq!(rewards(&path), [(0, 0.1), (1, 0.25), (2, 0.35)]);
        assert!(std::fs::read(&path).unwrap().starts_with(&before));
    }

    #[test]
    fn a_line_truncated_anywhere_loses_only_that_line() {
        let whole = "{\"iteration\":0,\"reward_mean\":0.5}\n";
        let last = "{\"iteration\":1,\"reward_mean\":0.75}";
        for cut in 0..last.len() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("metrics.jsonl");
            std::fs::write(&path, format!("{whole}{}", &last[..cut])).unwrap();
            assert_eq!(rewards(&path), [(0, 0.5)], "cut at {cut}");

            let mut log = MetricsLog::open_append(&path).unwrap();
            log.append(&json!({"iteration": 1, "reward_mean": 1.0})).unwrap();
            assert_eq!(rewards(&path), [(0, 0.5), (1, 1.0)], "cut at {cut}");
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text, format!("{whole}{{\"iteration\":1,\"reward_mean\":1.0}}\n"), "cut at {cut}");
        }
    }

    #[test]
    fn lines_that_are_not_records_go_and_a_missing_line_end_is_added() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let [zero, one] = [0, 1].map(|iteration| format!("{{\"iteration\":{iteration},\"reward_mean\":0.5}}"));
        // A line in the middle, as older versions left it, zeros after a power cut, and the end of a line.
        std::fs::write(&path, format!("{zero}\n{{\"iteration\":1,\"rew\n\0\0\0\n\n{one}")).unwrap();
        drop(MetricsLog::open_append(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{zero}\n{one}\n"));
    }

    #[test]
    fn a_record_is_an_object_with_an_iteration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut log = MetricsLog::open_append(&path).unwrap();
        for wrong in [json!([1, 2]), json!({"reward_mean": 1.0}), json!({"iteration": -1})] {
            let message = log.append(&wrong).unwrap_err().to_string();
            assert!(message.contains("iteration"), "{message}");
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn a_number_that_is_not_finite_becomes_null() {
        #[derive(Serialize)]
        struct Metrics {
            iteration: u64,
            grad_norm: f32,
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let record = Metrics { iteration: 4, grad_norm: f32::NAN };
        MetricsLog::open_append(&path).unwrap().append(&record).unwrap();
        assert_eq!(read(&path).unwrap()[0]["grad_norm"], Value::Null);
    }

    #[test]
    fn a_missing_log_is_named() {
        let message = read(Path::new("no-such-metrics.jsonl")).unwrap_err().to_string();
        assert!(message.contains("no-such-metrics.jsonl"), "{message}");
    }
}

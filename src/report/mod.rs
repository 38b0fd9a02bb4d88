//! A run as one page: `report.html` in its directory, and the same page in the dashboard.
//!
//! Everything is read from the directory of the run, which may be finished, running, crashed or older than this program.
//! The file contains its pictures, charts and style, and needs no network.

mod figures;
mod page;
mod pictures;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::compare::History;
use crate::error::{Error, Result};
use crate::files::{own_file, write_atomically};
use crate::run::RunDirectory;
use crate::run::directory::REPORT;
use crate::text::quoted;

pub use page::{ChartView, Page, SCRIPT, STYLE, State, number, render};

/// Where a page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In a file, which contains style, script and pictures.
    File,
    /// In the dashboard, which serves style, script and pictures, and where the page follows the run.
    Live,
}

/// Writes the report of the run in the directory `path` into that directory; returns the path of the report.
/// `in_progress` says that a process is working in the directory.
///
/// # Errors
/// [`crate::Error::Input`] if there is no run, [`crate::Error::Failed`] if the file cannot be written.
pub fn write(path: &Path, in_progress: bool) -> Result<PathBuf> {
    let file = path.join(REPORT);
    let html = Page::of(&History::open(path)?, in_progress, Form::File)?.html()?;
    write_atomically(&file, html.as_bytes())?;
    Ok(file)
}

/// The report of a running run. Each report reads the complete history, so it is not written too often.
#[derive(Debug, Default)]
pub struct LiveReport {
    /// When it was last written, and how long that took.
    last: Option<(Instant, Duration)>,
}

/// The report is written again after this many times the duration of the last one, so that it costs at most a
/// twentieth of the run.
const REST: u32 = 20;

impl LiveReport {
    /// Writes the report, unless too little time has passed since the last. If it cannot be written, this warns and
    /// the run continues.
    pub fn refresh(&mut self, directory: &RunDirectory) {
        let begin = Instant::now();
        if !self.is_due(begin) {
            return;
        }
        if let Err(cause) = write(directory.path(), true) {
            log::warn!("{cause}");
        }
        let took = begin.elapsed();
        self.last = Some((begin + took, took));
        log::info!("{REPORT} written in {:.0} ms", 1e3 * took.as_secs_f64());
    }

    fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|(written, took)| now.saturating_duration_since(written) >= REST * took)
    }
}

/// Writes the report of a run that has ended.
///
/// # Errors
/// [`Error::Failed`] if it cannot be written; everything else of the run has been saved.
pub fn conclude(directory: &RunDirectory) -> Result<()> {
    write(directory.path(), false).map(drop).map_err(|cause| {
        let run = quoted(directory.path());
        Error::failed(format!(
            "{cause}; the run itself is saved: write its report again with: flowdppo-wgpu report {run}"
        ))
    })
}

/// The files to which the page of a run may link: files that a browser can show, looked up by name. A requested path is
/// never used.
pub fn files(run: &Path) -> Vec<String> {
    let shown = page::FILES.iter().filter(|(_, _, shown)| *shown).map(|(name, ..)| (*name).to_owned());
    let there = shown.filter(|name| own_file(run, name).is_some());
    there.chain(pictures::grids(run).into_iter().map(|grid| grid.file)).collect()
}

#[cfg(test)]
mod tests;

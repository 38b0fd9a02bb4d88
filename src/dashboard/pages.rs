//! The pages of the dashboard.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::library::{self, Known};
use crate::compare::{Comparison, History, QUANTITIES, Source};
use crate::config::Command;
use crate::files::own_file;
use crate::report::{self, ChartView, Form, Page, State, number};
use crate::run::directory::in_progress;

/// The most runs that are compared by default: more could not be told apart.
const COMPARED: usize = 6;
/// Figures of a comparison that the index shows.
const FIGURES: [&str; 6] = ["reward", "judge", "reward_kl", "rollout_reward", "masked", "kl_by_step"];
/// Numbers of [`QUANTITIES`] that the index shows.
const NUMBERS: [&str; 5] = ["reward_base", "reward_final", "judge_accuracy", "kl_to_base", "seconds"];

const HTML: &str = "text/html; charset=utf-8";

/// An answer that is made on demand. What it depends on is known, so a browser that has it does not get it again.
pub(super) struct Prepared {
    /// Its content type.
    pub kind: &'static str,
    depends_on: u64,
    make: Box<dyn Fn() -> Option<Vec<u8>>>,
}

impl Prepared {
    /// Changes whenever the content does.
    pub fn tag(&self) -> String {
        format!("\"{:016x}\"", self.depends_on)
    }

    /// The content; `None` if its run or file is gone.
    pub fn content(&self) -> Option<Vec<u8>> {
        (self.make)()
    }
}

/// A run in the index.
#[derive(Serialize)]
struct RunRow {
    slug: String,
    name: String,
    state: State,
    command: String,
    done: u64,
    planned: Option<u64>,
    numbers: Vec<Number>,
    comparable: bool,
    compared: bool,
}

#[derive(Serialize)]
struct Number {
    title: &'static str,
    value: String,
}

#[derive(Serialize)]
struct Index {
    places: String,
    runs: Vec<RunRow>,
    charts: Vec<ChartView>,
}

/// All runs, and a comparison of those that `query` names as `run=SLUG`.
pub(super) fn index(places: &[PathBuf], query: &str) -> Option<Prepared> {
    let runs = library::find(places);
    let states: Vec<_> = runs.iter().map(|run| (&run.path, run.changed, in_progress(&run.path))).collect();
    let depends_on = hash(&(&states, query));
    let chosen: Vec<String> = query.split('&').filter_map(|part| Some(part.strip_prefix("run=")?.to_owned())).collect();
    let places = places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ");
    let make = move || {
        let index = index_of(places.clone(), &runs, &chosen);
        report::render("index.html", &index).map(String::into_bytes).ok()
    };
    Some(Prepared { kind: HTML, depends_on, make: Box::new(make) })
}

fn index_of(places: String, runs: &[Known], chosen: &[String]) -> Index {
    let mut compared = Vec::new();
    let mut rows = Vec::new();
    for run in runs {
        // A run that has vanished, or whose configuration cannot be read, is omitted.
        let Ok(history) = History::open(&run.path) else { continue };
        let comparable = history.command == Command::Train && history.iterations > 0;
        let wanted = if chosen.is_empty() { compared.len() < COMPARED } else { chosen.contains(&run.slug) };
        if comparable && wanted {
            compared.push(Source { label: None, path: run.path.clone() });
        }
        let shown = QUANTITIES.iter().filter(|quantity| NUMBERS.contains(&quantity.key));
        rows.push(RunRow {
            slug: run.slug.clone(),
            name: run.name.clone(),
            state: State::of(&history, in_progress(&run.path)),
            command: history.command.to_string(),
            done: history.iterations,
            planned: history.planned,
            numbers: shown
                .filter_map(|quantity| Some(Number { title: quantity.title, value: number(quantity.of(&history)?) }))
                .collect(),
            comparable,
            compared: comparable && wanted,
        });
    }
    let figures = Comparison::read(&compared).map(|comparison| comparison.charts()).unwrap_or_default();
    let shown = figures.iter().filter(|(name, chart)| FIGURES.contains(name) && !chart.is_empty());
    Index { places, runs: rows, charts: shown.filter_map(|(_, chart)| ChartView::of(chart).ok()).collect() }
}

/// The page of a run.
pub(super) fn run(places: &[PathBuf], slug: &str) -> Option<Prepared> {
    let run = known(places, slug)?;
    let working = in_progress(&run.path);
    let names = ["metrics.jsonl", "warnings.jsonl", "config.toml", "device.json", "failed.txt", "before_after.png"];
    let stamps: Vec<_> = names.iter().map(|name| stamp(&own_file(&run.path, name)?)).collect();
    let depends_on = hash(&(&run.path, working, stamps, report::files(&run.path)));
    let make = move || {
        let page = Page::of(&History::open(&run.path).ok()?, working, Form::Live).ok()?;
        page.html().map(String::into_bytes).ok()
    };
    Some(Prepared { kind: HTML, depends_on, make: Box::new(make) })
}

/// A file to which the page of a run links.
pub(super) fn file(places: &[PathBuf], slug: &str, name: &str) -> Option<Prepared> {
    let run = known(places, slug)?;
    // The path is built from the name of the file that was found, not from the request.
    let found = report::files(&run.path).into_iter().find(|file| file == name)?;
    let path = own_file(&run.path, &found)?;
    let depends_on = hash(&(&path, stamp(&path)));
    let kind = match path.extension().and_then(|ending| ending.to_str()) {
        Some("png") => "image/png",
        _ => "text/plain; charset=utf-8",
    };
    Some(Prepared { kind, depends_on, make: Box::new(move || fs::read(&path).ok()) })
}

fn known(places: &[PathBuf], slug: &str) -> Option<Known> {
    library::find(places).into_iter().find(|run| run.slug == slug)
}

fn stamp(path: &Path) -> Option<(u64, Option<SystemTime>)> {
    fs::metadata(path).ok().map(|file| (file.len(), file.modified().ok()))
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

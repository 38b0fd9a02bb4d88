//! The content of a run's page, and its template.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use minijinja::Environment;
use minijinja::value::Serde;
use serde::{Deserialize, Serialize};

use super::{Form, figures, pictures};
use crate::compare::{History, QUANTITIES, Status};
use crate::config::Command;
use crate::error::{Error, Result};
use crate::files::{own, own_file};
use crate::plot::Chart;

/// The style of every page.
pub const STYLE: &str = include_str!("../../assets/pages/style.css");
/// The script of a page: the slider, and following a run.
pub const SCRIPT: &str = include_str!("../../assets/pages/script.js");

/// Files of a run's directory: name, what it is, and whether a browser can show it.
pub(super) const FILES: [(&str, &str, bool); 14] = [
    ("model.safetensors", "the trained model", false),
    ("adapter", "the trained adapter alone", false),
    ("best", "the best evaluated model", false),
    ("before_after.png", "base and tuned model side by side", true),
    ("data.png", "the images that it learned from", true),
    ("config.toml", "every key that was in effect", true),
    ("metrics.jsonl", "one JSON object per iteration", true),
    ("rewards.csv", "one line per scored image", false),
    ("warnings.jsonl", "the warnings of the run", true),
    ("failed.txt", "why the run ended early", true),
    ("device.json", "the adapter and its limits", true),
    ("profile.json", "where the time went", true),
    ("trace.json", "every dispatch, for Perfetto", false),
    ("tensorboard", "scalars and images as event files", false),
];

/// Numbers of [`QUANTITIES`] that are in the headline or are details.
const NOT_TILES: [&str; 4] = ["reward_base", "reward_final", "pos_rm_fraction", "neg_rm_fraction"];

/// Everything that a page shows.
#[derive(Debug, Serialize)]
pub struct Page {
    /// Whether the dashboard serves it.
    live: bool,
    name: String,
    path: String,
    command: String,
    unit: &'static str,
    state: State,
    done: u64,
    planned: Option<u64>,
    failure: Option<String>,
    headline: Option<Headline>,
    tiles: Vec<Tile>,
    warnings: Vec<Warning>,
    samples: Vec<Picture>,
    samples_in_all: usize,
    before_after: Option<String>,
    data: Option<String>,
    charts: Vec<ChartView>,
    config: String,
    device: Option<Device>,
    files: Vec<FileView>,
    written: String,
}

/// The state of a run, as a word and as a class of the style sheet.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct State {
    class: &'static str,
    text: &'static str,
}

impl State {
    /// From the status of a run, and whether a process is working in it.
    pub fn of(run: &History, in_progress: bool) -> Self {
        let (class, text) = match (&run.status, in_progress) {
            (Status::Failed(_), _) => ("failed", "failed"),
            (Status::Finished, _) => ("finished", "finished"),
            (Status::Unfinished, true) => ("running", "in progress"),
            (Status::Unfinished, false) => ("stopped", "not finished"),
        };
        Self { class, text }
    }
}

#[derive(Debug, Serialize)]
struct Headline {
    what: &'static str,
    before: String,
    after: Option<String>,
}

#[derive(Debug, Serialize)]
struct Tile {
    title: &'static str,
    value: String,
    definition: &'static str,
}

/// A line of `warnings.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Warning {
    iteration: Option<u64>,
    kind: Option<String>,
    message: String,
}

#[derive(Debug, Serialize)]
struct Picture {
    iteration: u64,
    /// Built by this program from digits and base 64, so the template inserts it unescaped.
    address: String,
}

/// A chart with the text that the page writes around it.
#[derive(Debug, Serialize)]
pub struct ChartView {
    title: &'static str,
    subtitle: &'static str,
    legend: Vec<Entry>,
    svg: String,
}

#[derive(Debug, Serialize)]
struct Entry {
    label: String,
    /// Drawn by this program, so the template inserts it unescaped.
    mark: String,
    value: Option<String>,
}

/// The part of `device.json` that is shown.
#[derive(Debug, Serialize, Deserialize)]
struct Device {
    name: String,
    backend: String,
    driver: String,
}

#[derive(Debug, Serialize)]
struct FileView {
    name: String,
    what: &'static str,
    linked: bool,
}

impl ChartView {
    /// The chart for a page. Its legend contains the last value of each line.
    ///
    /// # Errors
    /// As [`Chart::to_inline_svg`].
    pub fn of(chart: &Chart) -> Result<Self> {
        let legend = chart.series.iter().filter(|series| !series.line.is_empty());
        let entry = |series: &crate::plot::Series| -> Result<Entry> {
            let value = series.line.last().map(|[_, value]| number(*value));
            Ok(Entry { label: series.label.clone(), mark: series.to_inline_mark()?, value })
        };
        let (title, subtitle) = (chart.title, chart.subtitle);
        Ok(Self { title, subtitle, legend: legend.map(entry).collect::<Result<_>>()?, svg: chart.to_inline_svg()? })
    }
}

impl Page {
    /// Reads everything that the page of a run shows.
    ///
    /// # Errors
    /// If a chart cannot be drawn. Files missing in the directory are omitted on the page.
    pub fn of(run: &History, in_progress: bool, form: Form) -> Result<Self> {
        let path = run.path.as_path();
        let address = |file: &str| {
            let found = own_file(path, file)?;
            if form == Form::File { pictures::embedded(&found) } else { Some(file.to_owned()) }
        };
        let mut grids = pictures::grids(path);
        if run.command == Command::Train && run.iterations > 0 {
            // Later ones are from before the run was resumed from an earlier checkpoint.
            grids.retain(|grid| grid.iteration <= run.iterations);
        }
        let samples_in_all = grids.len();
        let picture = |grid: pictures::Grid| Some(Picture { iteration: grid.iteration, address: address(&grid.file)? });
        let mut charts = figures::charts(run).iter().map(ChartView::of).collect::<Result<Vec<_>>>()?;
        let map = figures::kl_map(run);
        if !map.is_empty() {
            let (title, subtitle, svg) = (map.title, map.subtitle, map.to_inline_svg()?);
            charts.push(ChartView { title, subtitle, legend: Vec::new(), svg });
        }
        let tile = |quantity: &crate::compare::Quantity| {
            let (title, definition) = (quantity.title, quantity.definition);
            Some(Tile { title, definition, value: number(quantity.of(run)?) })
        };
        let tiles = QUANTITIES.iter().filter(|quantity| !NOT_TILES.contains(&quantity.key)).filter_map(tile).collect();
        Ok(Self {
            live: form == Form::Live,
            name: run.name.clone(),
            path: path.display().to_string(),
            command: run.command.to_string(),
            unit: if run.command == Command::Train { "iteration" } else { "step" },
            state: State::of(run, in_progress),
            done: run.iterations,
            planned: run.planned,
            failure: match &run.status {
                Status::Failed(message) => Some(message.clone()),
                _ => None,
            },
            headline: headline(run),
            tiles,
            warnings: warnings(path),
            samples: pictures::shown(grids, form == Form::File).into_iter().filter_map(picture).collect(),
            samples_in_all,
            before_after: address("before_after.png"),
            data: address("data.png"),
            charts,
            config: String::from_utf8_lossy(&read(path, "config.toml")).into_owned(),
            device: serde_json::from_slice(&read(path, "device.json")).ok(),
            files: files(path, form),
            written: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        })
    }

    /// Renders the page.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] if the template does not match its content.
    pub fn html(&self) -> Result<String> {
        render("report.html", self)
    }
}

/// Renders a template. Its content is escaped, as names of runs and classes can be anything.
///
/// # Errors
/// [`crate::Error::Failed`] if template and content do not match.
pub fn render(name: &str, content: &impl Serialize) -> Result<String> {
    let mut environment = Environment::new();
    environment.add_global("style", STYLE);
    environment.add_global("script", SCRIPT);
    environment.add_global("version", env!("CARGO_PKG_VERSION"));
    let templates = [
        ("report.html", include_str!("../../assets/pages/report.html")),
        ("index.html", include_str!("../../assets/pages/index.html")),
    ];
    templates
        .into_iter()
        .try_for_each(|(name, text)| environment.add_template(name, text))
        .and_then(|()| environment.get_template(name)?.render(Serde(content)))
        .map_err(|cause| Error::failed(format!("cannot make {name}: {cause}")))
}

/// The most important number of a run, before and now.
fn headline(run: &History) -> Option<Headline> {
    let candidates =
        [("reward on fixed seeds", "eval/reward_mean"), ("reward of the rollouts", "reward_mean"), ("loss", "loss")];
    let (what, points) =
        candidates.into_iter().map(|(what, key)| (what, run.points(key))).find(|(_, points)| !points.is_empty())?;
    let after = (points.len() > 1).then(|| number(points[points.len() - 1][1]));
    Some(Headline { what, before: number(points[0][1]), after })
}

/// A file in the directory of a run; empty if it is missing.
fn read(run: &Path, name: &str) -> Vec<u8> {
    own_file(run, name).and_then(|file| fs::read(file).ok()).unwrap_or_default()
}

/// The readable lines of `warnings.jsonl`, newest first. A run that is resumed from an earlier checkpoint repeats its
/// warnings.
fn warnings(run: &Path) -> Vec<Warning> {
    let text = read(run, "warnings.jsonl");
    let lines = text.split(|byte| *byte == b'\n').rev();
    let mut told = HashSet::new();
    lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .filter(|warning: &Warning| told.insert(warning.clone()))
        .collect()
}

/// The files in the directory. A report file links to all of them, the dashboard to those that it serves.
fn files(run: &Path, form: Form) -> Vec<FileView> {
    let view = |name: String, what, shown| FileView { name, what, linked: shown || form == Form::File };
    let known = FILES.iter().filter(|(name, ..)| own(run, name).is_some());
    let later = (2..).map(|number| format!("rewards-{number}.csv")).take_while(|name| own_file(run, name).is_some());
    known
        .map(|(name, what, shown)| view((*name).to_owned(), *what, *shown))
        .chain(later.map(|name| view(name, "the same, since the rewards were changed", false)))
        .collect()
}

/// A number with three significant digits.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let text = match size {
        0.0 => "0".into(),
        _ if !(1e-3..1e6).contains(&size) => format!("{value:.2e}"),
        _ if size < 1e3 => format!("{value:.*}", (2 - size.log10().floor() as i32).max(0) as usize),
        _ => format!("{value:.0}"),
    };
    text.replace('-', "−")
}

//! Compares runs: a table and figures from the contents of their directories. No device is needed.
//!
//! Runs whose configurations differ only in seed, name and directory are seeds of one *group*, which is shown as mean
//! and spread.

mod figures;
mod history;
mod summary;

use std::path::{Path, PathBuf};

use crate::config::differences;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::plot::Chart;

pub use history::{History, Status};
pub use summary::{QUANTITIES, Quantity, Statistic};

/// A directory to compare, and its label; by default the name of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The label from the user.
    pub label: Option<String>,
    /// The run's directory.
    pub path: PathBuf,
}

impl Source {
    /// From `PATH` or `LABEL=PATH`. If the complete text is an existing path, it is one, even with a `=` in it.
    pub fn parse(text: &str) -> Self {
        match text.split_once('=') {
            Some((label, path)) if !label.is_empty() && !Path::new(text).exists() => {
                Self { label: Some(label.to_owned()), path: path.into() }
            }
            _ => Self { label: None, path: text.into() },
        }
    }
}

/// Runs of one configuration that differ in their seed.
#[derive(Debug)]
pub struct Group {
    /// Their label.
    pub label: String,
    /// The runs, at least one.
    pub runs: Vec<History>,
    /// Chooses the colour in figures: groups whose labels agree up to a comma share it.
    pub colour: usize,
    /// Chooses the mark in figures.
    pub shape: usize,
}

/// Everything that is compared.
#[derive(Debug)]
pub struct Comparison {
    groups: Vec<Group>,
}

impl Comparison {
    /// Reads the directories and sorts them into groups.
    ///
    /// # Errors
    /// [`Error::Input`] if a directory is not a run of `train`, has no iteration yet, or is given twice, if two runs of a
    /// group have the same seed, or if a label stands for runs of different configurations.
    pub fn read(sources: &[Source]) -> Result<Self> {
        let mut seen: Vec<PathBuf> = Vec::new();
        let mut groups: Vec<(Option<&str>, Vec<History>)> = Vec::new();
        for source in sources {
            let run = History::read(&source.path)?;
            let place = std::fs::canonicalize(&source.path).map_err(|cause| Error::unreadable(&source.path, cause))?;
            if seen.contains(&place) {
                return Err(Error::input(format!("{} is given twice: leave one out", source.path.display())));
            }
            seen.push(place);
            let label = source.label.as_deref();
            match groups.iter_mut().find(|(of, runs)| *of == label && runs[0].config == run.config) {
                Some((_, runs)) => runs.push(run),
                None => groups.push((label, vec![run])),
            }
        }
        for (index, (label, runs)) in groups.iter().enumerate() {
            reject_repeated_seeds(runs)?;
            if let Some(label) = label
                && let Some((_, others)) = groups[..index].iter().find(|(earlier, _)| *earlier == Some(label))
            {
                return Err(Error::input(format!(
                    "the label `{label}` stands for runs of different configurations, which differ in more than \
                     their seed: {} and {} differ in {}; give them different labels",
                    others[0].path.display(),
                    runs[0].path.display(),
                    differences(&others[0].config, &runs[0].config).join(", ")
                )));
            }
        }
        let mut labels: Vec<String> =
            groups.iter().map(|(label, runs)| label.map_or_else(|| common_name(runs), str::to_owned)).collect();
        for index in 0..labels.len() {
            if labels.iter().filter(|label| **label == labels[index]).count() > 1 {
                labels[index] = groups[index].1[0].path.display().to_string();
            }
        }
        let families: Vec<&str> = labels.iter().map(|label| family(label)).collect();
        let mut known: Vec<&str> = Vec::new();
        for family in &families {
            if !known.contains(family) {
                known.push(family);
            }
        }
        let single = known.len() == families.len();
        let styles: Vec<(usize, usize)> = (0..labels.len())
            .map(|index| {
                let colour = known.iter().position(|name| *name == families[index]).unwrap_or(0);
                let member = families[..index].iter().filter(|name| **name == families[index]).count();
                (colour, if single { colour } else { member })
            })
            .collect();
        let groups = groups.into_iter().zip(labels.clone()).zip(styles);
        Ok(Self {
            groups: groups.map(|(((_, runs), label), (colour, shape))| Group { label, runs, colour, shape }).collect(),
        })
    }

    /// The groups, in the order in which they were given.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Every figure with its name; some may have nothing to show.
    pub fn charts(&self) -> Vec<(&'static str, Chart)> {
        figures::all(&self.groups)
    }

    /// Writes `comparison.md`, `comparison.json` and each figure that has data into `folder`, which is created if
    /// necessary; returns the paths.
    ///
    /// # Errors
    /// [`Error::Input`] if the folder cannot be created, [`Error::Failed`] if a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        std::fs::create_dir_all(folder).map_err(|cause| {
            Error::unusable(format!("cannot write into {}: {cause}; choose another --out", folder.display()), &cause)
        })?;
        let mut written = Vec::new();
        let mut text = format!("# Comparison\n\n{}\n{}\n", self.table(), self.legend());
        for (name, chart) in self.charts() {
            if chart.is_empty() {
                continue;
            }
            let path = folder.join(name).with_extension("svg");
            chart.write(&path)?;
            text.push_str(&format!("![{}]({name}.svg)\n\n", chart.title));
            written.push(path);
        }
        let json = serde_json::to_string_pretty(&self.json()).expect("numbers and text are JSON");
        for (name, content) in [("comparison.md", text), ("comparison.json", json)] {
            let path = folder.join(name);
            write_atomically(&path, content.as_bytes())?;
            written.push(path);
        }
        Ok(written)
    }
}

/// Rejects the same configuration and seed twice: counted as two seeds, they would make the spread too small.
fn reject_repeated_seeds(runs: &[History]) -> Result<()> {
    for (index, run) in runs.iter().enumerate() {
        if let Some(seed) = run.seed
            && let Some(earlier) = runs[..index].iter().find(|earlier| earlier.seed == Some(seed))
        {
            return Err(Error::input(format!(
                "{} and {} have the same configuration and the same seed, {seed}, so they are not two samples: leave \
                 one out, or show them side by side with a label each, such as first={} second={}",
                earlier.path.display(),
                run.path.display(),
                earlier.path.display(),
                run.path.display()
            )));
        }
    }
    Ok(())
}

/// The part of a label that its family shares: everything up to a comma.
fn family(label: &str) -> &str {
    label.split(',').next().unwrap_or(label).trim_end()
}

/// The common part of the names of several seeds: that of `clip-seed0` and `clip-seed1` is `clip`.
fn common_name(runs: &[History]) -> String {
    let first = &runs[0].name;
    let shared = |other: &str| first.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
    let length = runs.iter().map(|run| shared(&run.name)).min().unwrap_or(0);
    let common: String = first.chars().take(length).collect();
    if common == *first {
        return common;
    }
    let separators = ['-', '_', '.', ' '];
    let stem = common.trim_end_matches(separators);
    let stem = stem.strip_suffix("seed").unwrap_or(stem).trim_end_matches(separators);
    if stem.is_empty() { first.clone() } else { stem.to_owned() }
}

#[cfg(test)]
mod tests;

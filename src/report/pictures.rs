//! The preview grids of a run, and which of them a page shows.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::files::own;

/// The most grids on one page.
const MOST: usize = 30;
/// The most bytes of grids inside one file; base 64 adds a third.
const BUDGET: u64 = 5 << 20;

/// A preview grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    /// Number of iterations, or steps, after which it was drawn.
    pub iteration: u64,
    /// Its file, relative to the directory of the run.
    pub file: String,
    bytes: u64,
}

/// Every preview grid of a run, in order.
pub(super) fn grids(run: &Path) -> Vec<Grid> {
    let Some(entries) = own(run, "samples").and_then(|folder| fs::read_dir(folder).ok()) else { return Vec::new() };
    let mut found: Vec<Grid> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let iteration: u64 = name.strip_suffix(".png")?.parse().ok()?;
            // A link could point anywhere.
            let kind = entry.file_type().ok()?;
            (kind.is_file() && format!("{iteration:06}.png") == name).then_some(())?;
            Some(Grid { iteration, file: format!("samples/{name}"), bytes: entry.metadata().ok()?.len() })
        })
        .collect();
    found.sort_by_key(|grid| grid.iteration);
    found
}

/// The grids that a page shows: spread evenly over the run, including the first and the last. With `embedded`, only as
/// many as fit into a file, but always the last.
pub(super) fn shown(grids: Vec<Grid>, embedded: bool) -> Vec<Grid> {
    let fits = |chosen: &[Grid]| !embedded || chosen.iter().map(|grid| grid.bytes).sum::<u64>() <= BUDGET;
    let most = (2..=MOST.min(grids.len())).rev().map(|count| spread(&grids, count)).find(|chosen| fits(chosen));
    most.unwrap_or_else(|| grids.last().cloned().into_iter().collect())
}

/// Picks two or more of them, evenly spread.
fn spread(grids: &[Grid], count: usize) -> Vec<Grid> {
    (0..count).map(|index| grids[index * (grids.len() - 1) / (count - 1)].clone()).collect()
}

/// A picture as a data URL, if it can be read.
pub(super) fn embedded(path: &Path) -> Option<String> {
    Some(format!("data:image/png;base64,{}", STANDARD.encode(fs::read(path).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(iteration: u64, bytes: u64) -> Grid {
        Grid { iteration, file: String::new(), bytes }
    }

    fn iterations(grids: &[Grid]) -> Vec<u64> {
        grids.iter().map(|grid| grid.iteration).collect()
    }

    #[test]
    fn many_grids_are_thinned_evenly_and_keep_their_ends() {
        let many: Vec<Grid> = (0..=1000).map(|iteration| grid(iteration, 1)).collect();
        let chosen = iterations(&shown(many, true));
        assert_eq!((chosen.len(), chosen[0], chosen[MOST - 1]), (MOST, 0, 1000));
        assert!(chosen.windows(2).all(|pair| (33..=36).contains(&(pair[1] - pair[0]))), "{chosen:?}");
        let few: Vec<Grid> = (0..4).map(|iteration| grid(iteration, 1)).collect();
        assert_eq!(iterations(&shown(few, true)), [0, 1, 2, 3]);
    }

    #[test]
    fn a_file_contains_fewer_large_grids_than_a_page() {
        let large: Vec<Grid> = (0..10).map(|iteration| grid(iteration, BUDGET / 3)).collect();
        assert_eq!(iterations(&shown(large.clone(), true)), [0, 4, 9]);
        assert_eq!(shown(large, false).len(), 10);
        let huge: Vec<Grid> = (0..3).map(|iteration| grid(iteration, 2 * BUDGET)).collect();
        assert_eq!(iterations(&shown(huge, true)), [2]);
        assert!(shown(Vec::new(), true).is_empty());
    }

    #[test]
    fn only_regular_files_with_the_right_name_are_grids() {
        let folder = tempfile::tempdir().unwrap();
        let samples = folder.path().join("samples");
        fs::create_dir_all(samples.join("000003.png")).unwrap();
        for name in ["000010.png", "000002.png", "2.png", "+00004.png", ".writing-x", "000005.txt"] {
            fs::write(samples.join(name), b"x").unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink("/etc/passwd", samples.join("000007.png")).unwrap();
        let files: Vec<String> = grids(folder.path()).into_iter().map(|grid| grid.file).collect();
        assert_eq!(files, ["samples/000002.png", "samples/000010.png"]);
        assert!(grids(&folder.path().join("nowhere")).is_empty());
        #[cfg(unix)]
        {
            let other = tempfile::tempdir().unwrap();
            std::os::unix::fs::symlink(&samples, other.path().join("samples")).unwrap();
            assert!(grids(other.path()).is_empty());
        }
    }
}

//! Finds runs. What a browser requests is looked up here by name and never becomes part of a path.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::files::{own, own_file};

/// The depth of nested folders that is searched: the runs of a sweep are one level deeper than others.
const DEPTH: usize = 3;

/// A run that the dashboard may show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Its name in URLs: letters, digits, `.`, `-` and `_`.
    pub slug: String,
    /// Its directory, relative to the folder that was searched.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// When it was last written to.
    pub changed: Option<SystemTime>,
}

/// Every run in the given places, which are runs or folders of runs; the most recently changed first.
pub(super) fn find(places: &[PathBuf]) -> Vec<Known> {
    let mut found = Vec::new();
    for place in places {
        // The user may name a link. Within folders links are not followed, as they can point anywhere.
        if is_run(place) {
            let name =
                fs::canonicalize(place).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
            found.push((name.unwrap_or_else(|| place.display().to_string()), place.clone()));
        } else {
            look(place, "", DEPTH, &mut found);
        }
    }
    // In the order of their paths, so that names stay the same from one search to the next.
    found.sort_by(|a, b| a.1.cmp(&b.1));
    found.dedup_by(|a, b| a.1 == b.1);
    let mut taken = BTreeSet::new();
    let mut runs: Vec<Known> = found
        .into_iter()
        .map(|(name, path)| {
            let mut slug = plain(&name);
            if slug != name.replace('/', ".") || !taken.insert(slug.clone()) {
                slug = format!("{slug}-{:08x}", crc32fast::hash(path.as_os_str().as_encoded_bytes()));
                taken.insert(slug.clone());
            }
            Known { slug, name, changed: changed(&path), path }
        })
        .collect();
    runs.sort_by(|a, b| b.changed.cmp(&a.changed).then_with(|| a.path.cmp(&b.path)));
    runs
}

fn look(folder: &Path, name: &str, depth: usize, found: &mut Vec<(String, PathBuf)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        // A link is neither.
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let inner = entry.file_name().to_string_lossy().into_owned();
        let name = if name.is_empty() { inner } else { format!("{name}/{inner}") };
        if is_run(&entry.path()) {
            found.push((name, entry.path()));
        } else if depth > 1 {
            look(&entry.path(), &name, depth - 1, found);
        }
    }
}

fn is_run(path: &Path) -> bool {
    let has = |name| own_file(path, name).is_some();
    has("config.toml") && (has("metrics.jsonl") || own(path, "samples").is_some_and(|folder| folder.is_dir()))
}

/// A name without the characters that a URL would have to escape.
fn plain(name: &str) -> String {
    let letter = |letter: char| match letter {
        '/' => '.',
        _ if letter.is_ascii_alphanumeric() || "-_.".contains(letter) => letter,
        _ => '-',
    };
    name.chars().map(letter).collect()
}

/// The modification time of the newest file that a page shows.
fn changed(run: &Path) -> Option<SystemTime> {
    let names = ["samples", "metrics.jsonl", "warnings.jsonl", "config.toml"];
    let files = names.iter().filter_map(|name| own(run, name)).chain([run.to_owned()]);
    files.filter_map(|file| fs::metadata(file).ok()?.modified().ok()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(path: &Path) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("config.toml"), "").unwrap();
        fs::write(path.join("metrics.jsonl"), "").unwrap();
    }

    #[test]
    fn runs_are_found_in_folders_and_have_unique_plain_names() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a", "sweep/seed0", "sweep.seed0", "ünï <b>", "not/so/deep/run"] {
            run(&root.path().join(name));
        }
        fs::create_dir_all(root.path().join("empty")).unwrap();
        let found = find(&[root.path().to_owned(), root.path().join("a")]);
        let mut names: Vec<&str> = found.iter().map(|run| run.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "sweep.seed0", "sweep/seed0", "ünï <b>"]);
        let slugs: BTreeSet<&str> = found.iter().map(|run| run.slug.as_str()).collect();
        assert_eq!(slugs.len(), 4, "{slugs:?}");
        assert!(slugs.iter().all(|slug| plain(slug) == **slug), "{slugs:?}");
        assert!(slugs.contains("a") && slugs.contains("sweep.seed0"));
        // A second search finds the same names.
        assert_eq!(find(&[root.path().to_owned(), root.path().join("a")]), found);
        // A run directory given directly.
        assert_eq!(find(&[root.path().join("sweep/seed0")])[0].slug, "seed0");
        assert!(find(&[root.path().join("nowhere")]).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn links_within_folders_are_not_followed() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        run(&outside.path().join("secret"));
        std::os::unix::fs::symlink(outside.path(), root.path().join("out")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), root.path().join("link")).unwrap();
        assert!(find(&[root.path().to_owned()]).is_empty());
        // But the user may name one.
        assert_eq!(find(&[root.path().join("link")])[0].name, "secret");
    }
}

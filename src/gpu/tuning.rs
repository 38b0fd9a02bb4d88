//! The fastest of several kernels on an adapter: measured by `bench --tune`, stored in the user's cache.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::adapter::AdapterDescription;
use crate::cache;
use crate::error::{Error, Result};
use crate::files;

/// The fastest kernel for each workload on one adapter. A workload's name consists of its op and the sizes that the
/// choice may depend on: never a number of rows, because a row's bits must not change with its batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    kernels: BTreeMap<String, String>,
}

/// A table as stored in its file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TuningFile {
    /// The program's version: another one may have other kernels.
    version: String,
    adapter: String,
    driver: String,
    backend: String,
    kernels: BTreeMap<String, String>,
}

impl TuningFile {
    fn new(adapter: &AdapterDescription, tuning: &Tuning) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            adapter: adapter.name.clone(),
            driver: adapter.driver.clone(),
            backend: adapter.backend.clone(),
            kernels: tuning.kernels.clone(),
        }
    }

    /// What the table is for.
    fn key(&self) -> [&str; 4] {
        [&self.version, &self.adapter, &self.driver, &self.backend]
    }
}

/// The file of an adapter's table.
fn path(adapter: &AdapterDescription) -> Option<PathBuf> {
    let key = format!("{} {} {}", adapter.name, adapter.backend, adapter.driver).to_lowercase();
    let words: Vec<&str> = key.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    Some(cache::directory()?.join("tuning").join(format!("{}.json", words.join("-"))))
}

impl Tuning {
    /// A table from `(workload, kernel)`.
    pub fn new(kernels: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { kernels: kernels.into_iter().collect() }
    }

    /// The fastest kernel for a workload.
    pub fn kernel(&self, workload: &str) -> Option<&str> {
        self.kernels.get(workload).map(String::as_str)
    }

    /// The table of an adapter. It is empty if the file is missing, damaged, or made by another version or for
    /// another driver; all but a missing file are logged.
    pub(super) fn load(adapter: &AdapterDescription) -> Self {
        let Some(path) = path(adapter) else { return Self::default() };
        let Ok(text) = std::fs::read_to_string(&path) else { return Self::default() };
        match Self::parse(&text, adapter) {
            Ok(tuning) => {
                log::info!("kernels are chosen according to {}", path.display());
                tuning
            }
            Err(problem) => {
                log::warn!("{} is ignored: {problem}; `bench --tune` regenerates it", path.display());
                Self::default()
            }
        }
    }

    fn parse(text: &str, adapter: &AdapterDescription) -> std::result::Result<Self, String> {
        let table: TuningFile = serde_json::from_str(text).map_err(|cause| cause.to_string())?;
        if table.key() != TuningFile::new(adapter, &Self::default()).key() {
            return Err("it was made by another version or for another driver".into());
        }
        Ok(Self { kernels: table.kernels })
    }

    fn to_text(&self, adapter: &AdapterDescription) -> String {
        serde_json::to_string_pretty(&TuningFile::new(adapter, self)).expect("text is JSON")
    }

    /// Saves the table for every device opened on this adapter from now on; returns its file.
    ///
    /// # Errors
    /// If there is no cache directory, or it is not writable.
    pub fn save(&self, adapter: &AdapterDescription) -> Result<PathBuf> {
        let path = path(adapter).ok_or_else(|| {
            Error::failed("this system has no cache directory: set FLOWDPPO_CACHE_DIR to a directory for the table")
        })?;
        let folder = path.parent().expect("the file is in a folder");
        std::fs::create_dir_all(folder).map_err(|cause| Error::unwritable(folder, cause))?;
        files::write_atomically(&path, self.to_text(adapter).as_bytes())?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::adapters;

    #[test]
    fn only_a_complete_table_of_this_version_and_driver_counts() {
        let adapter = adapters().remove(0);
        let tuning = Tuning::new([("matmul n=8 k=8".into(), "matmul_tiled".into())]);
        let text = tuning.to_text(&adapter);
        let parsed = Tuning::parse(&text, &adapter).expect("it is complete");
        assert_eq!(parsed, tuning);
        assert_eq!(parsed.kernel("matmul n=8 k=8"), Some("matmul_tiled"));
        assert_eq!(parsed.kernel("matmul n=8 k=9"), None);

        let newer = AdapterDescription { driver: "a newer one".into(), ..adapter.clone() };
        let other_version = text.replace(env!("CARGO_PKG_VERSION"), "0.0.1");
        for problem in [Tuning::parse(&text, &newer), Tuning::parse(&other_version, &adapter)] {
            assert!(problem.expect_err("it is not for us").contains("another version or for another driver"));
        }
        for length in 0..text.len() {
            Tuning::parse(&text[..length], &adapter).expect_err("it is truncated");
        }
    }
}

//! `rewards.csv`: one line per scored image.
//!
//! The file is append-only, except that an incomplete line after a crash is cut off. A resumed run writes iterations
//! again after those that the interrupted run left: of lines with the same iteration, purpose and sample, the last one
//! counts.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::repair;
use crate::files::{append_whole, read_ordinary};
use crate::{Error, Result};

/// The columns before those of the components.
const COLUMNS: [&str; 4] = ["iteration", "purpose", "sample", "class"];

/// The scores of a run, open for appending.
#[derive(Debug)]
pub struct RewardLog {
    file: File,
    path: PathBuf,
}

impl RewardLog {
    /// Opens or creates `rewards.csv` in a run's directory. If the file has other components, because the rewards have
    /// changed since, it stays, and `rewards-2.csv` is used, and so on.
    ///
    /// # Errors
    /// [`Error::Failed`] if the file cannot be read or written.
    pub fn open(folder: &Path, components: &[String]) -> Result<Self> {
        let columns = COLUMNS.into_iter().chain(components.iter().map(String::as_str)).chain(["total"]);
        let header = lines([columns.map(str::to_owned).collect()])?;
        let mut path = folder.join("rewards.csv");
        let commas = COLUMNS.len() + components.len();
        // All but the header are numbers and words without a comma. A number at the end of a truncated line may be cut.
        let is_row =
            |line: &[u8], is_ended: bool| is_ended && line.iter().filter(|byte| **byte == b',').count() == commas;
        for number in 2.. {
            let unwritable = |cause| Error::unwritable(&path, cause);
            let text = match read_ordinary(&path) {
                Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                read => read.map_err(unwritable)?,
            };
            // An incomplete header does not count.
            let is_begun = text.contains(&b'\n');
            if !is_begun || text.starts_with(&header) {
                repair::lines_from(&path, if is_begun { header.len() } else { 0 }, is_row)?;
                let mut file = File::options().append(true).create(true).open(&path).map_err(unwritable)?;
                if !is_begun {
                    append_whole(&mut file, &header).map_err(unwritable)?;
                }
                return Ok(Self { file, path });
            }
            path = folder.join(format!("rewards-{number}.csv"));
        }
        unreachable!("there is always another number")
    }

    /// Appends one line per image; `components` is `[components][N]`, the others `[N]`.
    ///
    /// # Errors
    /// [`Error::Failed`] if the disk is full.
    pub fn append(
        &mut self,
        [iteration, purpose]: [&str; 2],
        labels: &[u32],
        components: &[Vec<f64>],
        totals: &[f64],
    ) -> Result<()> {
        let line = |(sample, label): (usize, &u32)| {
            let scores = components.iter().map(|scores| scores[sample]).chain([totals[sample]]);
            let place = [iteration.to_owned(), purpose.to_owned(), sample.to_string(), label.to_string()];
            place.into_iter().chain(scores.map(|score| score.to_string())).collect()
        };
        let lines = lines(labels.iter().enumerate().map(line))?;
        append_whole(&mut self.file, &lines).map_err(|cause| Error::unwritable(&self.path, cause))
    }
}

/// Records as lines of CSV.
fn lines(records: impl IntoIterator<Item = Vec<String>>) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written = records.into_iter().try_for_each(|record| writer.write_record(record));
    let failed = |cause: String| Error::failed(format!("cannot write a line of rewards.csv: {cause}"));
    written.map_err(|cause| failed(cause.to_string()))?;
    writer.into_inner().map_err(|cause| failed(cause.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(folder: &Path, name: &str) -> String {
        std::fs::read_to_string(folder.join(name)).unwrap()
    }

    #[test]
    fn there_is_one_line_per_image_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let names = ["classifier", "ink"].map(str::to_owned);
        let mut log = RewardLog::open(folder, &names).unwrap();
        let components = [vec![0.5, 0.25], vec![1e-7, -2.0]];
        log.append(["3", "training"], &[7, 0], &components, &[0.5, -1.75]).unwrap();
        drop(log);
        let expected = "iteration,purpose,sample,class,classifier,ink,total\n\
                        3,training,0,7,0.5,0.0000001,0.5\n3,training,1,0,0.25,-2,-1.75\n";
        assert_eq!(read(folder, "rewards.csv"), expected);

        // A crash truncates the last line, anywhere.
        for truncated in ["4", "4,training,0,7,0.1,0.2", "4,training,0,7,0.1,0.2,0.3", "4,train\n\0\0\n"] {
            std::fs::write(folder.join("rewards.csv"), format!("{expected}{truncated}")).unwrap();
            RewardLog::open(folder, &names).unwrap();
            assert_eq!(read(folder, "rewards.csv"), expected);
        }
        // Other rewards start another file, and find it again.
        for _ in 0..2 {
            RewardLog::open(folder, &names[..1]).unwrap();
            assert_eq!(read(folder, "rewards.csv"), expected);
            assert_eq!(read(folder, "rewards-2.csv"), "iteration,purpose,sample,class,classifier,total\n");
        }
        // A truncated header is ignored.
        std::fs::write(folder.join("rewards.csv"), "iteration,pur").unwrap();
        RewardLog::open(folder, &names).unwrap();
        assert_eq!(read(folder, "rewards.csv"), expected.lines().next().unwrap().to_owned() + "\n");
    }
}

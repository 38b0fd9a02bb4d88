//! The best of the evaluated models, kept in `best/` whatever becomes of the run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::metrics::{Record, number};
use crate::config::{Config, KeepBest};
use crate::files::write_atomically;
use crate::{Error, Result};

/// The model, with averaged weights.
const MODEL: &str = "model.safetensors";
/// What is known of it.
const NUMBERS: &str = "best.json";
/// Numbers come back from JSON with a relative error of up to 2⁻⁵²: what is nearer is the same.
const SAME: f64 = 1e-12;

/// `best.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The iteration after which it was evaluated.
    pub iteration: u64,
    /// What decided: `judge`, `holdout` or `reward`.
    pub by: String,
    /// Its value.
    pub value: f64,
    /// The evaluation, by the keys of `metrics.jsonl`.
    pub evaluation: Record,
    /// Checksum of `model.safetensors`, so that the two belong together.
    pub crc32: u32,
}

/// Keeps the best model that it is offered.
#[derive(Debug)]
pub struct BestKeeper {
    folder: PathBuf,
    by: KeepBest,
    holdouts: Vec<String>,
    best: Option<Best>,
}

impl BestKeeper {
    /// Keeps in `folder` what `checkpoint.keep_best` asks for, and goes on from what is there. `holdouts` are the names
    /// of the rewards of weight 0, as in `eval/components`.
    pub fn open(folder: PathBuf, config: &Config, holdouts: Vec<String>) -> Self {
        let by = match config.checkpoint.keep_best {
            KeepBest::Auto if !config.eval.judge.is_empty() => KeepBest::Judge,
            KeepBest::Auto if !holdouts.is_empty() => KeepBest::Holdout,
            KeepBest::Auto => KeepBest::Reward,
            chosen => chosen,
        };
        let mut keeper = Self { folder, by, holdouts, best: None };
        keeper.best = keeper.read();
        keeper
    }

    /// The best so far.
    pub fn best(&self) -> Option<&Best> {
        self.best.as_ref()
    }

    /// Where its model is.
    pub fn model(&self) -> PathBuf {
        self.folder.join(MODEL)
    }

    /// Takes the model that `line` of `metrics.jsonl` evaluates if it is better than all before; of equals the first
    /// stays. `bytes` gives its file.
    ///
    /// # Errors
    /// Those of `bytes`, and a disk that refuses; what was kept is then still there.
    pub fn offer(&mut self, line: &Record, bytes: impl FnOnce() -> Result<Vec<u8>>) -> Result<()> {
        let Some(value) = self.value(line) else { return Ok(()) };
        if self.best.as_ref().is_some_and(|best| value <= best.value + SAME * best.value.abs()) {
            return Ok(());
        }
        let bytes = bytes()?;
        let mut evaluation = line.clone();
        evaluation.retain(|key, _| key.starts_with("eval/"));
        let best = Best {
            iteration: line["iteration"].as_u64().unwrap_or(0),
            by: self.name().to_owned(),
            value,
            evaluation,
            crc32: crc32fast::hash(&bytes),
        };
        let numbers = self.folder.join(NUMBERS);
        let json = serde_json::to_vec_pretty(&best).map_err(|cause| Error::unwritable(&numbers, cause))?;
        std::fs::create_dir_all(&self.folder).map_err(|cause| Error::unwritable(&self.folder, cause))?;
        // A crash between the two leaves a model that its numbers' checksum does not fit, and `read` sees that.
        write_atomically(&self.model(), &bytes)?;
        write_atomically(&numbers, &json)?;
        self.best = Some(best);
        Ok(())
    }

    /// What a crash cannot have left half-written; its value is by what decides now.
    fn read(&self) -> Option<Best> {
        let numbers = std::fs::read(self.folder.join(NUMBERS)).ok()?;
        let best = serde_json::from_slice::<Best>(&numbers).ok();
        let whole =
            best.filter(|best| std::fs::read(self.model()).is_ok_and(|bytes| crc32fast::hash(&bytes) == best.crc32));
        let Some(best) = whole else {
            log::warn!("{} is not whole: the next evaluation begins it anew", self.folder.display());
            return None;
        };
        Some(Best { value: self.value(&best.evaluation)?, by: self.name().to_owned(), ..best })
    }

    /// What decides.
    fn value(&self, line: &Record) -> Option<f64> {
        match self.by {
            KeepBest::Judge => number(line, "eval/judge_accuracy"),
            KeepBest::Holdout if self.holdouts.is_empty() => None,
            KeepBest::Holdout => {
                self.holdouts.iter().map(|name| number(line, &format!("eval/components.{name}"))).sum()
            }
            KeepBest::Reward => number(line, "eval/reward_mean"),
            KeepBest::Auto | KeepBest::None => None,
        }
    }

    fn name(&self) -> &'static str {
        match self.by {
            KeepBest::Judge => "judge",
            KeepBest::Holdout => "holdout",
            KeepBest::Reward => "reward",
            KeepBest::Auto | KeepBest::None => "nothing",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;
    use std::path::Path;

    fn line(iteration: u64, judge: f64, reward: f64) -> Record {
        let value = json!({
            "iteration": iteration, "reward_std": 0.5, "eval/judge_accuracy": judge, "eval/reward_mean": reward,
            "eval/components": { "ink": -judge, "symmetry": 3.0 },
        });
        serde_json::from_value(value).unwrap()
    }

    fn keeper(folder: &Path, by: KeepBest) -> BestKeeper {
        let mut config = Config::default();
        config.checkpoint.keep_best = by;
        BestKeeper::open(folder.join("best"), &config, vec!["ink".into(), "symmetry".into()])
    }

    /// Offers a model whose bytes are its iteration.
    fn offer(keeper: &mut BestKeeper, iteration: u64, judge: f64, reward: f64) {
        keeper.offer(&line(iteration, judge, reward), || Ok(vec![iteration as u8; 9])).unwrap();
    }

    fn kept(keeper: &BestKeeper) -> (u64, f64) {
        let best = keeper.best().unwrap();
        assert_eq!(fs::read(keeper.model()).unwrap(), [best.iteration as u8; 9]);
        (best.iteration, best.value)
    }

    #[test]
    fn the_first_of_the_best_stays_and_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = keeper(folder.path(), KeepBest::Auto);
        assert_eq!(first.best(), None);
        for (iteration, judge) in [(1, 0.7), (2, 0.9), (3, 0.9), (4, 0.1)] {
            offer(&mut first, iteration, judge, iteration as f64);
        }
        assert_eq!(kept(&first), (2, 0.9));
        let mut again = keeper(folder.path(), KeepBest::Judge);
        assert_eq!(again.best(), first.best());
        offer(&mut again, 5, 0.9, 9.0);
        assert_eq!(kept(&again), (2, 0.9));
        offer(&mut again, 6, 0.95, 0.0);
        assert_eq!(kept(&again), (6, 0.95));
    }

    #[test]
    fn what_decides_can_be_chosen_and_changed() {
        let folder = tempfile::tempdir().unwrap();
        let mut by_reward = keeper(folder.path(), KeepBest::Reward);
        offer(&mut by_reward, 1, 0.7, 5.0);
        offer(&mut by_reward, 2, 0.9, 4.0);
        assert_eq!(kept(&by_reward), (1, 5.0));
        // The kept model's own numbers tell what it is worth now.
        let mut by_holdout = keeper(folder.path(), KeepBest::Holdout);
        assert_eq!(kept(&by_holdout), (1, 2.3));
        offer(&mut by_holdout, 3, 0.8, 9.0);
        assert_eq!(kept(&by_holdout), (1, 2.3));
        offer(&mut by_holdout, 4, 0.5, 0.0);
        assert_eq!(kept(&by_holdout), (4, 2.5));
        let mut none = keeper(&folder.path().join("none"), KeepBest::None);
        offer(&mut none, 1, 1.0, 1.0);
        assert!(none.best().is_none() && !folder.path().join("none").exists());
    }

    #[test]
    fn half_a_best_is_none() {
        let folder = tempfile::tempdir().unwrap();
        offer(&mut keeper(folder.path(), KeepBest::Judge), 1, 0.7, 0.0);
        // The crash came after the next model and before its numbers.
        fs::write(folder.path().join("best/model.safetensors"), [2; 9]).unwrap();
        let mut resumed = keeper(folder.path(), KeepBest::Judge);
        assert_eq!(resumed.best(), None);
        offer(&mut resumed, 2, 0.8, 0.0);
        assert_eq!(kept(&resumed), (2, 0.8));
        fs::write(folder.path().join("best/best.json"), "{").unwrap();
        assert_eq!(keeper(folder.path(), KeepBest::Judge).best(), None);
    }
}

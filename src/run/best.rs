//! The best of the evaluated models, kept in `best/` whatever happens to the run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::checkpoint::create_if_missing;
use super::evaluation::{Evaluation, as_line};
use crate::config::{Config, Eval, KeepBest, MODEL, Reward};
use crate::error::DAMAGE;
use crate::files::{Streamed, measure, own_file, stream_atomically, write_atomically};
use crate::{Error, Result};

/// The file with the numbers of the model.
const NUMBERS: &str = "best.json";
/// Numbers read from JSON have a relative error of up to 2⁻⁵²: values closer than this are equal.
const SAME: f64 = 1e-12;

/// `best.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The iteration after which it was evaluated.
    pub iteration: u64,
    /// The criterion: `judge`, `holdout` or `reward`.
    pub by: String,
    /// Its value.
    pub value: f64,
    /// The evaluation, by the keys of `metrics.jsonl`.
    #[serde(with = "as_line")]
    pub evaluation: Evaluation,
    /// Its files.
    #[serde(default = "model_alone")]
    pub files: Vec<String>,
    /// Checksum of the files, concatenated, which shows that they belong together.
    pub crc32: u32,
    /// Checksum of the keys that the value depends on; older versions wrote none.
    pub scored_by: Option<u32>,
}

/// The files that older versions kept.
fn model_alone() -> Vec<String> {
    vec![MODEL.into()]
}

/// Keeps the best model that it is offered.
#[derive(Debug)]
pub struct BestKeeper {
    folder: PathBuf,
    by: KeepBest,
    holdouts: Vec<String>,
    scored_by: u32,
    best: Option<Best>,
}

/// How the best model is selected.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    keep_best: KeepBest,
    has_judge: bool,
    /// Checksum of the keys that the scores depend on.
    scored_by: u32,
}

impl From<&Config> for Selection {
    fn from(config: &Config) -> Self {
        Self {
            keep_best: config.checkpoint.keep_best,
            has_judge: !config.eval.judge.is_empty(),
            scored_by: scored_by(&config.anchored()),
        }
    }
}

impl BestKeeper {
    /// Keeps the selected model in `folder`, starting from what is there. `holdouts` are the names of the rewards of
    /// weight 0, as in `eval/components`.
    pub fn open(folder: PathBuf, selection: Selection, holdouts: Vec<String>) -> Self {
        let Selection { keep_best, has_judge, scored_by } = selection;
        let by = match keep_best {
            KeepBest::Auto if has_judge => KeepBest::Judge,
            KeepBest::Auto if !holdouts.is_empty() => KeepBest::Holdout,
            KeepBest::Auto => KeepBest::Reward,
            chosen => chosen,
        };
        let mut keeper = Self { folder, by, holdouts, scored_by, best: None };
        keeper.best = keeper.read();
        keeper
    }

    /// The best so far.
    pub fn best(&self) -> Option<&Best> {
        self.best.as_ref()
    }

    /// Takes the model that was evaluated after `iteration` iterations if it is better than all before; among equals the
    /// first stays. `files` returns its files by name.
    ///
    /// # Errors
    /// Those of `files`, and if a file cannot be written.
    pub fn offer<'a>(
        &mut self,
        iteration: u64,
        evaluation: &Evaluation,
        files: impl FnOnce() -> Result<Vec<(&'static str, Streamed<'a>)>>,
    ) -> Result<()> {
        let Some(value) = self.value(evaluation) else { return Ok(()) };
        if self.best.as_ref().is_some_and(|best| value <= best.value + SAME * best.value.abs()) {
            return Ok(());
        }
        let files = files()?;
        create_if_missing(&self.folder).map_err(|cause| Error::unwritable(&self.folder, cause))?;
        // A crash in between leaves files that the numbers' checksum does not fit, and `read` sees that.
        let mut crc32 = crc32fast::Hasher::new();
        for (name, content) in &files {
            crc32.combine(&stream_atomically(&self.folder.join(name), content)?.crc32);
        }
        let best = Best {
            iteration,
            by: self.name().to_owned(),
            value,
            evaluation: evaluation.clone(),
            files: files.iter().map(|(name, _)| (*name).to_owned()).collect(),
            crc32: crc32.finalize(),
            scored_by: Some(self.scored_by),
        };
        let numbers = self.folder.join(NUMBERS);
        let json = serde_json::to_vec_pretty(&best).map_err(|cause| Error::unwritable(&numbers, cause))?;
        write_atomically(&numbers, &json)?;
        self.remove_all_but(&best.files);
        self.best = Some(best);
        Ok(())
    }

    /// Removes the files of the model before that the new one does not have: older programs kept an adapter's model, too.
    fn remove_all_but(&self, files: &[String]) {
        let before = self.best.iter().flat_map(|best| &best.files);
        for path in before.filter(|name| !files.contains(name)).filter_map(|name| own_file(&self.folder, name)) {
            if let Err(cause) = std::fs::remove_file(&path) {
                log::warn!("cannot remove {}: {cause}", path.display());
            }
        }
    }

    /// The kept model, unless a crash left it half-written; its value is by the criterion in force now.
    fn read(&self) -> Option<Best> {
        let numbers = std::fs::read(self.folder.join(NUMBERS)).ok()?;
        let best = serde_json::from_slice::<Best>(&numbers).ok();
        let is_whole = |best: &Best| {
            let mut crc32 = crc32fast::Hasher::new();
            let mut add = |name: &String| measure(&self.folder.join(name)).map(|file| crc32.combine(&file.crc32));
            best.files.iter().try_for_each(&mut add).is_ok() && crc32.finalize() == best.crc32
        };
        let problem = match best.filter(is_whole) {
            None => "is incomplete",
            Some(best) if best.scored_by.is_some_and(|hash| hash != self.scored_by) => {
                "was selected with other rewards or another evaluation"
            }
            Some(best) => {
                return Some(Best { value: self.value(&best.evaluation)?, by: self.name().to_owned(), ..best });
            }
        };
        log::warn!(target: DAMAGE, "{} {problem}: the next evaluation replaces it", self.folder.display());
        None
    }

    /// The criterion.
    fn value(&self, evaluation: &Evaluation) -> Option<f64> {
        let value = match self.by {
            KeepBest::Judge => evaluation.judge_accuracy,
            KeepBest::Holdout if self.holdouts.is_empty() => None,
            KeepBest::Holdout => self.holdouts.iter().map(|name| evaluation.components.get(name)).sum(),
            KeepBest::Reward => Some(evaluation.reward_mean),
            KeepBest::Auto | KeepBest::None => None,
        };
        value.filter(|value| value.is_finite())
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

/// Checksum of all keys (with absolute paths) that the scores of an evaluation depend on.
fn scored_by(config: &Config) -> u32 {
    // How a reward is requested does not change its scores.
    let Reward { timeout_seconds, retries, batch, workers, .. } = Reward::default();
    let alike = |reward: &Reward| Reward { timeout_seconds, retries, batch, workers, ..reward.clone() };
    let rewards: Vec<Reward> = config.reward.iter().map(alike).collect();
    let eval = Eval { every: 0, ..config.eval.clone() };
    let keys = match config.model.folder {
        None => serde_json::to_vec(&(rewards, eval)),
        Some(_) => serde_json::to_vec(&(rewards, eval, &config.prompts, config.model.size)),
    };
    crc32fast::hash(&keys.expect("keys are text, numbers and lists"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;
    use std::path::Path;

    fn evaluation(judge: f64, reward: f64) -> Evaluation {
        let value = json!({
            "reward_mean": reward, "reward_standard_error": 0.5, "diversity": 2.0, "diversity_standard_error": 0.5,
            "judge_accuracy": judge, "components": { "ink": -judge, "symmetry": 3.0 },
        });
        serde_json::from_value(value).unwrap()
    }

    fn keeper(folder: &Path, by: KeepBest) -> BestKeeper {
        let mut config = Config::default();
        config.checkpoint.keep_best = by;
        open(folder, &config)
    }

    fn open(folder: &Path, config: &Config) -> BestKeeper {
        BestKeeper::open(folder.join("best"), config.into(), vec!["ink".into(), "symmetry".into()])
    }

    /// Offers a model whose bytes are its iteration.
    fn offer(keeper: &mut BestKeeper, iteration: u64, judge: f64, reward: f64) {
        let bytes = || Streamed::from(vec![iteration as u8; 9]);
        let files = || Ok(vec![("model.safetensors", bytes()), ("adapter_model.safetensors", bytes())]);
        keeper.offer(iteration, &evaluation(judge, reward), files).unwrap();
    }

    fn kept(keeper: &BestKeeper) -> (u64, f64) {
        let best = keeper.best().unwrap();
        for file in ["model.safetensors", "adapter_model.safetensors"] {
            assert_eq!(fs::read(keeper.folder.join(file)).unwrap(), [best.iteration as u8; 9]);
        }
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
    fn the_criterion_can_be_chosen_and_changed() {
        let folder = tempfile::tempdir().unwrap();
        let mut by_reward = keeper(folder.path(), KeepBest::Reward);
        offer(&mut by_reward, 1, 0.7, 5.0);
        offer(&mut by_reward, 2, 0.9, 4.0);
        assert_eq!(kept(&by_reward), (1, 5.0));
        // The value of the kept model now comes from its own numbers.
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
    fn an_incomplete_best_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        offer(&mut keeper(folder.path(), KeepBest::Judge), 1, 0.7, 0.0);
        // The crash came after the next model, or after its adapter, too, and before its numbers.
        for (iteration, file) in [(2, "model.safetensors"), (3, "adapter_model.safetensors")] {
            fs::write(folder.path().join("best").join(file), [9; 9]).unwrap();
            let mut resumed = keeper(folder.path(), KeepBest::Judge);
            assert_eq!(resumed.best(), None);
            offer(&mut resumed, iteration, 0.8, 0.0);
            assert_eq!(kept(&resumed), (iteration, 0.8));
        }
        fs::write(folder.path().join("best/best.json"), "{").unwrap();
        assert_eq!(keeper(folder.path(), KeepBest::Judge).best(), None);
    }

    #[test]
    fn scores_of_other_rewards_are_not_compared() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::default();
        offer(&mut open(folder.path(), &config), 1, 0.9, 5.0);
        let resumed = |change: fn(&mut Config)| {
            let mut config = config.clone();
            change(&mut config);
            open(folder.path(), &config).best().map(|best| best.iteration)
        };
        let same: [fn(&mut Config); 3] = [
            |config| config.eval.every = 1,
            |config| config.reward[0].retries = 9,
            |config| config.train.learning_rate = 1.0,
        ];
        assert_eq!(same.map(resumed), [Some(1); 3]);
        let other: [fn(&mut Config); 4] = [
            |config| config.reward[0].file = "another".into(),
            |config| config.reward.push(Reward::default()),
            |config| config.eval.seed = 0,
            |config| config.eval.judge = "another".into(),
        ];
        assert_eq!(other.map(resumed), [None; 4]);

        // Numbers of older versions are accepted.
        let file = folder.path().join("best/best.json");
        let mut numbers: crate::run::Record = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        numbers.remove("scored_by");
        numbers.remove("files");
        numbers["crc32"] = json!(crc32fast::hash(&[1; 9]));
        fs::write(&file, serde_json::to_vec(&numbers).unwrap()).unwrap();
        assert_eq!(resumed(|config| config.eval.seed = 0), Some(1));
        let mut worse = open(folder.path(), &config);
        offer(&mut worse, 2, 0.8, 0.0);
        assert_eq!(kept(&worse), (1, 0.9));
    }

    #[test]
    fn scores_of_other_prompts_are_not_compared() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        (config.model.file, config.model.folder) = (None, Some("sd3".into()));
        offer(&mut open(folder.path(), &config), 1, 0.9, 5.0);
        assert_eq!(open(folder.path(), &config).best().map(|best| best.iteration), Some(1));
        config.prompts.negative = "blurry".into();
        assert_eq!(open(folder.path(), &config).best(), None);
    }

    #[test]
    fn what_the_best_before_had_and_this_one_has_not_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = keeper(folder.path(), KeepBest::Judge);
        offer(&mut keeper, 1, 0.7, 0.0);
        fs::write(folder.path().join("best/notes.txt"), "mine").unwrap();
        let files = || Ok(vec![("adapter_model.safetensors", Streamed::from(vec![2; 9]))]);
        keeper.offer(2, &evaluation(0.8, 0.0), files).unwrap();
        let mut names: Vec<_> = fs::read_dir(&keeper.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["adapter_model.safetensors", "best.json", "notes.txt"]);
        assert_eq!(open(folder.path(), &Config::default()).best(), keeper.best());
    }
}

//! A reward that fails loses nothing that was learned.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use flowdppo_wgpu::ranks::Team;
use flowdppo_wgpu::reward::{Batch, ClassifierScorer, Purpose, Reward, Rewards, classifier_for};
use flowdppo_wgpu::rl::{RunOptions, RunSummary, TrainingRun};
use flowdppo_wgpu::run::{Record, RunDirectory, Verbosity, checkpoint, metrics};
use flowdppo_wgpu::{Error, Result};

use super::super::{classifier_file, flow_model_of};
use crate::common::{gpu, tiny};

/// A classifier that fails at one moment.
#[derive(Debug)]
struct Flaky {
    inner: ClassifierScorer,
    fails: (Purpose, u64),
    /// Returns a value that is not a number, instead of an error.
    quietly: bool,
}

impl Reward for Flaky {
    fn components(&self) -> &[String] {
        self.inner.components()
    }

    fn score(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f64>>> {
        let mut scores = self.inner.score(batch)?;
        if (batch.context.purpose, batch.context.iteration) == self.fails {
            match self.quietly {
                true => scores[0][1] = f64::NAN,
                false => return Err(Error::input("the service is out of order")),
            }
        }
        Ok(scores)
    }
}

/// Four iterations into a folder, whose only regular checkpoint is the last; the reward may fail at a given moment.
fn run(folder: &Path, classifier: &Path, resume: bool, fails: Option<((Purpose, u64), bool)>) -> Result<RunSummary> {
    let mut config = tiny::config(classifier);
    config.train.iterations = 4;
    config.checkpoint.every = 0;
    (config.eval.every, config.preview.every) = (2, 2);
    (config.run.out_dir, config.run.name) = (folder.to_owned(), "run".into());
    let model = tiny::dit(1);
    let begun = resume.then(|| RunDirectory::open(&folder.join("run"))).transpose()?;
    let newest = begun.as_ref().map(|directory| checkpoint::latest(&directory.checkpoints())).transpose()?;
    let mut run = TrainingRun::prepare(gpu(), &config, &model, newest.flatten(), None, &Team::default())?;
    if let Some((fails, quietly)) = fails {
        let inner = classifier_for(gpu(), &config.reward[0].file, &flow_model_of(&model).pictures(&[]))?;
        let flaky = Box::new(Flaky { inner, fails, quietly });
        *run.rewards() =
            Rewards::of(vec![("classifier".into(), flaky, 1.0.into())], &flow_model_of(&model).pictures(&[]))?;
    }
    let directory = match begun {
        Some(directory) => directory,
        None => RunDirectory::create_for(&config.run, None)?,
    };
    let stop = Arc::new(AtomicBool::new(false));
    run.execute(&RunOptions { directory: &directory, verbosity: Verbosity::Quiet, stop: &stop, in_sweep: false })
}

/// The last line for each iteration, purpose and sample of `rewards.csv`, in their order.
fn scores(run: &Path) -> Vec<(Vec<String>, Vec<String>)> {
    let mut reader = csv::Reader::from_path(run.join("rewards.csv")).expect("the run wrote it");
    let header: Vec<String> = reader.headers().expect("it has one").iter().map(str::to_owned).collect();
    assert_eq!(header, ["iteration", "purpose", "sample", "class", "classifier", "total"]);
    let rows = reader.records().map(|row| row.expect("every line is complete"));
    let mut last = std::collections::BTreeMap::new();
    for row in rows {
        let fields: Vec<String> = row.iter().map(str::to_owned).collect();
        last.insert(fields[..3].to_vec(), fields);
    }
    last.into_iter().collect()
}

/// All metrics except times.
fn history(run: &Path) -> Vec<Record> {
    let mut records = metrics::read(&run.join("metrics.jsonl")).expect("the log is complete");
    for record in &mut records {
        record.retain(|key, _| !key.starts_with("seconds_") && key != "images_per_second");
    }
    records
}

/// The state of the run on its page.
fn state(run: &Path) -> String {
    let page = fs::read_to_string(run.join("report.html")).expect("there is a page");
    let (_, rest) = page.split_once("<span class=\"state ").expect("it shows the state of the run");
    rest[..rest.find('<').expect("a tag ends it")].to_owned()
}

#[test]
fn a_run_whose_reward_failed_continues_to_the_same_bytes() {
    let (_folder, classifier) = classifier_file();
    let undisturbed = tempfile::tempdir().expect("a temporary folder");
    run(undisturbed.path(), &classifier, false, None).expect("nothing fails");
    let undisturbed = undisturbed.path().join("run");
    // Four rollouts of twelve samples, and evaluations of the base, iteration 2 and iteration 4: two samples of three classes.
    assert_eq!(scores(&undisturbed).len(), 4 * 12 + 3 * 6);
    // Iterations done when the reward failed: in the third rollout, or when the second was evaluated or shown.
    let cases = [
        (Purpose::Training, false),
        (Purpose::Training, true),
        (Purpose::Evaluation, false),
        (Purpose::Preview, false),
    ];
    for (purpose, quietly) in cases {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let error =
            run(folder.path(), &classifier, false, Some(((purpose, 2), quietly))).expect_err("the reward fails");
        let message = error.to_string();
        let says = if quietly { "returned NaN for sample 1" } else { "the service is out of order" };
        let end = format!(
            "saved up to iteration 2: fix the reward, then resume with: flowdppo-wgpu train --resume --out {}",
            folder.path().join("run").display()
        );
        assert!(message.contains(says) && message.ends_with(&end), "{message}");
        assert_eq!(error.exit_code(), 1);
        let here = folder.path().join("run");
        assert!(here.join("checkpoints/000002/manifest.json").exists(), "{purpose:?}");
        assert!(!here.join("model.safetensors").exists() && !here.join("failed.txt").exists());
        assert_eq!(state(&here), "stopped\">not finished");

        run(folder.path(), &classifier, true, None).expect("the reward is fixed");
        for file in [
            "checkpoints/000004/model.safetensors",
            "checkpoints/000004/optimizer.safetensors",
            "model.safetensors",
            "before_after.png",
        ] {
            let [actual, expected] = [&here, &undisturbed].map(|run| fs::read(run.join(file)).expect("the run ended"));
            assert!(actual == expected, "{purpose:?}: {file} has other bytes");
        }
        assert_eq!(history(&here), history(&undisturbed), "{purpose:?}");
        assert_eq!(scores(&here), scores(&undisturbed), "{purpose:?}");
        assert_eq!(state(&here), "finished\">finished");
    }
}

#[test]
fn a_run_whose_reward_fails_immediately_can_be_started_again() {
    let (_folder, classifier) = classifier_file();
    for purpose in [Purpose::Training, Purpose::Preview, Purpose::Evaluation] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let error = run(folder.path(), &classifier, false, Some(((purpose, 0), false))).expect_err("the reward fails");
        let end = "; nothing has been trained yet: fix the reward, then run the same command again";
        assert!(error.to_string().ends_with(end), "{error}");
        assert_eq!(state(&folder.path().join("run")), "stopped\">not finished");
        let outcome = run(folder.path(), &classifier, false, None).expect("the reward is fixed");
        assert_eq!(outcome.iterations, 4);
        assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 1, "the directory is the same");
        assert_eq!(history(&folder.path().join("run")).len(), 5);
    }
}

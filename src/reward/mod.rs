//! Rewards: everything that scores images.

mod build;
mod classifier;
#[cfg(feature = "cli")]
mod clip_score;
#[cfg(feature = "cli")]
mod command;
#[cfg(feature = "cli")]
mod description;
#[cfg(feature = "cli")]
mod head;
#[cfg(feature = "cli")]
mod http;
mod judge;
#[cfg(feature = "onnx")]
mod onnx;
#[cfg(feature = "cli")]
mod outside;
mod pixels;
#[cfg(feature = "cli")]
mod process;
mod scoring;
mod shapes;
#[cfg(feature = "cli")]
mod template;

pub use classifier::ClassifierScorer;
#[cfg(feature = "cli")]
pub use clip_score::ClipScore;
#[cfg(feature = "cli")]
pub use command::{Program, command};
#[cfg(feature = "cli")]
pub use description::Description;
#[cfg(feature = "cli")]
pub use http::{Service, http};
pub use judge::Judge;
#[cfg(feature = "onnx")]
pub use onnx::OnnxReward;
#[cfg(feature = "cli")]
pub use outside::{Limits, Outside, Subject};
pub use pixels::{Formula, PixelReward};
#[cfg(feature = "cli")]
pub use process::end_programs;
pub use scoring::Scores;
pub use shapes::ShapesReward;
#[cfg(feature = "cli")]
pub use template::Template;

#[cfg(feature = "cli")]
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use maybe_async::maybe_async;

use crate::assets;
#[cfg(feature = "cli")]
use crate::config::RewardKind;
use crate::config::{self, Weight};
use crate::error::{Error, Result, character};
use crate::gpu::Gpu;
use crate::graph::PartMemory;
use crate::model::{Pictures, StoredModel};
use crate::ranks::Team;
#[cfg(feature = "cli")]
use crate::run::RewardLog;
use crate::shape::ImageShape;
use crate::text::is_deceptive;

/// Images to score, and what is known about them.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[N, C, H, W]`, -1 is black and 1 is white; samples may slightly exceed that range.
    pub images: &'a [f32],
    /// `[N]`: the requested classes of the images.
    pub labels: &'a [u32],
    /// `[N]`: the numbers of the images, by which others than this process know them.
    pub numbers: &'a [usize],
    /// The names of the classes; empty if they have no names.
    pub class_names: &'a [String],
    /// The shape of an image.
    pub shape: ImageShape,
    /// What the images are for.
    pub context: ScoringContext,
}

/// What images are scored for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoringContext {
    /// The purpose.
    pub purpose: Purpose,
    /// Iterations done so far.
    pub iteration: u64,
}

impl ScoringContext {
    /// The iteration whose line of metrics covers these scores, and the name of the purpose; `None` for scores that are
    /// not recorded.
    fn recorded(self) -> Option<(u64, &'static str)> {
        match self.purpose {
            Purpose::Training => Some((self.iteration + 1, "training")),
            Purpose::Evaluation => Some((self.iteration, "evaluation")),
            Purpose::Preview => None,
        }
    }
}

/// Why images are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To learn from them.
    Training,
    /// To measure a model.
    Evaluation,
    /// To write the reward under a tile.
    Preview,
}

impl<'a> Batch<'a> {
    /// The elements of each image, `[C, H, W]`.
    pub fn each(&self) -> impl ExactSizeIterator<Item = &'a [f32]> + use<'a> {
        self.images.chunks(self.shape.elements())
    }
}

/// Anything that scores images.
#[maybe_async(?Send)]
pub trait Reward: std::fmt::Debug {
    /// Names of what it measures, at least one: for metrics.
    fn components(&self) -> &[String];

    /// The components that a single number as weight counts: all, unless some only explain others.
    fn weighted(&self) -> &[String] {
        self.components()
    }

    /// Scores every image by every component, `[components][N]`.
    ///
    /// # Errors
    /// If the scorer failed; never a wrong score.
    async fn score(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f64>>>;

    /// What it takes on the device for as long as it lives, if that is more than a few megabytes.
    fn memory(&self) -> Option<PartMemory> {
        None
    }

    /// From now on, nothing that failed is retried while `flag` is set: the user wants to stop.
    fn stop_at(&mut self, _flag: &Arc<AtomicBool>) {}
}

/// A reward in a set: its name, and its weight.
pub type Member = (String, Box<dyn Reward>, Weight);

/// All rewards of a configuration, for the images of one model.
#[derive(Debug)]
pub struct Rewards {
    members: Vec<Box<dyn Reward>>,
    names: Vec<String>,
    weights: Vec<f64>,
    /// Which components only explain others.
    is_detail: Vec<bool>,
    class_names: Vec<String>,
    shape: ImageShape,
    #[cfg(feature = "cli")]
    log: Option<RewardLog>,
    team: Team,
}

impl Rewards {
    /// Creates the rewards of a configuration.
    ///
    /// # Errors
    /// If a reward's file is bad or does not fit the model, or its program or service does not answer.
    pub fn new(gpu: &Arc<Gpu>, rewards: &[config::Reward], pictures: &Pictures<'_>) -> Result<Self> {
        let names = config::reward_names(rewards);
        let member = |(index, (reward, name)): (usize, (&config::Reward, String))| -> Result<Member> {
            let scorer = build::scorer(gpu, reward, index, &name, pictures)?;
            Ok((name, scorer, reward.weight.clone()))
        };
        Self::of(rewards.iter().zip(names).enumerate().map(member).collect::<Result<_>>()?, pictures)
    }

    /// Checks everything that [`Rewards::new`] rejects before it needs a device, a program or a service.
    ///
    /// # Errors
    /// As [`Rewards::new`].
    pub fn check(rewards: &[config::Reward], pictures: &Pictures<'_>) -> Result<()> {
        #[cfg(feature = "cli")]
        check_addresses(rewards)?;
        rewards.iter().enumerate().try_for_each(|(index, reward)| build::check(rewards, reward, index, pictures))
    }

    /// The components that do not only explain others, by number.
    pub fn headlines(&self) -> Vec<usize> {
        (0..self.names.len()).filter(|component| !self.is_detail[*component]).collect()
    }

    /// A set of any rewards, with distinct names and their weights.
    ///
    /// # Errors
    /// If a weight is for a component that its reward does not have.
    pub fn of(members: Vec<Member>, pictures: &Pictures<'_>) -> Result<Self> {
        let (mut names, mut weights, mut is_detail) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (name, scorer, weight)) in members.iter().enumerate() {
            let components = scorer.components();
            if let Weight::Each(given) = weight
                && let Some(unknown) = given.keys().find(|key| !components.contains(key))
            {
                return Err(Error::input(format!(
                    "`reward.{index}.weight` is for `{unknown}`, which {name} does not measure; it measures {}",
                    components.join(", ")
                )));
            }
            for component in components {
                if let Some(c) = component.chars().find(|c| is_deceptive(*c) || c.is_control()) {
                    return Err(Error::input(format!(
                        "the reward {name} measures {component:?}, which has {}: a name must not contain control \
                         characters or marks of text direction",
                        character(c)
                    )));
                }
                names.push(if components.len() == 1 { name.clone() } else { format!("{name}.{component}") });
                let explains = !scorer.weighted().contains(component);
                is_detail.push(explains);
                weights.push(if explains && matches!(weight, Weight::All(_)) { 0.0 } else { weight.of(component) });
            }
        }
        Ok(Self {
            members: members.into_iter().map(|(_, scorer, _)| scorer).collect(),
            names,
            weights,
            is_detail,
            class_names: pictures.classes.names.to_vec(),
            shape: pictures.shape,
            #[cfg(feature = "cli")]
            log: None,
            team: Team::default(),
        })
    }

    /// Names of the components in metrics: the name of the reward, followed by that of the component if the reward has
    /// several.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The weight of each component.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// What each reward that is large takes on the device, with its name.
    pub fn memory(&self) -> Vec<(String, PartMemory)> {
        let mut first = 0;
        let mut found = Vec::new();
        for member in &self.members {
            found.extend(member.memory().map(|memory| (self.names[first].clone(), memory)));
            first += member.components().len();
        }
        found
    }

    /// From now on, writes every score of training and evaluation into `rewards.csv` of a run's directory.
    ///
    /// # Errors
    /// If the file cannot be written.
    #[cfg(feature = "cli")]
    pub fn record_in(&mut self, folder: &Path) -> Result<()> {
        self.log = Some(RewardLog::open(folder, &self.names)?);
        Ok(())
    }

    /// From now on, a reward that failed is not retried while `flag` is set: the user wants to stop.
    pub fn stop_at(&mut self, flag: &Arc<AtomicBool>) {
        self.members.iter_mut().for_each(|member| member.stop_at(flag));
    }

    /// From now on, images are scored together with the other ranks of a team.
    pub fn join(&mut self, team: &Team) {
        self.team = team.clone();
    }
}

/// Checks the addresses of services, which do not depend on a model.
///
/// # Errors
/// [`Error::Input`] that says what is wrong with an address.
#[cfg(feature = "cli")]
pub fn check_addresses(rewards: &[config::Reward]) -> Result<()> {
    let mut services = rewards.iter().filter(|reward| reward.kind == RewardKind::Http);
    services.try_for_each(|reward| http::checked_url(&reward.url).map(drop))
}

/// Loads a classifier and checks that it takes a model's images and knows its classes, which are matched by name.
///
/// # Errors
/// If the file is bad or does not fit the model.
pub fn classifier_for(gpu: &Arc<Gpu>, file: &str, pictures: &Pictures<'_>) -> Result<ClassifierScorer> {
    let model = assets::load_model(file)?;
    let classes = fitting_classes(&model, file, pictures)?;
    Ok(ClassifierScorer::new(gpu, &model, file)?.with_classes(classes))
}

/// The class of a classifier for each class of the model whose images it takes.
///
/// # Errors
/// If the model is no classifier, or does not fit.
fn fitting_classes(model: &StoredModel, file: &str, pictures: &Pictures<'_>) -> Result<Vec<usize>> {
    let network = model.classifier(file)?;
    let takes = ImageShape::square(network.channels, network.image_size);
    if takes != pictures.shape {
        return Err(Error::input(format!(
            "{file} takes {takes}, but the model makes {}: fit a classifier on the model's data",
            pictures.shape
        )));
    }
    model.classes(&format!("the classifier {file}")).indices_of(pictures.classes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::Classes;

    /// Returns the same scores for each sample.
    #[derive(Debug)]
    struct Fixed {
        names: Vec<String>,
        scores: Vec<f64>,
    }

    impl Reward for Fixed {
        fn components(&self) -> &[String] {
            &self.names
        }

        fn score(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f64>>> {
            Ok(self.scores.iter().map(|score| vec![*score; batch.labels.len()]).collect())
        }
    }

    fn rewards(names: &[&str], scores: &[f64], weight: f64) -> Result<Rewards> {
        let fixed = Fixed { names: names.iter().map(|name| (*name).into()).collect(), scores: scores.to_vec() };
        let classes = Classes { of: "the model", count: 2, names: &[] };
        let pictures = Pictures { shape: ImageShape::square(1, 1), classes, prompts: &[] };
        Rewards::of(vec![("mine".into(), Box::new(fixed), weight.into())], &pictures)
    }

    #[test]
    fn scores_out_of_range_are_rejected_before_they_are_written() {
        let context = ScoringContext { purpose: Purpose::Training, iteration: 0 };
        let cases: [(&[f64], f64, &str); 5] = [
            (
                &[1.0, 1e200],
                1.0,
                "the reward `mine.b` returned 1e200 for sample 0, but a score must be a number from -1e100",
            ),
            (&[-1.7e308, 1.0], 0.0, "the reward `mine.a` returned -1.7e308 for sample 0"),
            (&[1.0, f64::NAN], 1.0, "the reward `mine.b` returned NaN for sample 0"),
            (&[f64::INFINITY, 1.0], 1.0, "the reward `mine.a` returned inf for sample 0"),
            (&[1e100, 1.0], 10.0, "the weighted sum of the rewards is 1e101 for sample 0, but it must be"),
        ];
        let folder = tempfile::tempdir().unwrap();
        for (scores, weight, needle) in cases {
            let mut rewards = rewards(&["a", "b"], scores, weight).unwrap();
            rewards.record_in(folder.path()).unwrap();
            let error = rewards.score(&[0.0; 2], &[0, 1], context).unwrap_err();
            assert!(matches!(&error, Error::Reward(message) if message.contains(needle)), "{error:?}");
        }
        let written = std::fs::read_to_string(folder.path().join("rewards.csv")).unwrap();
        assert_eq!(written, "iteration,purpose,sample,class,mine.a,mine.b,total\n");
        let mut most = rewards(&["a", "b"], &[1e100, -1e100], 1.0).unwrap();
        assert_eq!(most.score(&[0.0; 2], &[0, 1], context).unwrap().totals, [0.0; 2]);
    }

    #[test]
    fn names_with_control_characters_are_rejected() {
        for (name, says) in [
            ("b\u{1b}[2J", "measures \"b\\u{1b}[2J\", which has U+001B: a name must not contain"),
            ("gnp\u{202e}.b", "which has U+202E"),
            ("a\tb", "which has a tab (U+0009)"),
        ] {
            let error = rewards(&["a", name], &[1.0, 1.0], 1.0).unwrap_err();
            assert!(matches!(&error, Error::Input(found) if found.contains(says)), "{error:?}");
        }
    }
}

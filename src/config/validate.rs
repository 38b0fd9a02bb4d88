//! Checks of ranges and arithmetic, which types cannot express.

use std::collections::BTreeSet;

use super::ranges::*;
use super::reward::first_repeated;
use super::schema::out_of_range;
use super::*;
use crate::classes::ConditionKind;
use crate::error::character;
use crate::flow::sampler::{DETERMINISTIC_ETA, LARGEST_KAPPA};
use crate::shape::ImageShape;

/// The most classes or prompts that are evaluated unless the configuration names some, if their pictures are large.
const MAX_EVALUATED: usize = 64;

/// Pixels of a picture that takes hardly any time to draw.
const SMALL_PICTURE: usize = 64 * 64;

impl Config {
    /// Checks the sections that `command` reads.
    ///
    /// # Errors
    /// [`Error::Input`] with the first key that is out of range or does not fit with another, the
    /// numbers, and how to fix it.
    pub fn validate(&self, command: Command) -> Result<()> {
        match out_of_range(self, command).into_iter().next() {
            Some(error) => Err(error),
            None => self.validate_together(command),
        }
    }

    /// Checks what the schema cannot express: values that must fit with each other, and texts.
    pub(super) fn validate_together(&self, command: Command) -> Result<()> {
        self.run.validate()?;
        self.validate_paths(command)?;
        match command {
            Command::Train => {
                self.validate_train_model()?;
                self.prompts.validate(command, &self.model)?;
                self.rollout.validate(self.objective.name)?;
                self.validate_rewards()?;
                self.validate_weights()?;
                self.validate_objective()?;
                self.validate_updates()?;
                self.lora.validate()?;
                self.validate_best()?;
                check_distinct("eval.classes", &self.eval.classes, self.condition_kind())?;
                check_distinct("preview.classes", &self.preview.classes, self.condition_kind())
            }
            Command::Eval => {
                self.prompts.validate(command, &self.model)?;
                check_distinct("eval.classes", &self.eval.classes, self.condition_kind())?;
                self.rollout.validate_levels()?;
                self.validate_rewards()
            }
            Command::Pretrain => {
                self.data.validate()?;
                self.validate_pretrain_model()?;
                self.prompts.validate(command, &self.model)?;
                self.lora.validate()?;
                check_distinct("preview.classes", &self.preview.classes, self.condition_kind())?;
                self.pretrain.validate()
            }
            Command::FitClassifier if self.data.kind == DataKind::Captions => Err(Error::input(
                "`data.kind` = \"captions\" has captions in place of the classes that a classifier learns: choose \"folder\"",
            )),
            Command::FitClassifier => {
                self.data.validate()?;
                self.classifier.validate()
            }
        }
    }

    /// What the classes that the configuration names are.
    fn condition_kind(&self) -> ConditionKind {
        let is_of_text = self.model.folder.is_some() || self.prompts.file.is_some();
        if is_of_text { ConditionKind::Prompt } else { ConditionKind::Class }
    }

    fn validate_train_model(&self) -> Result<()> {
        if self.model.file.is_none() && self.model.folder.is_none() {
            return Err(Error::input(
                "train starts from a trained model: set `model.file` instead of sizes; create the file with pretrain",
            ));
        }
        self.model.source().map(drop)
    }

    fn validate_pretrain_model(&self) -> Result<()> {
        if self.model.vae.is_some() {
            return Err(Error::input(
                "pretrain does not encode images for a latent model: remove `model.vae`, which is for train and eval",
            ));
        }
        if self.lora.reference != LoraReference::default() {
            return Err(Error::input(
                "`lora.reference` does nothing in pretrain, which measures no distance from a model: remove it",
            ));
        }
        let source = self.model.source()?;
        match (&source, self.data.kind) {
            (ModelSource::Folder(_) | ModelSource::NewText(..), DataKind::Shapes)
            | (ModelSource::Folder(_), DataKind::Captions) => {}
            (ModelSource::Folder(_), _) => {
                return Err(Error::input(
                    "`model.folder` is a text-to-image model, which learns from images with captions: set `data.kind` = \
                     \"captions\" and `data.path` to their directory",
                ));
            }
            (ModelSource::NewText(..), _) => {
                return Err(Error::input(
                    "`model.text` takes its words from the captions of `data.kind` = \"shapes\": choose that, or remove it",
                ));
            }
            (ModelSource::File(_) | ModelSource::New(_), DataKind::Captions | DataKind::Shapes) => {
                return Err(Error::input(format!(
                    "`data.kind` = \"{}\" is for a text-to-image model: set `model.folder` instead of `model.file` or \
                     sizes, or choose images with classes",
                    self.data.kind.name()
                )));
            }
            _ => {}
        }
        let sizes = match source {
            ModelSource::New(sizes) => sizes,
            ModelSource::NewText(..) => return self.refuse_adapter(),
            ModelSource::Folder(_) | ModelSource::File(_) => return Ok(()),
        };
        self.refuse_adapter()?;
        for (key, model, data) in
            [("image_size", sizes.image_size, self.data.image_size), ("channels", sizes.channels, self.data.channels)]
        {
            if model != data {
                return Err(Error::input(format!(
                    "`model.{key}` is {model} but `data.{key}` is {data}; set both to the same value"
                )));
            }
        }
        Ok(())
    }

    /// Refuses an adapter for a new model.
    fn refuse_adapter(&self) -> Result<()> {
        match self.lora.is_used() {
            false => Ok(()),
            true => Err(Error::input(
                "an adapter (`lora`) is trained on a trained model, and `model` has the sizes of a new one: set \
                 `model.file` instead, or remove `lora`",
            )),
        }
    }

    fn validate_rewards(&self) -> Result<()> {
        for (index, reward) in self.reward.iter().enumerate() {
            reward.validate(index)?;
        }
        let names = reward_names(&self.reward);
        if let Some(index) = first_repeated(&names) {
            let expected = "a name that no other reward has";
            return wrong(format_args!("reward.{index}.name"), expected, format_args!("\"{}\"", names[index]));
        }
        Ok(())
    }

    fn validate_weights(&self) -> Result<()> {
        if self.reward.iter().all(|reward| reward.weight.is_zero()) {
            return Err(Error::input(
                "train has nothing to learn from: set the `weight` of at least one [[reward]] to a value other \
                 than 0",
            ));
        }
        Ok(())
    }

    fn validate_objective(&self) -> Result<()> {
        let objective = &self.objective;
        if objective.divergence == Divergence::Tv && objective.kl_mask_threshold > 1.0 {
            let expected = "a total variation distance, above 0 and at most 1, with `objective.divergence` = \"tv\"";
            return wrong("objective.kl_mask_threshold", expected, objective.kl_mask_threshold);
        }
        if objective.name != ObjectiveName::Nft {
            return Ok(());
        }
        if objective.reference.beta > 0.0 {
            let expected = "0 with the objective \"nft\": its steps have no density to compare with a reference's";
            return wrong("objective.reference.beta", expected, objective.reference.beta);
        }
        if self.advantage.clip.is_infinite() {
            let expected = "finite with the objective \"nft\", which treats advantages of ± the clip as certain";
            return wrong("advantage.clip", expected, "inf");
        }
        Ok(())
    }

    fn validate_updates(&self) -> Result<()> {
        let (train, rollout) = (&self.train, &self.rollout);
        let Rollout { groups, group_size, .. } = rollout;
        if rollout.samples() > MAX_SAMPLES {
            return Err(Error::input(format!(
                "`rollout.groups` x `rollout.group_size` = {groups} x {group_size} must be at most {MAX_SAMPLES}; lower one"
            )));
        }
        let samples = format!("`rollout.groups` x `rollout.group_size` = {groups} x {group_size}");
        divides("rollout.micro_batch", rollout.effective_micro_batch(), &samples, rollout.samples())?;
        divides("train.updates_per_rollout", train.updates_per_rollout, &samples, rollout.samples())?;
        let update = format!("{samples}, over `train.updates_per_rollout` = {}", train.updates_per_rollout);
        divides("train.micro_batch", train.effective_micro_batch(rollout), &update, train.samples_per_update(rollout))
    }

    /// Checks that the score which selects the best model is measured.
    fn validate_best(&self) -> Result<()> {
        let missing = match self.checkpoint.keep_best {
            KeepBest::Judge if self.eval.judge.is_empty() => "there is no judge: set `eval.judge`",
            KeepBest::Holdout
                if self.reward.iter().all(|reward| matches!(reward.weight, Weight::All(weight) if weight != 0.0)) =>
            {
                "there is no hold-out: set the `weight` of a [[reward]] to 0"
            }
            _ => return Ok(()),
        };
        Err(Error::input(format!(
            "`checkpoint.keep_best` selects by a score that is not measured, because {missing}, or set \"auto\""
        )))
    }
}

impl Run {
    fn validate(&self) -> Result<()> {
        if matches!(self.name.as_str(), "" | "." | "..") {
            let found = format!("{:?}", self.name);
            return wrong("run.name", "the name of a directory, such as \"digits8\"", found);
        }
        if let Some(c) = self.name.chars().find(|c| "/\\:*?\"<>|".contains(*c) || c.is_control()) {
            let found = format!("{:?}, which has {}", self.name, character(c));
            return wrong("run.name", "the name of a directory on any system", found);
        }
        if self.out_dir.as_os_str().is_empty() {
            return wrong("run.out_dir", "a directory, such as \"runs\"", "empty");
        }
        Ok(())
    }
}

impl Data {
    fn validate(&self) -> Result<()> {
        if self.kind == DataKind::Builtin {
            let (image_size, channels) = match self.name.as_str() {
                "digits8" => (8, 1),
                "rings" => (1, 2),
                other => return wrong("data.name", "\"digits8\" or \"rings\"", format!("\"{other}\"")),
            };
            if (self.image_size, self.channels) != (image_size, channels) {
                let expected = format!("{image_size} and {channels} for the built-in {}", self.name);
                let found = format!("{} and {}", self.image_size, self.channels);
                return wrong("data.image_size` and `data.channels", expected, found);
            }
        } else if !matches!(self.kind, DataKind::Captions | DataKind::Shapes) && !matches!(self.channels, 1 | 3) {
            return wrong("data.channels", "1 (grey) or 3 (RGB)", self.channels);
        }
        let given = [
            ("path", self.path.is_some(), !matches!(self.kind, DataKind::Builtin | DataKind::Shapes)),
            ("labels", self.labels.is_some(), self.kind == DataKind::Sheet),
        ];
        let kind = self.kind.name();
        if self.kind == DataKind::Shapes && self.horizontal_flip {
            return wrong("data.horizontal_flip", "false: a mirrored scene is not what its caption says", "true");
        }
        for (key, is_given, is_needed) in given {
            if is_given != is_needed {
                let (verb, fix) = match is_needed {
                    true => ("needs", "add it"),
                    false => ("does not take", "remove it, or choose another kind"),
                };
                return Err(Error::input(format!("data of `data.kind` = \"{kind}\" {verb} `data.{key}`; {fix}")));
            }
        }
        Ok(())
    }
}

impl DataKind {
    /// Its name in a configuration.
    fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Sheet => "sheet",
            Self::Folder => "folder",
            Self::Captions => "captions",
            Self::Shapes => "shapes",
        }
    }
}

/// The classes or prompts that the value of `key` selects from so many; an empty list selects all.
///
/// # Errors
/// [`Error::Input`] if there is no such class or prompt.
fn chosen_classes(key: &str, classes: &[usize], (count, kind): (usize, ConditionKind)) -> Result<Vec<u32>> {
    if let Some(class) = classes.iter().find(|class| **class >= count) {
        let there_are = kind.counted(count);
        return Err(Error::input(format!(
            "`{key}` names {} {class}, but {there_are}, 0 to {}",
            kind.name(),
            count - 1
        )));
    }
    let chosen: Vec<u32> = classes.iter().map(|class| *class as u32).collect();
    Ok(if chosen.is_empty() { (0..count as u32).collect() } else { chosen })
}

/// Checks that the value of `key` names no class twice: its samples would be counted twice.
fn check_distinct(key: &str, classes: &[usize], kind: ConditionKind) -> Result<()> {
    let (mut seen, kind) = (BTreeSet::new(), kind.name());
    match classes.iter().find(|class| !seen.insert(**class)) {
        Some(class) => Err(Error::input(format!("`{key}` names {kind} {class} twice: name each {kind} once"))),
        None => Ok(()),
    }
}

impl Eval {
    /// The classes or prompts to evaluate, of so many.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no such class or prompt.
    pub fn chosen_classes(&self, conditions: (usize, ConditionKind)) -> Result<Vec<u32>> {
        chosen_classes("eval.classes", &self.classes, conditions)
    }

    /// Checks that the evaluation of a model with large pictures, of this shape, names what it draws if there is much to
    /// choose from: so many classes or prompts.
    ///
    /// # Errors
    /// [`Error::Input`] if it would draw all of them.
    pub fn check_is_small(&self, picture: ImageShape, (count, kind): (usize, ConditionKind)) -> Result<()> {
        let is_large = picture.height * picture.width > SMALL_PICTURE;
        if !is_large || !self.classes.is_empty() || count <= MAX_EVALUATED {
            return Ok(());
        }
        let noun = kind.plural();
        Err(Error::input(format!(
            "`eval.classes` is empty, so an evaluation would draw {} images of each of the {count} {noun}: name some of \
             the {noun} by number, such as [0, 1, 2, 3]",
            self.count
        )))
    }
}

impl Preview {
    /// The classes or prompts to show, of so many; all if none are listed.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no such class or prompt.
    pub fn chosen_classes(&self, conditions: (usize, ConditionKind)) -> Result<Vec<u32>> {
        chosen_classes("preview.classes", &self.classes, conditions)
    }
}

impl Rollout {
    /// The classes or prompts that groups take in turn, of so many.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no such class or prompt.
    pub fn chosen_classes(&self, conditions: (usize, ConditionKind)) -> Result<Vec<u32>> {
        chosen_classes("rollout.classes", &self.classes, conditions)
    }

    fn validate(&self, objective: ObjectiveName) -> Result<()> {
        match (self.sampler == Sampler::Ode, objective == ObjectiveName::Nft) {
            (true, false) => {
                return Err(Error::input(
                    "`rollout.sampler` = \"ode\" is deterministic, so train has no density to learn \
                     from; choose \"flow-sde\" or \"cps\"",
                ));
            }
            (false, true) => {
                return Err(Error::input(
                    "`objective.name` = \"nft\" learns from deterministic samples: set `rollout.sampler` = \"ode\"",
                ));
            }
            _ => {}
        }
        self.validate_trained_steps(&self.validate_levels()?)
    }

    /// Checks eta and noise level of every step, at which `eval` measures drift; returns the levels.
    fn validate_levels(&self) -> Result<Vec<f64>> {
        self.validate_eta()?;
        self.schedule.sigmas(self.steps).map_err(|cause| in_key("rollout.schedule", cause))
    }

    fn validate_eta(&self) -> Result<()> {
        let etas = match &self.eta {
            Eta::All(eta) => {
                positive("rollout.eta", *eta)?;
                if *eta < DETERMINISTIC_ETA {
                    let expected = "at least 1e-7: with less noise a step has no density to learn from";
                    return wrong("rollout.eta", expected, eta);
                }
                std::slice::from_ref(eta)
            }
            Eta::Each(etas) => {
                if etas.len() != self.steps {
                    let expected = format!("a number, or a list of `rollout.steps` = {} numbers", self.steps);
                    return wrong("rollout.eta", expected, format!("a list of {}", etas.len()));
                }
                etas.as_slice()
            }
        };
        for (step, eta) in etas.iter().enumerate() {
            let key = if etas.len() == 1 { "rollout.eta".to_owned() } else { format!("rollout.eta.{step}") };
            not_negative(&key, *eta)?;
            if self.sampler == Sampler::Cps && *eta > 1.0 {
                return wrong(key, "at most 1 with the cps sampler, which replaces that share of the noise", eta);
            }
        }
        Ok(())
    }

    /// Checks that every step that a rollout may train on has a density, and one that can be divided by.
    fn validate_trained_steps(&self, sigmas: &[f64]) -> Result<()> {
        let candidates =
            self.trained_steps.candidates(self.steps).map_err(|cause| in_key("rollout.trained_steps", cause))?;
        if self.sampler == Sampler::Ode {
            return Ok(());
        }
        let rows = self.sampler.table(sigmas, |step| self.eta.at(step))?;
        for step in candidates {
            let (row, eta) = (rows[step], self.eta.at(step));
            if !row.has_density() {
                return Err(Error::input(format!(
                    "`rollout.trained_steps` may choose step {step}, which has no density: from sigma {:.4} to {:.4} \
                     this sampler adds no noise with eta {eta}; leave the step out, or choose another sampler or eta",
                    sigmas[step],
                    sigmas[step + 1]
                )));
            }
            if row.kappa() > LARGEST_KAPPA {
                return Err(Error::input(format!(
                    "`rollout.trained_steps` may choose step {step}, from sigma {:.4} to {:.4}, where this sampler's \
                     noise has a standard deviation of only {:.1e}: its KL is the squared change of the velocity times \
                     {:.0}, and at most {LARGEST_KAPPA} is allowed; leave the step out, or raise `rollout.eta`",
                    sigmas[step],
                    sigmas[step + 1],
                    row.s,
                    row.kappa()
                )));
            }
        }
        Ok(())
    }
}

fn in_key(key: &str, cause: Error) -> Error {
    Error::input(format!("`{key}`: {cause}"))
}

impl Pretrain {
    fn validate(&self) -> Result<()> {
        divides("pretrain.micro_batch", self.effective_micro_batch(), "`pretrain.batch_size`", self.batch_size)?;
        if self.warmup_steps > self.steps {
            let expected = format!("at most `pretrain.steps` = {}", self.steps);
            return wrong("pretrain.warmup_steps", expected, self.warmup_steps);
        }
        Ok(())
    }
}

impl Classifier {
    fn validate(&self) -> Result<()> {
        divides("classifier.micro_batch", self.effective_micro_batch(), "`classifier.batch_size`", self.batch_size)
    }
}

//! `pretrain`: flow matching from scratch or from an existing model.

use std::sync::Arc;

use clap::Args;

use super::resume::RunStart;
use super::{Global, RunArguments, ranks, supervised};
use crate::config::{Command, Config};
use crate::data::Shown;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::DeviceProfile;
use crate::memory::OtherParts;
use crate::model::StoredModel;
use crate::preflight::{self, Lesson};
use crate::pretrain;
use crate::run::RunDirectory;
use crate::saved::going_on;
use crate::supervised::{Pretrainer, PretrainingPlan};
use crate::text_to_image::{Captioned, SceneLesson};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let team = &global.team;
    let mut start = RunStart::of(&arguments.run, Command::Pretrain, team)?;
    start.check_length("pretrain.steps", start.config.pretrain.steps)?;
    let is_resumed = start.newest.is_some();
    ranks::settle_reduction(team, &mut start.config.pretrain.reduction, "pretrain.reduction", is_resumed);
    pretrain::check_share(&start.config.pretrain, team.seat())?;
    let files = || supervised::inputs(&start.config, Command::Pretrain);
    ranks::check_same(global, &start.config, start.newest.as_ref(), files)?;
    let config = going_on(&start.config, start.newest.as_ref());
    let lesson = preflight::pretrain(&config)?;
    let planned = lesson.planned()?;
    let gpu = global.open(&config.run.device)?;
    let profile = DeviceProfile::of(&gpu);
    let plan = Pretrainer::plan(&config, &planned, &profile)?;
    let (memory, room) = (&plan.cost.memory, |bytes| gpu.check_memory(bytes));
    let mut parts = OtherParts::of(&planned, memory, Vec::new(), Vec::new(), &profile, room)?;
    if arguments.run.dry_run {
        lesson.check()?;
        parts.encoders = lesson.planned_encoders(&profile)?;
        return supervised::dry_run(&gpu, &start.config, &Pretrainer::pace(&config), &plan.cost, &parts);
    }
    arguments.run.start_profiling(&gpu, &mut arguments.run.config.outputs(global, &start.config))?;
    let job = Job { global, arguments: &arguments.run, gpu: &gpu, config: &config };
    match lesson {
        Lesson::Classes(classes) => {
            let (data, model, weights) = *classes;
            let mut pretrainer = Pretrainer::new(&gpu, &config, plan, &data, &model, &data.class_names, weights)?;
            job.train(start, &data, &mut pretrainer)
        }
        Lesson::Scenes(lesson) => {
            let SceneLesson { model: StoredModel { class_names, weights, .. }, scenes, is_new } = *lesson;
            let weights = (!is_new).then_some(weights);
            let mut pretrainer = Pretrainer::new(&gpu, &config, plan, &scenes, &planned, &class_names, weights)?;
            job.train(start, &scenes, &mut pretrainer)
        }
        Lesson::Captions(captioned) => {
            // Before the images are encoded, which takes long.
            gpu.check_memory(parts.most(&plan.cost.memory))?;
            if let (None, Some(out)) = (&start.directory, &arguments.run.out) {
                RunDirectory::check_free(out)?;
            }
            job.train_captioned(start, plan, &captioned)
        }
    }
}

/// What training takes besides data and model.
struct Job<'a> {
    global: &'a Global,
    arguments: &'a RunArguments,
    gpu: &'a Arc<Gpu>,
    config: &'a Config,
}

impl Job<'_> {
    /// Trains with all ranks, whatever it learns.
    fn train(&self, start: RunStart, data: &dyn Shown, pretrainer: &mut Pretrainer<'_>) -> Result<()> {
        let Job { global, arguments, gpu, config } = *self;
        ranks::check_equal_devices(&global.team, gpu)?;
        pretrainer.join(&global.team);
        let (command, pace) = (Command::Pretrain, Pretrainer::pace(config));
        supervised::train(&supervised::Work { global, arguments, command, gpu, data, pace }, start, pretrainer)
    }

    fn train_captioned(&self, start: RunStart, plan: PretrainingPlan, captioned: &Captioned) -> Result<()> {
        let directory = start.directory.as_ref().map(RunDirectory::path).or(self.arguments.out.as_deref());
        let (folder, verbosity) = (supervised::beside(directory, self.config), self.global.verbosity());
        let encode = || captioned.encoded(self.gpu, folder, verbosity, |warning| log::warn!("{warning}"));
        let (model, latents) = ranks::leader_first(&self.global.team, encode)?;
        let flow_model = model.flow_model("`model.folder`")?;
        let (names, weights) = (&model.class_names, Some(model.weights));
        let mut pretrainer = Pretrainer::new(self.gpu, self.config, plan, &latents, &flow_model, names, weights)?;
        self.train(start, captioned.images(), &mut pretrainer)
    }
}

//! `fit-classifier`: the small network that scores or judges.

use std::sync::atomic::Ordering;

use clap::Args;

use super::{Global, RunArguments, say, stop_at_interrupt};
use crate::config::Command;
use crate::error::Result;
use crate::fit_classifier::Fitting;
use crate::gpu::ITERATION;
use crate::graph::Profile;
use crate::model::{ClassifierConfig, Model, ModelKind};
use crate::optimizer::PARAMETERS;
use crate::reward::ClassifierScorer;
use crate::run::{MetricsLog, Progress, RunDirectory};
use crate::{data, optimizer, report};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let config = arguments.run.config.load(Command::FitClassifier)?;
    let data = data::load(&config.data)?;
    let gpu = global.open(&config.run.device)?;
    arguments.run.start_profiling(&gpu, &mut arguments.run.config.outputs(global, &config))?;
    let network = ClassifierConfig {
        image_size: data.image_size,
        channels: data.channels,
        hidden_size: config.classifier.hidden_size,
        num_classes: data.class_names.len(),
    };
    network.check()?;
    gpu.check_memory(optimizer::planned_bytes(&network.layout(), &Profile::of(&gpu)))?;
    let mut fitting = Fitting::new(&gpu, &config, &network, &data)?;
    // Everything that can be wrong with the input has been looked at: now the disk.
    let directory = RunDirectory::create_for(&config.run, arguments.run.out.as_deref())?;
    directory.record_start(&config, gpu.description())?;
    let mut metrics = MetricsLog::open(&directory, 0)?;
    global.announce(data::summary::summary(&data).trim_end());
    data::contact::write(&directory.data(), &data)?;
    let steps = config.classifier.steps;
    let mut progress = Progress::new("fitting", steps as u64, global.verbosity());
    let stop = stop_at_interrupt()?;
    for step in 0..steps {
        let iteration = gpu.phase(ITERATION);
        let update = gpu.phase("update");
        let loss = fitting.step(step)?;
        drop(update);
        drop(iteration);
        progress.update(step as u64 + 1, &format!("loss {loss:.4}"));
        if (step + 1) % 100 == 0 || step + 1 == steps {
            metrics.append(&serde_json::json!({"iteration": step + 1, "loss": loss}))?;
        }
        if stop.load(Ordering::Relaxed) {
            progress.println(&format!("stopped after step {}", step + 1));
            break;
        }
    }
    let weights = fitting.optimizer.read(PARAMETERS)?;
    let kind = ModelKind::Classifier(network);
    let model = Model { kind, class_names: data.class_names.clone(), weights };
    let mut scorer = ClassifierScorer::new(&gpu, &model, "the new classifier")?;
    let accuracy = scorer.accuracy(&data.images, &data.labels)?;
    progress.finish(&format!("accuracy on the clean training images {accuracy:.3}"));
    let path = directory.path().join("model.safetensors");
    model.save(&path)?;
    report::refresh(&directory, false);
    say(format_args!("model: {}", path.display()));
    arguments.run.report_profile(&gpu, &directory)
}

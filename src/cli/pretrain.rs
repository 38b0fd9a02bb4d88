//! `pretrain`: flow matching from scratch, or further on from a file.

use std::sync::atomic::Ordering;

use clap::Args;

use super::{Global, RunArguments, say, stop_at_interrupt};
use crate::config::{Command, ModelSource, WeightType};
use crate::error::Result;
use crate::gpu::ITERATION;
use crate::graph::Profile;
use crate::model::{DitConfig, Model, ModelKind};
use crate::pretrain::Pretraining;
use crate::preview::Preview;
use crate::run::{MetricsLog, Progress, RunDirectory};
use crate::sampling::Table;
use crate::{assets, data, optimizer, report};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let config = arguments.run.config.load(Command::Pretrain)?;
    let mut data = data::load(&config.data)?;
    let gpu = global.open(&config.run.device)?;
    arguments.run.start_profiling(&gpu, &mut arguments.run.config.outputs(global, &config))?;
    let (dit, weights) = match config.model.source()? {
        ModelSource::File(file) => {
            let model = assets::load_model(file)?;
            let dit = model.dit(file)?.clone();
            crate::pretrain::check_shape(&data, &dit)?;
            data.take_classes_of(model.classes(file))?;
            (dit, model.weights)
        }
        ModelSource::New(sizes) => {
            let dit = DitConfig::new(&config.model, sizes);
            dit.check()?;
            // Before the weights are drawn: the host would need as much.
            gpu.check_memory(optimizer::planned_bytes(&dit.layout(), &Profile::of(&gpu)))?;
            let weights = dit.initial_weights(config.run.seed);
            (dit, weights)
        }
    };
    if config.model.weights != WeightType::F32 {
        log::warn!(
            "`model.weights` = \"{}\" is for frozen weights, and pretrain has none: it trains all of them in 32 bits",
            config.model.weights.name()
        );
    }
    let mut training = Pretraining::new(&gpu, &config, dit.clone(), &data, &weights)?;
    let stores = training.optimizer.average_stores();
    let mut preview =
        Preview::new(&gpu, &config, &(&dit).into(), &data.class_names, config.pretrain_micro_batch(), 1.0, &stores)?;
    // Everything that can be wrong with the input has been looked at: now the disk.
    let directory = RunDirectory::create_for(&config.run, arguments.run.out.as_deref())?;
    directory.record_start(&config, gpu.description())?;
    let mut metrics = MetricsLog::open(&directory, 0)?;
    global.announce(data::summary::summary(&data).trim_end());
    data::contact::write(&directory.data(), &data)?;
    global.announce(format_args!(
        "pretraining {} parameters on {} images of {} classes into {}",
        dit.layout().parameter_count(),
        data.len(),
        data.class_names.len(),
        directory.path().display()
    ));
    let steps = config.pretrain.steps;
    let table = Table::ode(1.0, config.preview.steps)?;
    let save = |weights: Vec<f32>| {
        let kind = ModelKind::Dit(dit.clone());
        Model { kind, class_names: data.class_names.clone(), weights }.save(&directory.path().join("model.safetensors"))
    };
    let mut progress = Progress::new("pretraining", steps as u64, global.verbosity());
    let (mut sum, mut count, mut last) = (0.0, 0, 0.0);
    let stop = stop_at_interrupt()?;
    for step in 0..steps {
        let _iteration = gpu.phase(ITERATION);
        let update = gpu.phase("update");
        let report = training.step(step)?;
        drop(update);
        (sum, count) = (sum + report.loss, count + 1);
        let done = step + 1;
        let stopped = stop.load(Ordering::Relaxed);
        let due = |every: usize| stopped || done == steps || (every > 0 && done.is_multiple_of(every));
        if due(config.pretrain.log_every) {
            last = sum / f64::from(count);
            metrics.append(&serde_json::json!({
                "iteration": done,
                "loss": last,
                "grad_norm": report.norm.norm,
                "lr": report.learning_rate,
            }))?;
            (sum, count) = (0.0, 0);
        }
        progress.update(done as u64, &format!("loss {:.4}", report.loss));
        if due(config.pretrain.sample_every) {
            let _phase = gpu.phase("preview");
            let file = directory.sample(done as u64);
            preview.write(&file, &table, &format!("step {done}"), None)?;
            metrics.append_picture(done as u64, &file)?;
            report::refresh(&directory, true);
        }
        if due(config.pretrain.save_every) {
            let _phase = gpu.phase("checkpoint");
            save(training.averaged_weights()?)?;
        }
        if stopped {
            progress.println(&format!("stopped after step {done}"));
            break;
        }
    }
    progress.finish(&format!("loss {last:.4} over the last steps"));
    report::refresh(&directory, false);
    say(format_args!("model: {}", directory.path().join("model.safetensors").display()));
    arguments.run.report_profile(&gpu, &directory)
}

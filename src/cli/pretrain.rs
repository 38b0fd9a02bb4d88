//! `pretrain`: flow matching from scratch, or further on from a file.

use clap::Args;

use super::{ConfigArguments, Global};
use crate::config::{Command, ModelSource};
use crate::error::Result;
use crate::model::{DitConfig, Model, ModelKind};
use crate::pretrain::Pretraining;
use crate::preview::Preview;
use crate::run::{MetricsLog, Progress, RunDirectory};
use crate::sampling::Table;
use crate::{assets, data, files};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let config = arguments.config.load(Command::Pretrain)?;
    let data = data::load(&config.data)?;
    let (dit, weights) = match config.model.source()? {
        ModelSource::File(file) => {
            let model = assets::load_model(file)?;
            (model.dit(file)?.clone(), model.weights)
        }
        ModelSource::New(sizes) => {
            let dit = DitConfig::new(&config.model, sizes);
            dit.check()?;
            let weights = dit.initial_weights(config.run.seed);
            (dit, weights)
        }
    };
    let gpu = global.open(&config.run.device)?;
    let directory = RunDirectory::create_for(&config.run, arguments.config.out.as_deref())?;
    files::write_atomically(&directory.config(), config.to_toml().as_bytes())?;
    let mut training = Pretraining::new(&gpu, &config, dit.clone(), &data, &weights)?;
    let stores = training.optimizer.average_stores();
    let mut preview = Preview::new(&gpu, &config.preview, &dit, &data.class_names, 1.0, &stores)?;
    let mut metrics = MetricsLog::open_append(&directory.metrics())?;
    println!(
        "pretraining {} parameters on {} images of {} classes into {}",
        dit.layout().parameter_count(),
        data.len(),
        data.class_names.len(),
        directory.path().display()
    );
    let steps = config.pretrain.steps;
    let table = Table::ode(1.0, config.preview.steps)?;
    let save = |weights: Vec<f32>| {
        let kind = ModelKind::Dit(dit.clone());
        Model { kind, class_names: data.class_names.clone(), weights }.save(&directory.path().join("model.safetensors"))
    };
    let mut progress = Progress::new("pretraining", steps as u64, global.verbosity());
    let (mut sum, mut count, mut last) = (0.0, 0, 0.0);
    for step in 0..steps {
        let report = training.step(step)?;
        (sum, count) = (sum + report.loss, count + 1);
        let done = step + 1;
        if done % config.pretrain.log_every.max(1) == 0 || done == steps {
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
        let every = config.pretrain.sample_every;
        if done == steps || (every > 0 && done % every == 0) {
            preview.write(&directory.sample(done as u64), &table, &format!("step {done}"), None)?;
        }
        let checkpoint = config.pretrain.checkpoint_every;
        if checkpoint > 0 && done % checkpoint == 0 {
            save(training.averaged_weights()?)?;
        }
    }
    save(training.averaged_weights()?)?;
    progress.finish(&format!("loss {last:.4} over the last steps"));
    println!("model: {}", directory.path().join("model.safetensors").display());
    Ok(())
}

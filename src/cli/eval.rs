//! `eval`: a model on fixed seeds, judged independently, and its drift from a base.

use std::sync::Arc;

use clap::Args;

use super::{AdapterArguments, ConfigArguments, Global, say};
use crate::assets;
use crate::config::Command;
use crate::error::{Error, Result};
use crate::evaluate::{BASE, Evaluation, Evaluator};
use crate::gpu::Buffer;
use crate::graph::{Store, Stores};
use crate::model::Model;
use crate::optimizer::PARAMETERS;
use crate::reward::Rewards;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Model to evaluate: a file, or builtin:NAME
    #[arg(long, value_name = "FILE")]
    model: String,
    #[command(flatten)]
    adapter: AdapterArguments,
    /// Model to measure drift from
    #[arg(long, value_name = "FILE")]
    base: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArguments,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let mut config = arguments.config.load(Command::Train)?;
    // Nothing stays here that would have to be small.
    config.train.half_base = false;
    let model = arguments.adapter.load_model(&arguments.model)?;
    let dit = model.dit(&arguments.model)?;
    let base = arguments.base.as_ref().map(|file| assets::load_model(file)).transpose()?;
    let gpu = global.open(&config.run.device)?;
    let mut stores = Stores::new();
    let mut upload = |store: Store, model: &Model| -> Result<Arc<Buffer>> {
        let buffer = gpu.allocate(store.0, 4 * model.weights.len() as u64)?;
        gpu.write(&buffer, 0, &model.weights);
        stores.insert(store, buffer.clone());
        Ok(buffer)
    };
    upload(PARAMETERS, &model)?;
    let base = match &base {
        None => None,
        Some(base) if base.kind == model.kind => Some(upload(BASE, base)?),
        Some(_) => {
            return Err(Error::input(format!(
                "{} is another network than {}: drift is measured between models of one kind",
                arguments.base.as_deref().unwrap_or_default(),
                arguments.model
            )));
        }
    };
    let mut rewards = Rewards::new(&gpu, &config.reward, dit, &model.class_names)?;
    let evaluation = Evaluator::new(&gpu, &config, &dit.into(), &stores, base.as_ref())?.evaluate(&mut rewards, 0)?;
    if arguments.json {
        say(serde_json::to_string_pretty(&evaluation).expect("numbers are JSON"));
    } else {
        say(table(&[(&arguments.model, &evaluation)]).trim_end());
    }
    Ok(())
}

/// Evaluations side by side, for people.
pub(super) fn table(columns: &[(&str, &Evaluation)]) -> String {
    type Cell = fn(&Evaluation) -> Option<String>;
    let rows: [(&str, Cell); 8] = [
        ("samples", |it| Some(it.samples.to_string())),
        ("reward", |it| Some(format!("{:.3} ± {:.3}", it.reward_mean, it.reward_standard_error))),
        ("judge's accuracy", |it| it.judge_accuracy.map(|accuracy| format!("{accuracy:.3}"))),
        ("diversity", |it| Some(format!("{:.2} ± {:.2}", it.diversity, it.diversity_standard_error))),
        ("high frequencies", |it| it.high_frequency.map(|share| format!("{share:.4}"))),
        ("drift: velocity", |it| it.drift.as_ref().map(|drift| format!("{:.4}", drift.velocity_msd))),
        ("drift: images", |it| it.drift.as_ref().map(|drift| format!("{:.4}", drift.image_msd))),
        ("drift: KL a step", |it| it.drift.as_ref().map(|drift| format!("{:.2e}", drift.kl_mean))),
    ];
    let width = columns.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(16);
    let mut text = format!("{:<18}", "");
    columns.iter().for_each(|(name, _)| text.push_str(&format!("  {name:>width$}")));
    text.push('\n');
    for (name, cell) in rows {
        let cells: Vec<Option<String>> = columns.iter().map(|(_, evaluation)| cell(evaluation)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        text.push_str(&format!("{name:<18}"));
        for cell in cells {
            text.push_str(&format!("  {:>width$}", cell.unwrap_or_else(|| "-".into())));
        }
        text.push('\n');
    }
    let by_step = columns.last().and_then(|(_, it)| it.drift.as_ref()).map(|drift| &drift.kl_by_step);
    if let Some(by_step) = by_step {
        let steps: Vec<String> = by_step.iter().map(|kl| kl.map_or("-".into(), |kl| format!("{kl:.1e}"))).collect();
        text.push_str(&format!("KL by step: {}\n", steps.join(" ")));
    }
    text
}

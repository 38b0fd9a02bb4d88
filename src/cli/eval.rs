//! `eval`: measures a model on fixed seeds: rewards, an independent judge, diversity, and drift from a base.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;

use super::{AdapterArguments, ConfigArguments, Global, VaeArguments, eval_text, say};
use crate::assets;
use crate::config::{Command, WeightType};
use crate::error::{Error, Result};
use crate::evaluate::{Evaluation, Evaluator, Reference};
use crate::graph::{Store, StoreMemory, Stores};
use crate::model::{BASE, Network, StoredModel};
use crate::optimizer::PARAMETERS;
use crate::reward::Rewards;
use crate::sampling::ModelOnDevice;
use crate::text_to_image::NamedModel;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Model to evaluate: a file, builtin:NAME, or a run; or a text-to-image pipeline: its folder, org/name in the hub's
    /// cache, or a run, whose configuration then takes the place of --config
    #[arg(long, value_name = "FILE|DIR|NAME")]
    pub(super) model: String,
    #[command(flatten)]
    pub(super) adapter: AdapterArguments,
    #[command(flatten)]
    pub(super) vae: VaeArguments,
    /// Model to measure drift from, and to show beside; for a text-to-image model its pipeline
    #[arg(long, value_name = "FILE|DIR|NAME")]
    pub(super) base: Option<String>,
    /// File of prompts for a text-to-image model, in place of `prompts.file`
    #[arg(long, value_name = "FILE")]
    pub(super) prompts: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) config: ConfigArguments,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    if let Some(named) = NamedModel::of(&arguments.model)? {
        return eval_text::run(global, arguments, &named);
    }
    let mut config = arguments.config.load(Command::Eval)?;
    if let Some(file) = arguments.prompts.as_ref().or(config.prompts.file.as_ref()) {
        return Err(Error::input(format!(
            "{} are prompts for a text-to-image model, and {} is none: leave out --prompts and `prompts.file`, or name \
             another model",
            file.display(),
            arguments.model
        )));
    }
    // `model.weights` saves memory in training; evaluation does not need it.
    config.model.weights = WeightType::F32;
    let model = arguments.adapter.load_model(&arguments.model)?;
    let model = arguments.vae.attach(model, &arguments.model, config.model.vae.as_deref())?;
    let flow_model = model.flow_model(&arguments.model)?;
    flow_model.check_evaluation(&config.eval)?;
    let base = arguments.base.as_ref().map(|file| assets::load_model(file)).transpose()?;
    let gpu = global.open(&config.run.device)?;
    let mut stores = Stores::new();
    let mut upload = |store: Store, model: &StoredModel| -> Result<StoreMemory> {
        let memory = flow_model.layout().upload(&gpu, store.0, &model.weights)?;
        stores.insert(store, memory.clone());
        Ok(memory)
    };
    upload(PARAMETERS, &model)?;
    let base = match &base {
        None => None,
        Some(base) if base.kind == model.kind => {
            let name = arguments.base.as_deref().unwrap_or_default();
            model.classes(&arguments.model).check_same(base.classes(name))?;
            Some(Reference { network: (&flow_model).into(), stores: Stores::from([(PARAMETERS, upload(BASE, base)?)]) })
        }
        Some(_) => {
            return Err(Error::input(format!(
                "{} is a different kind of network from {}: drift can be measured only between models of one kind",
                arguments.base.as_deref().unwrap_or_default(),
                arguments.model
            )));
        }
    };
    let mut rewards = Rewards::new(&gpu, &config.reward, &flow_model.pictures(&model.class_names))?;
    let network = Network::from(&flow_model);
    let tuned = ModelOnDevice { network: &network, class_names: &model.class_names, stores: &stores };
    let evaluator = Evaluator::new(&gpu, &config.eval, &config.rollout, tuned, base.as_ref())?;
    evaluate(arguments, evaluator, &mut rewards)
}

/// Evaluates a model, and prints the result in the way that was asked for: as a table beside its base, if there is one.
///
/// # Errors
/// If the device is lost or a reward fails.
pub(super) fn evaluate(arguments: &Arguments, mut evaluator: Evaluator, rewards: &mut Rewards) -> Result<()> {
    let evaluation = evaluator.evaluate(rewards, 0)?;
    if arguments.json {
        say(serde_json::to_string_pretty(&evaluation).expect("numbers are JSON"));
        return Ok(());
    }
    let base = evaluator.evaluate_base(rewards)?;
    let base = base.as_ref().zip(arguments.base.as_deref()).map(|(base, name)| (name, base));
    let columns: Vec<(&str, &Evaluation)> = base.into_iter().chain([(arguments.model.as_str(), &evaluation)]).collect();
    say(table(&columns).trim_end());
    Ok(())
}

/// A mean and its standard error, in scientific notation if they are very small or large.
fn estimate(mean: f64, error: f64) -> String {
    match mean.abs().max(error) {
        size if size == 0.0 || (0.01..1e6).contains(&size) => format!("{mean:.3} ± {error:.3}"),
        _ => format!("{mean:.2e} ± {error:.2e}"),
    }
}

/// A table of evaluations side by side.
pub(super) fn table(columns: &[(&str, &Evaluation)]) -> String {
    type Cell = fn(&Evaluation) -> Option<String>;
    let rows: [(&str, Cell); 8] = [
        ("samples", |eval| Some(eval.samples.to_string())),
        ("reward", |eval| Some(estimate(eval.reward_mean, eval.reward_standard_error))),
        ("judge's accuracy", |eval| eval.judge_accuracy.map(|accuracy| format!("{accuracy:.3}"))),
        ("diversity", |eval| Some(format!("{:.2} ± {:.2}", eval.diversity, eval.diversity_standard_error))),
        ("high frequencies", |eval| eval.high_frequency.map(|share| format!("{share:.4}"))),
        ("drift: velocity", |eval| eval.drift.as_ref().map(|drift| format!("{:.4}", drift.velocity_msd))),
        ("drift: images", |eval| eval.drift.as_ref().map(|drift| format!("{:.4}", drift.image_msd))),
        ("drift: KL per step", |eval| eval.drift.as_ref().map(|drift| format!("{:.2e}", drift.kl_mean))),
    ];
    let cells = |cell: &dyn Fn(&Evaluation) -> Option<String>| columns.iter().map(|(_, eval)| cell(eval)).collect();
    let mut rows: Vec<(String, Vec<Option<String>>)> =
        rows.into_iter().map(|(name, cell)| (name.to_owned(), cells(&cell))).collect();
    let components: BTreeSet<&String> = columns.iter().flat_map(|(_, eval)| eval.components.keys()).collect();
    let component = |name: &String| {
        let cell =
            |eval: &Evaluation| Some(estimate(*eval.components.get(name)?, *eval.components_standard_error.get(name)?));
        (format!("reward: {name}"), cells(&cell))
    };
    // After their weighted sum.
    rows.splice(2..2, components.into_iter().map(component));
    rows.retain(|(_, cells)| cells.iter().any(Option::is_some));
    let names = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(18);
    let texts = rows.iter().flat_map(|(_, cells)| cells.iter().flatten().map(String::as_str));
    let texts = texts.chain(columns.iter().map(|(name, _)| *name));
    let width = texts.map(|text| text.chars().count()).max().unwrap_or(0).max(16);
    let mut text = format!("{:<names$}", "");
    columns.iter().for_each(|(name, _)| text.push_str(&format!("  {name:>width$}")));
    text.push('\n');
    for (name, cells) in rows {
        text.push_str(&format!("{name:<names$}"));
        for cell in cells {
            text.push_str(&format!("  {:>width$}", cell.unwrap_or_else(|| "-".into())));
        }
        text.push('\n');
    }
    text.push_str(&groups(columns));
    let by_step = columns.last().and_then(|(_, eval)| eval.drift.as_ref()).map(|drift| &drift.kl_by_step);
    if let Some(by_step) = by_step {
        let steps: Vec<String> = by_step.iter().map(|kl| kl.map_or("-".into(), |kl| format!("{kl:.1e}"))).collect();
        text.push_str(&format!("KL by step: {}\n", steps.join(" ")));
    }
    text
}

/// The same by group of prompts, a table for each score.
fn groups(columns: &[(&str, &Evaluation)]) -> String {
    let names: BTreeSet<&String> = columns.iter().flat_map(|(_, eval)| eval.groups.keys()).collect();
    let first = columns.iter().flat_map(|(_, eval)| eval.groups.values()).next();
    let Some(first) = first else { return String::new() };
    let mut text = String::new();
    // A component that is all of the reward is there already.
    let is_other = |name: &&String| {
        let mut groups = columns.iter().flat_map(|(_, eval)| eval.groups.values());
        groups.any(|group| group.components.get(*name) != Some(&group.reward_mean))
    };
    let scores = [None].into_iter().chain(first.components.keys().filter(is_other).map(Some));
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(18);
    for score in scores {
        let title = score.map_or_else(|| "by group: reward".to_owned(), |name| format!("by group: {name}"));
        text.push_str(&format!("{title}\n"));
        for name in &names {
            text.push_str(&format!("{name:<width$}"));
            for (_, eval) in columns {
                let cell = eval.groups.get(*name).and_then(|group| match score {
                    None => Some(estimate(group.reward_mean, group.reward_standard_error)),
                    Some(name) => {
                        Some(estimate(*group.components.get(name)?, *group.components_standard_error.get(name)?))
                    }
                });
                text.push_str(&format!("  {:>16}", cell.unwrap_or_else(|| "-".into())));
            }
            let judged = |eval: &Evaluation| Some(format!("{:.3}", eval.groups.get(*name)?.judge_accuracy?));
            let judged: Vec<String> = columns.iter().filter_map(|(_, eval)| judged(eval)).collect();
            if score.is_none() && !judged.is_empty() {
                text.push_str(&format!("   judge {}", judged.join(" ")));
            }
            let samples = columns.iter().find_map(|(_, eval)| eval.groups.get(*name)).map_or(0, |group| group.samples);
            text.push_str(&format!("  ({samples} samples)\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn evaluation(components: &[(&str, f64, f64)]) -> Evaluation {
        Evaluation {
            samples: 4,
            reward_mean: 0.5,
            reward_standard_error: 0.0625,
            judge_accuracy: None,
            diversity: 1.0,
            diversity_standard_error: 0.25,
            high_frequency: None,
            high_frequency_standard_error: None,
            components: components.iter().map(|(name, mean, _)| ((*name).to_owned(), *mean)).collect(),
            components_standard_error: components.iter().map(|(name, _, error)| ((*name).to_owned(), *error)).collect(),
            groups: BTreeMap::new(),
            split: None,
            drift: None,
            kl_efficiency: None,
        }
    }

    #[test]
    fn the_table_has_one_row_per_component_if_there_are_several() {
        let alone = evaluation(&[]);
        assert_eq!(table(&[("m", &alone)]).lines().count(), 4);
        let several = evaluation(&[("a-rather-long-name", -3e-5, 1e-6), ("ink", 0.25, 0.125)]);
        let text = table(&[("base", &several), ("tuned", &several)]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].starts_with("reward ") && lines[2].ends_with("0.500 ± 0.062"), "{text}");
        assert!(lines[3].starts_with("reward: a-rather-long-name  "), "{text}");
        assert!(lines[3].ends_with("-3.00e-5 ± 1.00e-6"), "{text}");
        assert!(lines[4].starts_with("reward: ink ") && lines[4].ends_with("0.250 ± 0.125"), "{text}");
        let width = lines[0].chars().count();
        assert!(lines.iter().all(|line| line.chars().count() == width), "{text}");
    }
}

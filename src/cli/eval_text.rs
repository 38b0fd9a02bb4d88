//! `eval` for text-to-image models: a pipeline, with or without an adapter, on fixed seeds and prompts.

use std::path::Path;

use super::Global;
use super::eval::{Arguments, print};
use crate::config::{Command, Config, Lora};
use crate::error::{Error, Result};
use crate::evaluate::{Evaluator, Reference};
use crate::graph::Stores;
use crate::model::{Adapter, BASE, Network};
use crate::reward::{Rewards, classifier_for};
use crate::text_to_image::{NamedModel, TextBase};

pub(super) fn run(global: &Global, arguments: &Arguments, named: &NamedModel) -> Result<()> {
    let config = configuration(arguments, named)?;
    check_base(arguments, named)?;
    let text = TextBase::open(&config, Command::Eval, &named.pipeline)?;
    let adapter = adapter(arguments, named, &text)?;
    let planned = text.planned()?;
    if let Some((folder, base)) = &named.trained {
        base.check(folder, planned.crc32()?)?;
    }
    let flow_model = planned.flow_model(&named.pipeline)?;
    let pictures = flow_model.pictures(&planned.class_names);
    config.rollout.chosen_classes(flow_model.conditions())?;
    config.eval.chosen_classes(flow_model.conditions())?;

    let gpu = global.open(&config.run.device)?;
    // Encoding takes a while: what does not suit the model is found before.
    let mut rewards = Rewards::new(&gpu, &config.reward, &pictures)?;
    if !config.eval.judge.is_empty() {
        classifier_for(&gpu, &config.eval.judge, &pictures)?;
    }
    let warn = |warning: &str| log::warn!("{warning}");
    // Drift is measured along the steps of rollouts.
    text.schedule_warning().filter(|_| arguments.base.is_some()).into_iter().for_each(warn);
    let model = text.encoded(&gpu, warn)?;
    let weights = config.model.weights;
    let adapter = adapter.as_ref().map(|(adapter, scale)| (adapter, *scale));
    let (network, stores) = text.upload(&gpu, &model, weights, adapter)?;
    let reference = arguments.base.as_ref().map(|_| Reference {
        network: Network::base(&network.model, weights),
        stores: Stores::from([(BASE, stores[&BASE].clone())]),
    });
    let evaluation = Evaluator::new(&gpu, &config, &network, &model.class_names, &stores, reference.as_ref())?
        .evaluate(&mut rewards, 0)?;
    print(arguments, &evaluation);
    Ok(())
}

/// The configuration that was given, or that of the run that is evaluated, with the prompts that were given.
fn configuration(arguments: &Arguments, named: &NamedModel) -> Result<Config> {
    let own = Path::new(&arguments.model).join("config.toml");
    let mut config = match (&arguments.config.config, &named.trained) {
        (None, Some(_)) if own.is_file() => Config::of_run(&own, &arguments.config.overrides()?)?,
        _ => arguments.config.read()?,
    };
    if let Some(file) = &arguments.prompts {
        config.prompts.file = Some(file.clone());
    }
    // What a run starts from is no part of an evaluation.
    config.lora = Lora::default();
    config.validate(Command::Eval)?;
    config.prompts.given()?;
    Ok(config)
}

/// Checks that drift is to be measured from the pipeline itself.
fn check_base(arguments: &Arguments, named: &NamedModel) -> Result<()> {
    match &arguments.base {
        Some(base) if !named.is_on(base)? => Err(Error::input(format!(
            "--base is {base}, but the drift of a text-to-image model is measured from its own pipeline: give --base {}",
            named.pipeline
        ))),
        _ => Ok(()),
    }
}

/// The adapter to evaluate, and its scale: that of the run, or the one that was given.
fn adapter(arguments: &Arguments, named: &NamedModel, text: &TextBase) -> Result<Option<(Adapter, f64)>> {
    match (&named.trained, &arguments.adapter.adapter) {
        (Some((own, _)), Some(other)) => Err(Error::input(format!(
            "{} has an adapter already, {}: to evaluate {} in its place, give --model {}",
            arguments.model,
            own.display(),
            other.display(),
            named.pipeline
        ))),
        (Some((own, _)), None) => Ok(Some((text.adapter(own)?, 1.0))),
        (None, Some(given)) => Ok(Some((text.adapter(given)?, arguments.adapter.scale()?))),
        (None, None) => Ok(None),
    }
}

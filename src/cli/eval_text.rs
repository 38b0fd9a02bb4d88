//! `eval` for text-to-image models: a pipeline, with or without an adapter, on fixed seeds and prompts.

use std::path::Path;
use std::sync::Arc;

use super::eval::{Arguments, evaluate};
use super::{Global, supervised};
use crate::assets::BaseRecord;
use crate::config::{Command, Config};
use crate::error::{Error, Result};
use crate::evaluate::{Evaluator, Reference};
use crate::gpu::Gpu;
use crate::graph::Stores;
use crate::model::{BASE, Network, StoredModel, Summed};
use crate::optimizer::PARAMETERS;
use crate::reward::{Judge, Rewards};
use crate::run::RunDirectory;
use crate::sampling::ModelOnDevice;
use crate::text_to_image::{NamedModel, TextBase, TextSettings, Trained, with_adapter};

pub(super) fn run(global: &Global, arguments: &Arguments, named: &NamedModel) -> Result<()> {
    arguments.vae.refuse(&arguments.model, "leave it out")?;
    let run = named.trained.as_ref().and_then(|_| RunDirectory::around(Path::new(&arguments.model)));
    let config = configuration(arguments, named, run.as_ref())?;
    check_base(arguments, named)?;
    let is_guided = config.eval.guidance_scale != 1.0;
    let settings = TextSettings { is_guided, ..(&config).into() };
    let text = TextBase::named(named, &settings)?;
    let given = arguments.adapter.adapter.as_deref().map(|path| Ok::<_, Error>((path, arguments.adapter.scale()?)));
    let adapter = text.adapter(named, given.transpose()?)?;
    let planned = text.planned()?;
    let flow_model = planned.flow_model(&named.pipeline)?;
    let pictures = flow_model.pictures(&planned.class_names);
    config.rollout.chosen_classes(flow_model.conditions())?;
    config.eval.chosen_classes(flow_model.conditions())?;
    flow_model.groups(&config.eval.group_by)?;

    let gpu = global.open(&config.run.device)?;
    // Encoding takes a while: what does not suit the model is found before.
    let mut rewards = Rewards::new(&gpu, &config.reward, &pictures)?;
    if !config.eval.judge.is_empty() {
        Judge::new(&gpu, &config.eval.judge, &pictures)?;
    }
    let warn = |warning: &str| log::warn!("{warning}");
    // Drift is measured along the steps of rollouts.
    text.schedule_warning(&settings).filter(|_| arguments.base.is_some()).into_iter().for_each(warn);
    let folder = supervised::beside(run.as_ref().map(RunDirectory::path), &config);
    let model = text.encoded(&gpu, folder, global.verbosity(), warn)?;
    let base = Network::base(&model.flow_model(&named.pipeline)?, config.model.weights);
    let (network, stores) = match &named.trained {
        Some(Trained::Transformer(_, recorded)) => {
            if adapter.is_some() {
                return Err(Error::input(format!(
                    "{} is a run of all weights, which is measured as it is: leave out the adapter",
                    arguments.model
                )));
            }
            let original = arguments.base.as_ref().map(|_| TextBase::named(&named.untrained(), &settings)?.planned());
            trained_weights(&gpu, &base, &model, original.transpose()?.as_ref().map(|model| (model, recorded)))?
        }
        trained => {
            // Gigabytes may have to be read, so their checksum is computed while they are uploaded.
            let summed = Summed::new(&model.weights);
            let memory = base.frozen().upload(&gpu, BASE.0, &summed)?;
            if let Some(Trained::Adapter(folder, recorded)) = trained {
                recorded.check(folder, summed.crc32())?;
            }
            with_adapter(&gpu, base.clone(), memory, adapter.as_ref().map(|(adapter, scale)| (adapter, *scale)))?
        }
    };
    let reference = arguments
        .base
        .as_ref()
        .map(|_| Reference { network: base, stores: Stores::from([(BASE, stores[&BASE].clone())]) });
    let tuned = ModelOnDevice { network: &network, class_names: &model.class_names, stores: &stores };
    let evaluator = Evaluator::new(&gpu, &config.eval, &config.rollout, tuned, reference.as_ref())?;
    evaluate(arguments, evaluator, &mut rewards)
}

/// The configuration that was given, or that of the run that is evaluated, with the prompts that were given.
fn configuration(arguments: &Arguments, named: &NamedModel, run: Option<&RunDirectory>) -> Result<Config> {
    let mut config = match (&arguments.config.config, run, &named.trained) {
        (None, Some(run), _) => Config::of_run(&run.config(), &arguments.config.overrides()?)?,
        (None, None, Some(trained)) => {
            let (what, place) = match trained {
                Trained::Adapter(place, _) => ("adapter", place),
                Trained::Transformer(place, _) => ("transformer", place),
            };
            return Err(Error::input(format!(
                "{} is the {what} of a run, but not in the directory of one, whose config.toml would say how to measure it: \
                 give --config",
                place.display()
            )));
        }
        _ => arguments.config.read()?,
    };
    if let Some(file) = &arguments.prompts {
        config.prompts.file = Some(file.clone());
    }
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

/// All weights that a run trained, in 32 bits, with the original ones if drift is measured from them.
fn trained_weights(
    gpu: &Arc<Gpu>,
    base: &Network,
    model: &StoredModel,
    original: Option<(&StoredModel, &BaseRecord)>,
) -> Result<(Network, Stores)> {
    let network = Network { lora: None, ..base.clone() };
    let mut stores = Stores::from([(PARAMETERS, network.layout().upload(gpu, "model", &model.weights)?)]);
    if let Some((original, recorded)) = original {
        let summed = Summed::new(&original.weights);
        stores.insert(BASE, base.frozen().upload(gpu, BASE.0, &summed)?);
        recorded.check_original(summed.crc32())?;
    }
    Ok((network, stores))
}

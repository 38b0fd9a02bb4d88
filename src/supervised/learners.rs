//! The models of supervised training: a flow model, and the small classifier.

use std::path::Path;
use std::sync::Arc;

use super::{Cost, Learner, Pace};
use crate::assets::BaseRecord;
use crate::config::{Config, WeightType};
use crate::data::Dataset;
use crate::error::Result;
use crate::fit_classifier::{Fitting, FittingGraph};
use crate::gpu::{Gpu, STAGING_BYTES};
use crate::graph::{DeviceProfile, Store, Stores};
use crate::model::{Adapter, BASE, ClassifierConfig, FlowModel, ModelKind, Network, Summed, WeightSource, Weights};
use crate::optimizer::{self, AVERAGE, Optimizer, PARAMETERS, StepReport};
use crate::pretrain::{Examples, FlowMatchingGraph, Pretraining, activations};
use crate::preview::Preview;
use crate::ranks::Team;
use crate::reward::ClassifierScorer;
use crate::sampling::{ModelOnDevice, SamplerTable};
use crate::saved::Saved;

/// Steps of `fit-classifier` between lines of metrics.
const FIT_LOG_EVERY: usize = 100;

/// What pretraining a network takes, and what it starts from, before anything is on the device.
#[derive(Debug)]
pub struct PretrainingPlan {
    /// The cost, without previews.
    pub cost: Cost,
    /// The adapter that is trained, if not all weights are.
    adapter: Option<Adapter>,
}

/// A flow model in pretraining, with the previews of its progress.
#[derive(Debug)]
pub struct Pretrainer<'a> {
    training: Pretraining<'a>,
    preview: Preview,
    table: SamplerTable,
    network: Network,
    class_names: &'a [String],
    /// What an adapter is trained on.
    base: Option<BaseRecord>,
}

impl<'a> Pretrainer<'a> {
    /// Binds everything that training `model` needs as planned, whose conditions have these names. Without `weights`, they
    /// are drawn at random.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub fn new(
        gpu: &Arc<Gpu>,
        config: &Config,
        PretrainingPlan { cost, adapter }: PretrainingPlan,
        data: &'a dyn Examples,
        model: &FlowModel,
        class_names: &'a [String],
        weights: Option<Weights>,
    ) -> Result<Self> {
        // The device holds its staging buffer already.
        gpu.check_memory(gpu.counters().bytes_held + cost.memory.bytes() - STAGING_BYTES)?;
        let network = Network::new(model, adapter.as_ref(), config.model.weights);
        let (mut frozen, mut base) = (Stores::new(), None);
        let begin = |weights: &dyn WeightSource, frozen: &Stores| {
            Pretraining::new(gpu, config.into(), &network, data, weights, frozen)
        };
        let training = match (&adapter, &weights) {
            (Some(adapter), Some(weights)) => {
                // Gigabytes may have to be read, so their checksum is computed while they are uploaded.
                let summed = Summed::new(weights);
                frozen.insert(BASE, network.frozen().upload(gpu, BASE.0, &summed)?);
                base = Some(BaseRecord { model: config.anchored().model.name(), crc32: summed.crc32() });
                begin(&adapter.weights, &frozen)?
            }
            (Some(_), None) => unreachable!("configurations are checked: a new model has no adapter"),
            (None, Some(weights)) => {
                let summed = Summed::new(weights);
                let training = begin(&summed, &frozen)?;
                base = Some(BaseRecord { model: config.anchored().model.name(), crc32: summed.crc32() });
                training
            }
            (None, None) => begin(&model.drawn_weights(config.run.seed), &frozen)?,
        };
        if adapter.is_none() && config.model.weights != WeightType::F32 {
            log::warn!(
                "`model.weights` = \"{}\" is for frozen weights, and there are none: all are trained, in 32 bits",
                config.model.weights.name()
            );
        }
        let mut stores = training.optimizer.average_stores();
        stores.extend(frozen);
        let (batch, guidance_scale) = (config.pretrain.effective_micro_batch(), config.pretrain.guidance_scale);
        let drawn = ModelOnDevice { network: &network, class_names, stores: &stores };
        let preview = Preview::new(gpu, &config.preview, &config.rollout.classes, drawn, batch, guidance_scale)?;
        let table = SamplerTable::ode(&model.schedule(), config.preview.steps)?;
        Ok(Self { training, preview, table, network, class_names, base })
    }

    /// Plans the training of a network on such a device. The configuration says whether all weights are trained, or an
    /// adapter on them.
    ///
    /// # Errors
    /// If the configuration does not fit the model, or a tensor is too large for such a device.
    pub fn plan(config: &Config, model: &FlowModel, profile: &DeviceProfile) -> Result<PretrainingPlan> {
        config.preview.chosen_classes(model.conditions())?;
        model.check_guidance("`pretrain.guidance_scale`", config.pretrain.guidance_scale)?;
        let adapter = Adapter::begin(&config.lora, config.run.seed, model)?;
        let network = Network::new(model, adapter.as_ref(), config.model.weights);
        let micro_batch = config.pretrain.effective_micro_batch();
        let graph = FlowMatchingGraph::record(&network, micro_batch, activations(&config.pretrain)).graph;
        let cost = Cost::of(&network.layout(), &graph, [config.pretrain.batch_size, micro_batch], profile)?;
        let cost = match &adapter {
            None => cost,
            Some(_) => cost.on_base(model.layout().parameter_count(), network.frozen().bytes()),
        };
        Ok(PretrainingPlan { cost, adapter })
    }

    /// The intervals between log lines, previews and checkpoints.
    pub fn pace(config: &Config) -> Pace {
        let pretrain = &config.pretrain;
        Pace {
            label: "pretraining",
            steps: pretrain.steps,
            log_every: pretrain.log_every,
            preview_every: pretrain.sample_every,
            save_every: pretrain.save_every,
        }
    }
}

impl Pretrainer<'_> {
    /// From now on, steps and previews are shared with the other ranks of a team.
    pub fn join(&mut self, team: &Team) {
        self.training.join(team);
        self.preview.join(team);
    }
}

impl Learner for Pretrainer<'_> {
    fn step(&mut self, step: usize) -> Result<()> {
        self.training.step(step)
    }

    fn outcomes(&mut self) -> Result<Vec<StepReport>> {
        self.training.outcomes()
    }

    fn optimizer(&self) -> &Optimizer {
        &self.training.optimizer
    }

    fn optimizer_mut(&mut self) -> &mut Optimizer {
        &mut self.training.optimizer
    }

    fn result(&self) -> Store {
        AVERAGE
    }

    fn saved(&self) -> Saved<'_> {
        Saved::of(&self.network, self.class_names, self.base.as_ref())
    }

    fn preview(&mut self, file: &Path, done: u64) -> Result<bool> {
        self.preview.write(file, &self.table, &format!("step {done}"), None)?;
        Ok(true)
    }

    fn verdict(&mut self) -> Result<Option<String>> {
        Ok(None)
    }
}

/// A classifier in training.
#[derive(Debug)]
pub struct Fitter<'a> {
    gpu: Arc<Gpu>,
    fitting: Fitting<'a>,
    network: ClassifierConfig,
    data: &'a Dataset,
}

impl<'a> Fitter<'a> {
    /// Binds everything that training `network` needs.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub fn new(gpu: &Arc<Gpu>, config: &Config, data: &'a Dataset, network: ClassifierConfig) -> Result<Self> {
        gpu.check_memory(optimizer::planned_bytes(&network.layout(), &DeviceProfile::of(gpu)))?;
        Ok(Self { gpu: gpu.clone(), fitting: Fitting::new(gpu, config.into(), &network, data)?, network, data })
    }

    /// The cost of training a network.
    ///
    /// # Errors
    /// If a tensor is too large for such a device.
    pub fn cost(config: &Config, network: &ClassifierConfig, profile: &DeviceProfile) -> Result<Cost> {
        let graph = FittingGraph::record(&config.classifier, network).graph;
        let batches = [config.classifier.batch_size, config.classifier.effective_micro_batch()];
        Cost::of(&network.layout(), &graph, batches, profile)
    }

    /// The intervals between log lines, previews and checkpoints.
    pub fn pace(config: &Config) -> Pace {
        let classifier = &config.classifier;
        Pace {
            label: "fitting",
            steps: classifier.steps,
            log_every: FIT_LOG_EVERY,
            preview_every: 0,
            save_every: classifier.save_every,
        }
    }
}

impl Fitter<'_> {
    /// From now on, steps are shared with the other ranks of a team.
    pub fn join(&mut self, team: &Team) {
        self.fitting.join(team);
    }
}

impl Learner for Fitter<'_> {
    fn step(&mut self, step: usize) -> Result<()> {
        self.fitting.step(step)
    }

    fn outcomes(&mut self) -> Result<Vec<StepReport>> {
        self.fitting.outcomes()
    }

    fn optimizer(&self) -> &Optimizer {
        &self.fitting.optimizer
    }

    fn optimizer_mut(&mut self) -> &mut Optimizer {
        &mut self.fitting.optimizer
    }

    fn result(&self) -> Store {
        PARAMETERS
    }

    fn saved(&self) -> Saved<'_> {
        Saved::whole(ModelKind::Classifier(self.network.clone()), &self.data.class_names)
    }

    fn preview(&mut self, _: &Path, _: u64) -> Result<bool> {
        Ok(false)
    }

    fn verdict(&mut self) -> Result<Option<String>> {
        let weights = self.fitting.optimizer.source(PARAMETERS);
        let model = ModelKind::Classifier(self.network.clone()).with(self.data.class_names.clone(), weights);
        let mut scorer = ClassifierScorer::new(&self.gpu, &model, "the new classifier")?;
        let accuracy = scorer.accuracy(&self.data.images, &self.data.labels)?;
        Ok(Some(format!("accuracy on the clean training images {accuracy:.3}")))
    }
}

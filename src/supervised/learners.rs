//! The models of supervised training: a flow model, and the small classifier.

use std::path::Path;
use std::sync::Arc;

use super::{Cost, Learner, Pace};
use crate::config::{Config, WeightType};
use crate::data::Dataset;
use crate::error::Result;
use crate::fit_classifier::{Fitting, FittingGraph};
use crate::gpu::Gpu;
use crate::graph::{DeviceProfile, Store};
use crate::model::{ClassifierConfig, FlowModel, Model, ModelKind, Network, Weights};
use crate::optimizer::{self, AVERAGE, Optimizer, PARAMETERS, StepReport};
use crate::pretrain::{FlowMatchingGraph, Pretraining, activations};
use crate::preview::Preview;
use crate::reward::ClassifierScorer;
use crate::sampling::{ModelOnDevice, SamplerTable};

/// Steps of `fit-classifier` between lines of metrics.
const FIT_LOG_EVERY: usize = 100;

/// A flow model in pretraining, with the previews of its progress.
#[derive(Debug)]
pub struct Pretrainer<'a> {
    training: Pretraining<'a>,
    preview: Preview,
    table: SamplerTable,
    model: FlowModel,
    class_names: &'a [String],
}

impl<'a> Pretrainer<'a> {
    /// Binds everything that pretraining needs. Without `weights`, they are drawn at random.
    ///
    /// # Errors
    /// If data and network do not match, or the device does not have enough memory.
    pub fn new(
        gpu: &Arc<Gpu>,
        config: &Config,
        data: &'a Dataset,
        model: FlowModel,
        weights: Option<Weights>,
    ) -> Result<Self> {
        if config.model.weights != WeightType::F32 {
            log::warn!(
                "`model.weights` = \"{}\" is for frozen weights, and pretrain has none: it trains all of them in 32 bits",
                config.model.weights.name()
            );
        }
        let training = match &weights {
            Some(weights) => Pretraining::new(gpu, config.into(), model.clone(), data, weights)?,
            None => Pretraining::new(gpu, config.into(), model.clone(), data, &model.drawn_weights(config.run.seed))?,
        };
        let stores = training.optimizer.average_stores();
        let network = Network::from(&model);
        let drawn = ModelOnDevice { network: &network, class_names: &data.class_names, stores: &stores };
        let batch = config.pretrain.effective_micro_batch();
        let preview = Preview::new(gpu, &config.preview, &config.rollout.classes, drawn, batch, 1.0)?;
        let table = SamplerTable::ode(&model.schedule(), config.preview.steps)?;
        Ok(Self { training, preview, table, model, class_names: &data.class_names })
    }

    /// The cost of pretraining a network, without previews.
    pub fn cost(config: &Config, model: &FlowModel, profile: &DeviceProfile) -> Cost {
        let micro_batch = config.pretrain.effective_micro_batch();
        let graph = FlowMatchingGraph::record(model, micro_batch, activations(&config.pretrain)).graph;
        Cost::of(&model.layout(), &graph, config.pretrain.batch_size / micro_batch, profile)
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

    /// Parameters of the model.
    pub fn parameter_count(&self) -> usize {
        self.model.layout().parameter_count()
    }
}

impl Learner for Pretrainer<'_> {
    fn step(&mut self, step: usize) -> Result<StepReport> {
        self.training.step(step)
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

    fn model<W>(&self, weights: W) -> Model<W> {
        Model::of(&self.model, self.class_names, weights)
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
    pub fn cost(config: &Config, network: &ClassifierConfig, profile: &DeviceProfile) -> Cost {
        Cost::of(&network.layout(), &FittingGraph::record(&config.classifier, network).graph, 1, profile)
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

impl Learner for Fitter<'_> {
    fn step(&mut self, step: usize) -> Result<StepReport> {
        self.fitting.step(step)
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

    fn model<W>(&self, weights: W) -> Model<W> {
        ModelKind::Classifier(self.network.clone()).with(self.data.class_names.clone(), weights)
    }

    fn preview(&mut self, _: &Path, _: u64) -> Result<bool> {
        Ok(false)
    }

    fn verdict(&mut self) -> Result<Option<String>> {
        let model = self.model(self.fitting.optimizer.source(PARAMETERS));
        let mut scorer = ClassifierScorer::new(&self.gpu, &model, "the new classifier")?;
        let accuracy = scorer.accuracy(&self.data.images, &self.data.labels)?;
        Ok(Some(format!("accuracy on the clean training images {accuracy:.3}")))
    }
}

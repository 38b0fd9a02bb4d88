//! A trained classifier: the probability of the requested class.

use std::sync::Arc;

use maybe_async::maybe_async;

use super::{Batch, Reward};
use crate::error::Result;
use crate::gpu::{Buffer, Command, Gpu, Region};
use crate::graph::{DType, Graph, Plan, Stores, Tensor};
use crate::model::{Classifier, ClassifierConfig, Model, WeightSource};
use crate::ops::cross_entropy;
use crate::optimizer::PARAMETERS;

/// Images scored together.
const BATCH: usize = 128;

/// Batches whose results are read back at once.
const BATCHES_AT_ONCE: usize = 16;

/// A classifier bound to the device.
#[derive(Debug)]
pub struct ClassifierScorer {
    name: String,
    config: ClassifierConfig,
    plan: Plan,
    images: Tensor,
    labels: Tensor,
    probabilities: Tensor,
    gpu: Arc<Gpu>,
    /// The results of several batches, which are read at once.
    results: Arc<Buffer>,
    /// The classifier's class for each class of the model whose images it scores.
    classes: Vec<usize>,
}

impl ClassifierScorer {
    /// Uploads a classifier, which messages call `name`.
    ///
    /// # Errors
    /// If the model is not a classifier, or the device does not have enough memory.
    pub fn new(gpu: &Arc<Gpu>, model: &Model<impl WeightSource>, name: &str) -> Result<Self> {
        let config = model.classifier(name)?.clone();
        let weights = config.layout().upload(gpu, "classifier", &model.weights)?;
        let mut graph = Graph::new();
        let images = graph.input("images", &[BATCH, config.dim()]);
        let labels = graph.input_indices("labels", &[BATCH]);
        let weight = graph.constant("weight", &[BATCH], vec![1.0; BATCH]);
        let parameters = config.layout().declare(&mut graph, PARAMETERS, None);
        let logits = Classifier::new(parameters).logits(&mut graph, images);
        let [_, probabilities, _] = cross_entropy(&mut graph, logits, labels, weight);
        graph.keep(probabilities);
        let plan = Plan::new(gpu, &graph, &Stores::from([(PARAMETERS, weights)]))?;
        let classes = (0..config.num_classes).collect();
        let bytes = DType::F32.bytes(&[BATCHES_AT_ONCE, BATCH, config.num_classes]);
        let (gpu, results) = (gpu.clone(), gpu.allocate("class probabilities", bytes)?);
        Ok(Self { name: "classifier".into(), config, plan, images, labels, probabilities, gpu, results, classes })
    }

    /// Takes the classes of another model as labels: class `i` of that model is class `classes[i]` of the classifier.
    pub fn with_classes(mut self, classes: Vec<usize>) -> Self {
        self.classes = classes;
        self
    }

    /// Class probabilities of images `[N, C, S, S]`, `[N, classes]`.
    ///
    /// # Errors
    /// If the device is lost.
    #[maybe_async]
    pub async fn probabilities(&mut self, images: &[f32]) -> Result<Vec<f32>> {
        let (dim, classes) = (self.config.dim(), self.config.num_classes);
        let mut probabilities = Vec::with_capacity(images.len() / dim * classes);
        self.plan.write(self.labels, &[0_u32; BATCH]);
        let bytes = DType::F32.bytes(&[BATCH, classes]);
        for images in images.chunks(BATCHES_AT_ONCE * BATCH * dim) {
            let batches = images.chunks(BATCH * dim);
            let results = Region { buffer: self.results.clone(), offset: 0, bytes: bytes * batches.len() as u64 };
            for (index, batch) in batches.enumerate() {
                let mut padded = batch.to_vec();
                padded.resize(BATCH * dim, 0.0);
                self.plan.write(self.images, &padded);
                self.plan.run().await?;
                let to = Region { offset: bytes * index as u64, bytes, ..results.clone() };
                self.gpu.encode([Command::Copy { from: self.plan.region(self.probabilities), to: &to }])?;
            }
            let all: Vec<f32> = self.gpu.read(&[&results]).await?;
            probabilities.extend_from_slice(&all[..images.len() / dim * classes]);
        }
        Ok(probabilities)
    }

    /// Share of images whose most probable class is their label.
    ///
    /// # Errors
    /// If the device is lost.
    #[maybe_async]
    pub async fn accuracy(&mut self, images: &[f32], labels: &[u32]) -> Result<f64> {
        let recognised = self.recognises(images, labels).await?;
        Ok(recognised.iter().filter(|is_right| **is_right).count() as f64 / labels.len() as f64)
    }

    /// Of each image, whether its most probable class is its label.
    ///
    /// # Errors
    /// If the device is lost.
    #[maybe_async]
    pub async fn recognises(&mut self, images: &[f32], labels: &[u32]) -> Result<Vec<bool>> {
        let probabilities = self.probabilities(images).await?;
        let rows = probabilities.chunks(self.config.num_classes).zip(labels);
        let is_right = |(row, label): (&[f32], &u32)| {
            let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
            best == Some(self.classes[*label as usize])
        };
        Ok(rows.map(is_right).collect())
    }
}

#[maybe_async(?Send)]
impl Reward for ClassifierScorer {
    fn components(&self) -> &[String] {
        std::slice::from_ref(&self.name)
    }

    async fn score(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f64>>> {
        let probabilities = self.probabilities(batch.images).await?;
        let rows = probabilities.chunks(self.config.num_classes).zip(batch.labels);
        Ok(vec![rows.map(|(row, label)| f64::from(row[self.classes[*label as usize]])).collect()])
    }
}

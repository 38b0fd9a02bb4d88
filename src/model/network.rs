//! A flow model together with its trained part: all weights, or an adapter.

use std::collections::BTreeMap;

use super::adapter::Adapter;
use super::dit::DitConfig;
use super::flow_model::{FlowModel, FlowNetwork};
use super::frozen::Frozen;
use super::layout::{Layout, Parameters};
use super::lora::Lora;
use crate::config::{Precision, WeightType};
use crate::graph::{DType, Graph, Store};

/// The frozen weights of the base model: an adapter is added to them, and drift and the reference penalty are measured
/// against them. One copy on the device serves all three.
pub const BASE: Store = Store("base parameters");

/// The adapter that training started from, frozen: with [`BASE`] it is the model that drift and the penalty on the
/// distance are measured from, if the run continues from an adapter.
pub const START: Store = Store("starting adapter");

/// A flow model whose weights are those of one store, or those of [`BASE`] with an adapter in that store.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Sizes and conventions.
    pub model: FlowModel,
    /// The adapter of [`BASE`]; `None` if the store contains all weights.
    pub lora: Option<Lora>,
    /// How [`BASE`] is stored.
    pub weights: WeightType,
    /// The precision of matrix products.
    pub precision: Precision,
}

impl From<&FlowModel> for Network {
    /// A model with all weights in one store.
    fn from(model: &FlowModel) -> Self {
        Self::new(model, None, WeightType::F32)
    }
}

impl From<&DitConfig> for Network {
    fn from(dit: &DitConfig) -> Self {
        (&FlowModel::from(dit)).into()
    }
}

/// The [`crate::ops::MatMul::precision`] of a run's.
pub fn products_in(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::F16 => DType::F16,
    }
}

impl Network {
    /// A flow model with an adapter's layers, if there is one, on a base stored as `weights`.
    pub fn new(model: &FlowModel, adapter: Option<&Adapter>, weights: WeightType) -> Self {
        Self {
            model: model.clone(),
            lora: adapter.map(|adapter| adapter.lora.clone()),
            weights,
            precision: Precision::F32,
        }
    }

    /// The same with matrix products of another precision.
    pub fn in_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The flow model of [`BASE`] alone: that of an adapter without layers.
    pub fn base(model: &FlowModel, weights: WeightType) -> Self {
        Self { model: model.clone(), lora: Some(Lora::none()), weights, precision: Precision::F32 }
    }

    /// The layout of the trained store.
    pub fn layout(&self) -> Layout {
        self.lora.as_ref().map_or_else(|| self.model.layout(), |lora| lora.layout(&self.model))
    }

    /// Declares the network with the weights of `store` in a graph; with `gradients`, backward passes accumulate there.
    pub fn declare(&self, graph: &mut Graph, store: Store, gradients: Option<Store>) -> FlowNetwork<'_> {
        self.model.network(self.parameters(graph, store, gradients))
    }

    /// Declares the model that drift and the penalty on the distance are measured from: the weights of [`BASE`], with the
    /// adapter of [`START`] if a run with an adapter is measured `from_start`.
    pub fn declare_reference(&self, graph: &mut Graph, from_start: bool) -> FlowNetwork<'_> {
        match self.lora.is_some() && from_start {
            // The same kernels as those of the policy, so that their difference is exactly zero at first.
            true => self.declare(graph, START, None),
            false => self.model.network(self.frozen().declare(graph, BASE).in_precision(self.products())),
        }
    }

    /// How the frozen weights are stored as [`BASE`].
    pub fn frozen(&self) -> Frozen {
        Frozen::new(&self.model.layout(), self.weights)
    }

    fn parameters(&self, graph: &mut Graph, store: Store, gradients: Option<Store>) -> Parameters {
        let trained = self.layout().declare(graph, store, gradients).in_precision(self.products());
        let Some(lora) = &self.lora else { return trained };
        let factors: BTreeMap<String, f32> =
            lora.layers().iter().map(|layer| (layer.layer.clone(), layer.factor() as f32)).collect();
        self.frozen().declare(graph, BASE).in_precision(self.products()).with_lora(trained, factors)
    }

    fn products(&self) -> DType {
        products_in(self.precision)
    }
}

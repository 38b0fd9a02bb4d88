//! A flow model together with what of it is trained: all weights, or an adapter's.

use std::collections::BTreeMap;

use super::adapter::Adapter;
use super::dit::{Dit, DitConfig};
use super::frozen::Frozen;
use super::layout::{Layout, Parameters};
use super::lora::Lora;
use crate::config::WeightType;
use crate::graph::{Graph, Store};

/// Frozen weights of a flow model: those that an adapter adds to, and from which drift and the penalty on the distance
/// are measured. They lie on the device once for all of that.
pub const BASE: Store = Store("base parameters");

/// The adapter that training started from, frozen: with [`BASE`] it is the model that drift and the penalty on the
/// distance are measured from, if the run goes on from an adapter.
pub const START: Store = Store("starting adapter");

/// A flow model whose weights are those of one store, or those of [`BASE`] with an adapter in that store.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Sizes and conventions.
    pub dit: DitConfig,
    /// What is added to [`BASE`]; `None` if the store holds all weights.
    pub lora: Option<Lora>,
    /// How [`BASE`] is stored.
    pub weights: WeightType,
}

impl From<&DitConfig> for Network {
    /// All weights lie in one store.
    fn from(dit: &DitConfig) -> Self {
        Self::new(dit, None, WeightType::F32)
    }
}

impl Network {
    /// The flow model with an adapter's layers, if there is one, on a base that is stored like this.
    pub fn new(dit: &DitConfig, adapter: Option<&Adapter>, weights: WeightType) -> Self {
        Self { dit: dit.clone(), lora: adapter.map(|adapter| adapter.lora.clone()), weights }
    }

    /// The flow model of [`BASE`] alone: as an adapter sees it that adds nothing.
    pub fn base(dit: &DitConfig, weights: WeightType) -> Self {
        Self { dit: dit.clone(), lora: Some(Lora::none()), weights }
    }

    /// What lies in the store that is trained.
    pub fn layout(&self) -> Layout {
        self.lora.as_ref().map_or_else(|| self.dit.layout(), |lora| lora.layout(&self.dit))
    }

    /// The network with the weights of `store` in a graph; with `gradients`, backward passes add to that store.
    pub fn declare(&self, graph: &mut Graph, store: Store, gradients: Option<Store>) -> Dit<'_> {
        Dit::new(&self.dit, self.parameters(graph, store, gradients))
    }

    fn parameters(&self, graph: &mut Graph, store: Store, gradients: Option<Store>) -> Parameters {
        let trained = self.layout().declare(graph, store, gradients);
        let Some(lora) = &self.lora else { return trained };
        let factors: BTreeMap<String, f32> =
            lora.layers().iter().map(|it| (it.layer.clone(), it.factor() as f32)).collect();
        Frozen::new(&self.dit.layout(), self.weights).declare(graph, BASE).with_lora(trained, factors)
    }
}

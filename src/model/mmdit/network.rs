//! A transformer together with its trained part: all weights, or an adapter.

use std::collections::BTreeMap;

use super::{Mmdit, MmditConfig};
use crate::config::WeightType;
use crate::graph::{Graph, Store};
use crate::model::frozen::Frozen;
use crate::model::layout::{Layout, Parameters};
use crate::model::lora::Lora;
use crate::model::network::BASE;

/// A transformer for latents of one size, whose weights are those of one store, or those of [`BASE`] with an adapter in
/// that store.
#[derive(Clone, Debug, PartialEq)]
pub struct MmditNetwork {
    /// Sizes and conventions.
    pub config: MmditConfig,
    /// Height and width of the latents.
    pub size: [usize; 2],
    /// The adapter of [`BASE`]; `None` if the store contains all weights.
    pub lora: Option<Lora>,
    /// How [`BASE`] is stored.
    pub weights: WeightType,
}

impl MmditNetwork {
    /// The transformer of [`BASE`] alone, whose weights are stored as `weights`: that of an adapter without layers.
    pub fn base(config: &MmditConfig, size: [usize; 2], weights: WeightType) -> Self {
        Self { config: config.clone(), size, lora: Some(Lora::none()), weights }
    }

    /// The layout of the base, or of all weights.
    pub fn base_layout(&self) -> Layout {
        self.config.layout(self.size)
    }

    /// How the frozen weights are stored as [`BASE`].
    pub fn frozen(&self) -> Frozen {
        Frozen::new(&self.base_layout(), self.weights)
    }

    /// The layout of the trained store.
    pub fn layout(&self) -> Layout {
        let base = self.base_layout();
        self.lora.as_ref().map_or_else(|| base.clone(), |lora| lora.layout(&base))
    }

    /// Declares the network with the weights of `store` in a graph; with `gradients`, backward passes accumulate there.
    pub fn declare(&self, graph: &mut Graph, store: Store, gradients: Option<Store>) -> Mmdit<'_> {
        Mmdit::new(&self.config, self.parameters(graph, store, gradients))
    }

    fn parameters(&self, graph: &mut Graph, store: Store, gradients: Option<Store>) -> Parameters {
        let trained = self.layout().declare(graph, store, gradients);
        let Some(lora) = &self.lora else { return trained };
        let factors: BTreeMap<String, f32> =
            lora.layers().iter().map(|layer| (layer.layer.clone(), layer.factor() as f32)).collect();
        self.frozen().declare(graph, BASE).with_lora(trained, factors)
    }
}

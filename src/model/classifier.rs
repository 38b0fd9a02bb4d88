//! The small classifier that scores images and judges models: two linear layers on the pixels.

use serde::{Deserialize, Serialize};

use super::layout::{Layout, MOST, Parameters};
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::ops::Activation;

/// Sizes of a classifier; stored in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Side length of an image.
    pub image_size: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Width of the hidden layer.
    pub hidden_size: usize,
    /// Number of classes.
    pub num_classes: usize,
}

impl ClassifierConfig {
    /// Checks the sizes.
    ///
    /// # Errors
    /// [`Error::Input`] with the size that is out of range.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("image_size", self.image_size),
            ("channels", self.channels),
            ("hidden_size", self.hidden_size),
            ("num_classes", self.num_classes),
        ];
        match sizes.iter().find(|(_, size)| !(1..=MOST).contains(size)) {
            Some((name, size)) => {
                Err(Error::input(format!("the classifier's {name} is {size}: it must be from 1 to {MOST}")))
            }
            None => Ok(()),
        }
    }

    /// Number of elements of an image.
    pub fn dim(&self) -> usize {
        self.channels * self.image_size * self.image_size
    }

    /// Names and shapes of all parameters.
    pub fn layout(&self) -> Layout {
        let linear = |layer: &str, outputs: usize, inputs: usize| {
            [(format!("{layer}.weight"), vec![outputs, inputs], true), (format!("{layer}.bias"), vec![outputs], true)]
        };
        let first = linear("fc1", self.hidden_size, self.dim());
        Layout::new(first.into_iter().chain(linear("fc2", self.num_classes, self.hidden_size)))
    }
}

/// A classifier being recorded into a graph.
#[derive(Debug)]
pub struct Classifier {
    parameters: Parameters,
}

impl Classifier {
    /// A network whose parameters have been declared in the graph.
    pub fn new(parameters: Parameters) -> Self {
        Self { parameters }
    }

    /// `images [B, C · S · S]` to logits `[B, num_classes]`.
    pub fn logits(&self, graph: &mut Graph, images: Tensor) -> Tensor {
        let hidden = self.parameters.linear(graph, "fc1", images);
        let hidden = graph.apply(Activation::Gelu, &[hidden]);
        self.parameters.linear(graph, "fc2", hidden)
    }
}

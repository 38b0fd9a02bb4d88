//! A flow model of any family: what samplers, objectives and files need to know of one. Nothing outside
//! [`crate::model`] depends on a family's network.

use std::borrow::Cow;

use super::dit::{Dit, DitConfig};
use super::layout::{Layout, Parameters};
use super::lora::Adaptable;
use crate::classes::Classes;
use crate::config;
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::ops::Guidance;
use crate::shape::ImageShape;

/// What a flow model makes: pictures, each of a class that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Pictures<'a> {
    /// The shape of a picture.
    pub shape: ImageShape,
    /// The classes.
    pub classes: Classes<'a>,
}

/// A flow model: sizes and conventions of a network that predicts a velocity.
///
/// A *condition* is what a sample is asked to show, as a row of the model's table of conditions: for a
/// class-conditional model the number of the class. "No condition", which guidance needs, is a row as well.
#[derive(Clone, Debug, PartialEq)]
pub enum FlowModel {
    /// A diffusion transformer with class labels.
    Dit(DitConfig),
}

impl From<&DitConfig> for FlowModel {
    fn from(dit: &DitConfig) -> Self {
        Self::Dit(dit.clone())
    }
}

impl Adaptable for FlowModel {
    fn parameters(&self) -> Cow<'_, Layout> {
        Cow::Owned(self.layout())
    }
}

impl FlowModel {
    /// A new model as described by a configuration.
    pub fn new(model: &config::Model, sizes: config::ModelSizes) -> Self {
        Self::Dit(DitConfig::new(model, sizes))
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Input`] with the numbers that do not.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Dit(dit) => dit.check(),
        }
    }

    /// The shape of a state: what the sampler moves from noise to data.
    pub fn state_shape(&self) -> ImageShape {
        match self {
            Self::Dit(dit) => ImageShape::square(dit.channels, dit.image_size),
        }
    }

    /// Elements of a state: the D of a KL.
    pub fn dim(&self) -> usize {
        self.state_shape().elements()
    }

    /// The shape of a batch of states, `[rows, C, H, W]`.
    pub fn batch_shape(&self, rows: usize) -> [usize; 4] {
        self.state_shape().batch(rows)
    }

    /// Its sizes, in words.
    pub fn sizes(&self) -> String {
        match self {
            Self::Dit(dit) => format!(
                "{}, patch {}, hidden size {}, depth {}, {} heads, {} classes",
                self.state_shape(),
                dit.patch_size,
                dit.hidden_size,
                dit.depth,
                dit.num_heads,
                dit.num_classes
            ),
        }
    }

    /// What the model makes, if its classes have these names.
    pub fn pictures<'a>(&self, class_names: &'a [String]) -> Pictures<'a> {
        let classes = Classes { of: "the model", count: self.num_conditions(), names: class_names };
        Pictures { shape: self.state_shape(), classes }
    }

    /// The number of conditions that can be asked for.
    pub fn num_conditions(&self) -> usize {
        match self {
            Self::Dit(dit) => dit.num_classes,
        }
    }

    /// The row that means "no condition", if the model has one.
    pub fn null_condition(&self) -> Option<u32> {
        match self {
            Self::Dit(dit) => dit.null_class(),
        }
    }

    /// The largest condition, "no condition" included.
    pub fn largest_condition(&self) -> u32 {
        self.null_condition().unwrap_or(self.num_conditions() as u32 - 1)
    }

    /// Checks that the model can be guided so strongly: anything but 1 needs "no condition".
    ///
    /// # Errors
    /// [`Error::Input`] naming `key`, where the scale is from, if it cannot.
    pub fn check_guidance(&self, key: &str, guidance_scale: f64) -> Result<()> {
        if self.null_condition().is_some() || guidance_scale == 1.0 {
            return Ok(());
        }
        Err(Error::input(format!(
            "{key} is {guidance_scale}, but the model has no \"no class\", which guidance needs: set it to 1"
        )))
    }

    /// The network's time for a noise level.
    pub fn time_of(&self, sigma: f64) -> f32 {
        match self {
            Self::Dit(dit) => dit.time_of(sigma),
        }
    }

    /// Names and shapes of all parameters, in checkpoint order.
    pub fn layout(&self) -> Layout {
        match self {
            Self::Dit(dit) => dit.layout(),
        }
    }

    /// Weights before training, laid out according to [`FlowModel::layout`].
    pub fn initial_weights(&self, seed: u64) -> Vec<f32> {
        match self {
            Self::Dit(dit) => dit.initial_weights(seed),
        }
    }

    /// The network in a graph in which its parameters have been declared.
    pub fn network(&self, parameters: Parameters) -> FlowNetwork<'_> {
        match self {
            Self::Dit(dit) => FlowNetwork { model: self, family: Family::Dit(Dit::new(dit, parameters)) },
        }
    }
}

/// A flow model being recorded into a graph.
#[derive(Debug)]
pub struct FlowNetwork<'a> {
    model: &'a FlowModel,
    family: Family<'a>,
}

#[derive(Debug)]
enum Family<'a> {
    Dit(Dit<'a>),
}

impl FlowNetwork<'_> {
    /// The velocity dx/dsigma: states `x [B, C, H, W]`, `time [B]` (from [`FlowModel::time_of`]) and `condition [B]`
    /// (u32) to `[B, C, H, W]`.
    pub fn velocity(&self, graph: &mut Graph, x: Tensor, time: Tensor, condition: Tensor) -> Tensor {
        match &self.family {
            Family::Dit(dit) => dit.velocity(graph, x, time, condition),
        }
    }

    /// The velocity with classifier-free guidance; a scale of 1 needs only one forward pass.
    pub fn guided_velocity(
        &self,
        graph: &mut Graph,
        x: Tensor,
        time: Tensor,
        condition: Tensor,
        guidance_scale: f32,
    ) -> Tensor {
        self.velocity_guided_by(self, graph, x, time, condition, guidance_scale)
    }

    /// [`FlowNetwork::guided_velocity`] with the unconditional pass run by `unguided`, such as the same weights without
    /// gradients.
    ///
    /// # Panics
    /// If the model has no "no condition": [`FlowModel::check_guidance`] checks that.
    pub fn velocity_guided_by(
        &self,
        unguided: &Self,
        graph: &mut Graph,
        x: Tensor,
        time: Tensor,
        condition: Tensor,
        guidance_scale: f32,
    ) -> Tensor {
        let conditional = self.velocity(graph, x, time, condition);
        if guidance_scale == 1.0 {
            return conditional;
        }
        let rows = graph.shape(condition)[0];
        let null = self.model.null_condition().expect("guidance was checked");
        let null = graph.constant_indices("no condition", &[rows], vec![null; rows]);
        let unconditional = graph.scope("unconditional", |graph| unguided.velocity(graph, x, time, null));
        graph.apply(Guidance { guidance_scale }, &[conditional, unconditional])
    }
}

//! A flow model of any family: what samplers, objectives and files need to know of one. Nothing outside
//! [`crate::model`] depends on a family's network.

use std::borrow::Cow;
use std::sync::Arc;

use maybe_async::maybe_async;
use serde_json::Value;

use super::condition::{ConditionInput, LatentDecoder, Prompt, PromptSource, Shared};
use super::dit::{Dit, DitConfig};
use super::file::ModelKind;
use super::layout::{Layout, Parameters};
use super::lora::Adaptable;
use super::stored_transformer::StoredTransformer;
use super::text_network::{RecordedText, TextNetwork};
use crate::classes::{Classes, ConditionKind};
use crate::config;
use crate::error::{Error, Result};
use crate::flow::schedule::Schedule;
use crate::gpu::Gpu;
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
    /// The prompts that take the place of classes, if the model has prompts; else empty.
    pub prompts: &'a [Prompt],
}

/// A flow model: sizes and conventions of a network that predicts a velocity.
///
/// A *condition* is what a sample is asked to show, as a row of the model's table of conditions: for a
/// class-conditional model the number of the class. "No condition", which guidance needs, is a row as well.
#[derive(Clone, Debug, PartialEq)]
pub enum FlowModel {
    /// A diffusion transformer with class labels.
    Dit(ClassModel),
    /// The transformer of a text-to-image model.
    Text(TextModel),
}

/// A diffusion transformer whose states are pictures, or latents of pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassModel {
    /// Sizes and conventions of the network.
    pub config: DitConfig,
    /// What makes pictures of states; without it they are pictures themselves.
    pub decoder: Option<Shared<dyn LatentDecoder>>,
}

/// A text-to-image transformer for states of one size, with the prompts that it can be asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct TextModel {
    /// Sizes and conventions of the network.
    pub network: TextNetwork,
    /// Height and width of the states.
    pub size: [usize; 2],
    /// The noise levels that it is sampled along.
    pub schedule: Schedule,
    /// The table of conditions.
    pub prompts: Shared<dyn PromptSource>,
    /// What makes pictures of the states.
    pub decoder: Shared<dyn LatentDecoder>,
    /// Its files, which also have tensors that are no parameters. Without them it is not trained.
    pub published: Option<Shared<StoredTransformer>>,
}

impl From<&DitConfig> for FlowModel {
    fn from(dit: &DitConfig) -> Self {
        Self::Dit(ClassModel { config: dit.clone(), decoder: None })
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
        Self::from(&DitConfig::new(model, sizes))
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Input`] with the numbers that do not.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Dit(ClassModel { config, .. }) => config.check(),
            Self::Text(model) => model.network.check_size("the model", model.size),
        }
    }

    /// The shape of a state: what the sampler moves from noise to data.
    pub fn state_shape(&self) -> ImageShape {
        match self {
            Self::Dit(ClassModel { config, .. }) => ImageShape::square(config.channels, config.image_size),
            Self::Text(TextModel { network, size: [height, width], .. }) => {
                ImageShape { channels: network.channels(), height: *height, width: *width }
            }
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
            Self::Text(TextModel { network, prompts, .. }) => format!(
                "{}{}, {}, {} prompts",
                self.state_shape(),
                if network.pixel_scale().is_some() { "" } else { " (latents)" },
                network.sizes(),
                prompts.prompts().len()
            ),
            Self::Dit(ClassModel { config, .. }) => format!(
                "{}, patch {}, hidden size {}, depth {}, {} heads, {} classes",
                self.state_shape(),
                config.patch_size,
                config.hidden_size,
                config.depth,
                config.num_heads,
                config.num_classes
            ),
        }
    }

    /// What the model makes, if its classes have these names.
    pub fn pictures<'a>(&'a self, class_names: &'a [String]) -> Pictures<'a> {
        let classes = Classes { of: "the model", count: self.num_conditions(), names: class_names };
        let prompts = match self {
            Self::Dit(_) => &[],
            Self::Text(model) => model.prompts.prompts(),
        };
        Pictures { shape: self.picture_shape(), classes, prompts }
    }

    /// What makes pictures of states, if they are latents.
    pub fn decoder(&self) -> Option<&dyn LatentDecoder> {
        match self {
            Self::Dit(model) => model.decoder.as_deref(),
            Self::Text(model) => Some(&*model.decoder),
        }
    }

    /// The shape of a picture, which is that of a state unless that is latents.
    pub fn picture_shape(&self) -> ImageShape {
        self.decoder().map_or_else(|| self.state_shape(), |decoder| decoder.picture_shape(self.state_shape()))
    }

    /// The pictures of final states `[N, C, H, W]`: themselves, unless they are latents.
    ///
    /// # Errors
    /// As [`LatentDecoder::decode`].
    #[maybe_async]
    pub async fn decode<'a>(&self, gpu: &Arc<Gpu>, states: &'a [f32]) -> Result<Cow<'a, [f32]>> {
        match self.decoder() {
            None => Ok(Cow::Borrowed(states)),
            Some(decoder) => decoder.decode(gpu, states, self.state_shape()).await.map(Cow::Owned),
        }
    }

    /// The number of conditions that can be asked for.
    pub fn num_conditions(&self) -> usize {
        match self {
            Self::Dit(model) => model.config.num_classes,
            Self::Text(model) => model.prompts.prompts().len(),
        }
    }

    /// How many of what can be asked for.
    pub fn conditions(&self) -> (usize, ConditionKind) {
        let kind = match self {
            Self::Dit(_) => ConditionKind::Class,
            Self::Text(_) => ConditionKind::Prompt,
        };
        (self.num_conditions(), kind)
    }

    /// A condition in words: the number of a class, or a prompt.
    pub fn condition_name(&self, condition: u32) -> String {
        match self {
            Self::Text(model) if (condition as usize) < self.num_conditions() => {
                format!("the prompt {:?}", model.prompts.prompts()[condition as usize].text)
            }
            _ => format!("class {condition}"),
        }
    }

    /// The group of each prompt: the values of these fields of its line; none without fields.
    ///
    /// # Errors
    /// [`Error::Input`] if the model has classes, or a prompt lacks a field.
    pub fn groups(&self, fields: &[String]) -> Result<Vec<String>> {
        let prompts = match self {
            _ if fields.is_empty() => return Ok(Vec::new()),
            Self::Text(model) => model.prompts.prompts(),
            Self::Dit(_) => {
                return Err(Error::input(
                    "`eval.group_by` names fields of prompts, but the model has classes: set it to []",
                ));
            }
        };
        let value = |prompt: &Prompt, field: &String| match prompt.fields.get(field) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Ok(other.to_string()),
            None => Err(Error::input(format!(
                "`eval.group_by` has \"{field}\", but the prompt {:?} has no such field: add it to its line of \
                 `prompts.file`, or remove it there",
                prompt.text
            ))),
        };
        let group = |prompt: &Prompt| {
            let values = fields.iter().map(|field| value(prompt, field)).collect::<Result<Vec<_>>>()?;
            Ok(values.join(", "))
        };
        prompts.iter().map(group).collect()
    }

    /// The row that means "no condition", if the model has one.
    pub fn null_condition(&self) -> Option<u32> {
        match self {
            Self::Dit(model) => model.config.null_class(),
            Self::Text(model) => Some(model.prompts.prompts().len() as u32),
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

    /// Checks that the steps that a rollout may train on begin where the model's velocity is that of the data that it
    /// predicts. Below that it is a part of it, which neither the density of a step with noise nor a velocity that is
    /// learned takes into account.
    ///
    /// # Errors
    /// [`Error::Input`] with the step that does not.
    pub fn check_trained_steps(&self, rollout: &config::Rollout) -> Result<()> {
        let floor = self.velocity_floor();
        let sigmas = rollout.schedule.sigmas(rollout.steps)?;
        let candidates = rollout.trained_steps.candidates(rollout.steps)?;
        // As the network is told them.
        match candidates.into_iter().find(|step| (sigmas[*step] as f32) < floor) {
            None => Ok(()),
            Some(step) => Err(Error::input(format!(
                "`rollout.trained_steps` may choose step {step}, from sigma {:.4} on: below {floor:.2} this model's velocity \
                 is divided by {floor:.2} and not by sigma, so that what is learned there is wrong; leave the step out, or \
                 take fewer steps",
                sigmas[step]
            ))),
        }
    }

    /// The noise level from which on the velocity is that of the data that the network predicts; 0 for a network that
    /// predicts a velocity.
    pub fn velocity_floor(&self) -> f32 {
        match self {
            Self::Dit(_) => 0.0,
            Self::Text(model) => model.network.velocity_floor(),
        }
    }

    /// Checks that an evaluation does not draw many pictures of a model whose pictures are decoded, which are large.
    ///
    /// # Errors
    /// As [`config::Eval::check_is_small`].
    pub fn check_evaluation(&self, eval: &config::Eval) -> Result<()> {
        match self {
            Self::Dit(ClassModel { decoder: None, .. }) => Ok(()),
            _ => eval.check_is_small(self.picture_shape(), self.conditions()),
        }
    }

    /// The noise levels that the model is sampled along for users, in evaluations and previews.
    pub fn schedule(&self) -> Schedule {
        match self {
            Self::Dit(_) => Schedule::default(),
            Self::Text(model) => model.schedule.clone(),
        }
    }

    /// The network's time for a noise level.
    pub fn time_of(&self, sigma: f64) -> f32 {
        match self {
            Self::Dit(model) => model.config.time_of(sigma),
            Self::Text(model) => model.network.time_of(sigma),
        }
    }

    /// Names and shapes of all parameters, in checkpoint order.
    pub fn layout(&self) -> Layout {
        match self {
            Self::Dit(model) => model.config.layout(),
            Self::Text(model) => model.network.layout(model.size),
        }
    }

    /// The kind of a model with such a network, which a file describes.
    pub fn kind(&self) -> ModelKind {
        match self {
            Self::Dit(model) => ModelKind::Dit(model.config.clone()),
            Self::Text(model) => ModelKind::Text(model.clone()),
        }
    }

    /// The network in a graph in which its parameters have been declared.
    pub fn network(&self, parameters: Parameters) -> FlowNetwork<'_> {
        let family = match self {
            Self::Dit(model) => Family::Dit(Dit::new(&model.config, parameters)),
            Self::Text(model) => Family::Text(model.network.record(parameters)),
        };
        FlowNetwork { model: self, family }
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
    Text(RecordedText<'a>),
}

impl FlowNetwork<'_> {
    /// The velocity dx/dsigma: states `x [B, C, H, W]`, `time [B]` (from [`FlowModel::time_of`]) and the samples'
    /// conditions to `[B, C, H, W]`.
    ///
    /// # Panics
    /// If the inputs of the conditions were declared for a model of another family.
    pub fn velocity(&self, graph: &mut Graph, x: Tensor, time: Tensor, condition: ConditionInput) -> Tensor {
        match (&self.family, condition) {
            (Family::Dit(dit), ConditionInput::Classes(classes)) => dit.velocity(graph, x, time, classes),
            (Family::Text(network), ConditionInput::Prompts { given, .. }) => network.velocity(graph, x, time, given),
            _ => unreachable!("the conditions are of another family"),
        }
    }

    /// The velocity with classifier-free guidance; a scale of 1 needs only one forward pass.
    pub fn guided_velocity(
        &self,
        graph: &mut Graph,
        x: Tensor,
        time: Tensor,
        condition: ConditionInput,
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
        condition: ConditionInput,
        guidance_scale: f32,
    ) -> Tensor {
        let conditional = self.velocity(graph, x, time, condition);
        if guidance_scale == 1.0 {
            return conditional;
        }
        let none = condition.none(graph, self.model);
        let unconditional = graph.scope("unconditional", |graph| unguided.velocity(graph, x, time, none));
        graph.apply(Guidance { guidance_scale }, &[conditional, unconditional])
    }
}

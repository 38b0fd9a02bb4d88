//! What samples are asked to show: rows of a table of conditions, and how they reach a network.
//!
//! For a class-conditional model the table is its trainable class embedding, on the device, and a row is the number of a
//! class. For a text-conditional one the table has a row for each prompt, millions of numbers wide: it stays on the host
//! or on disk, and only the rows of the micro-batch at hand are on the device.

use std::fmt;
use std::sync::Arc;

use maybe_async::maybe_async;
use serde_json::{Map, Value};

use super::flow_model::FlowModel;
use super::text_network::TextNetwork;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::{DeviceProfile, Graph, PartMemory, Plan, Tensor};
use crate::shape::ImageShape;
use crate::shapes::Caption;

/// A prompt, and what its file says of it beside.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// The prompt.
    pub text: String,
    /// Further fields of its line, such as what a reward needs.
    pub fields: Map<String, Value>,
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), fields: Map::new() }
    }
}

/// A caption of coloured shapes, with its category and the name of its split.
impl From<&Caption> for Prompt {
    fn from(caption: &Caption) -> Self {
        let fields = [("category", caption.category.name()), ("split", caption.split.name())];
        let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        Self { text: caption.text.clone(), fields }
    }
}

/// The embeddings of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptEmbedding {
    /// `[tokens, width]`. If padding does not count as text, its rows are zeros, which no text encoder's are.
    pub context: Vec<f32>,
    /// `[pooled_width]`.
    pub pooled: Vec<f32>,
}

impl PromptEmbedding {
    /// 1 for each row of padding, 0 for others: `[tokens]`.
    fn padding(&self, tokens: usize) -> impl Iterator<Item = f32> {
        let rows = self.context.chunks(self.context.len() / tokens);
        rows.map(|row| if row.iter().all(|value| *value == 0.0) { 1.0 } else { 0.0 })
    }
}

/// The embeddings of a batch of prompts in a graph.
#[derive(Clone, Copy, Debug)]
pub struct Prompts {
    /// All tokens of each prompt, `[B, tokens, context_dim]`.
    pub context: Tensor,
    /// The pooled result, `[B, pooled_dim]`, for a network that takes one.
    pub pooled: Option<Tensor>,
    /// Which rows are padding, `[B, tokens, 1]`, for a network that is told.
    pub padding: Option<Tensor>,
}

impl Prompts {
    /// Declares the inputs of `rows` prompts of `tokens` rows each.
    pub fn declare(graph: &mut Graph, network: &TextNetwork, name: &str, [rows, tokens]: [usize; 2]) -> Self {
        let [context, pooled] = network.widths();
        Self {
            context: graph.input(name, &[rows, tokens, context]),
            pooled: (pooled > 0).then(|| graph.input(&format!("pooled {name}"), &[rows, pooled])),
            padding: network.masks_padding().then(|| graph.input(&format!("padding of {name}"), &[rows, tokens, 1])),
        }
    }
}

/// A table of prompts with their embeddings.
pub trait PromptSource: fmt::Debug + Send + Sync {
    /// The prompts.
    fn prompts(&self) -> &[Prompt];

    /// Rows of each prompt's context.
    fn tokens(&self) -> usize;

    /// The embeddings of a prompt, or without one of the negative prompt.
    ///
    /// # Errors
    /// If they cannot be read.
    fn embedding(&self, prompt: Option<usize>) -> Result<PromptEmbedding>;
}

/// What turns latents into pictures.
#[maybe_async(?Send)]
pub trait LatentDecoder: fmt::Debug + Send + Sync {
    /// The shape of the picture of latents of this shape.
    fn picture_shape(&self, latents: ImageShape) -> ImageShape;

    /// What decoding latents of this shape takes on such a device, and the tiles that it needs, `[height, width]` in pixels,
    /// if `room` does not accept whole pictures.
    ///
    /// # Errors
    /// If there is no room for the smallest tiles.
    fn planned(
        &self,
        latents: ImageShape,
        profile: &DeviceProfile,
        room: &dyn Fn(&PartMemory) -> Result<()>,
    ) -> Result<(Option<[usize; 2]>, PartMemory)>;

    /// The pictures `[N, 3, H, W]` of latents `[N, C, h, w]`. Nothing of it stays on the device.
    ///
    /// # Errors
    /// If its weights cannot be read, or the device has not enough memory or is lost.
    async fn decode(&self, gpu: &Arc<Gpu>, latents: &[f32], shape: ImageShape) -> Result<Vec<f32>>;
}

/// Something that the copies of a model share. Two are equal if they are the same.
#[derive(Debug)]
pub struct Shared<T: ?Sized>(pub Arc<T>);

impl<T: ?Sized> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: ?Sized> std::ops::Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The inputs of a graph through which a network is told what its samples should show.
#[derive(Clone, Copy, Debug)]
pub enum ConditionInput {
    /// `[B]` (u32): the numbers of classes.
    Classes(Tensor),
    /// The embeddings of prompts, and with guidance those of the negative prompt, which guidance leads away from.
    Prompts { given: Prompts, negative: Option<Prompts> },
}

impl ConditionInput {
    /// Declares the inputs of `rows` samples; `guided` says whether [`ConditionInput::none`] will be asked for.
    pub fn declare(graph: &mut Graph, model: &FlowModel, rows: usize, guided: bool) -> Self {
        match model {
            FlowModel::Dit(_) => Self::Classes(graph.input_indices("condition", &[rows])),
            FlowModel::Text(model) => {
                let mut declare =
                    |name: &str| Prompts::declare(graph, &model.network, name, [rows, model.prompts.tokens()]);
                let given = declare("prompts");
                Self::Prompts { given, negative: guided.then(|| declare("negative prompts")) }
            }
        }
    }

    /// "No condition" for every sample.
    ///
    /// # Panics
    /// If the model has none ([`FlowModel::check_guidance`] checks that), or it was not declared.
    pub fn none(self, graph: &mut Graph, model: &FlowModel) -> Self {
        match self {
            Self::Classes(given) => {
                let rows = graph.shape(given)[0];
                let null = model.null_condition().expect("guidance was checked");
                Self::Classes(graph.constant_indices("no condition", &[rows], vec![null; rows]))
            }
            Self::Prompts { negative, .. } => {
                Self::Prompts { given: negative.expect("guidance was declared"), negative: None }
            }
        }
    }

    /// Writes what `rows` samples have in common, the negative prompt: once for a plan, whose inputs keep their values.
    ///
    /// # Errors
    /// If the embeddings of the prompt cannot be read.
    pub fn write_common(self, plan: &Plan, model: &FlowModel, rows: usize) -> Result<()> {
        match (self, model) {
            (Self::Prompts { negative: Some(negative), .. }, FlowModel::Text(model)) => {
                let table = &*model.prompts;
                write_prompts(plan, negative, table, &vec![table.prompts().len(); rows])
            }
            _ => Ok(()),
        }
    }

    /// Writes what the samples should show, as rows of the model's table.
    ///
    /// # Errors
    /// If the embeddings of a prompt cannot be read.
    ///
    /// # Panics
    /// If the table of prompts does not have such a row.
    pub fn write(self, plan: &Plan, model: &FlowModel, conditions: &[u32]) -> Result<()> {
        match (self, model) {
            (Self::Classes(tensor), _) => plan.write(tensor, conditions),
            (Self::Prompts { given, .. }, FlowModel::Text(model)) => {
                let rows: Vec<usize> = conditions.iter().map(|condition| *condition as usize).collect();
                write_prompts(plan, given, &*model.prompts, &rows)?;
            }
            (Self::Prompts { .. }, FlowModel::Dit(_)) => unreachable!("they were declared for another model"),
        }
        Ok(())
    }
}

/// Writes rows of a table; the one after the last is the negative prompt. Samples of one group follow each other, so a
/// row is read once for all of them.
fn write_prompts(plan: &Plan, to: Prompts, table: &dyn PromptSource, rows: &[usize]) -> Result<()> {
    let (mut context, mut pooled, mut padding) = (Vec::new(), Vec::new(), Vec::new());
    for same in rows.chunk_by(|a, b| a == b) {
        let (row, prompts) = (same[0], table.prompts().len());
        assert!(row <= prompts, "row {row} of a table of {prompts} prompts");
        let prompt = Some(row).filter(|row| *row < prompts);
        let found = table.embedding(prompt)?;
        let of_row: Vec<f32> = to.padding.map_or_else(Vec::new, |_| found.padding(table.tokens()).collect());
        for _ in same {
            context.extend_from_slice(&found.context);
            pooled.extend_from_slice(&found.pooled);
            padding.extend_from_slice(&of_row);
        }
    }
    plan.write(to.context, &context);
    to.pooled.into_iter().for_each(|tensor| plan.write(tensor, &pooled));
    to.padding.into_iter().for_each(|tensor| plan.write(tensor, &padding));
    Ok(())
}

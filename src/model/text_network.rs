//! The transformer of a text-to-image model, of any family: what prompts, files and samplers need to know of one.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value};

use super::condition::Prompts;
use super::layout::{Entry, Layout, MOST, Parameters};
use super::minit2i::{MiniT2i, MiniT2iConfig};
use super::mmdit::{Mmdit, MmditConfig, POSITIONS};
use crate::error::{Error, Result};
use crate::files::{read_file, without_mark};
use crate::flow::noise::Stream;
use crate::graph::{Graph, Tensor};

/// Sizes and conventions of the transformer of a text-to-image model.
#[derive(Clone, Debug, PartialEq)]
pub enum TextNetwork {
    /// That of Stable Diffusion 3 and 3.5.
    Mmdit(MmditConfig),
    /// That of MiniT2I.
    MiniT2i(MiniT2iConfig),
}

/// How a model is sampled unless a user asks for something else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UsualSampling {
    /// Euler steps.
    pub steps: usize,
    /// Classifier-free guidance.
    pub guidance_scale: f64,
}

/// Checks that a `config.json`, which messages call `name`, has only keys that are known, those that start with an
/// underscore, and those without a value.
///
/// # Errors
/// [`Error::Input`] with a key that may change what the network computes.
pub(super) fn check_known(name: &str, keys: &Map<String, Value>, known: &[&str]) -> Result<()> {
    let is_unknown =
        |(key, value): &(&String, &Value)| !key.starts_with('_') && !value.is_null() && !known.contains(&key.as_str());
    match keys.iter().find(is_unknown) {
        None => Ok(()),
        Some((key, value)) => Err(Error::input(format!(
            "{name} has `{key}` = {value}, which is not known and may change what the network computes: it must be \
             absent or null"
        ))),
    }
}

/// Checks sizes, given with their keys.
///
/// # Errors
/// [`Error::Input`] with one that is 0 or too large.
pub(super) fn check_sizes(name: &str, sizes: &[(&str, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, size)| !(1..=MOST).contains(size)) {
        None => Ok(()),
        Some((key, size)) => Err(Error::input(format!("{name} has `{key}` = {size}: it must be from 1 to {MOST}"))),
    }
}

/// A configuration that trains such a model on one device.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Its file.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// A configuration that ships with the program.
macro_rules! recipe {
    ($file:literal) => {
        Recipe { file: $file, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $file)) }
    };
}

impl TextNetwork {
    /// Reads the `config.json` in the folder of a transformer.
    ///
    /// # Errors
    /// [`Error::Input`] if it is missing, or describes a network that is not supported.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        Self::from_json(&path.display().to_string(), &read_file(&path)?)
    }

    /// Reads a `config.json`, which messages call `name`.
    ///
    /// # Errors
    /// [`Error::Input`] if it is not JSON, or describes a network that is not supported.
    pub fn from_json(name: &str, bytes: &[u8]) -> Result<Self> {
        let keys: Map<String, Value> = serde_json::from_slice(without_mark(bytes))
            .map_err(|cause| Error::input(format!("{name} is not the configuration of a transformer: {cause}")))?;
        match keys.get("_class_name").and_then(Value::as_str) {
            Some(MmditConfig::CLASS) => MmditConfig::from_keys(name, keys).map(Self::Mmdit),
            Some(MiniT2iConfig::CLASS) => MiniT2iConfig::from_keys(name, keys).map(Self::MiniT2i),
            _ => {
                let found = keys.get("_class_name").map_or_else(|| "missing".to_owned(), Value::to_string);
                Err(Error::input(format!(
                    "{name} has `_class_name` {found}, but \"{}\" (Stable Diffusion 3 and 3.5) or \"{}\" (MiniT2I) is \
                     expected: use the `transformer` folder of such a model",
                    MmditConfig::CLASS,
                    MiniT2iConfig::CLASS
                )))
            }
        }
    }

    /// Channels of a state.
    pub fn channels(&self) -> usize {
        match self {
            Self::Mmdit(config) => config.channels,
            Self::MiniT2i(config) => config.channels,
        }
    }

    /// Height and width of a state in `patches`.
    fn patch_size(&self) -> usize {
        match self {
            Self::Mmdit(config) => config.patch_size,
            Self::MiniT2i(config) => config.patch_size,
        }
    }

    /// Height and width of the smallest states.
    pub fn smallest_size(&self) -> [usize; 2] {
        [self.patch_size(); 2]
    }

    /// Side of the states that the model is made for.
    pub fn usual_side(&self) -> usize {
        match self {
            Self::Mmdit(config) => config.usual_side,
            Self::MiniT2i(config) => config.image_size,
        }
    }

    /// Sides of states are multiples of the first number, up to the second.
    pub fn sides(&self) -> [usize; 2] {
        match self {
            Self::Mmdit(config) => [config.patch_size, config.patch_size * config.positions_side],
            Self::MiniT2i(config) => [config.patch_size, config.largest_side()],
        }
    }

    /// Columns of a prompt's rows, and of its pooled embedding: 0 if the network takes none.
    pub fn widths(&self) -> [usize; 2] {
        match self {
            Self::Mmdit(config) => [config.context_dim, config.pooled_dim],
            Self::MiniT2i(config) => [config.context_dim, 0],
        }
    }

    /// Whether the network is told which rows of a prompt are padding.
    pub fn masks_padding(&self) -> bool {
        matches!(self, Self::MiniT2i(_))
    }

    /// What a state is of a picture, if it is no latents: its values times this.
    pub fn pixel_scale(&self) -> Option<f64> {
        match self {
            Self::Mmdit(config) => config.makes_pixels().then_some(1.0),
            Self::MiniT2i(_) => Some(MiniT2iConfig::PIXEL_SCALE),
        }
    }

    /// The noise level from which on the velocity is that of the data that the network predicts; 0 for a network that
    /// predicts a velocity.
    pub fn velocity_floor(&self) -> f32 {
        match self {
            Self::Mmdit(_) => 0.0,
            Self::MiniT2i(_) => MiniT2iConfig::SIGMA_FLOOR,
        }
    }

    /// How the model is sampled unless a user asks for something else.
    pub fn usual_sampling(&self) -> UsualSampling {
        match self {
            Self::Mmdit(config) if config.makes_pixels() => UsualSampling { steps: 20, guidance_scale: 1.0 },
            Self::Mmdit(_) => UsualSampling { steps: 28, guidance_scale: 4.5 },
            Self::MiniT2i(config) => UsualSampling { steps: config.steps, guidance_scale: 2.5 },
        }
    }

    /// The configuration that trains the model on a small device.
    pub fn recipe(&self) -> Recipe {
        match self {
            Self::Mmdit(config) if config.makes_pixels() => recipe!("configs/shapes/train.toml"),
            Self::Mmdit(_) => recipe!("configs/sd35/laptop.toml"),
            Self::MiniT2i(_) => recipe!("configs/minit2i/laptop.toml"),
        }
    }

    /// Patch, width, blocks and heads in words.
    pub fn sizes(&self) -> String {
        let (patch, width, depth, heads) = match self {
            Self::Mmdit(config) => (config.patch_size, config.hidden(), config.depth, config.num_heads),
            Self::MiniT2i(config) => (config.patch_size, config.hidden(), config.depth, config.num_heads),
        };
        format!("patch {patch}, hidden size {width}, depth {depth}, {heads} heads")
    }

    /// Checks that states `[height, width]` can be split into patches that have positions; messages call their source
    /// `name`.
    ///
    /// # Errors
    /// [`Error::Input`] with the size that cannot.
    pub fn check_size(&self, name: &str, [height, width]: [usize; 2]) -> Result<()> {
        let [unit, most] = self.sides();
        let fits = |side: usize| side > 0 && side.is_multiple_of(unit) && side <= most;
        if fits(height) && fits(width) {
            return Ok(());
        }
        let what = if self.pixel_scale().is_some() { "images" } else { "latents" };
        Err(Error::input(format!(
            "{name} has {what} of {height} x {width}: both sizes must be multiples of {unit} from {unit} to {most}"
        )))
    }

    /// The network's time for a noise level.
    pub fn time_of(&self, sigma: f64) -> f32 {
        match self {
            Self::Mmdit(config) => config.time_of(sigma),
            Self::MiniT2i(_) => sigma as f32,
        }
    }

    /// Names and shapes of all parameters for states `[height, width]`, in checkpoint order.
    pub fn layout(&self, size: [usize; 2]) -> Layout {
        match self {
            Self::Mmdit(config) => config.layout(size),
            Self::MiniT2i(config) => config.layout(),
        }
    }

    /// The shape of a parameter in files.
    pub(super) fn stored_shape<'a>(&self, entry: &'a Entry) -> Cow<'a, [usize]> {
        match self {
            Self::Mmdit(config) if entry.name == POSITIONS => {
                Cow::Owned(vec![1, config.positions_side * config.positions_side, config.hidden()])
            }
            _ => Cow::Borrowed(&entry.shape),
        }
    }

    /// The parts of a parameter in files that states `[height, width]` need; `None` if that is all of it.
    pub(super) fn stored_ranges(&self, entry: &Entry, size: [usize; 2]) -> Option<Vec<Range<usize>>> {
        match self {
            Self::Mmdit(config) if entry.name == POSITIONS => Some(config.centre_ranges(size).collect()),
            _ => None,
        }
    }

    /// Whether published files have a tensor that has no effect on the result, so that it is no parameter.
    pub fn is_unused(&self, tensor: &str) -> bool {
        match self {
            Self::Mmdit(_) => false,
            Self::MiniT2i(config) => config.is_unused(tensor),
        }
    }

    /// A parameter before training.
    pub(super) fn draw(&self, size: [usize; 2], entry: &Entry, stream: &mut Stream) -> Vec<f32> {
        match self {
            Self::Mmdit(config) => config.draw(size, entry, stream),
            Self::MiniT2i(config) => config.draw(entry, stream),
        }
    }

    /// The network in a graph in which its parameters have been declared.
    pub(super) fn record(&self, parameters: Parameters) -> RecordedText<'_> {
        match self {
            Self::Mmdit(config) => RecordedText::Mmdit(Mmdit::new(config, parameters)),
            Self::MiniT2i(config) => RecordedText::MiniT2i(MiniT2i::new(config, parameters)),
        }
    }
}

/// A transformer being recorded into a graph.
#[derive(Debug)]
pub(super) enum RecordedText<'a> {
    Mmdit(Mmdit<'a>),
    MiniT2i(MiniT2i<'a>),
}

impl RecordedText<'_> {
    /// The velocity dx/dsigma: states `x [B, C, H, W]`, `time [B]` (from [`TextNetwork::time_of`]) and the prompts to a
    /// tensor like `x`.
    pub(super) fn velocity(&self, graph: &mut Graph, x: Tensor, time: Tensor, prompts: Prompts) -> Tensor {
        match self {
            Self::Mmdit(network) => network.velocity(graph, x, time, prompts),
            Self::MiniT2i(network) => network.velocity(graph, x, time, prompts),
        }
    }
}

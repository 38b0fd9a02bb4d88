//! `[[reward]]`: what scores a sample.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::{Axis, ColourOrder, ImageForm, RewardKind, TensorLayout};
use super::ranges::{MAX_COUNT, MAX_SIZE, bounded, count, finite, positive, wrong};
use crate::error::{Error, Result, character};

/// `[[reward]]`: what scores a sample; the reward is the weighted sum over all entries. An entry may set only the keys
/// of its own kind. docs/rewards.md explains what each kind measures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reward {
    /// What computes the score.
    pub kind: RewardKind,
    /// Its name in metrics: letters, digits, `_` and `-`; empty means the kind. If two entries would share a name,
    /// their index is appended.
    pub name: String,
    /// Factor in the sum; 0 only measures, a negative weight penalises. For a kind with several components also a table
    /// of factors for some of them, such as `{ ocr = 1.0, aesthetics = 0.5 }`; the others are only measured.
    pub weight: Weight,
    /// For `classifier`: a safetensors file that `fit-classifier` wrote, or `builtin:digits8-classifier`. For
    /// `template`: an image. For `onnx`: the model. For `clip-score`: the folder of a CLIP model. Relative to the current
    /// directory.
    pub file: String,
    /// For `jpeg-size`: the JPEG quality, 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub quality: usize,
    /// For `colour`: the target colour, `[red, green, blue]` from 0 to 1, or text such as `"#ff8000"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub colour: Option<Colour>,
    /// For `symmetry`: which halves are compared, `"left-right"` or `"top-bottom"`.
    pub axis: Axis,
    /// For `onnx`: `[height, width]` to which images are resized. Default: the size in the file, or else unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_size: Option<[usize; 2]>,
    /// For `onnx`: order of the input's dimensions, `"nchw"` or `"nhwc"`.
    pub layout: TensorLayout,
    /// For `onnx`: order of the input's channels, `"rgb"` or `"bgr"`.
    pub colour_order: ColourOrder,
    /// For `onnx`: the values of black and white, before `mean` and `std`. Pixels are clamped to black and white first.
    pub range: [f64; 2],
    /// For `onnx`: subtracted from each pixel after `range`: a number, or a list with one per channel, in the order
    /// red, green, blue.
    pub mean: PerChannel,
    /// For `onnx`: each pixel is divided by this after `mean`: a number, or a list with one per channel.
    pub std: PerChannel,
    /// For `onnx`: what the model's output means: `{ kind = "class-probability", softmax = true }`,
    /// `{ kind = "scalar", index = 0 }`, `{ kind = "cosine", target = "vector.json" }`, or
    /// `{ kind = "ctc", alphabet = "symbols.txt" }`.
    pub output: Output,
    /// For `onnx`: which of the model's outputs to read. A model with a single output does not need it.
    pub output_name: String,
    /// For `clip-score`: a safetensors file with an aesthetic predictor, which scores the embedding of an image in place
    /// of words. Relative to the current directory; empty means none.
    pub head: String,
    /// For `clip-score`: the score, exp(logit_scale)·cosine or that of `head`, is divided by this; 26 for PickScore.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub divisor: f64,
    /// For `shapes`: whether an image scores 1 only if it shows all that its caption demands and nothing else, and 0
    /// otherwise.
    pub strict: bool,
    /// For `command`: the program and its arguments, such as `["python3", "score.py"]`.
    pub program: Vec<String>,
    /// For `command`: how the program receives images: `"base64"`, as PNG in the request, or `"path"`, as PNG files.
    pub image: ImageForm,
    /// For `http`: address of the service, such as `"http://127.0.0.1:8080"`; `/score` is added to it.
    pub url: String,
    /// For `http`: names of the rewards to request from the service. A component has the name of its reward, or
    /// `reward.score` if a reward has several scores.
    pub rewards: Vec<String>,
    /// For `command`, `http` and `clip-score`: what an image should show, in words; `{class}` stands for the name of its class.
    pub prompt: String,
    /// For `command`, `http` and `clip-score`: a JSON file with more data about each class: one object per class, in a
    /// list or by name; an object's `prompt` overrides the general one. Relative to the current directory; empty means none.
    pub metadata: String,
    /// For `command` and `http`: how long a request may take, in seconds.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub timeout_seconds: f64,
    /// For `command` and `http`: how often to retry a failed request.
    #[schemars(range(max = MAX_COUNT))]
    pub retries: usize,
    /// For `command` and `http`: images per request.
    #[schemars(range(min = 1, max = MAX_COUNT))]
    pub batch: usize,
    /// For `command` and `http`: concurrent requests; for `command`, each goes to its own process.
    #[schemars(range(min = 1, max = MAX_SIZE))]
    pub workers: usize,
}

impl Default for Reward {
    fn default() -> Self {
        Self {
            kind: RewardKind::Classifier,
            name: String::new(),
            weight: Weight::All(1.0),
            file: "builtin:digits8-classifier".into(),
            quality: 75,
            colour: None,
            axis: Axis::LeftRight,
            input_size: None,
            layout: TensorLayout::Nchw,
            colour_order: ColourOrder::Rgb,
            range: [0.0, 1.0],
            mean: PerChannel::All(0.0),
            std: PerChannel::All(1.0),
            output: Output::ClassProbability { softmax: true },
            output_name: String::new(),
            head: String::new(),
            divisor: 1.0,
            strict: false,
            program: Vec::new(),
            image: ImageForm::Base64,
            url: String::new(),
            rewards: Vec::new(),
            prompt: "{class}".into(),
            metadata: String::new(),
            timeout_seconds: 60.0,
            retries: 2,
            batch: 64,
            workers: 1,
        }
    }
}

/// A factor for all components of a reward, or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "must be a number, or a table with a number for each component")]
pub enum Weight {
    /// The same for all.
    All(f64),
    /// By name; 0 for those that are not named.
    Each(BTreeMap<String, f64>),
}

impl Weight {
    /// The factor of a component.
    pub fn of(&self, component: &str) -> f64 {
        match self {
            Self::All(weight) => *weight,
            Self::Each(weights) => weights.get(component).copied().unwrap_or(0.0),
        }
    }

    /// Whether the factor of every component is 0.
    pub fn is_zero(&self) -> bool {
        match self {
            Self::All(weight) => *weight == 0.0,
            Self::Each(weights) => weights.values().all(|weight| *weight == 0.0),
        }
    }
}

impl From<f64> for Weight {
    fn from(weight: f64) -> Self {
        Self::All(weight)
    }
}

/// A number for all channels, or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "must be a number, or a list with a number for each channel")]
pub enum PerChannel {
    /// The same for all.
    All(f64),
    /// One per channel.
    Each(Vec<f64>),
}

impl PerChannel {
    /// The given numbers: one, or one per channel.
    pub fn values(&self) -> &[f64] {
        match self {
            Self::All(value) => std::slice::from_ref(value),
            Self::Each(values) => values,
        }
    }
}

/// A colour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "must be [red, green, blue] from 0 to 1, or text such as \"#ff8000\"")]
pub enum Colour {
    /// Red, green, blue, each 0 to 1.
    Rgb([f64; 3]),
    /// `#rrggbb`.
    Hex(String),
}

impl Colour {
    /// Red, green, blue, each 0 to 1; `None` if it is not a colour.
    pub fn rgb(&self) -> Option<[f64; 3]> {
        match self {
            Self::Rgb(rgb) => rgb.iter().all(|value| (0.0..=1.0).contains(value)).then_some(*rgb),
            Self::Hex(text) => {
                let digits = text
                    .strip_prefix('#')
                    .filter(|hex| hex.len() == 6 && hex.chars().all(|c| c.is_ascii_hexdigit()))?;
                let number = u32::from_str_radix(digits, 16).ok()?;
                Some([16, 8, 0].map(|shift| f64::from(number >> shift & 255) / 255.0))
            }
        }
    }
}

impl std::fmt::Display for Colour {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Rgb(rgb) => write!(f, "{rgb:?}"),
            Self::Hex(text) => write!(f, "{text:?}"),
        }
    }
}

/// What the output of an ONNX model means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Output {
    /// A number for each class; the score is the probability of the requested class.
    ClassProbability {
        /// Whether the numbers are logits, which a softmax turns into probabilities.
        #[serde(default = "yes")]
        softmax: bool,
    },
    /// A list of numbers, one of which is the score.
    Scalar {
        /// Its index.
        #[serde(default)]
        index: usize,
    },
    /// A vector; the score is the cosine of the angle between it and a target, -1 to 1.
    Cosine {
        /// The target.
        target: Target,
    },
    /// Steps of a text, each with a probability for every symbol (connectionist temporal classification), from a text
    /// recogniser; the score is the probability of the class's name, per character.
    Ctc {
        /// File with the symbols, one per line, without the blank, which is the model's first; empty means the entry
        /// `character` of the model's metadata, which PaddleOCR's models have.
        #[serde(default)]
        alphabet: String,
    },
}

fn yes() -> bool {
    true
}

/// A vector to compare with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "must be the name of a JSON file, or a list of numbers")]
pub enum Target {
    /// A JSON file with a list of numbers, relative to the current directory.
    File(String),
    /// The numbers.
    Vector(Vec<f64>),
}

/// The columns of `rewards.csv` besides the scores.
const COLUMNS: [&str; 5] = ["iteration", "purpose", "sample", "class", "total"];

/// The keys that only some kinds have, and those kinds.
pub(super) const KEYS: [(&str, &[&str]); 25] = [
    ("file", &["classifier", "template", "onnx", "clip-score"]),
    ("quality", &["jpeg-size"]),
    ("colour", &["colour"]),
    ("axis", &["symmetry"]),
    ("input_size", &["onnx"]),
    ("layout", &["onnx"]),
    ("colour_order", &["onnx"]),
    ("range", &["onnx"]),
    ("mean", &["onnx"]),
    ("std", &["onnx"]),
    ("output", &["onnx"]),
    ("output_name", &["onnx"]),
    ("head", &["clip-score"]),
    ("divisor", &["clip-score"]),
    ("strict", &["shapes"]),
    ("program", &["command"]),
    ("image", &["command"]),
    ("url", &["http"]),
    ("rewards", &["http"]),
    ("prompt", &["command", "http", "clip-score"]),
    ("metadata", &["command", "http", "clip-score"]),
    ("timeout_seconds", &["command", "http"]),
    ("retries", &["command", "http"]),
    ("batch", &["command", "http"]),
    ("workers", &["command", "http"]),
];

impl Reward {
    /// Checks entry `index`.
    pub(super) fn validate(&self, index: usize) -> Result<()> {
        let key = |name: &str| format!("reward.{index}.{name}");
        let kind = self.kind.name();
        if let Some(c) = self.name.chars().find(|c| !c.is_ascii_alphanumeric() && !"_-".contains(*c)) {
            let found = format!("{:?}, which has {}", self.name, character(c));
            return wrong(key("name"), "made of the letters a to z, digits, _ and -", found);
        }
        if COLUMNS.contains(&&*self.name) {
            let expected = "a name that no other column of rewards.csv has";
            return wrong(key("name"), expected, format_args!("\"{}\"", self.name));
        }
        match &self.weight {
            Weight::All(weight) => finite(key("weight"), *weight)?,
            Weight::Each(weights) if weights.is_empty() => {
                return wrong(key("weight"), "a number, or a table that names at least one component", "empty");
            }
            Weight::Each(weights) => {
                for (component, weight) in weights {
                    finite(key(&format!("weight.{component}")), *weight)?;
                }
            }
        }
        bounded(key("quality"), self.quality, 1, 100)?;
        for size in self.input_size.iter().flatten() {
            bounded(key("input_size"), *size, 1, MAX_SIZE)?;
        }
        self.range.iter().try_for_each(|value| finite(key("range"), *value))?;
        self.mean.values().iter().try_for_each(|value| finite(key("mean"), *value))?;
        self.std.values().iter().try_for_each(|value| positive(key("std"), *value))?;
        if self.prompt.trim().is_empty() || self.prompt.replace("{class}", "").contains(['{', '}']) {
            let expected = "text in which {class} stands for the name of the class";
            return wrong(key("prompt"), expected, format_args!("{:?}", self.prompt));
        }
        positive(key("divisor"), self.divisor)?;
        positive(key("timeout_seconds"), self.timeout_seconds)?;
        bounded(key("retries"), self.retries, 0, MAX_COUNT)?;
        count(key("batch"), self.batch)?;
        bounded(key("workers"), self.workers, 1, MAX_SIZE)?;
        match self.kind {
            RewardKind::Classifier if self.file.is_empty() => {
                wrong(key("file"), "a safetensors file or builtin:NAME", "empty")
            }
            RewardKind::Onnx | RewardKind::Template | RewardKind::ClipScore
                if self.file.is_empty() || self.file.starts_with("builtin:") =>
            {
                let what = match self.kind {
                    RewardKind::Onnx => "an ONNX model",
                    RewardKind::ClipScore => "the folder of a CLIP model",
                    _ => "an image",
                };
                Err(Error::input(format!(
                    "a reward of kind \"{kind}\" needs `{}`, the path of {what} (none is built in)",
                    key("file")
                )))
            }
            RewardKind::Command if self.program.first().is_none_or(String::is_empty) => wrong(
                key("program"),
                "a list of a program and its arguments, such as [\"python3\", \"score.py\"]",
                "empty",
            ),
            RewardKind::Http if self.url.is_empty() => {
                wrong(key("url"), "the address of a service, such as \"http://127.0.0.1:8080\"", "empty")
            }
            RewardKind::Http if self.rewards.is_empty() => {
                wrong(key("rewards"), "a list of rewards that the service has, such as [\"ocr\"]", "empty")
            }
            RewardKind::Http => match first_repeated(&self.rewards) {
                Some(twice) => {
                    let found = format_args!("{:?}", self.rewards[twice]);
                    wrong(key("rewards"), "a list of different names", found)
                }
                None => Ok(()),
            },
            RewardKind::Colour => match &self.colour {
                None => Err(Error::input(format!(
                    "a reward of kind \"colour\" needs `{}`: add [red, green, blue] from 0 to 1, or text such as \
                     \"#ff8000\"",
                    key("colour")
                ))),
                Some(colour) if colour.rgb().is_none() => {
                    let expected = "[red, green, blue] from 0 to 1, or text such as \"#ff8000\"";
                    wrong(key("colour"), expected, colour)
                }
                Some(_) => Ok(()),
            },
            RewardKind::ClipScore if !self.head.is_empty() => {
                let default = Self::default();
                let words =
                    [("prompt", self.prompt != default.prompt), ("metadata", self.metadata != default.metadata)];
                match words.iter().find(|(_, is_set)| *is_set) {
                    None => Ok(()),
                    Some((words, _)) => Err(Error::input(format!(
                        "`{}` does nothing with `{}`, which scores images without words: remove one of the two",
                        key(words),
                        key("head")
                    ))),
                }
            }
            _ => Ok(()),
        }
    }
}

/// The names of the entries: their name or else their kind, with their index if several would share it.
pub fn reward_names(rewards: &[Reward]) -> Vec<String> {
    let given: Vec<&str> =
        rewards.iter().map(|reward| if reward.name.is_empty() { reward.kind.name() } else { &reward.name }).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    given.iter().for_each(|name| *counts.entry(name).or_default() += 1);
    let is_shared = |name: &str| counts[name] > 1;
    let unique = |(index, name): (usize, &&str)| {
        if is_shared(name) { format!("{name}_{index}") } else { (*name).to_owned() }
    };
    given.iter().enumerate().map(unique).collect()
}

/// The index of the first name that repeats an earlier one.
pub(super) fn first_repeated(names: &[String]) -> Option<usize> {
    let mut seen = BTreeSet::new();
    names.iter().position(|name| !seen.insert(name))
}

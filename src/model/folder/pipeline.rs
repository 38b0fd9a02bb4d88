//! A pipeline in the layout of diffusers: `model_index.json` and a folder for each component.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::super::{MiniT2iConfig, MmditConfig};
use super::names::to_diffusers;
use super::tensors::StoredTensors;
use super::weights::open_weights;
use crate::error::{Error, Result};
use crate::files::{read_file, without_mark};
use crate::sniff::what_is;

/// The file that names the components.
pub const MODEL_INDEX: &str = "model_index.json";
/// The file with the sizes of a component.
pub(super) const CONFIG: &str = "config.json";

/// A kind of pipeline that can be read.
#[derive(Debug, PartialEq, Eq)]
pub struct PipelineKind {
    /// Its class in diffusers.
    pub class: &'static str,
    /// The model in words.
    pub what: &'static str,
    /// The components, and the classes that each may have.
    components: &'static [(&'static str, &'static [&'static str])],
    /// Whether its folder has an index, as published.
    has_index: bool,
    /// Those without which nothing can be drawn.
    pub needed: &'static [&'static str],
}

/// The class of pipelines that this program makes: a transformer of pictures that learned what words mean itself.
const WORDS: &str = "FlowDppoWordsPipeline";

/// The index of such a pipeline.
pub fn words_index() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{{\n  \"_class_name\": \"{WORDS}\",\n  \"_flowdppo_wgpu_version\": \"{version}\",\n  \"tokenizer\": \
         [\"flowdppo_wgpu\", \"WordTokenizer\"],\n  \"transformer\": [\"diffusers\", \"{}\"]\n}}\n",
        MmditConfig::CLASS
    )
}

impl PipelineKind {
    /// Whether its text encoder is a list of words.
    pub fn has_words(&self) -> bool {
        self.class == WORDS
    }
}

/// The classes of T5's encoder: alone, or in a file with the decoder.
const T5: &[&str] = &["T5EncoderModel", "T5ForConditionalGeneration"];
/// The classes of its tokenizer.
const T5_TOKENIZER: &[&str] = &["T5Tokenizer", "T5TokenizerFast"];
/// The classes of CLIP's tokenizer.
const CLIP_TOKENIZER: &[&str] = &["CLIPTokenizer", "CLIPTokenizerFast"];
/// The class of CLIP's encoder.
const CLIP: &[&str] = &["CLIPTextModelWithProjection"];
/// The class of the scheduler.
const SCHEDULER: &[&str] = &["FlowMatchEulerDiscreteScheduler"];

/// The pipelines that can be read.
const KINDS: [PipelineKind; 3] = [
    PipelineKind {
        class: "StableDiffusion3Pipeline",
        what: "Stable Diffusion 3 and 3.5",
        components: &[
            ("transformer", &[MmditConfig::CLASS]),
            ("vae", &["AutoencoderKL", "AutoencoderTiny"]),
            ("text_encoder", CLIP),
            ("text_encoder_2", CLIP),
            ("text_encoder_3", T5),
            ("tokenizer", CLIP_TOKENIZER),
            ("tokenizer_2", CLIP_TOKENIZER),
            ("tokenizer_3", T5_TOKENIZER),
            ("scheduler", SCHEDULER),
        ],
        has_index: true,
        needed: &["transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"],
    },
    PipelineKind {
        class: "MiniT2IPipeline",
        what: "MiniT2I",
        components: &[
            ("transformer", &[MiniT2iConfig::CLASS]),
            ("text_encoder", T5),
            ("tokenizer", T5_TOKENIZER),
            ("scheduler", SCHEDULER),
        ],
        has_index: false,
        // The published model names its text encoder, which may be in the cache of the hub.
        needed: &["transformer"],
    },
    PipelineKind {
        class: WORDS,
        what: "words and pixels",
        components: &[("transformer", &[MmditConfig::CLASS]), ("tokenizer", &["WordTokenizer"])],
        has_index: true,
        needed: &["transformer", "tokenizer"],
    },
];

/// Whether a component is present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its folder exists.
    Present,
    /// The pipeline does not use it: `null` in the index.
    Null,
    /// The index names it, but its folder is missing.
    Missing,
}

/// A component of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its name and folder, such as `text_encoder_2`.
    pub name: &'static str,
    /// Its class in the index; `None` if it is `null` there or not named.
    pub class: Option<String>,
    /// Whether it is present.
    pub state: State,
}

/// A pipeline's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// The folder.
    pub folder: PathBuf,
    /// What it is.
    pub kind: &'static PipelineKind,
    /// All components that this kind of pipeline can have.
    pub components: Vec<Component>,
}

/// The kind of a pipeline with this class or, if that is not known, with such a transformer.
fn kind_of(class: Option<&str>, folder: &Path) -> Option<&'static PipelineKind> {
    let transformer = read_config(&folder.join("transformer")).ok();
    let transformer = transformer.as_ref().and_then(|config| config.get("_class_name")?.as_str());
    let is_of = |kind: &&PipelineKind| Some(kind.class) == class;
    let has = |kind: &&PipelineKind| {
        kind.components
            .iter()
            .any(|(name, known)| *name == "transformer" && transformer.is_some_and(|it| known.contains(&it)))
    };
    KINDS.iter().find(is_of).or_else(|| KINDS.iter().filter(|kind| !kind.has_index).find(has))
}

impl Pipeline {
    /// Reads the index of a pipeline, and finds which components are present. All of them may be missing. The published
    /// folder of MiniT2I has no index: its transformer says what it is.
    ///
    /// # Errors
    /// [`Error::Input`] if the index cannot be read, or names a pipeline or a class that is not supported.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(MODEL_INDEX);
        let name = path.display();
        let transformer = folder.join("transformer");
        let index = match (path.exists(), kind_of(None, folder)) {
            (false, Some(_)) => Map::new(),
            (false, None) if transformer.join(CONFIG).exists() => {
                component_class(&transformer, &read_config(&transformer)?)?;
                read_json(&path)?
            }
            _ => read_json(&path)?,
        };
        let class = index.get("_class_name").and_then(Value::as_str);
        let Some(kind) = kind_of(class, folder) else {
            return Err(Error::input(match class {
                None => format!("{name} has no `_class_name`: it is not the index of a pipeline"),
                Some(class) => format!("{name} is of a {class}, which is not supported: only {} are", supported()),
            }));
        };
        let components = kind.components.iter().map(|(component, classes)| {
            let class = index.get(*component).and_then(|pair| pair.get(1)).and_then(Value::as_str);
            match class {
                Some(class) if !classes.contains(&class) => Err(Error::input(format!(
                    "{name}: `{component}` is a {class}, which is not supported: expected {}",
                    classes.join(" or ")
                ))),
                _ => {
                    let state = match class {
                        _ if folder.join(component).is_dir() => State::Present,
                        Some(_) => State::Missing,
                        None => State::Null,
                    };
                    Ok(Component { name: component, class: class.map(str::to_owned), state })
                }
            }
        });
        let components = components.collect::<Result<_>>()?;
        Ok(Self { folder: folder.to_owned(), kind, components })
    }

    /// Whether it has an index, which says what the model uses.
    pub fn has_index(&self) -> bool {
        self.folder.join(MODEL_INDEX).exists()
    }

    /// Whether a folder is a pipeline: it has an index, or a transformer that says what it is.
    pub fn is_at(folder: &Path) -> bool {
        folder.join(MODEL_INDEX).exists() || kind_of(None, folder).is_some()
    }

    /// Whether a component is present; one that this kind of pipeline does not have is not.
    pub fn state(&self, name: &str) -> State {
        self.components.iter().find(|component| component.name == name).map_or(State::Null, |component| component.state)
    }

    /// The folder of a component.
    ///
    /// # Errors
    /// [`Error::Input`] if it is missing.
    pub fn component(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        if folder.is_dir() {
            return Ok(folder);
        }
        let place = self.folder.display();
        Err(Error::input(match self.state(name) {
            State::Null if self.has_index() => {
                format!("{place} has no `{name}`: it is null in its {MODEL_INDEX}")
            }
            State::Null => format!("{place} has no folder `{name}`, which such a model needs: download it as well"),
            State::Present | State::Missing => {
                format!("{place} has no folder `{name}`, which its {MODEL_INDEX} names: download it as well")
            }
        }))
    }

    /// Opens the weights of a component, see [`open_weights`], with current names.
    ///
    /// # Errors
    /// [`Error::Input`] if it is missing, or has no such weights.
    pub fn weights(&self, name: &str, variant: Option<&str>) -> Result<StoredTensors> {
        to_diffusers(name, &open_weights(&self.component(name)?, variant)?)
    }

    /// The sizes of a component, its `config.json`.
    ///
    /// # Errors
    /// [`Error::Input`] if it is missing or cannot be read.
    pub fn config(&self, name: &str) -> Result<Map<String, Value>> {
        read_config(&self.component(name)?)
    }
}

/// The supported pipelines, for messages.
fn supported() -> String {
    KINDS.iter().map(|kind| format!("{} ({})", kind.class, kind.what)).collect::<Vec<_>>().join(", ")
}

/// The `config.json` in the folder of a component.
///
/// # Errors
/// [`Error::Input`] if it is missing or not an object in JSON.
pub fn read_config(folder: &Path) -> Result<Map<String, Value>> {
    read_json(&folder.join(CONFIG))
}

/// The class that the `config.json` of a component names.
pub fn class_of(config: &Map<String, Value>) -> Option<&str> {
    let architecture = || config.get("architectures")?.as_array()?.first()?.as_str();
    config.get("_class_name").and_then(Value::as_str).or_else(architecture)
}

/// The class of a component from its `config.json`, and the names of the components that may have this class.
///
/// # Errors
/// [`Error::Input`] if it names none, or one that is not supported.
pub fn component_class(folder: &Path, config: &Map<String, Value>) -> Result<(String, Vec<&'static str>)> {
    let name = folder.join(CONFIG).display().to_string();
    let Some(class) = class_of(config) else {
        return Err(Error::input(format!(
            "{name} names no class (`_class_name` or `architectures`): it does not belong to a component that can be read"
        )));
    };
    let components = || KINDS.iter().flat_map(|kind| kind.components);
    let of: Vec<&str> = components().filter(|(_, known)| known.contains(&class)).map(|(name, _)| *name).collect();
    if of.is_empty() {
        let is_network = |name: &str| !name.starts_with("tokenizer") && name != "scheduler";
        let mut known: Vec<&str> =
            components().filter(|(name, _)| is_network(name)).flat_map(|(_, classes)| *classes).copied().collect();
        known.sort_unstable();
        known.dedup();
        let known = known.join(", ");
        return Err(Error::input(format!("{name} is of a {class}, which is not supported: only {known} are")));
    }
    Ok((class.to_owned(), of))
}

/// An object in JSON.
fn read_json(path: &Path) -> Result<Map<String, Value>> {
    let bytes = read_file(path)?;
    serde_json::from_slice(without_mark(&bytes)).map_err(|cause| {
        let name = path.display();
        Error::input(match what_is(&bytes).filter(|what| !what.contains("text file")) {
            Some(what) => format!("{name} is not JSON: it is {what}"),
            None => format!("{name} is not an object in JSON: {cause}"),
        })
    })
}

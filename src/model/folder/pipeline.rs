//! A pipeline in the layout of diffusers: `model_index.json` and a folder for each component.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

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

/// The pipelines that can be read, and what they are.
pub const SUPPORTED: [(&str, &str); 1] = [("StableDiffusion3Pipeline", "Stable Diffusion 3 and 3.5")];

/// The components, and the classes that each may have.
const COMPONENTS: [(&str, &[&str]); 9] = [
    ("transformer", &["SD3Transformer2DModel"]),
    ("vae", &["AutoencoderKL", "AutoencoderTiny"]),
    ("text_encoder", &["CLIPTextModelWithProjection"]),
    ("text_encoder_2", &["CLIPTextModelWithProjection"]),
    ("text_encoder_3", &["T5EncoderModel"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("tokenizer_2", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("tokenizer_3", &["T5Tokenizer", "T5TokenizerFast"]),
    ("scheduler", &["FlowMatchEulerDiscreteScheduler"]),
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
    /// The class in its index.
    pub class: String,
    /// All components that this kind of pipeline can have.
    pub components: Vec<Component>,
}

impl Pipeline {
    /// Reads the index of a pipeline, and finds which components are present. All of them may be missing.
    ///
    /// # Errors
    /// [`Error::Input`] if the index cannot be read, or names a pipeline or a class that is not supported.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(MODEL_INDEX);
        let name = path.display();
        let index = read_json(&path)?;
        let Some(class) = index.get("_class_name").and_then(Value::as_str) else {
            return Err(Error::input(format!("{name} has no `_class_name`: it is not the index of a pipeline")));
        };
        if !SUPPORTED.iter().any(|(supported, _)| *supported == class) {
            return Err(Error::input(format!(
                "{name} is of a {class}, which is not supported: only {} are",
                supported()
            )));
        }
        let components = COMPONENTS.iter().map(|(component, classes)| {
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
        Ok(Self { folder: folder.to_owned(), class: class.to_owned(), components })
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
        Err(Error::input(
            match self.components.iter().find(|component| component.name == name).map(|component| component.state) {
                Some(State::Null) => format!("{place} has no `{name}`: it is null in its {MODEL_INDEX}"),
                _ => format!("{place} has no folder `{name}`, which its {MODEL_INDEX} names: download it as well"),
            },
        ))
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
    SUPPORTED.map(|(class, what)| format!("{class} ({what})")).join(", ")
}

/// The `config.json` in the folder of a component.
///
/// # Errors
/// [`Error::Input`] if it is missing or not an object in JSON.
pub fn read_config(folder: &Path) -> Result<Map<String, Value>> {
    read_json(&folder.join(CONFIG))
}

/// The class of a component from its `config.json`, and the names of the components that may have this class.
///
/// # Errors
/// [`Error::Input`] if it names none, or one that is not supported.
pub fn component_class(folder: &Path, config: &Map<String, Value>) -> Result<(String, Vec<&'static str>)> {
    let name = folder.join(CONFIG).display().to_string();
    let architecture = || config.get("architectures")?.as_array()?.first()?.as_str();
    let Some(class) = config.get("_class_name").and_then(Value::as_str).or_else(architecture) else {
        return Err(Error::input(format!(
            "{name} names no class (`_class_name` or `architectures`): it does not belong to a component that can be read"
        )));
    };
    let of: Vec<&str> = COMPONENTS.iter().filter(|(_, known)| known.contains(&class)).map(|(name, _)| *name).collect();
    if of.is_empty() {
        let mut known: Vec<&str> = COMPONENTS[..5].iter().flat_map(|(_, classes)| classes.iter().copied()).collect();
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

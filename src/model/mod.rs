//! Networks as graphs: layers, the names of their parameters, their files.

mod classifier;
mod dit;
mod file;
mod import;
mod initialise;
mod layout;

pub use classifier::{Classifier, ClassifierConfig};
pub use dit::{Dit, DitConfig};
pub use file::{Model, ModelKind, Tensors, parse_tensors, read_tensors, serialize_tensors, write_tensors};
pub use import::{default_num_heads, export_sit, import_sit};
pub use layout::{Entry, Layout, Parameters};

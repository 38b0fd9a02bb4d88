//! Networks as graphs: layers, the names of their parameters, their files.

mod adapter;
mod autoencoder;
mod classifier;
mod dit;
mod file;
mod import;
mod initialise;
mod layout;
mod lora;
mod network;

pub use adapter::{ADAPTER_CONFIG, ADAPTER_MODEL, Adapter};
pub use autoencoder::{Autoencoder, AutoencoderConfig, Decoder, Encoded, Encoder, KlConfig, TinyConfig};
pub use classifier::{Classifier, ClassifierConfig};
pub use dit::{Dit, DitConfig};
pub use file::{
    Model, ModelKind, Tensors, parse_tensors, read_foreign_tensors, read_tensors, serialize_tensors, write_tensors,
};
pub use import::{NullClass, default_num_heads, export_sit, import_sit};
pub use layout::{Entry, Layout, Parameters};
pub use lora::{Lora, LoraLayer};
pub use network::{BASE, Network, START};

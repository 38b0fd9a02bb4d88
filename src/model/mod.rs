//! Networks as graphs: layers, the names of their parameters, their files.

mod adapter;
mod adapter_diffusers;
mod autoencoder;
mod classifier;
mod condition;
mod dit;
mod file;
mod flow_model;
pub mod folder;
mod frozen;
mod import;
mod initialise;
mod layout;
mod lora;
mod minit2i;
mod mmdit;
mod network;
mod prompt_table;
mod stored_transformer;
#[cfg(feature = "cli")]
pub mod text;
mod text_network;
mod weights;
mod words;

pub use adapter::{ADAPTER_CONFIG, ADAPTER_MODEL, Adapter, Merge};
pub use adapter_diffusers::DIFFUSERS_ADAPTER;
pub use autoencoder::{
    Autoencoder, AutoencoderConfig, Decoder, Encoded, Encoder, KlConfig, PictureDecoder, TinyConfig, planned_decoder,
};
pub use classifier::{Classifier, ClassifierConfig};
pub use condition::{ConditionInput, LatentDecoder, Prompt, PromptEmbedding, PromptSource, Prompts, Shared};
pub use dit::DitConfig;
pub(crate) use file::{KEY as NATIVE, header};
pub use file::{Model, ModelKind, Tensors, parse_tensors, read_tensors, serialize_tensors, write_tensors};
pub use flow_model::{ClassModel, FlowModel, FlowNetwork, Pictures, TextModel};
pub use frozen::Frozen;
pub use import::{NullClass, check_export_sit, default_num_heads, import_sit, import_stored_sit};
pub use initialise::DrawnWeights;
pub use layout::{Entry, Layout, Parameters};
pub use lora::{Adaptable, Lora, LoraLayer};
pub use minit2i::MiniT2iConfig;
pub use mmdit::MmditConfig;
pub use network::{BASE, Network, START, products_in};
pub use prompt_table::{PromptEmbeddings, PromptTable};
pub use stored_transformer::{PIPELINE, PipelineFile, StoredTransformer, TRANSFORMER, TRANSFORMER_WEIGHTS};
pub use text_network::{Recipe, TextNetwork, UsualSampling};
pub use weights::{OnDevice, StoredModel, Summed, WeightSource, Weights, open_foreign};
pub use words::{VOCABULARY, WordPrompts};

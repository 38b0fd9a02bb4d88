//! Published models on disk: folders in the layout of diffusers, the hub's cache, single files with the original names.

mod describe;
mod dtype;
mod gguf;
mod hub;
mod names;
mod pipeline;
mod tensors;
mod vae_names;
mod weights;

pub use describe::{count, family_of_layer, is_minit2i, transformer_family, transformer_sizes};
pub use dtype::StoredAs;
pub use hub::{Hub, is_hub_name, locate};
pub use names::{SingleFile, to_diffusers};
pub use pipeline::{Component, MODEL_INDEX, Pipeline, State, class_of, component_class, read_config, words_index};
pub use tensors::{StoredTensor, StoredTensors};
pub use weights::{STEMS, WeightFile, open_weights, weight_files};

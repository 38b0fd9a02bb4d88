//! Pictures of prompts from a published text-to-image pipeline, such as Stable Diffusion 3.5.
//!
//! Each part of a pipeline is on the device alone: the text encoders layer by layer, then the transformer, then the
//! decoder. What one leaves for the next is small and waits on the host: [`Conditions`], then latents.

mod base;
mod builtin;
mod captioned;
mod conditions;
mod conditions_file;
mod export;
mod kept;
mod latents;
mod merge;
mod named;
mod order;
mod pictures;
mod pipeline;
mod plan;
mod prompts;
mod scenes;
mod scheduler;
mod start;
mod training;
mod writer;

pub use captioned::Captioned;
pub use conditions::Conditions;
pub use conditions_file::{ConditionsFile, FileOptions, encode_to_file};
pub use latents::Latents;
pub use named::{NamedModel, Trained};
pub use order::{Drawn, Order, counted, read_start};
pub use pictures::{picture_files, write_picture};
pub use pipeline::{Encoders, TextToImage, files_of, folder_of, load_adapter, with_adapter};
pub use prompts::{check_count, cut_warnings, read_prompts};
pub use scenes::SceneLesson;
pub use start::StartingModel;
pub use training::{TextBase, TextSettings};

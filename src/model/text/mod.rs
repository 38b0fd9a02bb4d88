//! Text and vision encoders of text-to-image models, and what they need: tokenizers, the joining of prompt
//! embeddings, the preparation of pictures, and scores of pictures by CLIP. Forward only.
//!
//! An encoder with billions of weights runs in the device memory of about one layer: one layer is recorded as a plan
//! ([`Stage`]) and replayed for each layer, with weights that are read from the file one layer at a time ([`Weights`]). Only the
//! vision tower, which scores pictures again and again, stays on the device ([`ClipVision`]).

mod clip;
mod config;
mod encoders;
mod picture;
mod prompt;
mod score;
mod stage;
mod t5;
mod t5_prompts;
mod tokenizer;
mod vision;
mod weights;

pub use clip::{ClipTextEncoded, encode_clip_text};
pub use config::{ClipConfig, ClipTextConfig, ClipVisionConfig, T5Config, read_config};
pub use encoders::{EncoderChoice, EncoderFolders, PromptEncoder};
pub use picture::{PicturePreparation, resize_bicubic};
pub use prompt::{CutPrompt, Sd3Prompts, T5States, join_prompt_embeddings};
pub use score::{ClipScorer, PICKSCORE_DIVISOR, cosine};
pub use stage::{Data, MAX_SAMPLES, Stage};
pub use t5::{encode_t5, relative_bucket};
pub use t5_prompts::T5Prompts;
pub use tokenizer::{CLIP_TOKENS, Tokenizer, Tokens};
pub use vision::{ClipVision, ClipVisionEncoded};
pub use weights::Weights;

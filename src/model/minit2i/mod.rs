//! The transformer of MiniT2I (MM-JiT): pixels in, pixels out, with the names of its published files.
//!
//! Its states are half the values of a picture, y = picture / 2: noise of a standard deviation of 2 beside pictures from
//! −1 to 1 then is noise of 1, and y_sigma = (1 − sigma)·data + sigma·noise as everywhere in this program. The network
//! predicts clean data and is not told the noise level. Its velocity is (y − data) / max(sigma, 0.05).

mod config;
mod graph;
mod layout;

pub use config::MiniT2iConfig;
pub(super) use graph::MiniT2i;

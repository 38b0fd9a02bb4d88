//! The transformer of Stable Diffusion 3 and 3.5-medium (MMDiT, Esser et al. 2024, arXiv 2403.03206, and MMDiT-X), with
//! the tensor names of diffusers' `SD3Transformer2DModel`.
//!
//! Its conventions are those of this program: x_sigma = (1 − sigma)·data + sigma·noise, and the velocity is
//! noise − data.

mod config;
mod graph;
mod layout;

pub use config::MmditConfig;
pub(super) use graph::Mmdit;
pub(super) use layout::POSITIONS;

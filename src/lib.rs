//! Flow-DPPO for small flow-matching image models on any GPU, through WebGPU compute shaders.
//!
//! The floors of the house, from the top down (an arrow only ever points down): `cli`, `rl`, `run`,
//! `pretrain`, `reward`, `model`, `graph`, `ops`, `gpu`; beside them `data` and the pure functions of
//! `flow`. ARCHITECTURE.md draws the picture.

pub mod autodiff;
pub mod error;
pub mod flow;
pub mod gpu;
pub mod graph;
pub mod ops;
pub mod rl;

pub use error::{Error, Result};

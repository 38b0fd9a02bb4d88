//! Flow-DPPO for small flow-matching image models on any GPU, through WebGPU compute shaders.
//!
//! The floors of the house, from the top down (an arrow only ever points down): `cli`, `bench`, `rl`, `run`,
//! `pretrain`, `reward`, `model`, `autodiff`, `ops`, `graph`, `gpu`; beside them `data` and the pure
//! functions of `flow`. ARCHITECTURE.md draws the picture.

pub mod assets;
pub mod autodiff;
pub mod bench;
pub mod cache;
pub mod cli;
pub mod compare;
pub mod config;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod files;
pub mod fit_classifier;
pub mod flow;
pub mod gpu;
pub mod graph;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod plot;
pub mod pretrain;
pub mod preview;
pub mod profile;
pub mod reward;
pub mod rl;
pub mod roofline;
pub mod run;
pub mod sampling;
pub mod self_test;
pub mod sweep;

pub use error::{Error, Result};

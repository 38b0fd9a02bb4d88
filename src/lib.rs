//! Flow-DPPO for small flow-matching image models on any GPU, through WebGPU compute shaders.
//!
//! A module names only modules of the layers below it, which ARCHITECTURE.md lists. To read the program, start with
//! `rl` and follow it down through `sampling`, `autodiff` and `ops` to `graph` and `gpu`. The formulas are in `flow`.

pub mod assets;
pub mod autodiff;
pub mod bench;
pub mod cache;
pub mod classes;
pub mod cli;
pub mod compare;
pub mod config;
pub mod dashboard;
pub mod data;
pub mod doctor;
pub mod error;
pub mod evaluate;
pub mod files;
pub mod fit_classifier;
pub mod flow;
pub mod gpu;
pub mod graph;
pub mod inspect;
pub mod memory;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod plot;
pub mod preflight;
pub mod pretrain;
pub mod preview;
pub mod profile;
pub mod ranks;
pub mod report;
pub mod reward;
pub mod rl;
pub mod roofline;
pub mod run;
pub mod sampling;
pub mod saved;
pub mod self_test;
pub mod shape;
pub mod shapes;
pub mod sniff;
pub mod supervised;
pub mod sweep;
pub mod text;
pub mod text_to_image;

pub use error::{Error, Result};

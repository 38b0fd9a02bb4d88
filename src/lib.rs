//! Flow-DPPO for small flow-matching image models on any GPU, through WebGPU compute shaders.
//!
//! A module names only modules of the layers below it, which ARCHITECTURE.md lists. To read the program, start with
//! `rl` and follow it down through `sampling`, `autodiff` and `ops` to `graph` and `gpu`. The formulas are in `flow`.
//!
//! # As a library
//!
//! Without default features (`default-features = false`) it is the trainer alone, without the command line and what that
//! needs, and it also compiles for browsers, where the functions below that wait for the device are `async`
//! (docs/web.md). This tunes a built-in model with a reward of one's own:
//!
//! ```
//! use flowdppo_wgpu::assets::load_model;
//! use flowdppo_wgpu::config::Config;
//! use flowdppo_wgpu::error::Result;
//! use flowdppo_wgpu::gpu::{Gpu, Options};
//! use flowdppo_wgpu::model::Model;
//! use flowdppo_wgpu::optimizer::AVERAGE;
//! use flowdppo_wgpu::reward::{Batch, Reward, Rewards};
//! use flowdppo_wgpu::rl::{Trainer, TrainerSettings};
//!
//! /// Points of the plane are better the further right they are.
//! #[derive(Debug)]
//! struct Right([String; 1]);
//!
//! impl Reward for Right {
//!     fn components(&self) -> &[String] {
//!         &self.0
//!     }
//!
//!     fn score(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f64>>> {
//!         Ok(vec![batch.each().map(|point| f64::from(point[0])).collect()])
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! let config = Config::parse(include_str!("../configs/rings/train.toml"), "rings", &[])?;
//! let base = load_model("builtin:rings-base")?;
//! let model = base.flow_model("rings")?;
//! let gpu = Gpu::open(&Options::default())?;
//! let mut trainer = Trainer::new(&gpu, TrainerSettings::from(&config), &base)?;
//! let right = Box::new(Right(["right".into()])) as Box<dyn Reward>;
//! *trainer.rewards() = Rewards::of(vec![("right".into(), right, 1.0.into())], &model.pictures(&base.class_names))?;
//! for iteration in 0..2 {
//!     let metrics = trainer.iteration(iteration)?;
//!     println!("{iteration}: KL {}, the first update on-policy: {:?}", metrics.last_kl(), metrics.on_policy);
//!     assert_eq!(metrics.on_policy, [0.0; 2]);
//! }
//! let tuned = Model::of(&model, &base.class_names, trainer.optimizer.read(AVERAGE)?);
//! let file: Vec<u8> = tuned.to_bytes(); // as `flowdppo-wgpu sample --model` reads it
//! # assert_ne!(Model::from_bytes("tuned", &file)?.weights, base.in_memory()?.weights);
//! # Ok(())
//! # }
//! ```

// Helpers of the program remain unused in the library alone.
#![cfg_attr(not(feature = "cli"), allow(dead_code, unused_imports))]

pub mod assets;
pub mod autodiff;
#[cfg(feature = "cli")]
pub mod bench;
pub mod cache;
pub mod classes;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod compare;
pub mod config;
#[cfg(feature = "cli")]
pub mod dashboard;
#[cfg(feature = "cli")]
pub mod data;
#[cfg(feature = "cli")]
pub mod doctor;
pub mod error;
#[cfg(not(target_arch = "wasm32"))]
pub mod evaluate;
pub mod files;
#[cfg(feature = "cli")]
pub mod fit_classifier;
pub mod flow;
pub mod gpu;
pub mod graph;
#[cfg(feature = "cli")]
pub mod inspect;
pub mod memory;
pub mod model;
pub mod ops;
pub mod optimizer;
#[cfg(feature = "cli")]
pub mod plot;
#[cfg(feature = "cli")]
pub mod preflight;
#[cfg(feature = "cli")]
pub mod pretrain;
#[cfg(feature = "cli")]
pub mod preview;
#[cfg(feature = "cli")]
pub mod profile;
pub mod ranks;
#[cfg(feature = "cli")]
pub mod report;
pub mod reward;
pub mod rl;
#[cfg(feature = "cli")]
pub mod roofline;
pub mod run;
pub mod sampling;
#[cfg(feature = "cli")]
pub mod saved;
#[cfg(not(target_arch = "wasm32"))]
pub mod self_test;
pub mod shape;
pub mod shapes;
pub mod sniff;
#[cfg(feature = "cli")]
pub mod supervised;
#[cfg(feature = "cli")]
pub mod sweep;
pub mod text;
#[cfg(feature = "cli")]
pub mod text_to_image;

pub use error::{Error, Result};

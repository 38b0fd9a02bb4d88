//! Reinforcement learning: rollout, advantages, update, and the loop around them.

pub mod advantage;
mod metrics;
mod rollout;
mod run;
mod trainer;
mod update;

pub use metrics::{IterationMetrics, UpdateMetrics};
pub use rollout::{Rollout, RolloutCollector, STATES, VELOCITIES};
pub use run::{Outcome, Run, RunOptions};
pub use trainer::{Cost, Trainer};
pub use update::{OUTCOME, UpdateGraph, UpdateRecord, Updater};

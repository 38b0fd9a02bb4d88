//! Reinforcement learning: rollout, advantages, update, and the loop around them.

pub mod advantage;
#[cfg(feature = "cli")]
mod check;
mod dump;
#[cfg(feature = "cli")]
mod ending;
#[cfg(feature = "cli")]
pub mod guard;
#[cfg(feature = "cli")]
mod inputs;
#[cfg(feature = "cli")]
mod journal;
mod line;
mod method;
mod metrics;
mod passes;
mod rollout;
#[cfg(feature = "cli")]
mod run;
mod settings;
mod share;
mod trainer;
mod update;
mod update_graph;

#[cfg(feature = "cli")]
pub use inputs::inputs;
pub use line::{IterationLine, Line, MaskedLine};
pub use metrics::{IterationMetrics, StepMetrics, UpdateMetrics};
pub use rollout::{Rollout, RolloutCollector, STATES, VELOCITIES};
#[cfg(feature = "cli")]
pub use run::{RunOptions, RunSummary, TrainingRun};
pub use settings::{RolloutSettings, TrainerSettings, UpdateSettings};
pub use share::Share;
pub use trainer::{Cost, Trainer};
pub use update::{UpdateRecord, Updater};
pub use update_graph::{Penalty, UpdateGraph, policy_objective};

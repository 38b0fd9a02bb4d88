//! Reinforcement learning: rollout, advantages, update, and the loop around them.

pub mod advantage;
mod check;
mod dump;
mod ending;
pub mod guard;
mod inputs;
mod journal;
mod line;
mod method;
mod metrics;
mod passes;
mod rollout;
mod run;
mod settings;
mod share;
mod trainer;
mod update;
mod update_graph;

pub use inputs::inputs;
pub use line::{IterationLine, Line, MaskedLine};
pub use metrics::{IterationMetrics, StepMetrics, UpdateMetrics};
pub use rollout::{Rollout, RolloutCollector, STATES, VELOCITIES};
pub use run::{RunOptions, RunSummary, TrainingRun};
pub use settings::{RolloutSettings, TrainerSettings, UpdateSettings};
pub use share::Share;
pub use trainer::{Cost, Trainer};
pub use update::{UpdateRecord, Updater};
pub use update_graph::{Penalty, UpdateGraph, policy_objective};

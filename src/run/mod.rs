//! A run on disk: its directory, its metrics, its checkpoints, and its progress on the terminal.
//!
//! Everything here survives a crash at any moment: a line of metrics is complete, or recognised as truncated and
//! removed on resume; a checkpoint is complete or absent.

pub mod best;
pub mod checkpoint;
pub mod directory;
pub mod evaluation;
pub mod inputs;
pub mod metrics;
pub mod progress;
mod repair;
pub mod rewards;
pub mod tensorboard;

pub use checkpoint::LoadedCheckpoint;
pub use directory::RunDirectory;
pub use metrics::MetricsLog;
pub use progress::{Progress, Verbosity};
pub use rewards::RewardLog;

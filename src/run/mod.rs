//! A run on disk: its directory, its metrics, its checkpoints, and its progress on the terminal.
//!
//! Everything here survives a crash at any moment: a line of metrics is complete, or recognised as truncated and
//! removed on resume; a checkpoint is complete or absent.

#[cfg(feature = "cli")]
pub mod best;
#[cfg(feature = "cli")]
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod directory;
pub mod evaluation;
#[cfg(feature = "cli")]
pub mod inputs;
#[cfg(feature = "cli")]
pub mod metrics;
#[cfg(feature = "cli")]
pub mod progress;
#[cfg(feature = "cli")]
mod repair;
#[cfg(feature = "cli")]
pub mod rewards;
#[cfg(feature = "cli")]
pub mod tensorboard;

#[cfg(feature = "cli")]
pub use checkpoint::LoadedCheckpoint;
#[cfg(feature = "cli")]
pub use directory::RunDirectory;
#[cfg(feature = "cli")]
pub use metrics::MetricsLog;
#[cfg(feature = "cli")]
pub use progress::{Progress, Verbosity};
#[cfg(feature = "cli")]
pub use rewards::RewardLog;

/// One line of `metrics.jsonl`.
pub type Record = serde_json::Map<String, serde_json::Value>;

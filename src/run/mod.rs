//! A run on disk: its directory, its metrics, its checkpoints, and its progress on the terminal.
//!
//! Everything here holds at any moment of a crash: a metrics line is appended whole or recognised as
//! truncated and cut off on resume, a checkpoint is complete or not there.

pub mod best;
pub mod checkpoint;
pub mod directory;
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

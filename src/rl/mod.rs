//! Reinforcement learning of a flow-matching model.

pub mod advantage;
pub mod objective;

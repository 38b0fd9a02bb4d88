//! Reinforcement learning of a flow-matching model.

pub mod advantage;

//! The mathematics of sampling from a flow-matching model and of learning from samples: pure functions, no GPU.
//!
//! Conventions, used everywhere in this crate: the time is σ ∈ \[0, 1\], **σ = 1 is pure noise and
//! σ = 0 is data**; a noisy latent is `x = (1−σ)·x_data + σ·noise`, and the network predicts the
//! velocity `v = dx/dσ = noise − x_data`. A trajectory of T steps visits T + 1 points σ_0 = 1 > … >
//! σ_T = 0.
//!
//! * [`schedule`]: where those points lie.
//! * [`sampler`]: how a random step goes from one point to the next, as three numbers.
//! * [`solver`]: the same for deterministic steps, for samples that are not trained on.
//! * [`trained_steps`]: which of the steps are random, and so can be learned from.
//! * [`noise`]: the randomness itself, as a function of (seed, rollout, sample, step).
//! * [`objective`]: what a sampled step says about how its velocity should change.
//! * [`divergence`]: measures of that change: KL, total variation, distances, penalties.
//! * [`standard_ratio`]: the distribution that the ratio of new samples follows.
//! * [`nft`]: the objective of DiffusionNFT, which needs no random steps.

pub mod divergence;
pub mod nft;
pub mod noise;
pub mod objective;
pub mod sampler;
pub mod schedule;
pub mod solver;
pub mod standard_ratio;
pub mod trained_steps;

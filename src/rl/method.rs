//! What the two families of methods do differently: everything else in `rl` is the same for both.
//!
//! | | policy objectives | DiffusionNFT |
//! |---|---|---|
//! | stored in a rollout | states and velocities of the trained steps | the samples |
//! | who draws | the weights in training | their average |
//! | old policy of the loss | the stored velocities | the average |
//! | noise of a term | that of the rollout's step | fresh for every pass |
//! | first update | on-policy: ratio 1 and KL 0, to the bit | may be off-policy |

use serde_json::{Map, Value, json};

use super::metrics::IterationMetrics;
use super::rollout::{Rollout, STATES, VELOCITIES};
use crate::config::ObjectiveName;
use crate::error::{Error, Result};
use crate::flow::sampler::Transition;
use crate::graph::{Store, Stores};
use crate::ops::Outcome;
use crate::optimizer::Optimizer;

/// How an objective learns from samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// The policy of each step is a Gaussian with a density: Flow-DPPO, Flow-GRPO and GRPO-Guard.
    Policy,
    /// DiffusionNFT (Zheng et al. 2025): a regression on samples with added noise, without densities.
    Nft,
}

/// One term of a loss: a sample of the rollout at a trained step, in one pass over it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    /// Index among the trained steps.
    pub slot: usize,
    /// The step.
    pub step: usize,
    /// The pass, from 0.
    pub epoch: usize,
}

impl From<ObjectiveName> for Method {
    fn from(objective: ObjectiveName) -> Self {
        match objective {
            ObjectiveName::Nft => Self::Nft,
            ObjectiveName::FlowDppo | ObjectiveName::FlowGrpo | ObjectiveName::GrpoGuard => Self::Policy,
        }
    }
}

impl Method {
    /// The stores that a rollout fills.
    pub fn stores(self) -> &'static [Store] {
        match self {
            Self::Policy => &[STATES, VELOCITIES],
            Self::Nft => &[STATES],
        }
    }

    /// How many states are stored per sample, of `trained` steps.
    pub fn stored_slots(self, trained: usize) -> usize {
        match self {
            Self::Policy => trained,
            Self::Nft => 1,
        }
    }

    /// Whether it is the final samples that are stored, and not states on the way to them.
    pub fn stores_samples(self) -> bool {
        self == Self::Nft
    }

    /// The weights that draw samples.
    pub fn drawing_stores(self, optimizer: &Optimizer) -> Stores {
        match self {
            Self::Policy => optimizer.stores().clone(),
            Self::Nft => optimizer.average_stores(),
        }
    }

    /// The row (a, b, s) of a trained step. DiffusionNFT adds noise to the sample itself: x = (1 − σ)·x_0 + σ·ε.
    pub fn transition(self, rollout: &Rollout, step: usize) -> Transition {
        let sigma = rollout.table.sigmas[step];
        match self {
            Self::Policy => rollout.table.rows[step],
            Self::Nft => Transition { a: 1.0 - sigma, b: 0.0, s: sigma },
        }
    }

    /// The slot in which the state of a term is stored, and the step of the key of its noise: that of the rollout, or of
    /// this pass alone.
    pub fn slot_and_noise(self, rollout: &Rollout, term: Term) -> (usize, usize) {
        match self {
            Self::Policy => (term.slot, term.step),
            Self::Nft => (0, term.step + term.epoch * rollout.table.steps()),
        }
    }

    /// Checks that the first update of an iteration is on-policy, where it must be.
    ///
    /// # Errors
    /// If a ratio differs from 1 or a KL from 0 by a single bit.
    pub fn check_first_update(self, metrics: &IterationMetrics) -> Result<()> {
        if self == Self::Nft || metrics.on_policy == [0.0; 2] || metrics.updates[0].skipped {
            return Ok(());
        }
        Err(Error::failed(format!(
            "the first update of iteration {} is not on-policy: the ratio differs from 1 by {:.1e} and the KL is {:.1e}, \
             but both must be 0 to the bit. On this device a kernel's result for a sample depends on the batch; please \
             report it with the output of `flowdppo-wgpu devices`",
            metrics.iteration, metrics.on_policy[0], metrics.on_policy[1]
        )))
    }

    /// What the updates of an iteration changed, in a few words.
    pub fn change(self, metrics: &IterationMetrics) -> String {
        let change = metrics.last_kl();
        match self {
            Self::Policy => {
                format!("kl {change:.2e}  masked {:.1} %", 100.0 * metrics.mean(|update| update.masked_fraction))
            }
            Self::Nft => format!("velocity moved {change:.2e}"),
        }
    }

    /// The keys of an iteration's metrics that only this method has.
    pub fn metrics(self, metrics: &IterationMetrics) -> Map<String, Value> {
        let own = match self {
            Self::Policy => metrics.policy_json(),
            Self::Nft => json!({
                "velocity_msd_new_old": metrics.mean(|update| update.kl_mean),
                "velocity_msd_by_update": metrics.by_update(|update| update.kl_mean),
            }),
        };
        match own {
            Value::Object(own) => own,
            other => unreachable!("{other} is an object"),
        }
    }

    /// The tensors of an update's dump that hold a member of the outcomes, by name.
    pub fn dumped_outcomes(self) -> &'static [(&'static str, fn(&Outcome) -> f32)] {
        match self {
            Self::Policy => &[
                ("log_ratio", |it| it.log_ratio),
                ("ratio", |it| it.ratio),
                ("kl", |it| it.kl),
                ("mask", |it| it.kept),
            ],
            Self::Nft => &[("share", |it| it.ratio), ("velocity_msd", |it| it.kl)],
        }
    }
}

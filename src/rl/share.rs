//! Which samples and which terms a rank computes.
//!
//! Everything is numbered over the whole team, so that what is computed does not depend on who computes it. A rank has
//! consecutive micro-batches of each update, with all of their trained steps, and draws and scores the samples that it
//! learns from in the first pass. Where a later pass visits the samples in another order, ranks exchange trajectories.

use std::ops::Range;

use crate::config::Order;
use crate::flow::noise::{NoiseKey, SHUFFLE, Stream};
use crate::ranks::Seat;

/// The share of a rank in the samples of a rollout and in the terms of its updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Whose share it is.
    pub seat: Seat,
    /// Seed of the shuffles.
    pub seed: u64,
    /// Order of the samples in a pass.
    pub order: Order,
    /// Samples of a rollout.
    pub samples: usize,
    /// Samples of an update.
    pub per_update: usize,
    /// Samples of a micro-batch.
    pub micro_batch: usize,
}

impl Share {
    /// The order in which a pass over rollout `rollout` visits all samples.
    pub fn order(&self, rollout: u32, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.samples).collect();
        if self.order == Order::Shuffled {
            let key = NoiseKey { seed: self.seed, rollout, sample: epoch as u32, step: SHUFFLE };
            Stream::new(key).shuffle(&mut order);
        }
        order
    }

    /// Micro-batches of an update.
    pub fn batches(&self) -> usize {
        self.per_update.div_ceil(self.micro_batch)
    }

    /// The samples of an update that are this rank's, in their order.
    pub fn of_update<'a>(&self, update: &'a [usize]) -> &'a [usize] {
        &update[self.own()]
    }

    /// Their places in an update.
    fn own(&self) -> Range<usize> {
        let own = self.seat.range(self.batches());
        own.start * self.micro_batch..self.per_update.min(own.end * self.micro_batch)
    }

    /// How many samples of a rollout are this rank's.
    pub fn count(&self) -> usize {
        self.samples / self.per_update * self.own().len()
    }

    /// The samples that a rank learns from in a pass, ascending.
    pub fn of_rank(&self, seat: Seat, rollout: u32, epoch: usize) -> Vec<usize> {
        let (order, share) = (self.order(rollout, epoch), Self { seat, ..*self });
        let mut own: Vec<usize> =
            order.chunks(self.per_update).flat_map(|update| share.of_update(update)).copied().collect();
        own.sort_unstable();
        own
    }

    /// The samples that this rank draws, ascending.
    pub fn drawn(&self, rollout: u32) -> Vec<usize> {
        self.of_rank(self.seat, rollout, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_all_samples_of_every_pass() {
        for size in 1..=5 {
            let alone = Share {
                seat: Seat { rank: 0, size },
                seed: 7,
                order: Order::Shuffled,
                samples: 60,
                per_update: 30,
                micro_batch: 6,
            };
            for epoch in 0..2 {
                let mut all: Vec<usize> = Vec::new();
                for seat in alone.seat.all() {
                    let own = alone.of_rank(seat, 3, epoch);
                    assert_eq!(own.len(), Share { seat, ..alone }.count());
                    all.extend(own);
                }
                all.sort_unstable();
                assert_eq!(all, (0..60).collect::<Vec<_>>());
            }
        }
    }
}

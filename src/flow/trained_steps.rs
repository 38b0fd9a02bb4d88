//! Which steps of a trajectory are random, and so are trained on.
//!
//! A policy gradient needs only a few random steps; the others run as a deterministic ODE, have no
//! density and carry no gradient. All samples of a rollout share the choice, so that their rewards
//! are comparable.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::flow::noise::{NoiseKey, Stream, TRAINED_STEPS};

/// A rule that chooses the random steps of a rollout out of the steps 0 to T − 1.
///
/// Only MixGRPO's windows include the last step, by definition; the other rules never choose it, because samplers that
/// keep the noise level have no density there, and with Flow-SDE its noise would stay in the image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TrainedSteps {
    /// `count` different steps out of ⌊`from`·T⌋ to ⌊`to`·T⌋ − 1, redrawn for each rollout. Early steps decide what the
    /// image shows; Flow-DPPO trains on three of the first half.
    SparseEarly {
        /// How many steps to draw.
        count: usize,
        /// Where the pool begins, as a share of the trajectory.
        #[serde(default)]
        from: f64,
        /// Where the pool ends, as a share of the trajectory.
        #[serde(default = "half")]
        to: f64,
    },
    /// The same steps in each rollout.
    List {
        /// Step numbers, from 0, in any order.
        steps: Vec<usize>,
    },
    /// All steps but the last, as in Flow-GRPO.
    // Braces, since serde would let unknown keys pass on a variant without them.
    AllButLast {},
    /// `size` steps in a row whose first is drawn from 0 to ⌊T/2⌋ for each rollout, as in Flow-GRPO-Fast.
    FastWindow {
        /// How many steps in a row.
        size: usize,
    },
    /// `size` steps in a row whose first is drawn from 0 to T − `size` for each rollout: MixGRPO's
    /// (arXiv 2507.21802) random strategy.
    RandomWindow {
        /// How many steps in a row.
        size: usize,
    },
    /// `size` steps in a row that advance by `size` − `overlap` every `rollouts` rollouts: MixGRPO's progressive
    /// strategy.
    ProgressiveWindow {
        /// How many steps in a row.
        #[serde(default = "four")]
        size: usize,
        /// Steps that a window shares with the previous one.
        #[serde(default = "one")]
        overlap: usize,
        /// Rollouts for which a window stays.
        #[serde(default = "twenty_five")]
        rollouts: u32,
        /// Start over with the first window after the last; otherwise the last one stays.
        #[serde(default = "yes")]
        roll_back: bool,
    },
}

fn half() -> f64 {
    0.5
}

fn four() -> usize {
    4
}

fn one() -> usize {
    1
}

fn twenty_five() -> u32 {
    25
}

fn yes() -> bool {
    true
}

impl TrainedSteps {
    /// The random steps of rollout `rollout` in a trajectory of `steps` steps, ascending; the same
    /// arguments always give the same steps. Every rollout has the same number of them.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] if in any rollout the rule could choose nothing, a step that does not
    /// exist, one step twice, or the last step where it must not.
    pub fn choose(&self, steps: usize, seed: u64, rollout: u32) -> Result<Vec<usize>> {
        let mut candidates = self.candidates(steps)?;
        let mut stream = Stream::new(NoiseKey { seed, rollout, sample: 0, step: TRAINED_STEPS });
        Ok(match self {
            Self::List { .. } | Self::AllButLast {} => candidates,
            Self::SparseEarly { count, .. } => {
                stream.shuffle(&mut candidates);
                candidates.truncate(*count);
                candidates.sort_unstable();
                candidates
            }
            Self::FastWindow { size } | Self::RandomWindow { size } => {
                let starts = candidates.len() + 1 - size;
                let start = stream.below(starts as u32) as usize;
                (start..start + size).collect()
            }
            Self::ProgressiveWindow { size, overlap, rollouts, roll_back } => {
                let (stride, moves) = (size - overlap, (rollout / rollouts) as usize);
                let windows = (steps - size) / stride + 1;
                let window = if *roll_back { moves % windows } else { moves.min(windows - 1) };
                (window * stride..window * stride + size).collect()
            }
        })
    }

    /// Every step that some rollout may choose, ascending.
    ///
    /// # Errors
    ///
    /// As [`TrainedSteps::choose`]: a rule that may fail in some rollout fails in all.
    pub fn candidates(&self, steps: usize) -> Result<Vec<usize>> {
        let mut found = match self {
            Self::SparseEarly { count, from, to } => {
                let pool = pool(steps, *from, *to)?;
                if *count > pool.len() {
                    return Err(Error::input(format!(
                        "cannot draw {count} different steps, since from = {from} to \
                         {to} of a trajectory of {steps} steps leaves {} to choose from; lower \
                         count, or raise to or the number of steps",
                        pool.len()
                    )));
                }
                if *count == 0 { Vec::new() } else { pool }
            }
            Self::List { steps } => steps.clone(),
            Self::AllButLast {} => (0..steps.saturating_sub(1)).collect(),
            Self::FastWindow { size } => (0..(steps / 2).saturating_add(*size).min(steps + 1)).collect(),
            Self::RandomWindow { size } => return window(*size, steps).map(|()| (0..steps).collect()),
            Self::ProgressiveWindow { size, overlap, rollouts, .. } => {
                window(*size, steps)?;
                if overlap >= size {
                    return Err(Error::input(format!(
                        "overlap = {overlap} must be below size = {size}, or the window would not move"
                    )));
                }
                if *rollouts == 0 {
                    return Err(Error::input("rollouts = 0 must be at least 1: it is how long a window stays"));
                }
                let stride = size - overlap;
                return Ok((0..(steps - size) / stride * stride + size).collect());
            }
        };
        if matches!(self, Self::FastWindow { size: 0 }) {
            found.clear();
        }
        found.sort_unstable();
        check(&found, steps)?;
        Ok(found)
    }
}

/// Checks the size of a window that may reach the last step.
fn window(size: usize, steps: usize) -> Result<()> {
    if (1..=steps).contains(&size) {
        return Ok(());
    }
    Err(Error::input(format!("size = {size} must be from 1 to {steps}, the number of steps")))
}

fn pool(steps: usize, from: f64, to: f64) -> Result<Vec<usize>> {
    let (from_is_share, to_is_share) = ((0.0..=1.0).contains(&from), (0.0..=1.0).contains(&to));
    if !from_is_share || !to_is_share || from >= to {
        return Err(Error::input(format!(
            "from = {from} and to = {to} must be shares of the trajectory with \
             0 <= from < to <= 1"
        )));
    }
    let position = |share: f64| (steps as f64 * share).floor() as usize;
    Ok((position(from)..position(to)).collect())
}

/// Checks that ascending step numbers can be trained on.
fn check(chosen: &[usize], steps: usize) -> Result<()> {
    let Some(&last) = chosen.last() else {
        return Err(Error::input(format!(
            "none of the {steps} steps is chosen, so there is nothing to learn from; \
             choose at least 1 and note that the last step cannot be trained"
        )));
    };
    if last >= steps {
        return Err(Error::input(format!(
            "step {last} does not exist; a trajectory of {steps} steps has the steps 0 \
             to {}, counted from 0",
            steps.saturating_sub(1)
        )));
    }
    if last == steps - 1 {
        return Err(Error::input(format!(
            "step {last} is the last of the {steps} steps and cannot be trained, since \
             it ends without noise and therefore has no density; leave it out (with sparse-early: lower to; with \
             fast-window: lower size)"
        )));
    }
    if let Some(pair) = chosen.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::input(format!("step {} is listed twice; list each step once", pair[0])));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<TrainedSteps, toml::de::Error> {
        toml::from_str(text)
    }

    const EARLY: TrainedSteps = TrainedSteps::SparseEarly { count: 3, from: 0.0, to: 0.5 };

    #[test]
    fn early_steps_are_few_sorted_and_repeatable() {
        let mut seen = [0; 5];
        for rollout in 0..1000 {
            let chosen = EARLY.choose(10, 7, rollout).unwrap();
            assert_eq!(chosen, EARLY.choose(10, 7, rollout).unwrap());
            assert_eq!(chosen.len(), 3);
            assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            for step in chosen {
                seen[step] += 1;
            }
        }
        // Each of the five is drawn in 3/5 of the rollouts: 600 ± 15.5 standard deviation.
        assert!(seen.iter().all(|&n| (540..660).contains(&n)), "{seen:?}");
    }

    #[test]
    fn seed_and_rollout_both_matter() {
        let draws =
            |seed, from: u32| -> Vec<_> { (from..from + 20).map(|r| EARLY.choose(10, seed, r).unwrap()).collect() };
        assert_ne!(draws(1, 0), draws(2, 0));
        assert_ne!(draws(1, 0), draws(1, 20));
    }

    #[test]
    fn lists_and_all_but_last() {
        let list = TrainedSteps::List { steps: vec![4, 0, 2] };
        assert_eq!(list.choose(6, 1, 1).unwrap(), [0, 2, 4]);
        assert_eq!(TrainedSteps::AllButLast {}.choose(4, 1, 1).unwrap(), [0, 1, 2]);
    }

    fn progressive(size: usize, overlap: usize, rollouts: u32, roll_back: bool) -> TrainedSteps {
        TrainedSteps::ProgressiveWindow { size, overlap, rollouts, roll_back }
    }

    #[test]
    fn windows_start_where_they_may_and_cover_the_candidates() {
        for (rule, starts) in [(TrainedSteps::FastWindow { size: 3 }, 6), (TrainedSteps::RandomWindow { size: 4 }, 7)] {
            let mut seen = vec![0; starts];
            let mut covered = [false; 10];
            for rollout in 0..1000 {
                let chosen = rule.choose(10, 3, rollout).unwrap();
                assert!(chosen.windows(2).all(|pair| pair[1] == pair[0] + 1), "{chosen:?}");
                seen[chosen[0]] += 1;
                chosen.iter().for_each(|step| covered[*step] = true);
            }
            // 1000/6 and 1000/7, ± 12 standard deviation.
            assert!(seen.iter().all(|&n| (95..230).contains(&n)), "{seen:?}");
            let reached: Vec<usize> = (0..10).filter(|step| covered[*step]).collect();
            assert_eq!(reached, rule.candidates(10).unwrap());
        }
    }

    #[test]
    fn progressive_windows_move_and_roll_back() {
        let first = |rule: &TrainedSteps, rollout| rule.choose(10, 0, rollout).unwrap()[0];
        let rolling = progressive(3, 1, 2, true);
        assert_eq!([0, 1, 2, 4, 6, 8].map(|rollout| first(&rolling, rollout)), [0, 0, 2, 4, 6, 0]);
        let staying = progressive(3, 1, 2, false);
        assert_eq!([6, 8, 100].map(|rollout| first(&staying, rollout)), [6, 6, 6]);
        assert_eq!(rolling.candidates(10).unwrap(), (0..9).collect::<Vec<_>>());
        assert_eq!(first(&progressive(10, 1, 25, true), 1000), 0);
    }

    #[test]
    fn bad_choices_are_rejected_with_the_reason() {
        let early = |count, from, to| TrainedSteps::SparseEarly { count, from, to };
        let list = |steps: &[usize]| TrainedSteps::List { steps: steps.to_vec() };
        for (rule, steps, reason) in [
            (early(3, 0.0, 0.2), 10, "leaves 2"),
            (early(0, 0.0, 0.5), 10, "none"),
            (early(10, 0.0, 1.0), 10, "is the last"),
            (early(1, 0.5, 0.5), 10, "from < to"),
            (early(1, f64::NAN, 0.5), 10, "shares"),
            (early(1, 0.0, 1.5), 10, "shares"),
            (list(&[]), 10, "none"),
            (list(&[3, 9]), 10, "is the last"),
            (list(&[10]), 10, "does not exist"),
            (list(&[0]), 0, "does not exist"),
            (list(&[2, 1, 2]), 10, "twice"),
            (TrainedSteps::AllButLast {}, 1, "none"),
            (TrainedSteps::FastWindow { size: 0 }, 10, "none"),
            (TrainedSteps::FastWindow { size: 5 }, 10, "is the last"),
            (TrainedSteps::FastWindow { size: 6 }, 10, "does not exist"),
            (TrainedSteps::RandomWindow { size: 0 }, 10, "from 1 to 10"),
            (TrainedSteps::RandomWindow { size: 11 }, 10, "from 1 to 10"),
            (progressive(11, 1, 25, true), 10, "from 1 to 10"),
            (progressive(2, 2, 25, true), 10, "would not move"),
            (progressive(2, 1, 0, true), 10, "rollouts = 0"),
        ] {
            let error = rule.choose(steps, 0, 0).unwrap_err();
            assert!(matches!(error, Error::Input(_)), "{error}");
            assert!(error.to_string().contains(reason), "{reason}: {error}");
        }
    }

    #[test]
    fn toml_tables_read_and_write() {
        assert_eq!(parse("kind = 'sparse-early'\ncount = 3").unwrap(), EARLY);
        assert_eq!(parse("kind = 'list'\nsteps = [0, 2]").unwrap(), TrainedSteps::List { steps: vec![0, 2] });
        assert_eq!(parse("kind = 'all-but-last'").unwrap(), TrainedSteps::AllButLast {});
        assert_eq!(parse("kind = 'progressive-window'").unwrap(), progressive(4, 1, 25, true));
        assert_eq!(parse("kind = 'fast-window'\nsize = 2").unwrap(), TrainedSteps::FastWindow { size: 2 });
        let written = toml::to_string(&EARLY).unwrap();
        assert_eq!(parse(&written).unwrap(), EARLY);
        for wrong in [
            "kind = 'sparse-early'\ncount = 3\nform = 0.1",
            "kind = 'list'\nsteps = [0]\ncount = 3",
            "kind = 'all-but-last'\ncount = 3",
            "kind = 'sparse-late'\ncount = 3",
            "kind = 'sparse-early'\ncount = -1",
            "count = 3",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

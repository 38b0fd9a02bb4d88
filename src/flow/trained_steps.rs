//! Which steps of a trajectory are random, and so are trained on.
//!
//! A policy gradient needs only a few random steps; the others run as a deterministic ODE, have no
//! density and carry no gradient. All samples of a rollout share the choice, so that their rewards
//! are comparable.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::flow::noise::{NoiseKey, Stream, TRAINED_STEPS};

/// A rule that chooses the random steps of a rollout out of the steps 0 to T − 1.
///
/// The last step is never chosen: samplers that keep the noise level have no density there, and
/// with Flow-SDE its noise would stay in the image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TrainedSteps {
    /// `count` different steps out of ⌊`from`·T⌋ to ⌊`to`·T⌋ − 1, drawn anew for each rollout.
    /// Early steps decide what the image shows, and three of the first half is what Flow-DPPO
    /// trains on.
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
    /// All steps but the last, as Flow-GRPO.
    // Braces, since serde would let unknown keys pass on a variant without them.
    AllButLast {},
}

fn half() -> f64 {
    0.5
}

impl TrainedSteps {
    /// The random steps of rollout `rollout` in a trajectory of `steps` steps, ascending; the same
    /// arguments always give the same answer.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] if the rule chooses nothing, the last step, a step beyond it, one step
    /// twice, or more steps than there are.
    pub fn choose(&self, steps: usize, seed: u64, rollout: u32) -> Result<Vec<usize>> {
        let mut chosen = match self {
            Self::SparseEarly { count, from, to } => {
                let mut pool = pool(steps, *from, *to)?;
                if *count > pool.len() {
                    return Err(Error::input(format!(
                        "cannot draw {count} different steps, since from = {from} to \
                         {to} of a trajectory of {steps} steps leaves {} to choose from; lower \
                         count, or raise to or the number of steps",
                        pool.len()
                    )));
                }
                // The pool is judged, not the draw: a rule that may fail in some rollout fails in all.
                check(&pool, steps)?;
                let mut stream = Stream::new(NoiseKey { seed, rollout, sample: 0, step: TRAINED_STEPS });
                stream.shuffle(&mut pool);
                pool.truncate(*count);
                pool
            }
            Self::List { steps } => steps.clone(),
            Self::AllButLast {} => (0..steps.saturating_sub(1)).collect(),
        };
        chosen.sort_unstable();
        check(&chosen, steps)?;
        Ok(chosen)
    }
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

/// Accepts ascending step numbers that can be trained on.
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
             it ends without noise and so has no density; leave it out (with sparse-early: lower to)"
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

    #[test]
    fn bad_choices_are_refused_with_the_reason() {
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

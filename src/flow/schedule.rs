//! Noise schedules: the points σ_0 = 1 > σ_1 > … > σ_T = 0 that a trajectory of T steps visits.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A rule for the points of a trajectory.
///
/// All rules warp a uniform grid `t` with the timestep shift of Stable Diffusion 3 (arXiv
/// 2403.03206, eq. 23), `σ = κt / (1 + (κ−1)t)`: κ > 1 spends more steps near pure noise, κ = 1 is
/// linear. They differ in the grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// `t = linspace(1, 0, T+1)`, shifted by κ = `shift`, as used by the Flow-DPPO authors.
    StaticShift {
        /// κ > 0; 3 for Stable Diffusion 3, 1 for a linear schedule.
        shift: f64,
    },
    /// The static shift of the `diffusers` library, used in the published Flow-GRPO
    /// runs: the grid ends at an already shifted 1/1000, is shifted again, and 0 is appended. Its
    /// last step is thus from about 0.009 (κ = 3) to 0.
    DiffusersStatic {
        /// κ > 0.
        shift: f64,
    },
    /// `t = linspace(1, 1/T, T)` shifted by κ = exp(`mu`), and 0 appended: resolution-dependent
    /// shifting.
    Dynamic {
        /// ln κ.
        mu: f64,
    },
    /// The same, where `mu` grows linearly with the number of image tokens.
    DynamicTokens {
        /// Tokens of an image.
        tokens: usize,
        /// `mu` of 256 tokens.
        #[serde(default = "flux_base_shift")]
        base_shift: f64,
        /// `mu` of 4096 tokens.
        #[serde(default = "flux_max_shift")]
        max_shift: f64,
    },
    /// The points themselves.
    Explicit {
        /// From 1 down to 0, one more than there are steps.
        sigmas: Vec<f64>,
    },
}

impl Default for Schedule {
    /// Linear.
    fn default() -> Self {
        Self::StaticShift { shift: 1.0 }
    }
}

fn flux_base_shift() -> f64 {
    0.5
}

fn flux_max_shift() -> f64 {
    1.15
}

impl Schedule {
    /// The `steps` + 1 points, from 1 down to 0, strictly decreasing.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] for zero steps, a shift that is not a positive number, explicit points of
    /// the wrong number, and points that [`check`] rejects.
    pub fn sigmas(&self, steps: usize) -> Result<Vec<f64>> {
        if steps == 0 {
            return Err(Error::input("the sampler has 0 steps; a trajectory needs at least 1"));
        }
        let sigmas = match self {
            Self::StaticShift { shift } => {
                let kappa = positive(*shift)?;
                let t = |i: usize| (steps - i) as f64 / steps as f64;
                (0..=steps).map(|i| shifted(t(i), kappa)).collect()
            }
            Self::DiffusersStatic { shift } => {
                let kappa = positive(*shift)?;
                let lowest = shifted(1e-3, kappa);
                let last = (steps - 1).max(1) as f64;
                let t = |i: usize| 1.0 + (lowest - 1.0) * (i as f64 / last);
                with_zero((0..steps).map(|i| shifted(t(i), kappa)))
            }
            Self::Dynamic { mu } => {
                let kappa = positive(mu.exp())?;
                let t = |i: usize| (steps - i) as f64 / steps as f64;
                with_zero((0..steps).map(|i| shifted(t(i), kappa)))
            }
            Self::DynamicTokens { tokens, base_shift, max_shift } => {
                let share = (*tokens as f64 - 256.0) / (4096.0 - 256.0);
                return Self::Dynamic { mu: base_shift + share * (max_shift - base_shift) }.sigmas(steps);
            }
            Self::Explicit { sigmas: points } => {
                if points.len() != steps + 1 {
                    return Err(Error::input(format!(
                        "the explicit schedule has {} points, but {steps} steps need {}: one more \
                         than steps, 1 and 0 included",
                        points.len(),
                        steps + 1
                    )));
                }
                points.clone()
            }
        };
        check(&sigmas)?;
        Ok(sigmas)
    }
}

/// Checks the points of a schedule: at least two, from exactly 1 (a trajectory starts from pure
/// noise) strictly down to exactly 0.
///
/// # Errors
///
/// [`Error::Input`] that names the first offending point.
pub fn check(sigmas: &[f64]) -> Result<()> {
    let (Some(&first), Some(&last)) = (sigmas.first(), sigmas.last()) else {
        return Err(Error::input("the noise schedule is empty"));
    };
    if sigmas.len() < 2 || first != 1.0 || last != 0.0 {
        return Err(Error::input(format!(
            "the noise schedule goes from {first} to {last} in {} points; it must go from 1 (pure \
             noise) to 0 (data) in at least 2",
            sigmas.len()
        )));
    }
    for (k, pair) in sigmas.windows(2).enumerate() {
        // A NaN makes the comparison false too. Between a first 1 and a last 0, strict descent
        // keeps every point within [0, 1].
        let descends = pair[1] < pair[0];
        if !descends {
            return Err(Error::input(format!(
                "the noise schedule must decrease strictly, but point {} is {} after {}; use fewer \
                 steps, a milder shift, or correct the explicit points",
                k + 1,
                pair[1],
                pair[0]
            )));
        }
    }
    Ok(())
}

/// `κt / (1 + (κ−1)t)`, which maps \[0, 1\] onto itself with slope κ at 0; written so that 1 stays
/// exactly 1.
fn shifted(t: f64, kappa: f64) -> f64 {
    kappa * t / (kappa * t + (1.0 - t))
}

fn with_zero(points: impl Iterator<Item = f64>) -> Vec<f64> {
    points.chain([0.0]).collect()
}

fn positive(shift: f64) -> Result<f64> {
    if shift.is_finite() && shift > 0.0 {
        return Ok(shift);
    }
    Err(Error::input(format!(
        "the schedule's shift is {shift}, but must be a finite number above 0 (1 is a linear schedule; \
         a dynamic schedule's shift is exp(mu))"
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shift_one_is_linear() {
        let sigmas = Schedule::StaticShift { shift: 1.0 }.sigmas(4).unwrap();
        assert_eq!(sigmas, [1.0, 0.75, 0.5, 0.25, 0.0]);
    }

    #[test]
    fn dynamic_is_static_with_exponential_shift() {
        let dynamic = Schedule::Dynamic { mu: 0.8 }.sigmas(7).unwrap();
        let shift = 0.8_f64.exp();
        assert_eq!(dynamic, Schedule::StaticShift { shift }.sigmas(7).unwrap());
    }

    #[test]
    fn tokens_give_mu() {
        let tokens = |tokens| Schedule::DynamicTokens { tokens, base_shift: 0.5, max_shift: 1.15 }.sigmas(7).unwrap();
        let mu = |mu| Schedule::Dynamic { mu }.sigmas(7).unwrap();
        assert_eq!(tokens(256), mu(0.5));
        assert_eq!(tokens(4096), mu(1.15));
        assert_eq!(tokens(2176), mu(0.5 + 0.5 * (1.15 - 0.5)));
    }

    #[test]
    fn one_step_goes_from_noise_to_data() {
        let explicit = Schedule::Explicit { sigmas: vec![1.0, 0.0] };
        for schedule in [
            Schedule::StaticShift { shift: 3.0 },
            Schedule::DiffusersStatic { shift: 3.0 },
            Schedule::Dynamic { mu: 0.5 },
            explicit,
        ] {
            assert_eq!(schedule.sigmas(1).unwrap(), [1.0, 0.0], "{schedule:?}");
        }
    }

    #[test]
    fn bad_schedules_are_rejected_with_the_reason() {
        let explicit = |points: &[f64]| Schedule::Explicit { sigmas: points.to_vec() };
        for (schedule, steps, reason) in [
            (Schedule::StaticShift { shift: 3.0 }, 0, "0 steps"),
            (Schedule::StaticShift { shift: 0.0 }, 4, "shift is 0"),
            (Schedule::StaticShift { shift: f64::NAN }, 4, "shift is NaN"),
            (Schedule::DiffusersStatic { shift: -1.0 }, 4, "shift is -1"),
            (Schedule::Dynamic { mu: 1e4 }, 4, "shift is inf"),
            // The shift is so strong that neighbouring points round to the same number.
            (Schedule::StaticShift { shift: 1e20 }, 4, "strictly"),
            (explicit(&[1.0, 0.5, 0.0]), 3, "3 points"),
            (explicit(&[0.9, 0.5, 0.0]), 2, "from 0.9"),
            (explicit(&[1.0, 0.5, 0.1]), 2, "to 0.1"),
            (explicit(&[1.0, 0.5, 0.5, 0.0]), 3, "point 2 is 0.5"),
            (explicit(&[1.0, f64::NAN, 0.0]), 2, "point 1 is NaN"),
            (explicit(&[1.0, -0.5, 0.0]), 2, "point 2 is 0"),
        ] {
            let error = schedule.sigmas(steps).unwrap_err();
            assert!(matches!(error, Error::Input(_)), "{error}");
            assert!(error.to_string().contains(reason), "{reason}: {error}");
        }
        assert!(check(&[]).is_err());
        assert!(check(&[1.0]).is_err());
    }

    proptest! {
        #[test]
        fn sensible_rules_always_give_a_valid_schedule(steps in 1_usize..200, ln_shift in -3.0..3.0_f64) {
            let shift = ln_shift.exp();
            for schedule in [
                Schedule::StaticShift { shift },
                Schedule::DiffusersStatic { shift },
                Schedule::Dynamic { mu: ln_shift },
            ] {
                let sigmas = schedule.sigmas(steps).unwrap();
                prop_assert_eq!(sigmas.len(), steps + 1);
                prop_assert!(sigmas.iter().all(|sigma| (0.0..=1.0).contains(sigma)));
            }
        }
    }
}

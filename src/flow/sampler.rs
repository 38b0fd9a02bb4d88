//! Samplers as tables: every sampler has the form `x' = a·x + b·v + s·ε`, ε ~ N(0, I).
//!
//! A sampler is therefore a pure function from a schedule to rows (a, b, s), and one kernel
//! executes them all. The mean of a transition is affine in the velocity and its standard deviation
//! does not depend on the network: this is why the KL divergence between two policies is exact and
//! costs nothing (see [`crate::flow::objective`]).

use std::f64::consts::FRAC_PI_2;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

use crate::error::{Error, Result};
use crate::flow::schedule;

/// Below this exploration strength a step counts as deterministic: a density with such a small
/// standard deviation would divide by its square.
pub const DETERMINISTIC_ETA: f64 = 1e-7;

/// Transitions with κ above this are not trained on: their standard deviation is so small that the KL, which divides by
/// its square, no longer measures how much the image changes. The usual steps have κ from 1e-3 to 1; CPS at a step to
/// σ' = 0.009, where a doubly shifted schedule ends, has 590.
pub const LARGEST_KAPPA: f64 = 100.0;

/// Exploration strength: one for all steps, or one for each step of a trajectory.
#[derive(Clone, Debug, PartialEq, serde::Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Eta {
    /// The same at every step.
    All(f64),
    /// One per step.
    Each(Vec<f64>),
}

impl Eta {
    /// The strength at a step; 0, deterministic, beyond the end of a list.
    pub fn at(&self, step: usize) -> f64 {
        match self {
            Self::All(eta) => *eta,
            Self::Each(etas) => etas.get(step).copied().unwrap_or(0.0),
        }
    }
}

// By hand, since serde's error for an untagged enum does not say what was expected.
impl<'de> Deserialize<'de> for Eta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct NumberOrList;

        impl<'de> Visitor<'de> for NumberOrList {
            type Value = Eta;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number, or a list with one number per step")
            }

            fn visit_f64<E: de::Error>(self, eta: f64) -> std::result::Result<Eta, E> {
                Ok(Eta::All(eta))
            }

            fn visit_i64<E: de::Error>(self, eta: i64) -> std::result::Result<Eta, E> {
                Ok(Eta::All(eta as f64))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Eta, A::Error> {
                let mut etas = Vec::new();
                while let Some(eta) = list.next_element()? {
                    etas.push(eta);
                }
                Ok(Eta::Each(etas))
            }
        }

        deserializer.deserialize_any(NumberOrList)
    }
}

/// How to step from σ to σ'. η (`eta`) is the exploration strength, dt = σ' − σ < 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Sampler {
    /// Euler's method on the probability-flow ODE, for evaluation: ignores η, has no density.
    Ode,
    /// Flow-GRPO (arXiv 2505.05470): Euler–Maruyama on the SDE with the ODE's marginals and
    /// diffusion `g = η·√(σ/(1−σ))`. Usual η is 0.7. Injects more noise than the schedule has.
    FlowSde,
    /// DanceGRPO (arXiv 2505.07818): the same discretisation with constant diffusion `g = η`.
    Dance,
    /// Flow-CPS (coefficients-preserving sampling, arXiv 2509.05952): re-mixes the predicted data
    /// and noise at level σ', and replaces part of the noise by fresh noise; the total stays at
    /// level σ'. Needs η ≤ 1, at which all of the noise is fresh.
    Cps,
    /// Precise (arXiv 2605.23522): the exact finite-step transition of Flow-GRPO's SDE with the
    /// predicted data held fixed. Usual η is 1.5. In the first step, from σ = 1, all of the
    /// noise is fresh, whatever η is.
    Precise,
    /// Precise's transition for DanceGRPO's SDE. Usual η is 0.3.
    DancePrecise,
}

/// One transition: `mean = a·x + b·v`, `x' = mean + s·ε`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Transition {
    /// The weight of the latent.
    pub a: f64,
    /// The weight of the velocity; negative, since σ falls.
    pub b: f64,
    /// The standard deviation of the whole transition, any √(−dt) included; 0 if deterministic.
    pub s: f64,
}

impl Transition {
    /// κ = b² / (2s²): turns a squared velocity difference into a KL divergence; ∞ if `s` is 0.
    pub fn kappa(self) -> f64 {
        let slope = self.b / self.s;
        0.5 * slope * slope
    }

    /// Whether the transition has a density.
    pub fn has_density(self) -> bool {
        self.s > 0.0
    }
}

impl Sampler {
    /// Whether η > 0 makes the sampler random.
    pub fn is_stochastic(self) -> bool {
        self != Self::Ode
    }

    /// The transition from `sigma` to `sigma_next` with strength `eta`, unchecked.
    ///
    /// `sigma_max` is the schedule's second point σ_1. It stands in for σ where Flow-SDE's
    /// diffusion divides by 1 − σ, which is 0 at the first step; no later σ exceeds it, so it has an
    /// effect only there.
    pub fn row(self, sigma: f64, sigma_next: f64, sigma_max: f64, eta: f64) -> Transition {
        let dt = sigma_next - sigma;
        if eta < DETERMINISTIC_ETA {
            return euler(dt);
        }
        match self {
            Self::Ode => euler(dt),
            Self::FlowSde => {
                let g_squared = eta * eta * sigma / (1.0 - sigma.min(sigma_max));
                euler_maruyama(sigma, dt, g_squared)
            }
            Self::Dance => euler_maruyama(sigma, dt, eta * eta),
            Self::Cps => {
                let (fresh, kept) = (eta * FRAC_PI_2).sin_cos();
                remix(sigma, sigma_next, kept, fresh)
            }
            Self::Precise => {
                let q = sigma_next * (1.0 - sigma) / (sigma * (1.0 - sigma_next));
                let (kept, fresh) = decayed(-eta * eta * q.ln());
                remix(sigma, sigma_next, kept, fresh)
            }
            Self::DancePrecise => {
                let inverse = |sigma: f64| sigma.max(1e-6).recip();
                let (kept, fresh) = decayed(eta * eta * (inverse(sigma_next) - inverse(sigma)));
                remix(sigma, sigma_next, kept, fresh)
            }
        }
    }

    /// The rows of a whole trajectory; `eta(k)` is the strength at step k, 0 where it is
    /// deterministic.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] for points that are not a schedule, and for an η that is negative, not finite,
    /// or above 1 with [`Sampler::Cps`].
    pub fn table(self, sigmas: &[f64], eta: impl Fn(usize) -> f64) -> Result<Vec<Transition>> {
        schedule::check(sigmas)?;
        let sigma_max = sigmas[1];
        sigmas
            .windows(2)
            .enumerate()
            .map(|(k, pair)| {
                let eta = eta(k);
                self.check_eta(eta).map_err(|reason| Error::input(format!("eta is {eta} at step {k}: {reason}")))?;
                Ok(self.row(pair[0], pair[1], sigma_max, eta))
            })
            .collect()
    }

    fn check_eta(self, eta: f64) -> std::result::Result<(), &'static str> {
        if !eta.is_finite() || eta < 0.0 {
            return Err("it must be a finite number, 0 (deterministic) or more");
        }
        if self == Self::Cps && eta > 1.0 {
            return Err("CPS allows at most 1, where all of the noise is replaced by fresh noise");
        }
        Ok(())
    }
}

fn euler(dt: f64) -> Transition {
    Transition { a: 1.0, b: dt, s: 0.0 }
}

/// One Euler–Maruyama step of `dx = [v + g²/(2σ)·(x + (1−σ)v)] dσ + g dw`: the reverse-time SDE
/// that has the ODE's marginals, since x + (1−σ)v is the predicted noise, and −1/σ of that the
/// score.
fn euler_maruyama(sigma: f64, dt: f64, g_squared: f64) -> Transition {
    let pull = g_squared / (2.0 * sigma);
    Transition { a: 1.0 + pull * dt, b: (1.0 + pull * (1.0 - sigma)) * dt, s: (g_squared * -dt).sqrt() }
}

/// Recombines the predicted data x − σv and the predicted noise x + (1−σ)v at level σ',
/// where the noise is `kept` of the predicted and `fresh` of new noise, and `kept² + fresh² = 1`.
fn remix(sigma: f64, sigma_next: f64, kept: f64, fresh: f64) -> Transition {
    let (data, noise) = (1.0 - sigma_next, sigma_next * kept);
    Transition { a: data + noise, b: -sigma * data + (1.0 - sigma) * noise, s: sigma_next * fresh }
}

/// The shares (kept, fresh) of the noise when its correlation decays as exp(−x/2); `exp_m1` keeps
/// the digits of a small x, and an infinite x gives (0, 1).
fn decayed(x: f64) -> (f64, f64) {
    ((-0.5 * x).exp(), (-(-x).exp_m1()).sqrt())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use proptest::prelude::*;

    use super::*;
    use crate::flow::schedule::Schedule;

    fn all() -> &'static [Sampler] {
        Sampler::value_variants()
    }

    #[test]
    fn only_the_first_flow_sde_step_is_clamped() {
        let sigmas = Schedule::StaticShift { shift: 3.0 }.sigmas(10).unwrap();
        let rows = Sampler::FlowSde.table(&sigmas, |_| 0.7).unwrap();
        // dt = σ_1 − 1 cancels the clamped 1/(1−σ_1): the first standard deviation is η itself, and
        // the first `b` has no correction since its factor 1 − σ is exactly 0.
        assert!((rows[0].s - 0.7).abs() < 1e-15);
        assert!((rows[0].a - (1.0 - 0.7 * 0.7 / 2.0)).abs() < 1e-15);
        assert_eq!(rows[0].b, sigmas[1] - 1.0);
        // From the second step on: b = (1 + η²/2)·dt.
        for (k, row) in rows.iter().enumerate().skip(1) {
            let dt = sigmas[k + 1] - sigmas[k];
            assert!((row.b - 1.245 * dt).abs() < 1e-15, "step {k}");
        }
    }

    #[test]
    fn no_exploration_is_euler_for_every_sampler() {
        let sigmas = Schedule::StaticShift { shift: 3.0 }.sigmas(5).unwrap();
        let ode = Sampler::Ode.table(&sigmas, |_| 0.7).unwrap();
        for sampler in all() {
            assert_eq!(sampler.table(&sigmas, |_| 0.0).unwrap(), ode);
            assert_eq!(sampler.table(&sigmas, |_| 9e-8).unwrap(), ode);
            let mixed = sampler.table(&sigmas, |k| if k == 1 { 0.3 } else { 0.0 });
            for (k, row) in mixed.unwrap().iter().enumerate() {
                assert_eq!(row.has_density(), k == 1 && sampler.is_stochastic());
            }
        }
        assert!(ode.iter().all(|row| row.kappa().is_infinite()));
    }

    #[test]
    fn the_last_step_is_random_only_where_the_noise_level_is_not_kept() {
        let sigmas = Schedule::StaticShift { shift: 3.0 }.sigmas(4).unwrap();
        for sampler in all() {
            let last = sampler.table(&sigmas, |_| 0.7).unwrap()[3];
            let euler_maruyama = matches!(sampler, Sampler::FlowSde | Sampler::Dance);
            assert_eq!(last.has_density(), euler_maruyama, "{sampler:?}");
            assert!(last.a.is_finite() && last.b.is_finite(), "{sampler:?}");
        }
    }

    #[test]
    fn cps_and_precise_forget_all_noise_at_their_extremes() {
        let cps = Sampler::Cps.row(0.8, 0.5, 0.9, 1.0);
        assert!((cps.s - 0.5).abs() < 1e-15 && (cps.a - 0.5).abs() < 1e-15);
        let precise = Sampler::Precise.row(1.0, 0.9, 0.9, 0.01);
        assert_eq!(precise.s, 0.9);
        assert!((precise.a - 0.1).abs() < 1e-15 && (precise.b + 0.1).abs() < 1e-15);
    }

    #[test]
    fn bad_strengths_are_rejected_with_the_reason() {
        let sigmas = [1.0, 0.5, 0.0];
        for (sampler, eta, reason) in [
            (Sampler::Cps, 1.01, "CPS allows at most 1"),
            (Sampler::FlowSde, -0.1, "eta is -0.1 at step 1"),
            (Sampler::Ode, f64::NAN, "finite"),
            (Sampler::Dance, f64::INFINITY, "finite"),
        ] {
            let table = sampler.table(&sigmas, |k| if k == 1 { eta } else { 0.5 });
            let error = table.unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(Sampler::Cps.table(&sigmas, |_| 1.0).is_ok());
        assert!(Sampler::Precise.table(&sigmas, |_| 1.5).is_ok());
        assert!(Sampler::Ode.table(&[1.0], |_| 0.0).is_err());
    }

    #[test]
    fn names_are_the_same_on_the_command_line_and_in_files() {
        for sampler in all() {
            let name = sampler.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(serde_json::to_value(sampler).unwrap(), name);
        }
    }

    proptest! {
        /// With the true velocity of one data point, the noise level after a step must be σ'
        /// exactly: a·σ + b·(dv/dnoise = 1) for the old noise and s for the fresh one.
        #[test]
        fn mixing_samplers_keep_the_noise_level(
            sigma in 0.02..1.0_f64, share in 0.0..0.99_f64, eta in 1e-3..1.0_f64,
        ) {
            let sigma_next = sigma * share;
            for sampler in [Sampler::Cps, Sampler::Precise, Sampler::DancePrecise] {
                let row = sampler.row(sigma, sigma_next, 1.0, eta);
                let data = row.a * (1.0 - sigma) - row.b;
                let noise = (row.a * sigma + row.b).hypot(row.s);
                prop_assert!((data - (1.0 - sigma_next)).abs() < 1e-13, "{:?}", sampler);
                prop_assert!((noise - sigma_next).abs() < 1e-13, "{:?}", sampler);
                prop_assert!(row.b < 0.0);
            }
        }
    }
}

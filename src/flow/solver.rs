//! Solvers of the probability-flow ODE as tables, for samples that are not trained on.
//!
//! With the predicted data x̂ = x − σ·v and the predicted data ŷ of the step before, a step is affine:
//! `x' = a·x + b·v + c·ŷ`. So the kernel of [`crate::flow::sampler`] executes these rows too, with ŷ in
//! place of the noise; x̂ itself is the row (1, −σ, 0).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::flow::schedule;

/// How deterministic steps are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Solver {
    /// Euler's method, of first order: halving the steps halves the error.
    #[default]
    #[serde(rename = "euler")]
    Euler,
    /// DPM-Solver++(2M) (arXiv 2211.01095), of second order at the same cost: it extrapolates the current
    /// and the previous predicted data. Halving the steps quarters the error.
    #[serde(rename = "dpm-solver++")]
    #[cfg_attr(feature = "cli", value(name = "dpm-solver++"))]
    DpmSolverPlusPlus,
}

/// One step: `x' = a·x + b·v + c·(the data predicted one step before)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MultistepRow {
    /// The weight of the latent.
    pub a: f64,
    /// The weight of the velocity.
    pub b: f64,
    /// The weight of the data predicted at the previous step; 0 at the first step.
    pub c: f64,
}

impl Solver {
    /// Whether a step needs the data predicted at the previous step.
    pub fn has_history(self) -> bool {
        self == Self::DpmSolverPlusPlus
    }

    /// The rows of a whole trajectory.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Input`] for points that are not a schedule.
    pub fn table(self, sigmas: &[f64]) -> Result<Vec<MultistepRow>> {
        schedule::check(sigmas)?;
        let before = |k: usize| k.checked_sub(1).map(|k| sigmas[k]);
        Ok((0..sigmas.len() - 1)
            .map(|k| {
                let (sigma, sigma_next) = (sigmas[k], sigmas[k + 1]);
                match (self, before(k)) {
                    (Self::DpmSolverPlusPlus, Some(sigma_before)) => second_order(sigma_before, sigma, sigma_next),
                    _ => MultistepRow { a: 1.0, b: sigma_next - sigma, c: 0.0 },
                }
            })
            .collect())
    }
}

/// `x' = (σ'/σ)·x + (1 − σ'/σ)·((1 + w)·x̂ − w·ŷ)`: exact if the predicted data were constant (w = 0,
/// which is Euler's step), of second order with w = h'/2h, where h and h' are the lengths of the last and
/// of this step in λ = ln((1−σ)/σ), half the logarithm of the signal-to-noise ratio.
///
/// λ is infinite at both ends of a schedule: the second step and the last one are of first order. Their
/// error is that of only two steps, so the whole trajectory is of second order.
fn second_order(sigma_before: f64, sigma: f64, sigma_next: f64) -> MultistepRow {
    let lambda = |sigma: f64| ((1.0 - sigma) / sigma).ln();
    let (last, this) = (lambda(sigma) - lambda(sigma_before), lambda(sigma_next) - lambda(sigma));
    let w = if last.is_finite() && this.is_finite() { 0.5 * this / last } else { 0.0 };
    let kept = sigma_next / sigma;
    let m = (1.0 - kept) * (1.0 + w);
    MultistepRow { a: kept + m, b: -sigma * m, c: -(1.0 - kept) * w }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::FRAC_PI_2;

    use super::*;
    use crate::flow::schedule::Schedule;

    /// Data from N(m, τ²) have a linear velocity, so the ODE has a closed-form solution.
    const M: f64 = 0.4;
    const TAU: f64 = 0.3;

    fn variance(sigma: f64) -> f64 {
        ((1.0 - sigma) * TAU).powi(2) + sigma * sigma
    }

    fn velocity(x: f64, sigma: f64) -> f64 {
        let slope = (sigma - (1.0 - sigma) * TAU * TAU) / variance(sigma);
        slope * (x - (1.0 - sigma) * M) - M
    }

    /// Error at σ = 0 of a trajectory from x = 1.3, whose exact end is m + τ·x.
    fn error(solver: Solver, schedule: &Schedule, steps: usize) -> f64 {
        let sigmas = schedule.sigmas(steps).unwrap();
        let (mut x, mut data) = (1.3, f64::NAN);
        for (row, sigma) in solver.table(&sigmas).unwrap().iter().zip(&sigmas) {
            let v = velocity(x, *sigma);
            let history = if row.c == 0.0 { 0.0 } else { row.c * data };
            data = x - sigma * v;
            x = row.a * x + row.b * v + history;
        }
        (x - (M + TAU * 1.3)).abs()
    }

    /// Ratios of the errors when the steps are doubled, from 160 to 1280.
    fn ratios(solver: Solver, schedule: &dyn Fn(usize) -> Schedule) -> Vec<f64> {
        let errors = [160, 320, 640, 1280].map(|steps| error(solver, &schedule(steps), steps));
        errors.windows(2).map(|pair| pair[0] / pair[1]).collect()
    }

    #[test]
    fn the_errors_fall_with_the_order_of_the_solver() {
        // Fine at both ends, where λ is infinite.
        let cosine = |steps: usize| {
            let sigma = |k: usize| (FRAC_PI_2 * (steps - k) as f64 / steps as f64).sin().powi(2);
            Schedule::Explicit { sigmas: (0..=steps).map(sigma).collect() }
        };
        let linear = |_: usize| Schedule::default();
        for (solver, factor) in [(Solver::Euler, 2.0), (Solver::DpmSolverPlusPlus, 4.0)] {
            let found = ratios(solver, &cosine);
            // The next order contributes a few percent at 160 steps.
            assert!(found.iter().all(|ratio| (ratio / factor - 1.0).abs() < 0.06), "{solver:?}: {found:?}");
        }
        assert!(ratios(Solver::Euler, &linear).iter().all(|ratio| (ratio - 2.0).abs() < 0.02));
        // At the ends of a linear schedule the length of a step in λ does not shrink with it: the error of step
        // k from the end is h²/k, and the sum of them has a logarithm.
        let found = ratios(Solver::DpmSolverPlusPlus, &linear);
        assert!(found.is_sorted() && found[0] > 3.2 && found[2] < 4.0, "{found:?}");
        let [euler, second] = [Solver::Euler, Solver::DpmSolverPlusPlus].map(|solver| error(solver, &linear(20), 20));
        assert!(second < 0.1 * euler, "{second} {euler}");
    }

    #[test]
    fn the_first_second_and_last_steps_are_eulers() {
        let sigmas = Schedule::default().sigmas(4).unwrap();
        let euler = Solver::Euler.table(&sigmas).unwrap();
        let found = Solver::DpmSolverPlusPlus.table(&sigmas).unwrap();
        for (k, (row, euler)) in found.iter().zip(&euler).enumerate() {
            let same = (row.a - euler.a).abs() < 1e-15 && (row.b - euler.b).abs() < 1e-15 && row.c == 0.0;
            assert_eq!(same, k != 2, "step {k}: {row:?} {euler:?}");
        }
        assert_eq!(Solver::DpmSolverPlusPlus.table(&[1.0, 0.0]).unwrap()[0], MultistepRow { a: 1.0, b: -1.0, c: 0.0 });
    }

    #[test]
    fn constant_data_are_reached_exactly() {
        // x̂ does not depend on the step, so no history may change it.
        let sigmas = Schedule::default().sigmas(7).unwrap();
        let mut x: f64 = 1.0;
        for (row, sigma) in Solver::DpmSolverPlusPlus.table(&sigmas).unwrap().iter().zip(&sigmas) {
            x = row.a * x + row.b * (x - 0.25) / sigma + row.c * 0.25;
        }
        assert!((x - 0.25).abs() < 1e-15, "{x}");
    }
}

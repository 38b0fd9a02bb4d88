//! DiffusionNFT (arXiv 2509.16117): learning from samples on the forward process, without densities.
//!
//! A policy gradient asks which *steps* made a sample good. DiffusionNFT asks only for the sample: it puts
//! noise on it, as pretraining does, and trains the network towards the good samples and away from the bad
//! ones. With the old velocity v_old (of the averaged weights, which also drew the samples), the new one v
//! and the velocity u = ε − x_data that leads back to the sample, there is an implicit positive and an
//! implicit negative policy on either side of the old one:
//!
//! ```text
//! v⁺ = v_old + β·(v − v_old)          v⁻ = v_old − β·(v − v_old)
//! ```
//!
//! Each predicts the sample with an error t·(u − v^±) at time t = σ. The positive policy is pulled to the
//! sample with the weight r, the negative one with 1 − r, where r in \[0, 1\] is the advantage as a
//! probability; and each error is divided by its own mean size w, so that all times count alike:
//!
//! ```text
//! r = clamp(A/(2c) + ½, 0, 1)          w^± = max(t·mean|u − v^±|, 1e-5)
//! L = c/β · t²·( r·mean(u − v⁺)²/w⁺ + (1−r)·mean(u − v⁻)²/w⁻ )
//! ```
//!
//! c is the advantages' clip, and w is held constant, so with p = 2c·t²·r/(D·w⁺) and q the same of the
//! negative policy
//!
//! ```text
//! ∂L/∂v = q·(u − v⁻) − p·(u − v⁺)
//! ```

/// Lower bound of w, which the errors are divided by.
pub const SMALLEST_WEIGHT: f64 = 1e-5;

/// The sums over the D elements of a sample that determine the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Σ |u − v⁺| and Σ |u − v⁻|.
    pub absolute: [f64; 2],
    /// Σ (u − v⁺)² and Σ (u − v⁻)².
    pub squared: [f64; 2],
}

/// The loss and its gradient factors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NftOutcome {
    /// L.
    pub loss: f64,
    /// r, the advantage as a probability.
    pub share: f64,
    /// p.
    pub pull_positive: f64,
    /// q.
    pub pull_negative: f64,
}

/// The velocities v⁺ and v⁻.
pub fn mixed(v: f64, v_old: f64, beta: f64) -> [f64; 2] {
    [v_old + beta * (v - v_old), v_old - beta * (v - v_old)]
}

/// Loss and gradient factors of a sample of `dim` elements at time `t`.
pub fn evaluate(sums: Sums, dim: usize, t: f64, advantage: f64, beta: f64, clip: f64) -> NftOutcome {
    let dim = dim as f64;
    let r = (advantage / (2.0 * clip) + 0.5).clamp(0.0, 1.0);
    let weight = |absolute: f64| (t * absolute / dim).max(SMALLEST_WEIGHT);
    let pull = |share: f64, absolute: f64| clip * t * t * share / (dim * weight(absolute));
    let [positive, negative] = [pull(r, sums.absolute[0]), pull(1.0 - r, sums.absolute[1])];
    NftOutcome {
        loss: (positive * sums.squared[0] + negative * sums.squared[1]) / beta,
        share: r,
        pull_positive: 2.0 * positive,
        pull_negative: 2.0 * negative,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V_OLD: [f64; 3] = [0.2, -0.4, 1.1];
    const U: [f64; 3] = [0.5, 0.3, -0.2];
    const BETA: f64 = 0.7;

    /// Errors of the positive and of the negative policy.
    fn errors(v: &[f64; 3]) -> [[f64; 2]; 3] {
        std::array::from_fn(|j| mixed(v[j], V_OLD[j], BETA).map(|mixed| U[j] - mixed))
    }

    fn sums(v: &[f64; 3]) -> Sums {
        let of = |size: fn(f64) -> f64| [0, 1].map(|side| errors(v).iter().map(|error| size(error[side])).sum());
        Sums { absolute: of(f64::abs), squared: of(|error| error * error) }
    }

    #[test]
    fn the_gradient_matches_the_loss_with_constant_weights() {
        let v = [0.4, -0.1, 0.6];
        for advantage in [-9.0, -2.0, 0.0, 3.0, 9.0] {
            let outcome = evaluate(sums(&v), 3, 0.6, advantage, BETA, 5.0);
            let loss = |v: &[f64; 3]| {
                // The sizes w of v, the squares of its neighbour.
                let moved = Sums { absolute: sums(&[0.4, -0.1, 0.6]).absolute, ..sums(v) };
                evaluate(moved, 3, 0.6, advantage, BETA, 5.0).loss
            };
            for j in 0..3 {
                let at = |step: f64| {
                    let mut moved = v;
                    moved[j] += step;
                    loss(&moved)
                };
                let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
                let [plus, minus] = errors(&v)[j];
                let gradient = outcome.pull_negative * minus - outcome.pull_positive * plus;
                // A quadratic has no truncation error; the rest is rounding.
                assert!((difference - gradient).abs() < 1e-9, "{advantage}: {difference} {gradient}");
            }
        }
    }

    #[test]
    fn an_extreme_advantage_trains_only_one_policy() {
        let of = |advantage| evaluate(sums(&[0.4, -0.1, 0.6]), 3, 0.6, advantage, BETA, 5.0);
        let (best, worst, even) = (of(5.0), of(-5.0), of(0.0));
        assert_eq!((best.share, best.pull_negative), (1.0, 0.0));
        assert_eq!((worst.share, worst.pull_positive), (0.0, 0.0));
        assert_eq!(even.share, 0.5);
        assert_eq!(of(50.0), best);
    }
}

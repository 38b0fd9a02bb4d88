//! Advantages: how much better a sample is than its siblings, the samples of the same prompt.
//!
//! A group of G samples of one prompt is its own baseline, so no value network is needed (GRPO,
//! arXiv 2402.03300). What a reward's distance from the group's mean is divided by differs between
//! implementations; each rule here has its own name so that published runs can be reproduced.

pub use crate::config::AdvantageKind;
use crate::error::{Error, Result};

/// The advantages of a rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Advantages {
    /// One number per sample, in the order of the rewards.
    pub values: Vec<f64>,
    /// Number of groups whose samples all score the same (std ≤ 1e-8), from which nothing can be learned.
    pub zero_spread_groups: usize,
}

/// A group whose scores have at most this standard deviation has no spread.
const NO_SPREAD: f64 = 1e-8;

impl AdvantageKind {
    /// The advantages of a whole rollout; to be called before it is split into mini-batches.
    ///
    /// `rewards[c][i]` is component c of sample i, `weights[c]` its weight, and siblings are next
    /// to each other: samples 0 to `group_size` − 1 are the first group. Components are combined by
    /// weighted sum (before the rule, except for [`AdvantageKind::Gdpo`]), and `clip` bounds the
    /// result to ±clip.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] names sample and component of a reward that is not finite: such a value
    /// would corrupt the advantages of all other samples. [`Error::Input`] for weights, a group size
    /// or a clip that are out of range or inconsistent.
    pub fn advantages(
        self,
        rewards: &[Vec<f64>],
        weights: &[f64],
        group_size: usize,
        clip: Option<f64>,
    ) -> Result<Advantages> {
        self.check(rewards, weights, group_size, clip)?;
        let scores = if self == Self::Gdpo {
            let normalised: Vec<_> =
                rewards.iter().map(|component| Self::FlowFactoryGroup.rule().apply(component, group_size)).collect();
            weighted_sum(&normalised, weights)
        } else {
            weighted_sum(rewards, weights)
        };
        let mut values = self.rule().apply(&scores, group_size);
        if let Some(i) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::failed(format!(
                "the advantage of sample {i} is {}: its rewards are too large to be squared; reduce the \
                 rewards or their weights",
                values[i]
            )));
        }
        if let Some(clip) = clip {
            for value in &mut values {
                *value = value.clamp(-clip, clip);
            }
        }
        let zero_spread_groups =
            scores.chunks(group_size).filter(|group| Moments::of(group).variance().sqrt() <= NO_SPREAD).count();
        Ok(Advantages { values, zero_spread_groups })
    }

    fn rule(self) -> Rule {
        use {Divisor as D, Scope::Batch, Scope::Group};
        let (mean, std, divisor) = match self {
            Self::GroupStd => (Group, Group, D::RootOfSum(1e-8)),
            Self::GlobalStd => (Group, Batch, D::UnbiasedPlus(1e-8)),
            Self::GlobalScope => (Batch, Batch, D::UnbiasedPlus(1e-8)),
            Self::FlowGrpoGroup => (Group, Group, D::Plus(1e-4)),
            Self::FlowGrpoGlobal => (Group, Batch, D::Plus(1e-4)),
            Self::FlowFactoryGroup => (Group, Group, D::AtLeast(1e-6)),
            Self::FlowFactoryGlobal => (Group, Batch, D::AtLeast(1e-6)),
            Self::Gdpo => (Batch, Batch, D::AtLeast(1e-6)),
            Self::VerlOmni => (Group, Group, D::UnbiasedPlus(1e-4)),
        };
        Rule { mean, std, divisor }
    }

    fn check(self, rewards: &[Vec<f64>], weights: &[f64], group_size: usize, clip: Option<f64>) -> Result<()> {
        if rewards.is_empty() || rewards.len() != weights.len() {
            return Err(Error::input(format!(
                "there are {} reward components but {} weights; give at least one component, and each component a \
                 weight",
                rewards.len(),
                weights.len()
            )));
        }
        if let Some(c) = weights.iter().position(|weight| !weight.is_finite()) {
            return Err(Error::input(format!(
                "the weight of reward component {c} is {}, but must be a finite number",
                weights[c]
            )));
        }
        let samples = rewards[0].len();
        if let Some(c) = rewards.iter().position(|component| component.len() != samples) {
            return Err(Error::failed(format!(
                "reward component {c} has {} samples, but component 0 has {samples}",
                rewards[c].len()
            )));
        }
        // A group of one has no siblings: its advantage would be 0 whatever its reward.
        let smallest = if self == Self::GlobalScope { 1 } else { 2 };
        if group_size < smallest || samples == 0 || !samples.is_multiple_of(group_size) {
            return Err(Error::input(format!(
                "{samples} samples cannot be divided into groups of {group_size}; samples must be a \
                 positive multiple of the group size, which must be at least {smallest}"
            )));
        }
        if let Some(clip) = clip.filter(|clip| clip.is_nan() || *clip <= 0.0) {
            return Err(Error::input(format!("the advantage clip is {clip}, but must be above 0 (5 is usual)")));
        }
        for (c, component) in rewards.iter().enumerate() {
            if let Some(i) = component.iter().position(|reward| !reward.is_finite()) {
                return Err(Error::failed(format!(
                    "reward component {c} of sample {i} is {}, but must be a finite number; correct \
                     the reward, since one such value corrupts the whole rollout",
                    component[i]
                )));
            }
        }
        Ok(())
    }
}

/// `(score − mean of a scope) / divisor from the std of a scope`.
struct Rule {
    mean: Scope,
    std: Scope,
    divisor: Divisor,
}

enum Scope {
    Group,
    Batch,
}

/// How a small number is added to avoid a division by 0.
enum Divisor {
    /// √(variance + x)
    RootOfSum(f64),
    /// std + x
    Plus(f64),
    /// unbiased std + x
    UnbiasedPlus(f64),
    /// max(std, x)
    AtLeast(f64),
}

impl Rule {
    fn apply(&self, scores: &[f64], group_size: usize) -> Vec<f64> {
        let batch = Moments::of(scores);
        let mut values = Vec::with_capacity(scores.len());
        for group in scores.chunks(group_size) {
            let own = Moments::of(group);
            let pick = |scope: &Scope| match scope {
                Scope::Group => own,
                Scope::Batch => batch,
            };
            let mean = pick(&self.mean).mean;
            let divisor = self.divisor.of(pick(&self.std));
            values.extend(group.iter().map(|score| (score - mean) / divisor));
        }
        values
    }
}

impl Divisor {
    fn of(&self, moments: Moments) -> f64 {
        match *self {
            Self::RootOfSum(x) => (moments.variance() + x).sqrt(),
            Self::Plus(x) => moments.variance().sqrt() + x,
            Self::UnbiasedPlus(x) => moments.unbiased_variance().sqrt() + x,
            Self::AtLeast(x) => moments.variance().sqrt().max(x),
        }
    }
}

#[derive(Clone, Copy)]
struct Moments {
    count: f64,
    mean: f64,
    sum_of_squares: f64,
}

impl Moments {
    fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        // The mean as a distance from the first value: equal values then have exactly that mean,
        // and advantages of exactly 0. A rounding error instead would be a gradient, which Adam
        // scales up.
        let origin = values[0];
        let mean = origin + values.iter().map(|x| x - origin).sum::<f64>() / count;
        let sum_of_squares = values.iter().map(|x| (x - mean) * (x - mean)).sum();
        Self { count, mean, sum_of_squares }
    }

    fn variance(self) -> f64 {
        self.sum_of_squares / self.count
    }

    /// With n − 1 in the denominator; 0 for a single value, which says nothing about spread.
    fn unbiased_variance(self) -> f64 {
        self.sum_of_squares / (self.count - 1.0).max(1.0)
    }
}

fn weighted_sum(components: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; components[0].len()];
    for (component, weight) in components.iter().zip(weights) {
        for (total, value) in sum.iter_mut().zip(component) {
            *total += weight * value;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    fn single(kind: AdvantageKind, rewards: &[f64], group_size: usize) -> Advantages {
        kind.advantages(&[rewards.to_vec()], &[1.0], group_size, None).unwrap()
    }

    #[test]
    fn the_default_is_the_global_std() {
        assert_eq!(AdvantageKind::default(), AdvantageKind::GlobalStd);
    }

    #[test]
    fn verl_omni_divides_by_the_unbiased_group_std() {
        // Group 1, 3: mean 2, unbiased std √2. Group 0, 8: mean 4, unbiased std √32.
        let got = single(AdvantageKind::VerlOmni, &[1.0, 3.0, 0.0, 8.0], 2).values;
        let (small, large) = (1.0 / (2_f64.sqrt() + 1e-4), 4.0 / (32_f64.sqrt() + 1e-4));
        for (got, expected) in got.iter().zip([-small, small, -large, large]) {
            assert!((got - expected).abs() < 1e-15, "{got} {expected}");
        }
    }

    #[test]
    fn the_floored_group_rule_divides_by_the_group_std() {
        let got = single(AdvantageKind::FlowFactoryGroup, &[1.0, 3.0, 0.0, 8.0], 2).values;
        assert_eq!(got, [-1.0, 1.0, -1.0, 1.0]);
        // Below the floor, 1e-6 divides.
        let got = single(AdvantageKind::FlowFactoryGroup, &[0.0, 2e-9], 2);
        assert!((got.values[1] - 1e-3).abs() < 1e-15);
        assert_eq!(got.zero_spread_groups, 1);
    }

    #[test]
    fn equal_rewards_have_exactly_no_advantage() {
        // 0.1 summed three times and divided by three is not 0.1.
        for &kind in AdvantageKind::value_variants() {
            let got = single(kind, &[0.1; 6], 3);
            assert_eq!(got.values, [0.0; 6], "{kind:?}");
            assert_eq!(got.zero_spread_groups, 2, "{kind:?}");
        }
        let mixed = single(AdvantageKind::GlobalStd, &[0.1, 0.1, 0.1, 0.2, 0.3, 0.4], 3);
        assert_eq!(mixed.values[..3], [0.0; 3]);
        assert_eq!(mixed.zero_spread_groups, 1);
    }

    #[test]
    fn weights_and_clip_apply() {
        let rewards = [vec![1.0, 2.0, 3.0, 4.0], vec![9.0, 2.0, 7.0, 1.0]];
        let kind = AdvantageKind::GlobalScope;
        let second = kind.advantages(&rewards, &[0.0, 2.0], 2, None).unwrap();
        let twice: Vec<_> = rewards[1].iter().map(|r| 2.0 * r).collect();
        assert_eq!(second, single(kind, &twice, 2));

        let clipped = kind.advantages(&rewards, &[0.0, 2.0], 2, Some(0.5)).unwrap();
        for (clipped, full) in clipped.values.iter().zip(&second.values) {
            assert_eq!(*clipped, full.clamp(-0.5, 0.5));
        }
        assert!(second.values.iter().any(|value| value.abs() > 0.5));
    }

    #[test]
    fn gdpo_is_blind_to_the_scale_of_a_component_and_a_sum_is_not() {
        let first = vec![1.0, 2.0, 4.0, 3.0, 1.0, 2.0];
        let second = vec![0.3, 0.1, 0.2, 0.5, 0.9, 0.6];
        let scaled: Vec<_> = second.iter().map(|r| 1000.0 * r).collect();
        let both = |kind: AdvantageKind, other: &Vec<f64>| {
            kind.advantages(&[first.clone(), other.clone()], &[1.0, 1.0], 3, None).unwrap().values
        };
        let distance = |kind: AdvantageKind| {
            both(kind, &second).iter().zip(both(kind, &scaled)).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
        };
        assert!(distance(AdvantageKind::Gdpo) < 1e-12);
        assert!(distance(AdvantageKind::FlowFactoryGlobal) > 0.1);
    }

    #[test]
    fn non_finite_rewards_are_named() {
        for bad in [f64::NAN, f64::INFINITY] {
            let rewards = [vec![1.0; 4], vec![1.0, 2.0, bad, 3.0]];
            let result = AdvantageKind::Gdpo.advantages(&rewards, &[1.0, 0.0], 2, None);
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Failed(_)), "{error}");
            assert!(error.to_string().contains("component 1 of sample 2"), "{error}");
        }
        let huge = [vec![1e300, -1e300]];
        let result = AdvantageKind::GlobalStd.advantages(&huge, &[1e10], 2, None);
        assert!(matches!(result, Err(Error::Failed(_))), "{result:?}");
    }

    #[test]
    fn inconsistent_settings_are_rejected() {
        let kind = AdvantageKind::GlobalStd;
        let rewards = [vec![1.0, 2.0, 3.0, 4.0]];
        for (weights, group_size, clip, reason) in [
            (vec![], 2, None, "0 weights"),
            (vec![f64::NAN], 2, None, "weight of reward component 0"),
            (vec![1.0], 0, None, "groups of 0"),
            (vec![1.0], 1, None, "groups of 1"),
            (vec![1.0], 3, None, "groups of 3"),
            (vec![1.0], 2, Some(0.0), "clip is 0"),
            (vec![1.0], 2, Some(f64::NAN), "clip is NaN"),
        ] {
            let error = kind.advantages(&rewards, &weights, group_size, clip).unwrap_err();
            assert!(matches!(error, Error::Input(_)), "{error}");
            assert!(error.to_string().contains(reason), "{reason}: {error}");
        }
        assert!(kind.advantages(&[vec![]], &[1.0], 2, None).is_err());
        assert!(kind.advantages(&[vec![1.0; 4], vec![1.0; 2]], &[1.0; 2], 2, None).is_err());
    }
}

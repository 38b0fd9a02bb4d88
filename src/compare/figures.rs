//! The figures of a comparison, and their content.

use std::collections::BTreeMap;

use super::{Group, History, history};
use crate::flow::standard_ratio::LIMIT;
use crate::plot::{Axis, Chart, Scale, Series};

const ROLLOUTS: Axis = Axis { title: "rollouts", scale: Scale::Whole };
const REWARD: &str = "eval/reward_mean";
const BAND: &str = "Line: mean over seeds. Band: smallest to largest.";

/// Every figure with its file name.
pub(super) fn all(groups: &[Group]) -> Vec<(&'static str, Chart)> {
    let reward = Axis { title: "mean reward", scale: Scale::Linear };
    let chart = |title, subtitle, x, y, series: &dyn Fn(&Group) -> Series| Chart {
        title,
        subtitle,
        x,
        y,
        series: groups.iter().map(series).collect(),
    };
    let against_rollouts =
        |key: &'static str, mark_all| move |group: &Group| over_seeds(group, mark_all, |run| run.points(key));
    let against_drift = |key: &'static str| {
        move |group: &Group| {
            let threads = group.runs.iter().map(|run| joined(&run.points(key), &run.points(REWARD))).collect();
            let [drift, reward] = [key, REWARD].map(|key| over_seeds(group, false, |run| run.points(key)).line);
            Series {
                line: joined(&drift, &reward),
                threads: if group.runs.len() > 1 { threads } else { Vec::new() },
                mark_all: true,
                ..named(group)
            }
        }
    };
    let ends = "Evaluations during training; the large mark is the last. Thick: mean over seeds. Thin: single runs.";
    vec![
        (
            "reward",
            chart(
                "Reward on fixed seeds",
                "Evaluations. Line: mean over seeds. Band: smallest to largest.",
                ROLLOUTS,
                reward,
                &against_rollouts(REWARD, true),
            ),
        ),
        (
            "reward_drift",
            chart(
                "Reward against drift of the velocity",
                ends,
                Axis { title: "squared difference from the base's velocity, mean per element", scale: Scale::FromZero },
                reward,
                &against_drift("eval/drift.velocity_msd"),
            ),
        ),
        (
            "reward_kl",
            chart(
                "Reward against KL to the base",
                ends,
                Axis { title: "KL to the base, mean over steps [nats per element]", scale: Scale::FromZero },
                reward,
                &against_drift("eval/drift.kl_mean"),
            ),
        ),
        (
            "judge",
            chart(
                "Accuracy by the independent judge",
                "Evaluations. Line: mean over seeds. Band: smallest to largest.",
                ROLLOUTS,
                Axis { title: "share of samples recognised", scale: Scale::Linear },
                &against_rollouts("eval/judge_accuracy", true),
            ),
        ),
        (
            "masked",
            chart(
                "Terms dropped by mask or clipping",
                BAND,
                ROLLOUTS,
                Axis { title: "share of terms", scale: Scale::FromZero },
                &against_rollouts("masked_fraction", false),
            ),
        ),
        (
            "kl_by_step",
            chart(
                "KL within an iteration, by trained step",
                "Policy against that of the rollout, mean over iterations. Line: mean over seeds. Band: smallest to largest.",
                Axis { title: "step k of the trajectory (0 is pure noise)", scale: Scale::Whole },
                Axis { title: "KL [nats per element]", scale: Scale::Log },
                &|group| over_seeds(group, true, History::kl_by_step),
            ),
        ),
        (
            "rollout_reward",
            chart(
                "Reward of the rollouts",
                "Samples that training draws, with noise. Line: mean over seeds. Band: smallest to largest.",
                ROLLOUTS,
                reward,
                &against_rollouts("reward_mean", false),
            ),
        ),
        ("ratio_law", ratio_law(groups)),
    ]
}

/// The distribution of the standardised log-ratio of new samples, compared with the normal distribution, over all seeds
/// and iterations of a group.
fn ratio_law(groups: &[Group]) -> Chart {
    let mut series: Vec<Series> = groups
        .iter()
        .filter_map(|group| {
            let counts = group.runs.iter().filter_map(History::z_histogram).reduce(history::sum)?;
            let width = 2.0 * LIMIT / counts.len() as f64;
            let scale = 1.0 / (width * counts.iter().sum::<f64>());
            let bar = |(index, count): (usize, &f64)| {
                [0.0, 1.0].map(|edge| [(index as f64 + edge) * width - LIMIT, count * scale])
            };
            Some(Series { line: counts.iter().enumerate().flat_map(bar).collect(), ..named(group) })
        })
        .collect();
    if !series.is_empty() {
        let density = |z: f64| (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
        let line = (-80..=80).map(|index| f64::from(index) * LIMIT / 80.0).map(|z| [z, density(z)]).collect();
        series.push(Series { label: "normal law".into(), colour: 6, line, ..Series::default() });
    }
    Chart {
        title: "The log-ratio of new samples against its law",
        subtitle: "First pass after its first update: the policy has moved, and has not learned from these samples.",
        x: Axis { title: "z = (D ln ρ + KL) / √(2 KL), sums over the elements", scale: Scale::Linear },
        y: Axis { title: "density", scale: Scale::FromZero },
        series,
    }
}

fn named(group: &Group) -> Series {
    Series { label: group.label.clone(), colour: group.colour, shape: group.shape, ..Series::default() }
}

/// The mean over the runs of a group where all of them have a value, so that it does not jump where one ends. After
/// that, runs that continue are single lines.
fn over_seeds(group: &Group, mark_all: bool, points: impl Fn(&History) -> Vec<[f64; 2]>) -> Series {
    let runs: Vec<Vec<[f64; 2]>> = group.runs.iter().map(points).filter(|points| !points.is_empty()).collect();
    // Iterations and steps are integers.
    let mut at: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for [x, y] in runs.iter().flatten() {
        at.entry(*x as u64).or_default().push(*y);
    }
    at.retain(|_, values| values.len() == runs.len());
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let line: Vec<[f64; 2]> = at.iter().map(|(x, values)| [*x as f64, mean(values)]).collect();
    let extreme = |values: &[f64], pick: fn(f64, f64) -> f64| values.iter().copied().reduce(pick).unwrap_or(f64::NAN);
    let band = at.iter().map(|(x, values)| [*x as f64, extreme(values, f64::min), extreme(values, f64::max)]);
    let common = line.last().map_or(f64::NEG_INFINITY, |[x, _]| *x);
    let rest =
        |points: &Vec<[f64; 2]>| -> Vec<[f64; 2]> { points.iter().filter(|[x, _]| *x >= common).copied().collect() };
    Series {
        band: if runs.len() > 1 { band.collect() } else { Vec::new() },
        threads: runs.iter().map(rest).filter(|rest| rest.len() > 1).collect(),
        line,
        mark_all,
        ..named(group)
    }
}

/// `[y of a, y of b]` where both have the same x.
fn joined(a: &[[f64; 2]], b: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let other = |x: f64| b.iter().find(|[other, _]| *other == x).map(|[_, y]| *y);
    a.iter().filter_map(|[x, y]| Some([*y, other(*x)?])).collect()
}

//! The curves of a single run.

use std::collections::BTreeMap;

use crate::compare::History;
use crate::config::Command;
use crate::plot::{Axis, Chart, HeatMap, Scale, Series};

/// The most points of a line; of more, neighbours are averaged.
const POINTS: usize = 500;
/// With at most this many points, each has a mark.
const MARKED: usize = 40;

/// A curve chart: what it shows, how to read it, and the metrics with their names in the legend.
struct Curves {
    title: &'static str,
    subtitle: &'static str,
    scale: Scale,
    lines: &'static [(&'static str, &'static str)],
}

const fn curves(
    title: &'static str,
    subtitle: &'static str,
    scale: Scale,
    lines: &'static [(&'static str, &'static str)],
) -> Curves {
    Curves { title, subtitle, scale, lines }
}

const TRAIN: [Curves; 13] = [
    curves(
        "Reward",
        "Rollouts are drawn with noise and train the model; evaluations use fixed seeds.",
        Scale::Linear,
        &[("eval/reward_mean", "evaluation"), ("reward_mean", "rollout")],
    ),
    curves(
        "Reward of trained and other classes",
        "Evaluations. If the second falls, the model forgets what is not trained.",
        Scale::Linear,
        &[("eval/reward_trained", "trained"), ("eval/reward_untrained", "untrained")],
    ),
    curves(
        "Judge",
        "Share of samples recognised by a classifier that takes no part in training.",
        Scale::Linear,
        &[("eval/judge_accuracy", "accuracy")],
    ),
    curves(
        "Diversity",
        "Mean distance between two samples of a class; half of the start is a collapse.",
        Scale::FromZero,
        &[("eval/diversity", "distance")],
    ),
    curves(
        "High frequencies",
        "Share of the samples' energy; grids or noise that please the reward raise it.",
        Scale::FromZero,
        &[("eval/high_frequency", "share")],
    ),
    curves(
        "Drift from the base",
        "KL to the base, mean over steps, nats per element.",
        Scale::FromZero,
        &[("eval/drift.kl_mean", "KL to the base")],
    ),
    curves(
        "Dropped terms",
        "Terms outside the trust region, in either direction, and the share that was dropped.",
        Scale::FromZero,
        &[("masked_fraction", "dropped"), ("kl_mask_fraction", "beyond"), ("clip_fraction", "beyond")],
    ),
    curves(
        "KL within an iteration",
        "Policy against that of the rollout, nats per element.",
        Scale::Log,
        &[("kl_new_old_mean", "mean"), ("kl_new_old_max", "largest")],
    ),
    curves(
        "Change of the velocity within an iteration",
        "Mean squared difference per element.",
        Scale::Log,
        &[("velocity_msd_new_old", "mean")],
    ),
    curves("Ratio", "New to old probability density: spread over the terms.", Scale::FromZero, &[("ratio_std", "std")]),
    curves("Penalty on the distance to the base", "Before its factor.", Scale::FromZero, &[("kl_ref_mean", "penalty")]),
    curves("Gradient norm", "Before clipping, mean over updates.", Scale::FromZero, &[("grad_norm", "norm")]),
    curves(
        "Seconds per iteration",
        "The first iterations compile kernels.",
        Scale::FromZero,
        &[("seconds_update", "update"), ("seconds_rollout", "rollout"), ("seconds_reward", "reward")],
    ),
];

const FIT: [Curves; 3] = [
    curves("Loss", "Mean over the steps since the previous point.", Scale::Log, &[("loss", "loss")]),
    curves("Gradient norm", "Before clipping.", Scale::FromZero, &[("grad_norm", "norm")]),
    curves("Learning rate", "", Scale::FromZero, &[("lr", "rate")]),
];

/// Every chart of a run that has something to show.
pub(super) fn charts(run: &History) -> Vec<Chart> {
    let x = match run.command {
        Command::Train => Axis { title: "iteration", scale: Scale::Whole },
        _ => Axis { title: "step", scale: Scale::Whole },
    };
    let table: &[Curves] = if run.command == Command::Train { &TRAIN } else { &FIT };
    let chart = |title, subtitle, scale, series: Vec<Series>| Chart {
        title,
        subtitle,
        x,
        y: Axis { title: "", scale },
        series,
    };
    let mut charts: Vec<Chart> = table
        .iter()
        .map(|curves| {
            let lines = curves.lines.iter().map(|(key, label)| (run.points(key), (*label).to_owned()));
            chart(curves.title, curves.subtitle, curves.scale, series(lines))
        })
        .collect();
    // By name, so that a component always has the same colour.
    let of_rollouts: BTreeMap<&str, String> = run
        .keys()
        .into_iter()
        .filter_map(|key| Some((key.strip_prefix("reward/")?.strip_suffix("_mean")?, key.to_owned())))
        .collect();
    let of_evaluations = run.keys_within("eval/components").into_iter();
    let of_evaluations = of_evaluations.map(|name| (name, format!("eval/components.{name}"))).collect();
    for (title, subtitle, keys) in [
        ("Components of the reward", "Of the rollouts, before their weights.", of_rollouts),
        (
            "Components on fixed seeds",
            "Evaluations, before their weights. With weight 0 a component is only measured.",
            of_evaluations,
        ),
    ] {
        // A single reward is its own component.
        if keys.len() > 1 {
            let lines = keys.into_iter().map(|(name, key)| (run.points(&key), name.to_owned()));
            charts.insert(1, chart(title, subtitle, Scale::Linear, series(lines)));
        }
    }
    charts.retain(|chart| !chart.is_empty());
    charts
}

/// The KL within iterations at each trained step.
pub(super) fn kl_map(run: &History) -> HeatMap {
    HeatMap {
        title: "KL within an iteration, by step",
        subtitle: "Which steps of the trajectory move, and when; step 0 is pure noise. Nats per element.",
        axes: ["iteration", "step"],
        cells: run.kl_of_steps(),
    }
}

fn series(lines: impl Iterator<Item = (Vec<[f64; 2]>, String)>) -> Vec<Series> {
    let lines = lines.filter(|(points, _)| !points.is_empty()).enumerate();
    let one = |(index, (points, label)): (usize, (Vec<[f64; 2]>, String))| Series {
        label,
        colour: index,
        shape: index,
        mark_all: points.len() <= MARKED,
        line: thinned(&points),
        ..Series::default()
    };
    lines.map(one).collect()
}

/// The points, or means of neighbours if there are too many. The last is kept, since it is read as a number.
fn thinned(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let stride = points.len().div_ceil(POINTS).max(1);
    let Some((last, rest)) = points.split_last() else { return Vec::new() };
    let mean = |chunk: &[[f64; 2]]| {
        let [x, y] = chunk.iter().fold([0.0; 2], |sum, point| [sum[0] + point[0], sum[1] + point[1]]);
        [x / chunk.len() as f64, y / chunk.len() as f64]
    };
    rest.chunks(stride).map(mean).chain([*last]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_averaged_and_keep_their_last_point() {
        let points: Vec<[f64; 2]> = (0..5001).map(|index| [f64::from(index), f64::from(index % 2)]).collect();
        let line = thinned(&points);
        assert!((400..=POINTS + 1).contains(&line.len()), "{}", line.len());
        assert_eq!(line.last(), Some(&[5000.0, 0.0]));
        assert!(line[1..line.len() - 2].iter().all(|[_, y]| (y - 0.5).abs() < 0.1));
        assert_eq!(thinned(&points[..7]), points[..7]);
        assert!(thinned(&[]).is_empty());
    }
}

//! Numbers of runs and of groups, as a table for people and as JSON.

use serde_json::{Map, Value, json};

use super::{Comparison, Group, History, Status};

/// A number that summarises a run.
#[derive(Debug)]
pub struct Quantity {
    /// Its key in JSON.
    pub key: &'static str,
    /// Its heading in the table.
    pub title: &'static str,
    /// What it measures, and its unit.
    pub definition: &'static str,
    value: fn(&History) -> Option<f64>,
    print: fn(f64) -> String,
}

/// The columns of the table, in order; a column without values is omitted.
pub const QUANTITIES: [Quantity; 16] = [
    Quantity {
        key: "reward_base",
        title: "base reward",
        definition: "mean reward of the first evaluation, before any training",
        value: base_reward,
        print: three,
    },
    Quantity {
        key: "reward_final",
        title: "final reward",
        definition: "mean reward of the last evaluation",
        value: |run| last(run, "eval/reward_mean"),
        print: three,
    },
    Quantity {
        key: "reward_best",
        title: "best reward",
        definition: "largest mean reward of an evaluation",
        value: |run| run.points("eval/reward_mean").into_iter().map(|[_, reward]| reward).reduce(f64::max),
        print: three,
    },
    Quantity {
        key: "reward_trained",
        title: "trained reward",
        definition: "mean reward over the classes that rollouts draw, if they leave some out, last evaluation",
        value: |run| last(run, "eval/reward_trained"),
        print: three,
    },
    Quantity {
        key: "reward_untrained",
        title: "untrained reward",
        definition: "mean reward over the other classes, last evaluation",
        value: |run| last(run, "eval/reward_untrained"),
        print: three,
    },
    Quantity {
        key: "image_msd_untrained",
        title: "untrained drift",
        definition: "mean squared difference from the base's images of those classes per element, last evaluation",
        value: |run| last(run, "eval/image_msd_untrained"),
        print: |value| format!("{value:.4}"),
    },
    Quantity {
        key: "ink",
        title: "ink",
        definition: "mean ink, 0 to 1, where it is one of several rewards, last evaluation",
        value: |run| {
            let indexed = || (0..9).find_map(|index| last(run, &format!("eval/components.ink_{index}")));
            last(run, "eval/components.ink").or_else(indexed)
        },
        print: three,
    },
    Quantity {
        key: "judge_accuracy",
        title: "judge",
        definition: "share of samples that the independent judge recognises as the requested class, last evaluation",
        value: |run| last(run, "eval/judge_accuracy"),
        print: three,
    },
    Quantity {
        key: "diversity",
        title: "diversity",
        definition: "mean Euclidean distance between two samples of a class, last evaluation",
        value: |run| last(run, "eval/diversity"),
        print: |value| format!("{value:.2}"),
    },
    Quantity {
        key: "velocity_msd",
        title: "velocity drift",
        definition: "mean squared difference from the base's velocity per element, last evaluation",
        value: |run| last(run, "eval/drift.velocity_msd"),
        print: |value| format!("{value:.4}"),
    },
    Quantity {
        key: "kl_to_base",
        title: "KL to base",
        definition: "KL to the base of the stochastic sampler, mean over steps, nats per element, last evaluation",
        value: |run| last(run, "eval/drift.kl_mean"),
        print: |value| if value >= 1e-3 || value == 0.0 { format!("{value:.4}") } else { format!("{value:.1e}") },
    },
    Quantity {
        key: "masked_fraction",
        title: "masked",
        definition: "share of terms that mask or clipping dropped, mean over rollouts",
        value: |run| mean(run, "masked_fraction"),
        print: three,
    },
    Quantity {
        key: "pos_rm_fraction",
        title: "masked, A > 0",
        definition: "share of terms dropped with a positive advantage, mean over rollouts",
        value: |run| mean(run, "pos_rm_fraction"),
        print: three,
    },
    Quantity {
        key: "neg_rm_fraction",
        title: "masked, A < 0",
        definition: "share of terms dropped with a negative advantage, mean over rollouts",
        value: |run| mean(run, "neg_rm_fraction"),
        print: three,
    },
    Quantity {
        key: "kl_efficiency",
        title: "gain / KL",
        definition: "KL-efficiency: (final reward − base reward) / KL to base",
        value: |run| {
            let [base, reward, kl] =
                [base_reward(run)?, last(run, "eval/reward_mean")?, last(run, "eval/drift.kl_mean")?];
            (kl > 0.0).then(|| (reward - base) / kl)
        },
        print: |value| format!("{value:.2}"),
    },
    Quantity {
        key: "seconds",
        title: "time [s]",
        definition: "wall-clock seconds of rollouts, rewards and updates, without evaluations",
        value: |run| {
            let parts = ["seconds_rollout", "seconds_reward", "seconds_update"].map(|key| run.points(key));
            let all = parts.iter().flatten().map(|[_, seconds]| seconds);
            (!parts[0].is_empty()).then(|| all.sum())
        },
        print: |value| format!("{value:.0}"),
    },
];

fn three(value: f64) -> String {
    format!("{value:.3}")
}

fn base_reward(run: &History) -> Option<f64> {
    run.points("eval/reward_mean").first().filter(|[iteration, _]| *iteration == 0.0).map(|[_, reward]| *reward)
}

fn last(run: &History, key: &str) -> Option<f64> {
    Some(run.points(key).last()?[1])
}

fn mean(run: &History, key: &str) -> Option<f64> {
    let points = run.points(key);
    (!points.is_empty()).then(|| points.iter().map(|[_, value]| value).sum::<f64>() / points.len() as f64)
}

/// A number over the seeds of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistic {
    /// Number of runs that have the value.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their unbiased standard deviation, with two runs or more.
    pub std: Option<f64>,
}

impl Statistic {
    /// The statistic of some numbers; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        Some(Self { count, mean, std: (count > 1).then(|| (squares / (count - 1) as f64).sqrt()) })
    }
}

impl Quantity {
    /// The number over the runs of a group.
    pub fn over(&self, group: &Group) -> Option<Statistic> {
        let values: Vec<f64> = group.runs.iter().filter_map(|run| self.of(run)).collect();
        Statistic::of(&values)
    }

    /// The number for a single run.
    pub fn of(&self, run: &History) -> Option<f64> {
        (self.value)(run).filter(|value| value.is_finite())
    }

    fn cell(&self, group: &Group) -> String {
        match self.over(group) {
            Some(Statistic { mean, std: Some(std), .. }) => format!("{} ± {}", (self.print)(mean), (self.print)(std)),
            Some(Statistic { mean, .. }) => (self.print)(mean),
            None => "–".into(),
        }
    }
}

/// How many runs a group has, and the state of those that are not finished.
fn runs(group: &Group) -> String {
    let count = |wanted: fn(&Status) -> bool| group.runs.iter().filter(|run| wanted(&run.status)).count();
    let failed = count(|status| matches!(status, Status::Failed(_)));
    let unfinished = count(|status| *status == Status::Unfinished);
    let notes: Vec<String> = [(failed, "failed"), (unfinished, "unfinished")]
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    match notes.is_empty() {
        true => group.runs.len().to_string(),
        false => format!("{} ({})", group.runs.len(), notes.join(", ")),
    }
}

/// Rollouts of a group's runs: one number, or shortest to longest.
fn rollouts(group: &Group) -> String {
    let done = || group.runs.iter().map(|run| run.iterations);
    let (least, most) = (done().min().unwrap_or(0), done().max().unwrap_or(0));
    if least == most { most.to_string() } else { format!("{least} to {most}") }
}

impl Comparison {
    /// The table in Markdown, one row per group, followed by the messages of runs that failed.
    pub fn table(&self) -> String {
        let shown: Vec<&Quantity> = QUANTITIES.iter().filter(|quantity| self.has(quantity)).collect();
        let mut rows = vec![vec!["run".to_owned(), "seeds".into(), "rollouts".into()]];
        rows[0].extend(shown.iter().map(|quantity| quantity.title.to_owned()));
        for group in &self.groups {
            // A vertical bar would end the cell.
            let mut row = vec![group.label.replace('|', "\\|"), runs(group), rollouts(group)];
            row.extend(shown.iter().map(|quantity| quantity.cell(group)));
            rows.push(row);
        }
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
        let mut text = String::new();
        for (index, row) in rows.iter().enumerate() {
            let cell = |(column, cell): (usize, &String)| {
                let width = widths[column];
                if column == 0 { format!(" {cell:<width$} |") } else { format!(" {cell:>width$} |") }
            };
            text.push_str(&format!("|{}\n", row.iter().enumerate().map(cell).collect::<String>()));
            if index == 0 {
                let rule = |(column, width): (usize, &usize)| match column {
                    0 => format!("{}|", "-".repeat(width + 2)),
                    _ => format!("{}:|", "-".repeat(width + 1)),
                };
                text.push_str(&format!("|{}\n", widths.iter().enumerate().map(rule).collect::<String>()));
            }
        }
        for run in self.groups.iter().flat_map(|group| &group.runs) {
            if let Status::Failed(message) = &run.status {
                text.push_str(&format!("\n{} failed after {} rollouts: {message}\n", run.name, run.iterations));
            }
        }
        text
    }

    fn has(&self, quantity: &Quantity) -> bool {
        self.groups.iter().any(|group| quantity.over(group).is_some())
    }

    /// What the table's columns mean.
    pub fn legend(&self) -> String {
        let line = |quantity: &Quantity| format!("- {}: {}\n", quantity.title, quantity.definition);
        let lines = QUANTITIES.iter().filter(|quantity| self.has(quantity)).map(line);
        format!("Mean over seeds ± unbiased standard deviation.\n\n{}", lines.collect::<String>())
    }

    /// Everything in the table, run by run.
    pub fn json(&self) -> Value {
        let run = |run: &History| {
            let values: Map<String, Value> =
                QUANTITIES.iter().map(|quantity| (quantity.key.to_owned(), json!((quantity.value)(run)))).collect();
            json!({
                "path": run.path,
                "name": run.name,
                "seed": run.seed,
                "iterations": run.iterations,
                "planned_iterations": run.planned,
                "status": match run.status {
                    Status::Finished => "finished",
                    Status::Unfinished => "unfinished",
                    Status::Failed(_) => "failed",
                },
                "failure": match &run.status {
                    Status::Failed(message) => Some(message),
                    _ => None,
                },
                "values": values,
            })
        };
        let group = |group: &Group| {
            let over = |quantity: &Quantity| {
                let statistic = quantity.over(group);
                let statistic =
                    statistic.map(|found| json!({"count": found.count, "mean": found.mean, "std": found.std}));
                (quantity.key.to_owned(), json!(statistic))
            };
            json!({
                "label": group.label,
                "over_seeds": QUANTITIES.iter().map(over).collect::<Map<_, _>>(),
                "runs": group.runs.iter().map(run).collect::<Vec<_>>(),
            })
        };
        let definition = |quantity: &Quantity| (quantity.key.to_owned(), json!(quantity.definition));
        json!({
            "definitions": QUANTITIES.iter().map(definition).collect::<Map<_, _>>(),
            "groups": self.groups.iter().map(group).collect::<Vec<_>>(),
        })
    }
}

//! `bench`: how fast the program is on a device, compared with the limits of the device.

use std::path::PathBuf;

use clap::Args;

use super::{Global, say};
use crate::bench::{self, Event, LARGE_NAMES, Measurement, NAMES, Results, Suite};
use crate::config::{Precision, nearest};
use crate::error::{Error, Result};
use crate::profile::Profile;
use crate::text::{duration, significant};
use crate::{assets, files};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What to measure; by default everything: fma, copy, dispatch, readback, matmul, attention, conv2d, layer_norm,
    /// gelu, memory-bound, adamw, philox, dit-step, rollout, rl-iteration. Only by name, because they take minutes on small devices:
    /// large (products and attention of Stable Diffusion 3.5 medium), sd35-block (a block of it with an adapter, forward
    /// and backward; fewer tokens with --quick). Of several ranks: all-reduce
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Spend a tenth of the time, for a first look
    #[arg(long)]
    quick: bool,
    /// Batch of dit-step, and of --scaling over tokens
    #[arg(long, value_name = "N", default_value = "32", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    batch: u32,
    /// Precision of matrix products, as `train.precision`: in matmul, dit-step, rollout, rl-iteration, large, sd35-block
    #[arg(long, value_name = "TYPE", value_enum, default_value = "f32")]
    precision: Precision,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write the results as JSON to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Compare with results that --out or --json wrote before
    #[arg(long, value_name = "OLD.json", conflicts_with = "json")]
    compare: Option<PathBuf>,
    /// Measure how dit-step grows with the batch and with the tokens of an image
    #[arg(long)]
    scaling: bool,
    /// Time every dispatch of dit-step, rollout and rl-iteration (slower): tables at the end, a trace for Perfetto in
    /// FILE and the figures beside it, in profile.json
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Draw what --scaling found (SVG)
    #[arg(long, value_name = "FILE", requires = "scaling")]
    plot: Option<PathBuf>,
    /// Find the fastest kernels for this adapter and use them from now on
    #[arg(long, conflicts_with_all = ["names", "json", "out", "compare", "scaling", "profile", "precision"])]
    tune: bool,
    /// With --tune: also tune for the sizes of this model
    #[arg(long, value_name = "FILE", requires = "tune")]
    model: Option<String>,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    if arguments.tune {
        return tune(global, arguments);
    }
    if arguments.names.iter().any(|name| name == ALL_REDUCE) {
        return all_reduce(global, arguments);
    }
    let names = names(arguments)?;
    let old = arguments.compare.as_deref().map(Results::read).transpose()?;
    let mut outputs = arguments.compare.iter().fold(global.outputs(), |outputs, path| outputs.reads(path));
    for path in [&arguments.out, &arguments.plot, &arguments.profile].into_iter().flatten() {
        outputs.file(path)?;
    }
    let (gpu, options) = global.open_with_options(arguments.precision, "")?;
    if arguments.profile.is_some() {
        gpu.start_profiling();
    }
    let mut print = |event: Event<'_>| match event {
        Event::Measured(row) => print_row(row),
        Event::Noted(text) => say(text),
    };
    let mut keep_still = |_: Event<'_>| {};
    let listener: &mut dyn FnMut(Event<'_>) = if arguments.json { &mut keep_still } else { &mut print };
    if !arguments.json {
        let adapter = gpu.description();
        say(format_args!("{} ({}, {})\n", adapter.name, adapter.backend, adapter.driver));
        say(format_args!("{:<32}{:>11}{:>9}{:>11}{:>9}  of the limit", "", "time", "spread", "GFLOP/s", "GB/s"));
    }
    let mut suite = Suite::new(&gpu, &options, arguments.quick, listener).in_precision(arguments.precision);
    suite.run(&names, arguments.batch as usize)?;
    if arguments.scaling {
        suite.scaling(arguments.batch as usize)?;
    }
    let results = suite.results();
    if arguments.json {
        say(results.to_json());
    }
    if let Some(path) = &arguments.out {
        files::write_atomically(path, results.to_json().as_bytes())?;
    }
    if let Some(path) = &arguments.plot {
        bench::plot(results, path)?;
    }
    if let Some(old) = old {
        compare(&old, results);
    }
    if let (Some(trace), Some(profile)) = (&arguments.profile, Profile::of(&gpu)?) {
        profile.write(trace, &trace.with_file_name("profile.json"))?;
        if !arguments.json {
            say(profile.tables().trim_end());
        }
    }
    Ok(())
}

/// The given names. Without any, all of them, unless `--scaling` was given instead.
fn names(arguments: &Arguments) -> Result<Vec<&str>> {
    let known: Vec<&str> = NAMES.into_iter().chain(LARGE_NAMES).collect();
    if let Some(name) = arguments.names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(Error::input(match nearest(name, &known) {
            Some(near) => format!("no benchmark is called `{name}`; did you mean `{near}`?"),
            None => format!("no benchmark is called `{name}`; the benchmarks are {}", known.join(", ")),
        }));
    }
    let all_by_default = arguments.names.is_empty() && !arguments.scaling;
    Ok(if all_by_default { NAMES.into() } else { arguments.names.iter().map(String::as_str).collect() })
}

/// The sum of gradients over several ranks, which needs no device.
const ALL_REDUCE: &str = "all-reduce";

impl Arguments {
    /// Whether several ranks measure something together.
    pub(super) fn is_shared(&self) -> bool {
        self.names == [ALL_REDUCE]
    }
}

fn all_reduce(global: &Global, arguments: &Arguments) -> Result<()> {
    let Arguments { json, out, compare, scaling, profile, quick, .. } = arguments;
    if !arguments.is_shared() || *quick || *json || out.is_some() || compare.is_some() || *scaling || profile.is_some()
    {
        return Err(Error::input(
            "`bench all-reduce` prints a table of its own: give no other names, and no --quick, --json, --out, --compare, --scaling \
             or --profile",
        ));
    }
    let team = &global.team;
    if !team.is_many() {
        return Err(Error::input(
            "`bench all-reduce` measures the connection between ranks, and there is one: start several, such as \
             `mpirun -n 2 flowdppo-wgpu bench all-reduce`",
        ));
    }
    say(format_args!("{} ranks, {} on this machine\n", team.seat().size, team.on_machine().size));
    say(format_args!("{:<20}{:>11}{:>16}", "gradient", "time", "GB/s per rank"));
    bench::all_reduce(team, |bench::Sum { bytes, seconds, moved }| {
        let (name, rate) = match bytes {
            0 => ("none (a meeting)".to_owned(), String::new()),
            _ => (format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)), significant(moved as f64 / seconds / 1e9)),
        };
        say(format_args!("{name:<20}{:>11}{rate:>16}", duration(seconds)).to_string().trim_end());
    })
}

fn print_row(row: &Measurement) {
    let rate = |rate: Option<f64>| rate.map_or(String::new(), significant);
    let line = format!(
        "{:<32}{:>11}{:>9}{:>11}{:>9}  {}",
        row.name,
        duration(row.seconds),
        format!("±{:.0} %", 100.0 * row.spread()),
        rate(row.gflop_per_second),
        rate(row.gigabytes_per_second),
        row.of_limit(),
    );
    say(line.trim_end());
    for (name, value) in &row.details {
        // Losses have six digits everywhere.
        let value = if name.starts_with("loss") { format!("{value:.6}") } else { significant(*value) };
        say(format_args!("    {name:<28}{value:>11}"));
    }
}

fn compare(old: &Results, new: &Results) {
    say(format_args!("\n{:<32}{:>11}{:>11}{:>9}", format!("since {}", old.date), "old", "new", "new/old"));
    for difference in new.differences(old) {
        say(difference);
    }
    let pairs = new.beside(old);
    for (old, new) in &pairs {
        let ratio = format!("{:.2}", new.seconds / old.seconds);
        say(format_args!("{:<32}{:>11}{:>11}{ratio:>9}", new.name, duration(old.seconds), duration(new.seconds)));
    }
    if pairs.is_empty() {
        say("no benchmark was measured both times");
    }
}

fn tune(global: &Global, arguments: &Arguments) -> Result<()> {
    let model = arguments.model.as_ref().map(|file| assets::load_model(file)).transpose()?;
    let model = match (&model, &arguments.model) {
        (Some(model), Some(file)) => Some(model.flow_model(file)?),
        _ => None,
    };
    let (gpu, _) = global.open_with_options(Precision::F32, "")?;
    let (table, tuned) = bench::tune(&gpu, model.as_ref(), arguments.quick)?;
    for result in &tuned {
        let times: Vec<String> =
            result.kernels.iter().map(|(kernel, seconds)| format!("{kernel} {}", duration(*seconds))).collect();
        let chosen = if result.chosen() == result.usual { "the default" } else { result.chosen() };
        say(format_args!("{}: {chosen} ({})", result.workload, times.join(", ")));
    }
    if tuned.is_empty() {
        say("this device has only one kernel for each op: there is nothing to choose");
        return Ok(());
    }
    let path = table.save(gpu.description())?;
    let changed = tuned.iter().filter(|result| result.chosen() != result.usual).count();
    let (count, path) = (tuned.len(), path.display());
    say(format_args!("{changed} of {count} workloads have a faster kernel than the default, used from now on: {path}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_benchmark() {
        let help = Arguments::augment_args(clap::Command::new("bench")).render_long_help().to_string();
        for name in NAMES.into_iter().chain(LARGE_NAMES).chain([ALL_REDUCE]) {
            assert!(help.contains(name), "{name} is missing in\n{help}");
        }
    }
}
